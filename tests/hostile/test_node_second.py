"""A second implementation, made from docs/protocol.md alone, talks with a real node: the page is complete.

Where one of these fails, either p2p does not do what the page says, or the page does not say what p2p does.
"""

from __future__ import annotations

import ast
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import p2p
from p2p.errors import Reason
from tests.hostile import second
from tests.hostile.attacker import dial
from tests.hostile.second import DATA, GOODBYE, OUTBOX_PULL, PING, PONG, WAL_ACK, WAL_HEADS, WAL_PUSH, Head, Link
from tests.hostile.victim import KEY, WAIT_S, links, offence, serve_an_honest_peer, until_head, victim, where

AES = ("cipher", "aes256gcm,chacha20poly1305")
CHACHA = ("cipher", "chacha20poly1305")
BUNDLE = ("bundle", "1")
HLC = 1_700_000_000_000 << 16


def test_the_second_implementation_shares_nothing_with_the_first() -> None:
    tree = ast.parse(Path(second.__file__).read_text())
    modules = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert modules - set(sys.stdlib_module_names) == {"trio", "cryptography"}


@asynccontextmanager
async def linked(node: p2p.Node, *, dials: bool = True, **options: object) -> AsyncIterator[Link]:
    """A live link between the second implementation and a node; `dials` says who begins."""
    chosen: dict[str, object] = {"psk": KEY, "key": Ed25519PrivateKey.generate(), **options}
    with trio.fail_after(WAIT_S):
        if dials:
            async with await dial(where(node)) as stream:
                link = Link(stream, initiator=True, **chosen)  # type: ignore[arg-type]  # its arguments
                await link.shake_hands()
                yield link
            return
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery, listener:
            nursery.start_soon(node.connect, p2p.PeerEndpoint("127.0.0.1", listener.socket.getsockname()[1]))
            async with await listener.accept() as stream:
                link = Link(stream, initiator=False, **chosen)  # type: ignore[arg-type]
                await link.shake_hands()
                yield link


@pytest.mark.parametrize("dials", [True, False], ids=["dials", "is dialled"])
@pytest.mark.parametrize("psk", [KEY, None], ids=["network key", "no network key"])
@pytest.mark.parametrize("cipher", [AES, CHACHA, None], ids=["aes", "chacha", "no cipher named"])
@pytest.mark.parametrize("bundles", [True, False], ids=["bundles", "no bundles"])
async def test_everything_that_two_nodes_exchange(
    dials: bool, psk: bytes | None, cipher: tuple[str, str] | None, bundles: bool
) -> None:
    offers = [offer for offer in (BUNDLE if bundles else None, cipher) if offer is not None]
    async with victim(network_key=psk, network_name="second" if psk else "") as node:
        async with offence(node, Reason.DISCONNECTED):
            name = node.config.network_name
            async with linked(node, dials=dials, psk=psk, offers=offers, network_name=name) as link:
                await converse(node, link, bundles=bundles)


async def converse(node: p2p.Node, link: Link, *, bundles: bool) -> None:
    own = link.identity
    # Live: heads come first, from both. The node holds one record, and we have two for it.
    one = second.seal_batch(link.key, 1, bytes(32), HLC, b"first", b"second")
    one_hash = second.read_batch(one).hash
    await link.say(WAL_HEADS, second.write_heads(Head(own, 2, one_hash, 0)))
    *_, heads = await link.hear(WAL_HEADS)
    (head,) = second.read_heads(heads)
    assert (head.origin, head.seq) == (node.peer_id, 1)
    assert (link.peer_id, link.peer_node_id) == (node.peer_id, "victim")
    assert "bundle" in link.peer_offers
    assert node.get_peer("second").peer_id == own

    # Its log to us.
    *_, push = await link.hear(WAL_PUSH)
    batch = second.read_push(push)
    assert (batch.origin, batch.seq_begin, batch.prev_hash) == (node.peer_id, 1, bytes(32))
    assert batch.hash == head.hash
    assert [record.payload for record in batch.records] == [b"before the attack"]
    await link.say(WAL_ACK, struct.pack("<Q", batch.seq_end))
    await node.wal.wait_replicated(batch.seq_end)

    # Ours to it: the second batch first, which stands beyond its head, then in order, then again.
    two = second.seal_batch(link.key, 3, one_hash, HLC + 10, b"third")
    for wal_bytes, ack in ((two, 0), (one, 2), (two, 3), (one, 2)):
        await link.say(WAL_PUSH, second.write_push(wal_bytes))
        *_, answer = await link.hear(WAL_ACK)
        assert answer.number("Q") == ack
        answer.end()
    async with node.wal.follow(kinds={"app"}) as records:
        got = [record async for record in take(records, 4)]
    mine = [record for record in got if record.origin == own]
    assert [(record.seq, record.payload, record.hlc) for record in mine] == [
        (1, b"first", HLC + 1),
        (2, b"second", HLC + 2),
        (3, b"third", HLC + 11),
    ]
    assert node.wal.digest() == second.digest(
        {
            node.peer_id: (1, batch.hash),
            own: (3, second.read_batch(two).hash),
        }
    )

    # What it appends now, it pushes and tells.
    seq = await node.wal.append(b"more")
    *_, push = await link.hear(WAL_PUSH)
    more = second.read_push(push)
    assert (more.seq_begin, more.prev_hash) == (seq, batch.hash)
    await link.say(WAL_ACK, struct.pack("<Q", more.seq_end))
    await node.wal.wait_replicated(seq)

    # Messages of the application, in both directions.
    async with node.channel("chat") as chat:
        await link.say(DATA, second.write_data("chat", b"one"))
        if bundles:
            await link.say_bundle(
                (DATA, second.write_data("chat", b"two")),
                (PING, struct.pack("<Q", 9)),
                (DATA, second.write_data("chat", b"three")),
            )
        else:
            for body in (b"two", b"three"):
                await link.say(DATA, second.write_data("chat", body))
            await link.say(PING, struct.pack("<Q", 9))
        assert [(await chat.receive()).body for _ in range(3)] == [b"one", b"two", b"three"]
    *_, pong = await link.hear(PONG)
    assert pong.number("Q") == 9
    before = link.bundles_read
    for number in range(50):
        await node.send("second", "answers", b"%d" % number)
    for number in range(50):
        *_, data = await link.hear(DATA)
        assert (data.text(), data.number("Q"), data.number("B"), data.sized()) == ("answers", 0, 0, b"%d" % number)
        data.end()
    assert (link.bundles_read > before) is bundles

    # An end in order.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.disconnect, "second")
        *_, goodbye = await link.hear(GOODBYE)
        assert (goodbye.number("H"), goodbye.text()) == (int(Reason.DISCONNECTED), "")
        await link.say(GOODBYE, second.write_goodbye(1))
        with pytest.raises(EOFError):
            await link.hear()


async def take(records: AsyncIterator[p2p.Record], count: int) -> AsyncIterator[p2p.Record]:
    for _ in range(count):
        yield await records.__anext__()


async def test_its_goodbye_is_answered_and_its_reason_is_read() -> None:
    async with victim() as node, offence(node, Reason.OVERLOADED), linked(node) as link:
        await link.say(GOODBYE, second.write_goodbye(4, "too much"))
        *_, goodbye = await link.hear(GOODBYE)
        assert goodbye.number("H") == 1
        with pytest.raises(EOFError):
            await link.hear()


async def test_what_it_carries_for_others_is_taken_from_it() -> None:
    carried = Ed25519PrivateKey.generate()
    origin = p2p.PeerId(carried.public_key().public_bytes_raw())
    wal_bytes = second.seal_batch(carried, 1, bytes(32), HLC, b"from far away")
    async with victim() as node, linked(node) as link:
        entry = Head(origin, 1, second.read_batch(wal_bytes).hash, 0)
        await link.say(WAL_HEADS, second.write_heads(entry))
        await link.say(WAL_PUSH, second.write_push(wal_bytes))
        # The first push is answered with a wider window, too.
        *_, pull = await link.hear(OUTBOX_PULL)
        assert pull.text() == str(node.peer_id)
        assert pull.number("I") > 0
        *_, ack = await link.hear(WAL_ACK)
        assert ack.number("Q") == 1
        await until_head(node, origin, 1)
        # It is told, and not sent back.
        await serve_an_honest_peer(node)


async def test_T17_both_directions_rekey_where_the_page_says() -> None:
    count = 1000
    async with victim() as node, linked(node, offers=(AES,)) as link, node.channel("in") as channel:
        await link.hear(WAL_HEADS)
        await link.say(WAL_HEADS, second.write_heads())
        await link.say(PING, struct.pack("<Q", 9))
        await link.hear(PONG)
        (session,) = [connection.session for connection in links(node)]
        assert session._inbound._counter == link.outbound.counter
        while session._outbound._counter != link.inbound.counter:
            await link.hear()
        # Sixty-five thousand messages each way would do the same as this, and take seconds.
        session._inbound._counter = link.outbound.counter = 65_000
        session._outbound._counter = link.inbound.counter = 65_100
        last = second.write_data("in", b"last")
        burst, size = [], 0

        async def receive() -> None:
            assert (await channel.receive()).body == b"last"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for _ in range(count):
                burst.append(link.sealed(0x8000, link.next_id(), b""))
                size += 1
                if size % 1000 == 0:
                    await link.stream.send_all(b"".join(burst))
                    burst.clear()
            await link.stream.send_all(b"".join(burst) + link.sealed(DATA, link.next_id(), last))
        assert node.counters.ignored_messages == count
        assert link.outbound.counter > 65_536

        async def send() -> None:
            for _ in range(count):
                await node.send("second", "out", b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(count):
                await link.hear(DATA)
        assert link.inbound.counter > 65_536


async def test_T11_another_key_or_name_is_as_the_page_says() -> None:
    async with victim(network_key=None, network_name="here") as node:
        with pytest.raises(InvalidTag):
            async with linked(node, psk=None, network_name="there"):
                pass
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            async with linked(node, psk=KEY, network_name="here"):
                pass
        async with linked(node, psk=None, network_name="here") as link:
            assert (await link.hear(WAL_HEADS))[0] == WAL_HEADS
