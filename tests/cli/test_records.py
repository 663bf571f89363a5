"""Portions that fit one batch each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.cli.records import portions
from p2p.limits import Limits
from p2p.replication.batch import NewRecord, encode_portion

LENGTHS = st.sampled_from([0, 1, 100, 1000, 60_000, 131_000, 200_000])


@given(st.lists(st.tuples(LENGTHS, st.sampled_from([1, 3, 1100])), max_size=6))
def test_portions_keep_every_line_in_order_and_fit_a_batch(groups: list[tuple[int, int]]) -> None:
    lines = [bytes(length) for length, count in groups for _ in range(count if length <= 1000 else 1)]
    cut = list(portions(lines))
    assert [line for portion in cut for line in portion] == lines
    for portion in cut:
        assert 1 <= len(portion) <= Limits().batch_records_max
        size = sum(len(encode_portion([NewRecord("app", None, line)]).data) + 10 for line in portion)
        assert len(portion) == 1 or size + 1024 <= Limits().batch_bytes_max
