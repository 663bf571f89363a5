"""One suite for every transport: whatever carries a session must pass all of it.

A transport joins by one entry in WORLDS. Where a transport cannot do a thing by its nature (half-close), the test says
so and is not run for it. Circuits join in what is asked of streams: nobody listens for them and no port is theirs, they
come in over links that are there (`test_relay.py`).
"""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import assert_checkpoints, check_half_closeable_stream, check_two_way_stream, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed

from p2p.errors import AddressInUse, ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.base import LinkStream, Listener, Transport
from p2p.transport.circuit import CircuitStream
from p2p.transport.memory import MemoryNetwork
from p2p.transport.tcp import TcpNetwork
from p2p.transport.tls import TlsFiles
from p2p.transport.websocket import WebSocketNetwork
from p2p.transport.websocket_stream import FRAME_BYTES, WebSocketStream
from tests.certificates import certificates
from tests.unit.relay.chain import triangle

Pair = tuple[LinkStream, LinkStream]
MIB = 1024 * 1024


@dataclass(frozen=True)
class World:
    """Two ends of one network.

    Attributes:
        server, client: the windows of the two nodes.
        survives_cancelled_sends: whether more can be sent after a send that was cancelled half way. trio promises it
            of no stream. A WebSocket cannot: the frame is torn, and the library gives its rest to nobody.
        host: where the server listens and the client finds it.
        scheme: of its endpoints.
    """

    name: str
    server: Transport
    client: Transport
    host: str
    scheme: str
    survives_cancelled_sends: bool = True

    def endpoint(self, port: int) -> PeerEndpoint:
        return PeerEndpoint(self.host, port, self.scheme)


@dataclass(frozen=True)
class Ends:
    """How to make two streams that are joined; `survives_cancelled_sends` as for a world."""

    open_pair: Callable[[], Awaitable[Pair]]
    survives_cancelled_sends: bool = True


def tcp4(limits: Limits, _: trio.Nursery) -> World:
    network = TcpNetwork(limits)
    return World("tcp4", network, network, "127.0.0.1", "tcp")


def tcp6(limits: Limits, _: trio.Nursery) -> World:
    network = TcpNetwork(limits)
    return World("tcp6", network, network, "::1", "tcp")


def memory(limits: Limits, _: trio.Nursery) -> World:
    net = MemoryNetwork(limits)
    return World("memory", net.network_for("server"), net.network_for("client"), "server", "mem")


def websocket(limits: Limits, nursery: trio.Nursery) -> World:
    network = WebSocketNetwork(limits)
    network.enter(nursery)
    return World("ws", network, network, "127.0.0.1", "ws", survives_cancelled_sends=False)


def websocket_over_tls(limits: Limits, nursery: trio.Nursery) -> World:
    files = certificates("127.0.0.1")
    server, client = WebSocketNetwork(limits, files), WebSocketNetwork(limits, TlsFiles(ca=files.ca))
    server.enter(nursery)
    client.enter(nursery)
    return World("wss", server, client, "127.0.0.1", "wss", survives_cancelled_sends=False)


WORLDS: dict[str, Callable[[Limits, trio.Nursery], World]] = {
    "tcp4": tcp4, "tcp6": tcp6, "memory": memory, "ws": websocket, "wss": websocket_over_tls,
}  # fmt: skip


def through_a_relay(nursery: trio.Nursery) -> Ends:
    """Circuits from A over R to B: switches in this process, and a task that carries what they say."""
    net = triangle(Limits(relay_circuits_per_pair_max=32))
    said = trio.Event()

    def wake() -> None:
        said.set()

    async def carry() -> None:
        nonlocal said
        began = trio.current_time()
        while True:
            said = trio.Event()
            net.wait(trio.current_time() - began - net.now)
            net.settle()
            with trio.CancelScope(deadline=began + net.switches["R"].next_deadline()):
                await said.wait()

    async def open_pair() -> Pair:
        await trio.lowlevel.checkpoint()
        first, second = net.pair("A", "R", "B")
        return CircuitStream(first), CircuitStream(second)

    net.wake = wake
    nursery.start_soon(carry)
    return Ends(open_pair)


@pytest.fixture(params=sorted(WORLDS))
def make_world(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Callable[[Limits], World]:
    _need_ipv6(request.param)
    return lambda limits: WORLDS[request.param](limits, nursery)


@pytest.fixture(params=[*sorted(WORLDS), "circuit"])
def ends(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Ends:
    if request.param == "circuit":
        return through_a_relay(nursery)
    _need_ipv6(request.param)
    world = WORLDS[request.param](Limits(), nursery)
    return Ends(partial(open_pair, world), world.survives_cancelled_sends)


@pytest.fixture
def world(make_world: Callable[[Limits], World]) -> World:
    return make_world(Limits())


def _need_ipv6(name: str) -> None:
    known = Path("/proc/net/if_inet6")
    if name == "tcp6" and not (known.exists() and known.read_text()):
        pytest.skip("this machine has no IPv6")


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def open_pair(world: World) -> Pair:
    listener = await world.server.listen(world.host, 0)
    try:
        return await pair_through(world, listener)
    finally:
        await trio.aclose_forcefully(listener)


async def pair_through(world: World, listener: Listener, place: PeerEndpoint | None = None) -> Pair:
    clients: list[LinkStream] = []

    async def dial() -> None:
        clients.append(await world.client.connect(place or world.endpoint(listener.endpoints[0].port)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        server = await accept_and_greet(listener)
    return clients[0], server


async def accept_and_greet(listener: Listener) -> LinkStream:
    """Accept a stream and use it, as its link does: some shake hands only then, and the dial waits for that."""
    stream = await listener.accept()
    await stream.wait_send_all_might_not_block()
    return stream


async def clog(sender: LinkStream) -> None:
    """Send until nothing more goes: the other side does not read.

    Where a cancelled send breaks the stream, a task goes on sending behind its back; it ends with the stream. A kernel
    that seemed full may find some more room a moment later, so that one is asked several times.
    """
    if isinstance(sender, WebSocketStream):
        sender._nursery.start_soon(send_frames, sender)
        refusals = 0
        while refusals < 4:
            refusals = refusals + 1 if await blocks(sender.wait_send_all_might_not_block) else 0
        return
    while not await blocks(partial(sender.send_all, bytes(32 * MIB))) or sender.send_nowait(bytes(4096)):
        pass
    while not await blocks(partial(sender.send_all, b"x")):
        pass


async def send_frames(stream: WebSocketStream) -> None:
    assert stream._ws is not None
    with suppress(ConnectionClosed):
        for _ in range(32 * MIB // FRAME_BYTES):
            await stream._ws.send_message(bytes(FRAME_BYTES))


async def blocks(method: Callable[[], Awaitable[object]]) -> bool:
    """Whether it is still waiting when nothing moves any more; then it is cancelled."""
    finished = False

    async def run() -> None:
        nonlocal finished
        await method()
        finished = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked(0.02)
        nursery.cancel_scope.cancel()
    return not finished


@asynccontextmanager
async def pair_of(ends: Ends) -> AsyncIterator[Pair]:
    pair = await ends.open_pair()
    try:
        yield pair
    finally:
        for stream in pair:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def closing(resource: LinkStream | Listener) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with trio.CancelScope() as scope:
            scope.cancel()
            await resource.aclose()


async def receive_exactly(stream: LinkStream, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        chunk = await stream.receive_some(count - len(got))
        if not chunk:
            break
        got += chunk
    return bytes(got)


# trio's own idea of a stream.


async def test_it_passes_trios_stream_checks(ends: Ends) -> None:
    async def make() -> Pair:
        return await ends.open_pair()

    async def make_clogged() -> Pair:
        pair = await ends.open_pair()
        await clog(pair[0])
        await clog(pair[1])
        return pair

    await check_two_way_stream(make, make_clogged)


async def test_half_closing_leaves_the_other_direction_open(ends: Ends) -> None:
    async def make() -> Pair:
        return await ends.open_pair()

    async def make_clogged() -> Pair:
        pair = await ends.open_pair()
        await clog(pair[0])
        await clog(pair[1])
        return pair

    first, second = await ends.open_pair()
    await trio.aclose_forcefully(first)
    await trio.aclose_forcefully(second)
    if not isinstance(first, trio.abc.HalfCloseableStream):
        pytest.skip("this transport cannot close one direction")
    await check_half_closeable_stream(make, make_clogged)
    async with pair_of(ends) as (client, server):
        await client.send_all(b"question")
        await client.send_eof()
        await client.send_eof()
        assert await receive_exactly(server, 100) == b"question"
        assert await server.receive_some() == b""
        await server.send_all(b"answer")
        assert await receive_exactly(client, 6) == b"answer"
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"more")
        assert client.send_nowait(b"more") == 0


# Dialling and listening.


async def test_port_0_takes_a_free_port_and_endpoints_tell_it(world: World) -> None:
    first = await world.server.listen(world.host, 0)
    second = await world.server.listen(world.host, 0)
    async with closing(first), closing(second):
        assert first.endpoints[0].port != second.endpoints[0].port
        assert 0 not in (first.endpoints[0].port, second.endpoints[0].port)
        assert first.endpoints == (world.endpoint(first.endpoints[0].port),)
        assert PeerEndpoint.parse(str(first.endpoints[0])) == first.endpoints[0]


async def test_a_taken_port_is_named(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    port = listener.endpoints[0].port
    async with closing(listener):
        with pytest.raises(AddressInUse, match=str(port)) as caught:
            await world.server.listen(world.host, port)
        assert isinstance(caught.value, OSError)
    again = await world.server.listen(world.host, port)
    await again.aclose()


async def test_a_port_is_free_again_after_connections_ended_on_it(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    port = listener.endpoints[0].port
    client, server = await pair_through(world, listener)
    await server.aclose()
    await client.aclose()
    await listener.aclose()
    again = await world.server.listen(world.host, port)
    await again.aclose()


async def test_an_address_of_another_machine_is_refused_in_words(world: World) -> None:
    elsewhere = "198.51.100.7" if world.scheme == "mem" or ":" not in world.host else "2001:db8::7"
    with pytest.raises(ConfigError, match=elsewhere):
        await world.server.listen(elsewhere, 0)


async def test_nobody_listening_is_refused(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    port = listener.endpoints[0].port
    await listener.aclose()
    with pytest.raises(ConnectFailed) as caught:
        await world.client.connect(world.endpoint(port))
    assert caught.value.reason is Reason.REFUSED
    assert caught.value.detail


async def test_a_name_without_an_address_is_unresolved(world: World) -> None:
    with pytest.raises(ConnectFailed) as caught:
        await world.client.connect(PeerEndpoint("nowhere.invalid", 9, world.scheme))
    assert caught.value.reason is Reason.UNRESOLVED
    with pytest.raises(ConnectFailed) as caught:
        await world.client.resolve(PeerEndpoint("nowhere.invalid", 9, world.scheme))
    assert caught.value.reason is Reason.UNRESOLVED


async def test_another_scheme_is_unsupported(world: World) -> None:
    other = PeerEndpoint(world.host, 9, "tcp" if world.scheme.startswith("ws") else "ws")
    with pytest.raises(ConnectFailed) as caught:
        await world.client.connect(other)
    assert caught.value.reason is Reason.UNSUPPORTED


async def test_what_resolve_gives_can_be_dialled(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    async with closing(listener):
        port = listener.endpoints[0].port
        expected = replace(world.endpoint(port), expect="b")
        found = await world.client.resolve(expected)
        assert expected in found
        for stream in await pair_through(world, listener, found[0]):
            await stream.aclose()


async def test_each_side_knows_where_the_other_is(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    async with closing(listener):
        client, server = await pair_through(world, listener)
        async with closing(client), closing(server):
            assert client.remote == listener.endpoints[0]
            assert server.remote is not None
            assert server.remote.scheme == world.scheme
            assert server.remote.port != 0


async def test_closing_the_listener_ends_accept_and_spares_what_was_accepted(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    client, server = await pair_through(world, listener)
    async with closing(client), closing(server):

        async def accept_until_closed() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_until_closed)
            await wait_all_tasks_blocked()
            await listener.aclose()
        await listener.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()
        await client.send_all(b"still here")
        assert await receive_exactly(server, 10) == b"still here"


async def test_many_connections_at_once_keep_their_bytes_apart(make_world: Callable[[Limits], World]) -> None:
    # Both ends of all of them share one event loop, and a hundred TLS handshakes keep it from saying Close in time.
    world = make_world(Limits(ws_close_s_max=60))
    count = 50
    listener = await world.server.listen(world.host, 0)
    port = listener.endpoints[0].port
    answers: dict[int, bytes] = {}

    async def serve() -> None:
        async with trio.open_nursery() as handlers:
            for _ in range(count):
                handlers.start_soon(echo, await listener.accept())

    async def ask(number: int) -> None:
        stream = await world.client.connect(world.endpoint(port))
        async with closing(stream):
            await stream.send_all(b"%08d" % number)
            answers[number] = await receive_exactly(stream, 8)

    async with closing(listener), trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for number in range(count):
            nursery.start_soon(ask, number)
    assert answers == {number: b"%08d" % number for number in range(count)}


# Bytes.


async def test_a_mebibyte_arrives_whole_both_ways_at_once(ends: Ends) -> None:
    there, back = os.urandom(MIB), os.urandom(MIB)
    got: dict[str, bytes] = {}
    async with pair_of(ends) as (client, server):

        async def receive(name: str, stream: LinkStream) -> None:
            got[name] = await receive_exactly(stream, MIB)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, there)
            nursery.start_soon(server.send_all, back)
            nursery.start_soon(receive, "server", server)
            nursery.start_soon(receive, "client", client)
    assert got == {"server": there, "client": back}


async def test_a_sender_waits_for_a_reader_that_does_not_read(ends: Ends) -> None:
    async with pair_of(ends) as (client, server):
        sent_all = False

        async def send() -> None:
            nonlocal sent_all
            await client.send_all(bytes(32 * MIB))
            sent_all = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.02)
            assert not sent_all
            received = 0
            while received < 32 * MIB:
                received += len(await server.receive_some())
            await wait_all_tasks_blocked(0.02)
            assert sent_all


async def test_send_nowait_accepts_a_first_part_and_send_all_takes_the_rest(ends: Ends) -> None:
    data = os.urandom(16 * MIB)
    async with pair_of(ends) as (client, server):
        sent = client.send_nowait(memoryview(data))
        assert 0 <= sent < len(data), "no buffer is that large"

        async def send_rest() -> None:
            await client.send_all(memoryview(data)[sent:])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_rest)
            assert await receive_exactly(server, len(data)) == data


async def test_send_nowait_on_a_full_closed_or_broken_stream_accepts_nothing(ends: Ends) -> None:
    async with pair_of(ends) as (client, server):
        await clog(client)
        while client.send_nowait(bytes(4096)):
            pass
        assert client.send_nowait(b"x") == 0
        server.abort()
        with pytest.raises(trio.BrokenResourceError):
            await receive_exactly(client, 1)
        assert client.send_nowait(b"x") == 0
        await client.aclose()
        assert client.send_nowait(b"x") == 0


async def test_receive_chunk_gives_the_same_bytes_and_the_same_end(ends: Ends) -> None:
    data = os.urandom(MIB)
    async with pair_of(ends) as (client, server):

        async def send() -> None:
            await client.send_all(data)
            await client.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            got = bytearray()
            while chunk := await server.receive_chunk(1000):
                assert len(chunk) <= 1000
                got += chunk
        assert got == data
        assert await server.receive_chunk() == b""
        with pytest.raises(ValueError, match="max_bytes"):
            await server.receive_chunk(0)
    with pytest.raises(trio.ClosedResourceError):
        await server.receive_chunk()


async def test_receive_while_hands_on_the_same_bytes_until_no_more_are_wanted(ends: Ends) -> None:
    data = os.urandom(MIB // 16)
    got = bytearray()

    def take(chunk: bytes | bytearray, up_to: int) -> bool:
        nonlocal got
        got += chunk
        return len(got) < up_to and bool(chunk)

    async with pair_of(ends) as (client, server):
        # Small ones, each with a wait before it; then many at once, of which the rest waits for who reads on.
        for number in range(1, 6):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(server.receive_while, partial(take, up_to=number)))
                await wait_all_tasks_blocked()
                assert len(got) == number - 1
                await client.send_all(b"x")
        assert got == b"xxxxx"
        got.clear()

        async def send() -> None:
            await client.send_all(data)
            await client.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await server.receive_while(partial(take, up_to=1000), 100)
            assert 1000 <= len(got) < 1100
            await server.receive_while(partial(take, up_to=MIB))
        assert got == data
        with pytest.raises(ValueError, match="max_bytes"):
            await server.receive_while(partial(take, up_to=1), 0)


async def test_what_takes_may_fail_and_the_stream_still_works(ends: Ends) -> None:
    def fail(chunk: bytes | bytearray) -> bool:
        raise ZeroDivisionError

    async with pair_of(ends) as (client, server):
        for _ in range(3):
            await client.send_all(b"x")
            with pytest.raises(ZeroDivisionError):
                await server.receive_while(fail)
        await client.send_all(b"y")
        assert await receive_exactly(server, 1) == b"y"


async def test_a_flood_does_not_starve_the_loop(ends: Ends) -> None:
    """However fast bytes come, other tasks get a turn and cancellation gets through within a few chunks."""
    async with pair_of(ends) as (client, server):
        chunks = 0
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    nonlocal chunks
                    while True:
                        await server.receive_chunk(1)
                        chunks += 1

                await client.send_all(bytes(10_000))
                nursery.start_soon(read)
                turns = 0
                while chunks < 1000:
                    await trio.lowlevel.checkpoint()
                    turns += 1
                before = chunks
                scope.cancel()
        assert turns >= 100
        assert chunks - before <= 16


# Ends.


async def test_a_clean_close_delivers_everything_before_the_end(ends: Ends) -> None:
    async with pair_of(ends) as (client, server):
        await client.send_all(b"last words")
        await client.aclose()
        assert await receive_exactly(server, 100) == b"last words"
        assert await server.receive_some() == b""
        assert await server.receive_some() == b""


async def test_closing_while_this_side_reads_and_writes_wakes_both_with_closed(ends: Ends) -> None:
    async with pair_of(ends) as (client, _):
        await clog(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, trio.ClosedResourceError, client.receive_some)
            nursery.start_soon(expect, trio.ClosedResourceError, partial(client.send_all, bytes(32 * MIB)))
            await wait_all_tasks_blocked()
            await client.aclose()


async def test_the_other_side_closing_ends_a_read_and_breaks_a_write(ends: Ends) -> None:
    async with pair_of(ends) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(expect, trio.BrokenResourceError, partial(client.send_all, bytes(32 * MIB)))
        await wait_all_tasks_blocked(0.02)
        await server.aclose()
    async with pair_of(ends) as (client, server), trio.open_nursery() as nursery:

        async def read_end() -> None:
            assert await client.receive_some() == b""

        nursery.start_soon(read_end)
        await wait_all_tasks_blocked()
        await server.aclose()


async def test_an_abort_breaks_both_directions_of_the_other_side(ends: Ends) -> None:
    async with pair_of(ends) as (client, server):
        await clog(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, trio.BrokenResourceError, server.receive_some)
            nursery.start_soon(expect, trio.BrokenResourceError, partial(server.send_all, bytes(32 * MIB)))
            await wait_all_tasks_blocked()
            client.abort()
            client.abort()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()


async def test_a_close_that_does_not_wait_is_a_close_or_nothing_at_all(ends: Ends) -> None:
    async with pair_of(ends) as (client, server):
        await client.send_all(b"last")
        closed = client.close_nowait()
        assert await receive_exactly(server, 4) == b"last"
        if closed:
            assert client.close_nowait()
            assert await server.receive_some() == b""
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()
        else:
            await server.send_all(b"answer")
            assert await receive_exactly(client, 6) == b"answer"


async def test_an_abort_never_waits_and_wakes_this_side_with_closed(ends: Ends) -> None:
    async with pair_of(ends) as (client, _):
        await clog(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect, trio.ClosedResourceError, client.receive_some)
            nursery.start_soon(expect, trio.ClosedResourceError, partial(client.send_all, bytes(32 * MIB)))
            await wait_all_tasks_blocked()
            client.abort()


async def test_everything_is_a_checkpoint(world: World) -> None:
    with assert_checkpoints():
        listener = await world.server.listen(world.host, 0)
    port = listener.endpoints[0].port
    servers: list[LinkStream] = []

    async def accept() -> None:
        with assert_checkpoints():
            servers.append(await listener.accept())
        with assert_checkpoints():
            await servers[0].wait_send_all_might_not_block()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with assert_checkpoints():
            client = await world.client.connect(world.endpoint(port))
    [server] = servers
    with assert_checkpoints():
        await listener.aclose()
    with assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    with assert_checkpoints():
        await world.client.resolve(world.endpoint(port))
    with assert_checkpoints(), pytest.raises(ConnectFailed):
        await world.client.connect(world.endpoint(port))
    for stream in (client, server):
        with assert_checkpoints():
            await stream.aclose()
        with assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()


async def test_every_await_can_be_cancelled_and_the_stream_still_works(ends: Ends) -> None:
    async with pair_of(ends) as (client, server):
        await cancelled_while_blocked(client.receive_some)
        await cancelled_while_blocked(client.receive_chunk)
        await cancelled_while_blocked(partial(client.receive_while, bool))
        await server.send_all(b"one")
        assert await receive_exactly(client, 3) == b"one"
        await clog(client)
        if ends.survives_cancelled_sends:
            await cancelled_while_blocked(partial(client.send_all, bytes(32 * MIB)))
        await cancelled_while_blocked(client.wait_send_all_might_not_block)
        await server.send_all(b"two")
        assert await receive_exactly(client, 3) == b"two"


async def test_a_cancelled_send_is_followed_by_more_bytes_or_breaks_the_stream(ends: Ends) -> None:
    """Whatever arrives is a first part of what was sent, however it ends."""
    async with pair_of(ends) as (client, server):
        await cancelled_while_blocked(partial(client.send_all, bytes(32 * MIB)))
        if not ends.survives_cancelled_sends:
            for method in (partial(client.send_all, b"x"), client.receive_some, server.receive_some):
                await expect_in_the_end(trio.BrokenResourceError, method)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"x")
            while b"x" not in (got := await server.receive_some()):
                assert not got.strip(b"\0")


async def test_a_cancelled_accept_loses_no_connection(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    async with closing(listener):
        await cancelled_while_blocked(listener.accept)
        client, server = await pair_through(world, listener)
        async with closing(client), closing(server):
            await client.send_all(b"hi")
            assert await receive_exactly(server, 2) == b"hi"


async def test_cancelled_dials_leave_nothing_behind(world: World) -> None:
    listener = await world.server.listen(world.host, 0)
    async with closing(listener):
        for method in (world.client.connect, world.client.resolve):
            with trio.CancelScope() as scope:
                scope.cancel()
                await method(world.endpoint(listener.endpoints[0].port))
            assert scope.cancelled_caught


async def test_no_descriptor_is_left_after_any_kind_of_end(world: World) -> None:
    async def one_of_each() -> None:
        listener = await world.server.listen(world.host, 0)
        port = listener.endpoints[0].port
        for end in ("close", "abort", "cancelled close", "refused"):
            client, server = await pair_through(world, listener)
            await client.send_all(b"unread")
            for stream in (client, server):
                with trio.CancelScope() as scope:
                    if end == "abort":
                        stream.abort()
                    elif end == "cancelled close":
                        scope.cancel()
                    await stream.aclose()
        await listener.aclose()
        with pytest.raises(ConnectFailed):
            await world.client.connect(world.endpoint(port))
        with pytest.raises(ConnectFailed):
            await world.client.connect(PeerEndpoint("nowhere.invalid", 9, world.scheme))

    await one_of_each()
    before = open_descriptors()
    for _ in range(10):
        await one_of_each()
    assert open_descriptors() <= before


async def echo(stream: LinkStream) -> None:
    async with closing(stream):
        while data := await stream.receive_some():
            await stream.send_all(data)


async def expect(error: type[BaseException], method: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(error):
        await method()


async def expect_in_the_end(error: type[BaseException], method: Callable[[], Awaitable[object]]) -> None:
    """It may still give what came before."""
    with pytest.raises(error):
        while await method():
            pass


async def cancelled_while_blocked(method: Callable[[], Awaitable[object]]) -> None:
    assert await blocks(method)
