"""Who gets a place on a server, and who gives way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from quart import Response

import http_control.server
from http_control.limits import HttpLimits
from http_control.places import Places
from tests.http.applications import connect, raw, served, small_app

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"


@dataclass(eq=False)
class Client:
    key: tuple[int, float] | None

    def yields(self, now: float) -> tuple[int, float] | None:
        return self.key


def filled(*keys: tuple[int, float] | None, source: str = "them", **limits: int) -> tuple[Places[Client], list[Client]]:
    places: Places[Client] = Places(HttpLimits(**limits))
    clients = [Client(key) for key in keys]
    for client in clients:
        places.take(client, source)
    return places, clients


def test_with_room_nobody_gives_way() -> None:
    places, _ = filled((0, 0.0), connections_max=2)
    assert places.in_the_way("us", 1.0) == (True, None)


def test_t54_the_one_that_is_owed_least_gives_way() -> None:
    places, clients = filled(None, (2, 1.0), (1, 9.0), (1, 5.0), (0, 0.0), connections_max=5)
    for expected in (4, 3, 2, 1):
        assert places.in_the_way("us", 10.0) == (True, clients[expected])
        clients[expected].key = None
    assert places.in_the_way("us", 10.0) == (False, None)


def test_t54_a_source_with_its_share_takes_no_place_of_others() -> None:
    places, theirs = filled((1, 1.0), None, connections_max=10, connections_per_source_max=2)
    other = Client((0, 0.0))
    places.take(other, "others")
    assert places.in_the_way("us", 2.0) == (True, None)
    assert places.in_the_way("them", 2.0) == (True, theirs[0]), "one of its own, whoever else would be readier"
    theirs[0].key = None
    assert places.in_the_way("them", 2.0) == (False, None)
    places.leave(theirs[1])
    places.leave(theirs[1])
    assert places.in_the_way("them", 2.0) == (True, None)


def test_t54_a_source_that_is_gone_takes_no_memory() -> None:
    places: Places[Client] = Places(HttpLimits())
    for number in range(100):
        guest = Client(None)
        places.take(guest, f"192.0.2.{number}")
        places.leave(guest)
    assert not places._of_source


def test_what_is_not_counted_by_source_may_have_all_places() -> None:
    places: Places[Client] = Places(HttpLimits(connections_max=3, connections_per_source_max=1))
    for _ in range(3):
        assert places.in_the_way(None, 1.0) == (True, None)
        places.take(Client(None), None)
    assert places.in_the_way(None, 1.0) == (False, None)


async def test_t54_an_address_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_control.server, "_LOOPBACK", ())
    async with served(small_app(), HttpLimits(connections_per_source_max=1)) as (url, _):
        async with await connect(url) as reader:
            await reader.send_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.receive_some(100)
            with trio.fail_after(30):
                assert await answer_or_nothing(url) == b""


async def test_t54_one_that_was_refused_and_lingers_gives_way() -> None:
    async with served(small_app(), HttpLimits(connections_max=1, linger_s_max=1000.0)) as (url, _):
        async with await connect(url) as refused:
            await refused.send_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n")
            with trio.fail_after(30):
                assert b"413" in await refused.receive_some(1000)
            await until_served(url)


async def test_t54_one_that_does_not_read_gives_way() -> None:
    limits = HttpLimits(connections_max=1, give_way_s=0.05, write_stall_s_max=1000.0)
    async with served(small_app(), limits) as (url, _), await connect(url) as stalled:
        await stalled.send_all(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await stalled.receive_some(100)
        await until_served(url)


async def test_t54_a_reader_to_whom_there_is_nothing_to_say_does_not_pass_for_one_that_does_not_read() -> None:
    app = small_app()

    @app.get("/quiet")
    async def quiet() -> Response:
        async def one_piece() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await trio.sleep_forever()

        response = Response(one_piece(), mimetype="text/event-stream")
        response.timeout = None
        return response

    async with served(app, HttpLimits(connections_max=1, give_way_s=0.01)) as (url, _):
        async with await connect(url) as reader:
            await reader.send_all(b"GET /quiet HTTP/1.1\r\nHost: a\r\n\r\n")
            while b"data: 1" not in await reader.receive_some(1000):
                pass
            await trio.testing.wait_all_tasks_blocked(0.05)  # for longer than one may leave what is sent untaken
            assert await answer_or_nothing(url) == b""


async def test_t54_one_whose_body_trickles_gives_way() -> None:
    limits = HttpLimits(connections_max=1, give_way_s=0.05, body_s_max=1000.0)
    async with served(small_app(), limits) as (url, _), await connect(url) as slow:
        await slow.send_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\nx")
        await trio.testing.wait_all_tasks_blocked(0.1)  # until it is a request, and not idle any more
        await until_served(url)


async def until_served(url: str) -> None:
    with trio.fail_after(30):
        while b"hello" not in await answer_or_nothing(url):
            pass


async def answer_or_nothing(url: str) -> bytes:
    """The answer to a request; nothing where the place was taken at that moment."""
    try:
        return await raw(url, GET + b"Connection: close\r\n\r\n")
    except trio.BrokenResourceError:
        return b""
