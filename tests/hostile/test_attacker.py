"""The attacker's tools do what they say: shown on a plain echo server of trio's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clocks import as_it_goes, idle_time_skipped
from tests.hostile.attacker import (
    FOREIGN,
    PATIENCE_S,
    Direction,
    End,
    Ending,
    Fault,
    Tamper,
    Where,
    cut,
    dial,
    drip,
    read_to_end,
    reset,
    residue,
    silent_connections,
    speak,
    wiretap,
)
from tests.ports import free_port

STORY = b"a recorded handshake of forty-one bytes..."


class Echo:
    """An echo server, and what became of its connections."""

    def __init__(self) -> None:
        self.where: Where = ("127.0.0.1", 0)
        self.open = 0
        self.resets = 0
        self.heard: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        self.open += 1
        heard = bytearray()
        try:
            async with stream:
                while data := await stream.receive_some():
                    heard += data
                    await stream.send_all(data)
        except trio.BrokenResourceError:
            self.resets += 1
        finally:
            self.open -= 1
            self.heard.append(bytes(heard))


@asynccontextmanager
async def echo_server() -> AsyncIterator[Echo]:
    echo = Echo()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo.serve, 0)
        echo.where = ("127.0.0.1", listeners[0].socket.getsockname()[1])
        yield echo
        nursery.cancel_scope.cancel()


async def settle(echo: Echo, ended: int) -> None:
    """Until the server has seen so many connections end."""
    with trio.fail_after(60):
        while len(echo.heard) < ended:
            await trio.lowlevel.checkpoint()


async def test_silent_connections_are_open_and_silent_and_end_together() -> None:
    async with echo_server() as echo:
        async with silent_connections(echo.where, 20) as streams:
            with trio.fail_after(60):
                while echo.open < 20:
                    await trio.lowlevel.checkpoint()
            assert len(streams) == 20
        await settle(echo, 20)
        assert echo.heard == [b""] * 20


@pytest.mark.parametrize("protocol", FOREIGN)
async def test_what_foreign_protocols_say_is_said_and_answers_are_heard(protocol: str) -> None:
    async with echo_server() as echo:
        answer = await speak(echo.where, FOREIGN[protocol], Ending.HALF_CLOSE)
        assert answer.data == FOREIGN[protocol]
        assert answer.end is End.EOF
        assert answer.sent == len(FOREIGN[protocol])
        await settle(echo, 1)


async def test_a_victim_that_never_ends_is_reported_as_open(mock_clock: MockClock) -> None:
    as_it_goes(mock_clock)
    async with echo_server() as echo:
        with idle_time_skipped(mock_clock):
            answer = await speak(echo.where, b"hello")
        assert answer.end is End.OPEN
        assert answer.data == b"hello"
        assert answer.after_s >= PATIENCE_S


async def test_a_drip_takes_its_time_and_says_everything(mock_clock: MockClock) -> None:
    as_it_goes(mock_clock)
    async with echo_server() as echo:
        with idle_time_skipped(mock_clock):
            answer = await drip(echo.where, b"slowly", 0.002)
        assert answer.sent == 6
        assert answer.data == b"slowly"


async def test_a_drip_ends_when_the_victim_has_had_enough() -> None:
    async def three_bytes(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            for _ in range(3):
                await stream.receive_some(1)
            reset(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, three_bytes, 0)
        where = ("127.0.0.1", listeners[0].socket.getsockname()[1])
        answer = await drip(where, bytes(100_000), 0.0005)
        assert answer.end is End.RESET
        assert 3 <= answer.sent < 100_000
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.HALF_CLOSE])
async def test_a_cut_at_every_offset_leaves_nothing_behind(ending: Ending) -> None:
    async with echo_server() as echo:
        await cut(echo.where, STORY, 1, ending)
        await settle(echo, 1)
        await wait_all_tasks_blocked()
        before = residue()
        for offset in range(len(STORY) + 1):
            answer = await cut(echo.where, STORY, offset, ending)
            if ending is Ending.HALF_CLOSE:
                assert answer.data == STORY[:offset]
        await settle(echo, len(STORY) + 2)
        await wait_all_tasks_blocked()
        assert residue() == before
        assert all(STORY.startswith(heard) for heard in echo.heard)
        if ending is not Ending.RESET:
            assert sorted(echo.heard[1:]) == [STORY[:offset] for offset in range(len(STORY) + 1)]


async def test_a_reset_is_one() -> None:
    async with echo_server() as echo:
        stream = await dial(echo.where)
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        reset(stream)
        await settle(echo, 1)
        assert echo.resets == 1


async def ask(where: Where, question: bytes) -> tuple[bytes, End]:
    """What an honest peer hears when it asks and then half-closes."""
    async with await dial(where) as stream:
        try:
            await stream.send_all(question)
            await stream.send_eof()
        except trio.BrokenResourceError:
            return b"", End.RESET
        return await read_to_end(stream)


async def test_a_wiretap_records_both_directions_and_changes_nothing() -> None:
    async with echo_server() as echo, wiretap(echo.where) as tap:
        assert await ask(tap.where, STORY) == (STORY, End.EOF)
        assert [(bytes(r.up), bytes(r.down)) for r in tap.recordings] == [(STORY, STORY)]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("offset", [0, 7, len(STORY) - 1])
@pytest.mark.parametrize(
    ("tamper", "middle"),
    [
        (Tamper.FLIP, lambda byte: bytes([byte[0] ^ 1])),
        (Tamper.DROP, lambda byte: b""),
        (Tamper.INSERT, lambda byte: b"\0" + byte),
    ],
    ids=["flip", "drop", "insert"],
)
async def test_a_wiretap_changes_one_byte(direction: Direction, offset: int, tamper: Tamper, middle: object) -> None:
    assert callable(middle)
    async with echo_server() as echo, wiretap(echo.where) as tap:
        tap.fault = Fault(direction, offset, tamper)
        expected = STORY[:offset] + middle(STORY[offset : offset + 1]) + STORY[offset + 1 :]
        assert await ask(tap.where, STORY) == (expected, End.EOF)
        await settle(echo, 1)
        assert echo.heard == [expected if direction is Direction.UP else STORY]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(
    ("tamper", "end"),
    [
        (Tamper.CLOSE, End.EOF),
        (Tamper.RESET, End.RESET),
        (Tamper.HALF_CLOSE, End.EOF),
        (Tamper.STALL, End.OPEN),
    ],
)
async def test_a_wiretap_ends_or_stalls_the_connection(direction: Direction, tamper: Tamper, end: End) -> None:
    async with echo_server() as echo, wiretap(echo.where) as tap:
        tap.fault = Fault(direction, 7, tamper)
        async with await dial(tap.where) as stream:
            await stream.send_all(STORY)
            # Only the one that stalls is not waited for: nothing comes there, however long that takes.
            heard, how = await read_to_end(stream, 0.1 if end is End.OPEN else PATIENCE_S)
        assert STORY[:7].startswith(heard)
        assert how is end


async def test_a_wiretap_whose_victim_is_gone_resets() -> None:
    async with wiretap(("127.0.0.1", free_port())) as tap, await dial(tap.where) as stream:
        assert await read_to_end(stream) == (b"", End.RESET)
