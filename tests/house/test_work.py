"""The work for a message, a handshake, a batch and an append does not grow unseen (benchmarks/guard.py)."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks import guard
from p2p.crypto.identity import Identity, verify
from p2p.node import follow
from p2p.node.dispatch import Channel, Message
from p2p.node.requests import Requests
from p2p.transport.tcp_stream import TcpStream


def test_no_task_takes_much_more_work_than_before():
    kept = json.loads(guard.KEPT.read_text(encoding="utf-8"))
    found = guard.measure()
    assert set(found) == set(kept["work"]), "run `python -m benchmarks.guard --keep`"
    if kept["python"] != guard.PYTHON:
        # Another version of Python has other instructions; calls are what the source says.
        found = {name: guard.Work(work.calls, 0, 0, 0, work.dear) for name, work in found.items()}
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


def test_a_small_copy_is_a_call_of_two_types():
    body = bytes(100)
    once, copied = guard.count(lambda: body), guard.count(lambda: bytes(bytearray(body)))
    assert (copied.calls - once.calls, copied.sites - once.sites) == (0, 2)


def test_growth_is_told_beyond_what_is_allowed():
    kept = {"a": [100, 50, 1000, 0, {"sign": 2}]}
    assert guard.grown(kept, {"a": guard.Work(114, 50, 1000, guard.BYTES_OF_OTHERS, {"sign": 2})}) == []
    (line,) = guard.grown(kept, {"a": guard.Work(100, 50, 1000, 20_000, {"sign": 2})})
    assert "20000 bytes, and 0 before" in line
    (line,) = guard.grown(kept, {"a": guard.Work(100, 50, 1200, 0, {"sign": 1})})
    assert "1200 instructions, and 1000 before (+20%)" in line
    (line,) = guard.grown(kept, {"a": guard.Work(100, 50, 1000, 0, {"sign": 3})})
    assert "3 calls of sign, and 2 before" in line
    (line,) = guard.grown(kept, {"a": guard.Work(100, 50, 1000, 0, {"fsync": 1})})
    assert "1 calls of fsync, and 0 before" in line
    (line,) = guard.grown(kept, {"b": guard.Work(100, 50, 1000, 0, {})})
    assert "b: nothing is kept" in line


def test_the_table_shows_what_differs():
    kept = {"a": [100, 50, 1000, 0, {"sign": 2, "verify": 3}]}
    lines = guard.as_table(kept, {"a": guard.Work(100, 50, 1200, 5, {"sign": 3, "verify": 3})}).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["calls", "100", "100"],
        ["sites", "50", "50"],
        ["instructions", "1,200", "1,000", "+20%"],
        ["bytes", "5", "0", "new"],
        ["dear", "calls", "6", "5", "+20%"],
        ["sign", "3", "2", "+50%"],
    ]


@pytest.mark.parametrize("text", [None, "", "[]", '{"work": 1}'])
def test_kept_numbers_that_are_none_are_one_line(
    text: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    kept = tmp_path / "guard.json"
    if text is not None:
        kept.write_text(text, encoding="utf-8")
    monkeypatch.setattr(guard, "KEPT", kept)
    monkeypatch.setattr(sys, "argv", ["guard"])
    assert guard.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{kept}: ")
    assert line.endswith("; --keep writes it anew")


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
    assert found == {
        "Ed25519PrivateKey.sign": 1,
        "Ed25519PublicKey.verify": 1,
        "HASH.update": 1,
        "_hashlib.openssl_sha256": 1,
        "io.open": 1,
        "posix.fspath": 1,
        "BufferedWriter.__exit__": 1,
        "BufferedWriter.fileno": 1,
        "ed25519.from_public_bytes": 1,
        "posix.fsync": 1,
    }


def test_what_is_dear_is_all_that_is_not_known_to_be_cheap():
    cheap: list[Callable[[], object]] = [b"".join, len, {}.update, set().update, deque().append, struct.pack]
    assert [guard.dear_name(each) for each in cheap] == [""] * len(cheap)
    dear = {
        sorted: "builtins.sorted",
        zlib.crc32: "zlib.crc32",
        hashlib.blake2b(b"").digest: "blake2b.digest",
        os.stat: "posix.stat",
        hashlib.sha256(b"").update: "HASH.update",
        AESGCM(bytes(32)).encrypt: "AESGCM.encrypt",
    }
    assert {each: guard.dear_name(each) for each in dear} == dear
    # A list has no hash.
    assert guard.dear_name([].sort) == "list.sort"


def test_each_cipher_that_is_made_is_counted():
    kept = json.loads(guard.KEPT.read_text(encoding="utf-8"))["work"]
    assert all("ciphers made" in kept[name][-1] for name in kept if "message" in name or "seal" in name)


async def test_of_the_loop_only_what_is_called_is_counted_by_its_name():
    async def wait() -> None:
        with trio.move_on_after(60):
            await trio.lowlevel.checkpoint()

    async def turns() -> None:
        for _ in range(100):
            await trio.lowlevel.cancel_shielded_checkpoint()

    async with trio.open_nursery() as nursery:
        with guard.Counting() as waiting:
            await wait()
        nursery.start_soon(turns)
        with guard.Counting() as beside:
            await wait()
            await wait()
    once = {
        "trio.CancelScope.__enter__": 1, "trio.CancelScope.__exit__": 1, "trio.checkpoint": 1, "trio.move_on_after": 1,
    }  # fmt: skip
    assert waiting.work.dear == once
    # Its beginning and its end, four calls in it, and that it is gone on with; the loop's own are many more.
    assert waiting.work.calls <= 10
    # What another task of ours does meanwhile is counted, too.
    turned = beside.work.dear.pop("trio.cancel_shielded_checkpoint")
    assert 1 <= turned <= 2
    assert beside.work.dear == {name: 2 * times for name, times in once.items()}


def _copy_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = TcpStream._receive_now

    def copied(stream: TcpStream, size: int) -> bytes | None:
        data = read(stream, size)
        return data if data is None else bytes(bytearray(data))

    monkeypatch.setattr(TcpStream, "_receive_now", copied)


def _copy_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    write = TcpStream.send_nowait
    monkeypatch.setattr(TcpStream, "send_nowait", lambda stream, data: write(stream, bytes(bytearray(data))))


def _let_others_run_per_message(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Channel.receive

    async def slow(channel: Channel) -> Message:
        await trio.lowlevel.checkpoint()
        return await receive(channel)

    monkeypatch.setattr(Channel, "__anext__", slow)


def _bound_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Requests.ask

    async def bounded(requests: Requests, *args: object) -> bytes:
        with trio.fail_after(60):
            await trio.lowlevel.checkpoint()
            return await ask(requests, *args)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(Requests, "ask", bounded)


def _parse_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = follow.parse_batch
    monkeypatch.setattr(follow, "parse_batch", lambda wal_bytes: parse(wal_bytes) and parse(wal_bytes))


@pytest.mark.parametrize(
    ("plant", "name", "told"),
    [
        (_copy_what_is_read, "64 KiB written to a TCP stream and read", "bytes"),
        (_copy_what_is_written, "64 KiB written to a TCP stream and read", "bytes"),
        (_let_others_run_per_message, "message of 128 B, node to node", "calls of trio.checkpoint"),
        (_bound_each_request, "request and answer of 128 B, node to node", "calls of trio.fail_after"),
        (_parse_twice, "a follower's 100 records", "instructions"),
    ],
)
def test_a_planted_regression_above_the_session_is_told(
    plant: Callable[[pytest.MonkeyPatch], None], name: str, told: str, monkeypatch: pytest.MonkeyPatch
):
    kept = json.loads(guard.KEPT.read_text(encoding="utf-8"))["work"]
    (task,) = [task for task in guard.TASKS if task.name == name]
    plant(monkeypatch)
    assert any(told in line for line in guard.grown(kept, {name: guard.work_of(task)}))
