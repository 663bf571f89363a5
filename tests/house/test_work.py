"""The work for a message, a handshake, a batch and an append does not grow unseen (benchmarks/guard.py)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from benchmarks import guard
from p2p.crypto.identity import Identity, verify


def test_no_task_takes_much_more_work_than_before():
    kept = json.loads(guard.KEPT.read_text(encoding="utf-8"))
    found = guard.measure()
    assert set(found) == set(kept["work"]), "run `python -m benchmarks.guard --keep`"
    if kept["python"] != guard.PYTHON:
        # Another version of Python has other instructions; calls are what the source says.
        found = {name: guard.Work(work.calls, 0, 0, work.dear) for name, work in found.items()}
    # If it has to be so: `python -m benchmarks.guard --keep`, and say why in the commit.
    assert guard.grown(kept["work"], found) == []


def test_what_is_counted_is_calls_and_instructions():
    def one() -> int:
        return len("")

    once = guard.count(one)
    twice = guard.count(lambda: (one(), one()))
    assert once.calls >= 2
    assert twice.calls >= 2 * once.calls - 2
    assert twice.instructions > once.instructions > 0


def test_growth_is_told_beyond_what_is_allowed():
    kept = {"a": [100, 1000, 0, {"sign": 2}]}
    assert guard.grown(kept, {"a": guard.Work(114, 1000, guard.BYTES_OF_OTHERS, {"sign": 2})}) == []
    (line,) = guard.grown(kept, {"a": guard.Work(100, 1000, 20_000, {"sign": 2})})
    assert "20000 bytes, and 0 before" in line
    (line,) = guard.grown(kept, {"a": guard.Work(100, 1200, 0, {"sign": 1})})
    assert "1200 instructions, and 1000 before (+20%)" in line
    (line,) = guard.grown(kept, {"a": guard.Work(100, 1000, 0, {"sign": 3})})
    assert "3 calls of sign, and 2 before" in line
    (line,) = guard.grown(kept, {"a": guard.Work(100, 1000, 0, {"fsync": 1})})
    assert "1 calls of fsync, and 0 before" in line


def test_what_is_dear_is_counted_by_name_and_copies_by_their_bytes(tmp_path: Path):
    body, identity = bytes(100_000), Identity.generate(os.urandom)
    plain = guard.count(lambda: None)
    assert plain.bytes <= guard.BYTES_OF_OTHERS
    assert plain.dear == {}
    copied = guard.count(lambda: [bytes(bytearray(body)) for _ in range(3)])
    assert 600_000 <= copied.bytes < 606_000 + guard.BYTES_OF_OTHERS

    def dear() -> None:
        verify(identity.peer_id, identity.sign(body), body)
        hashlib.sha256(body).update(body)
        {}.update(a=1)
        with (tmp_path / "a").open("wb") as file:
            os.fsync(file.fileno())

    found = guard.count(dear).dear
    assert found == {"from_public_bytes": 1, "fsync": 1, "openssl_sha256": 1, "sign": 1, "update": 1, "verify": 1}


def test_each_cipher_that_is_made_is_counted():
    kept = json.loads(guard.KEPT.read_text(encoding="utf-8"))["work"]
    assert all("ciphers made" in kept[name][-1] for name in kept if "message" in name or "seal" in name)
