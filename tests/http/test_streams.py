"""Server-sent events: numbered, resumed, bounded, and in nobody's way."""

from __future__ import annotations

import pytest
import trio

import http_control
import p2p
from http_control import HttpLimits, shapes
from http_control.logs import HEARTBEAT, Feed, Reader, frame_of
from http_control.problem import Problem
from tests.http.applications import connect, descriptors, descriptors_back_to
from tests.http.controlled import TOKEN, Stream, controlled, one_controlled


async def test_events_begin_with_the_state_and_tell_what_happens() -> None:
    async with (
        p2p.open_node(node_id="b") as b,
        one_controlled(stats_every_ms=100) as a,
        Stream(a, "/p2p/events") as stream,
    ):
        assert "text/event-stream" in stream.head
        assert "x-accel-buffering: no" in stream.head.lower()
        first, second = await stream.next(), await stream.next()
        assert (first.event, first.id, first.data["node_id"]) == ("status", None, "a")
        assert (second.event, second.data) == ("peers", {"peers": []})
        assert set((await stream.next("sample")).data) == set(shapes.Sample.__struct_fields__)
        await a.node.connect(b.endpoints[0])
        connected = await stream.next("peer_connected")
        assert connected.id is not None
        assert connected.data["peer"]["id"] == str(b.peer_id)
        assert [peer["node_id"] for peer in (await stream.next("peers")).data["peers"]] == ["b"]
        await a.node.wal.append(b"x")
        moved = await stream.next("heads_moved")
        assert moved.data["digest"] == a.node.wal.digest().hex()
        assert [(head["node_id"], head["seq"]) for head in moved.data["heads"]] == [("a", 1)]
        await b.wal.append(b"y")
        assert [head["node_id"] for head in (await stream.next("heads_moved")).data["heads"]] == ["b"]
        await a.node.disconnect("b")
        left = (await stream.next("peer_left")).data
        assert set(left) == {"time_ms", "peer_id", "node_id", "reason", "detail", "clean"}
        assert (left["peer_id"], left["reason"], left["clean"]) == (str(b.peer_id), "disconnected", True)


async def test_a_reader_that_comes_back_gets_what_it_missed_once() -> None:
    async with p2p.open_node(node_id="b") as b, one_controlled(stats_every_ms=60_000) as a:
        async with Stream(a, "/p2p/events") as stream:
            await a.node.connect(b.endpoints[0])
            connected = await stream.next("peer_connected")
        await a.node.disconnect("b")
        await a.node.connect(b.endpoints[0])
        async with Stream(a, "/p2p/events", last_id=connected.id) as stream:
            numbered = [await stream.next("peer_left", "peer_connected", "gap") for _ in range(2)]
            assert [event.event for event in numbered] == ["peer_left", "peer_connected"]
        async with Stream(a, "/p2p/events", last_id="0123456789abcdef-7") as stream:
            gap = await stream.next("gap", "peer_connected")
            assert (gap.event, gap.data) == ("gap", {"missed": None})
            assert (await stream.next("peer_connected")).id == connected.id


async def test_live_lines_begin_with_those_that_are_kept() -> None:
    # One line of figures at its start, and none among those that are looked at.
    async with one_controlled(stats_every_ms=3_600_000) as a, Stream(a, "/p2p/logs/live") as stream:
        first = await stream.next()
        assert first.event == "log"
        assert "listens on loopback only" in first.data["line"]
        line = await stream.next()
        assert line.data["line"].startswith("[p2p] peers_total=0")
        a.node._log_line("one")
        a.node._log_line("two")
        assert [(await stream.next()).data["line"] for _ in range(2)] == ["one", "two"]
        async with Stream(a, "/p2p/logs/live?tail=1") as late:
            assert (await late.next()).data["line"] == "two"
        async with Stream(a, "/p2p/logs/live", last_id=line.id) as back:
            assert (await back.next()).data["line"] == "one"


async def test_many_readers_of_which_half_stall_harm_nobody() -> None:
    before = descriptors()
    limits = HttpLimits(reader_bytes_max=64 * 1024, write_stall_s_max=5.0)
    async with one_controlled(stats_every_ms=100, limits=limits) as a:
        async with trio.open_nursery() as nursery:
            streams = [Stream(a, "/p2p/logs/live") for _ in range(40)]
            for stream in streams:
                await stream.__aenter__()
            reading, stalled = streams[:20], streams[20:]
            over = trio.Event()
            done: list[int] = []

            async def read(stream: Stream) -> None:
                while "the last line" not in (await stream.next()).data["line"]:
                    pass
                done.append(1)
                if len(done) == len(reading):
                    over.set()

            for stream in reading:
                nursery.start_soon(read, stream)
            # More than the sockets of those that stall will take, in portions that the others keep up with.
            for number in range(600):
                a.node._log_line(f"{number} {'x' * 2000}")
                if number % 10 == 0:
                    await trio.sleep(0.001)
            a.node._log_line("the last line")
            with trio.fail_after(60):
                await over.wait()
            assert (await a.get("/ping"))["pong"] is True
        for stream in streams:
            await stream.__aexit__()
        assert stalled
    await descriptors_back_to(before)


async def test_one_reader_too_many_is_told() -> None:
    async with one_controlled(limits=HttpLimits(readers_max=2)) as a:
        async with Stream(a, "/p2p/events") as one, Stream(a, "/p2p/events") as two:
            await one.next()
            await two.next()
            refused = await a.client.get("/p2p/events")
            assert (refused.status_code, refused.json()["error"]) == (429, "too_many_readers")
        with trio.fail_after(30):  # until the server has seen that they left
            while True:
                async with Stream(a, "/p2p/events") as three:
                    if "200" in three.head.split("\r\n")[0]:
                        break


async def test_a_server_with_stalled_readers_stops_in_time() -> None:
    before = descriptors()
    async with p2p.open_node(node_id="a") as node:
        async with controlled(node, stats_every_ms=100) as a:
            streams = [Stream(a, "/p2p/events") for _ in range(20)]
            for stream in streams:
                await stream.__aenter__()
            started = trio.current_time()
        assert trio.current_time() - started < 2 + 20  # 2 s promised, the rest for a machine under load
        for stream in streams:
            await stream.__aexit__()
    await descriptors_back_to(before)


# The feed alone.

MARK = "0123456789abcdef"


async def test_streams_end_whole_when_the_server_stops() -> None:
    came: dict[str, bytes] = {}

    async def read(url: str, path: str, is_read: trio.Event) -> None:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Auth-Token: {TOKEN}\r\n\r\n"
        with trio.CancelScope(shield=True):
            async with await connect(url) as stream:
                await stream.send_all(request.encode())
                came[path] = b""
                async for part in stream:
                    came[path] += part
                    if b"welcome" in came[path]:
                        is_read.set()

    with trio.fail_after(30):
        async with p2p.open_node(node_id="a") as node, trio.open_nursery() as readers:
            async with controlled(node, limits=HttpLimits(stop_grace_s=30, stop_s_max=60)) as a:
                for path in ("/p2p/logs/live", "/p2p/events"):
                    is_read = trio.Event()
                    readers.start_soon(read, a.url, path, is_read)
                    await is_read.wait()
    for path, stream in came.items():
        assert b" 200 " in stream, path
        assert stream.endswith(b"\r\n0\r\n\r\n"), path


def feed(kept: int = 3, **limits: object) -> Feed:
    return Feed(MARK, kept, HttpLimits(**limits))  # type: ignore[arg-type]


def missed(one: Feed, last_id: str | None, tail: int = 99) -> list[bytes]:
    return list(one.since(last_id, tail))


def test_what_is_kept_is_bounded_and_what_is_gone_is_told() -> None:
    one = feed()
    for number in range(1, 6):
        one.publish("log", number)
    frames = [frame_of("log", number, f"{MARK}-{number}") for number in (3, 4, 5)]
    assert missed(one, None) == frames
    assert missed(one, None, 1) == frames[2:]
    assert missed(one, None, 0) == []
    assert missed(one, f"{MARK}-4") == frames[2:]
    assert missed(one, f"{MARK}-5") == []
    assert missed(one, f"{MARK}-2") == frames
    assert missed(one, f"{MARK}-1") == [frame_of("gap", {"missed": 1}, f"{MARK}-2"), *frames]
    for strange in ("", "x", f"{MARK}-6", f"{MARK}-{'9' * 99}", "f" * 16 + "-4", f"{MARK}-4\n"):
        assert missed(one, strange) == [frame_of("gap", {"missed": None}, f"{MARK}-2"), *frames]


async def test_a_reader_that_does_not_keep_up_is_dropped_and_the_others_are_not(autojump_clock: object) -> None:
    one = feed(reader_bytes_max=1000)
    slow, quick = Reader(one, None, 0, b""), Reader(one, None, 0, b"")
    assert await anext(slow) == await anext(quick) == b": welcome\n\n"
    for _ in range(100):
        one.publish("log", "x" * 40)
        assert b"x" in await anext(quick)
    with pytest.raises(StopAsyncIteration):
        while True:
            await anext(slow)
    assert one.readers == {quick}
    assert await anext(quick) == HEARTBEAT
    await quick.aclose()
    assert one.readers == set()


def test_room_is_bounded() -> None:
    one = feed(readers_max=1)
    one.check_room()
    one.readers.add(Reader(one, None, 0, b""))
    with pytest.raises(Problem) as caught:
        one.check_room()
    assert caught.value.status == 429


async def test_readers_who_come_at_once_share_the_places_there_are() -> None:
    one = feed(readers_max=2)
    readers = [Reader(one, None, 0, b"") for _ in range(5)]
    one.check_room()  # as all five were told
    begun = 0
    for reader in readers:
        try:
            await anext(reader)
            begun += 1
        except StopAsyncIteration:
            continue
    assert begun == len(one.readers) == 2


async def test_a_sink_of_the_application_may_fail() -> None:
    from quart_trio import QuartTrio

    app = QuartTrio("app")
    node = p2p.Node(p2p.NodeConfig(node_id="a"))
    http_control.register_routes(app, p2p.P2PRuntime(node), http_control.P2PHttpOptions(token="t" * 20))
    control = app.extensions["p2p_http"][0]
    lines: list[str] = []
    http_control.set_live_log_sink(app, lines.append)
    control.say("one")

    def broken(line: str) -> None:
        raise ValueError(line)

    http_control.set_live_log_sink(app, broken)
    control.say("two")
    http_control.shutdown_live_logs(app)
    http_control.shutdown_live_logs()
    control.say("three")
    assert lines == ["one"]
    assert control.log_text(9) == "one\ntwo\nthree\n"


def test_who_was_told_of_a_gap_is_not_told_again() -> None:
    one = feed()
    (gap,) = missed(one, "f" * 16 + "-7")  # from before the server was restarted, and nothing has happened since
    told = gap.decode().split("\n")[0].removeprefix("id: ")
    assert missed(one, told) == []
    one.publish("x", {})
    assert len(missed(one, told)) == 1


async def test_the_id_of_one_stream_says_nothing_to_the_other() -> None:
    async with one_controlled() as a:
        async with Stream(a, "/p2p/logs/live") as stream:
            line = await stream.next()
        async with Stream(a, "/p2p/events", last_id=line.id) as stream:
            assert (await stream.next("gap")).data == {"missed": None}
