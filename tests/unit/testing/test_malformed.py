"""Bytes that must be refused are refused, for the reason that is said; what they were made of is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p
from p2p.envelope import MessageType
from p2p.replication.batch import Batch, NewRecord, Record, parse_batch, verify_signature
from p2p.testing import strategies as wire
from p2p.testing.malformed import FAULTS, Fault, Form, Malformed, faults_of, judge

CASES = [(fault, type) for fault in FAULTS for type in sorted(fault.types) or [None]]


def title(case: object) -> str:
    return f"{case.form.value}: {case.name}" if isinstance(case, Fault) else getattr(case, "name", "")


@pytest.mark.parametrize(("fault", "type"), CASES, ids=title)
@settings(max_examples=6)
@given(data=st.data())
def test_every_fault_is_refused_for_its_reason(fault: Fault, type: MessageType | None, data: st.DataObject) -> None:
    sound = data.draw(wire.well_formed(fault.form, type))
    assert judge(fault.form, sound, type) is None
    broken = fault.make(sound, lambda low, high: data.draw(st.integers(low, high)), type)
    assert judge(broken.form, broken.data, broken.type) is fault.refusal


def test_every_message_has_faults() -> None:
    assert {type for type in MessageType if faults_of(Form.PAYLOAD, type)} == set(MessageType)


@given(wire.malformed())
def test_malformed_bytes_of_any_form(broken: Malformed) -> None:
    assert judge(broken.form, broken.data, broken.type) is broken.refusal


@given(wire.malformed(type=MessageType.WAL_HEADS))
def test_malformed_payloads_of_one_message(broken: Malformed) -> None:
    assert (broken.form, broken.type) == (Form.PAYLOAD, MessageType.WAL_HEADS)


@given(wire.logs())
def test_logs_are_whole_chains_with_good_signatures(batches: list[Batch]) -> None:
    seq, last = 1, bytes(32)
    for batch in batches:
        assert parse_batch(batch.wal_bytes) == batch
        assert verify_signature(batch)
        assert (batch.seq_begin, batch.prev_hash) == (seq, last)
        seq, last = batch.seq_end + 1, batch.hash


@pytest.mark.parametrize(
    "type",
    [
        *p2p.msg.MESSAGES.values(),
        p2p.Envelope,
        p2p.PeerId,
        p2p.PeerEndpoint,
        p2p.Identity,
        p2p.msg.DiscoveryAnnounce,
        p2p.msg.AttachedEntry,
        Batch,
        NewRecord,
        Record,
    ],
    ids=lambda kind: kind.__name__,
)
def test_hypothesis_knows_our_types(type: type) -> None:
    """By the entry point of the installed package: nothing here registers them."""

    @settings(max_examples=5, database=None)
    @given(st.from_type(type))
    def check(value: object) -> None:
        assert isinstance(value, type)
        if type in p2p.msg.MESSAGES.values():
            assert p2p.msg.decode_payload(value.TYPE, value.encode()) == value
        elif isinstance(value, p2p.PeerEndpoint):
            assert p2p.PeerEndpoint.parse(str(value)) == value
        elif isinstance(value, p2p.msg.AttachedEntry):
            assert p2p.msg.Attached.decode(p2p.msg.Attached((value,)).encode()).entries == (value,)

    check()
