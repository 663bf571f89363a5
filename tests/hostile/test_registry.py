"""Registries that lie, flood, drip, redirect or vanish, over real sockets, before the client of a node (T48, T49)."""

from __future__ import annotations

import gc
import gzip
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import p2p
from p2p.errors import ConfigError, ConnectFailed, Reason, RemoteProtocolError
from p2p.limits import Limits
from p2p.transport.http import HttpAnswer
from p2p.transport.http_httpx import HttpxClient
from tests.ports import free_port

Serve = Callable[[trio.abc.Stream, bytes], Awaitable[None]]

LIMITS = Limits(registry_s_max=30.0)
"""For answers that come, from a registry that shares a busy machine with whoever asks it."""
GIVEN_UP_S = 1.0
"""For those that never come whole: they are given up on within this, be the machine as slow as it may."""
OUTER_S = 60


@asynccontextmanager
async def listening(serve: Serve, *, tls: trustme.LeafCert | None = None) -> AsyncIterator[str]:
    """A server of raw bytes; yields its base URL."""

    async def handle(stream: trio.abc.Stream) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                chunk = await stream.receive_some()
                if not chunk:
                    return
                head += chunk
            await serve(stream, head)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        if tls is not None:
            import ssl

            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.configure_cert(context)
            start = partial(trio.serve_ssl_over_tcp, handle, 0, context, host="127.0.0.1")
        else:
            start = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        listeners = await nursery.start(start)
        inner = listeners[0].transport_listener if tls is not None else listeners[0]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{inner.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def answering(body: bytes, status: str = "200 OK", *headers: str) -> Serve:
    async def serve(stream: trio.abc.Stream, _: bytes) -> None:
        head = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(body)}",
            "Content-Type: application/json",
            *headers,
            "",
            "",
        ]
        await stream.send_all("\r\n".join(head).encode() + body)
        await stream.send_eof() if hasattr(stream, "send_eof") else None

    return serve


async def ask(url: str, *, limits: Limits = LIMITS, **how: object) -> HttpAnswer:
    with trio.fail_after(OUTER_S):
        async with HttpxClient(limits=limits, **how) as client:  # type: ignore[arg-type]
            return await client.request("GET", url + "/peers?limit=3")


async def test_an_answer_comes_whole_with_both_addresses() -> None:
    seen: list[bytes] = []

    async def serve(stream: trio.abc.Stream, head: bytes) -> None:
        seen.append(head)
        await answering(b'{"peers":[]}')(stream, head)

    async with listening(serve) as url:
        answer = await ask(url, token="secret")
    assert answer == HttpAnswer(200, b'{"peers":[]}', "127.0.0.1", "127.0.0.1")
    head = seen[0].lower()
    assert head.startswith(b"get /peers?limit=3 http/1.1\r\n")
    assert b"\r\nauthorization: bearer secret\r\n" in head
    assert b"\r\naccept-encoding: identity\r\n" in head


async def endless(stream: trio.abc.Stream, sent: list[int], head: bytes) -> None:
    await stream.send_all(head)
    piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n" if b"chunked" in head else b" " * 0x4000
    for _ in range(1024**3 // 0x4000):
        await stream.send_all(piece)
        sent[0] += 0x4000


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
async def test_t48_one_gigabyte_is_not_read(head: bytes) -> None:
    sent = [0]
    async with listening(lambda stream, _: endless(stream, sent, head)) as url:
        with pytest.raises(RemoteProtocolError, match="more than 262144 bytes"):
            await ask(url, limits=Limits())
    assert sent[0] < 64 * 1024**2, "what the kernel's buffers took, and not the gigabyte"


async def test_t48_headers_without_end_are_not_read() -> None:
    async def serve(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n")
        for number in range(1_000_000):
            await stream.send_all(b"X-%d: %s\r\n" % (number, b"x" * 1000))

    async with listening(serve) as url:
        with pytest.raises((RemoteProtocolError, ConnectFailed)):
            await ask(url, limits=Limits())


@pytest.mark.parametrize("where", ["nothing", "head", "body"])
async def test_t48_one_byte_a_second_or_less_is_given_up_on(where: str) -> None:
    whole = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"peers":[]}'
    at_once = {"nothing": 0, "head": 9, "body": len(whole) - 11}[where]

    async def serve(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(whole[:at_once])
        if where == "nothing":
            await trio.sleep_forever()
        for byte in whole[at_once:]:
            await trio.sleep(0.5)
            await stream.send_all(bytes((byte,)))

    async with listening(serve) as url:
        with pytest.raises(ConnectFailed, match="no whole answer within 1 s") as caught:
            await ask(url, limits=Limits(registry_s_max=GIVEN_UP_S))
    assert caught.value.reason is Reason.TIMEOUT


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_t48_no_redirect_is_followed_anywhere(status: str) -> None:
    asked: list[bytes] = []

    async def elsewhere(stream: trio.abc.Stream, head: bytes) -> None:
        asked.append(head)
        await answering(b'{"peers":[]}')(stream, head)

    async with listening(elsewhere) as trap:
        for target in (trap + "/peers", "http://169.254.169.254/latest/meta-data/", "file:///etc/passwd"):
            async with listening(answering(b"", status, f"Location: {target}")) as url:
                with pytest.raises(RemoteProtocolError, match="redirect"):
                    await ask(url)
    assert asked == []


async def test_t48_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    async with listening(answering(bomb, "200 OK", "Content-Encoding: gzip")) as url:
        with pytest.raises(RemoteProtocolError, match="compressed"):
            await ask(url)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_t48_what_is_no_http_is_one_error(reply: bytes) -> None:
    async def serve(stream: trio.abc.Stream, _: bytes) -> None:
        await stream.send_all(reply)

    async with listening(serve) as url:
        with pytest.raises((RemoteProtocolError, ConnectFailed)):
            await ask(url)


async def test_t48_no_cookie_of_a_registry_is_kept() -> None:
    """One that is not ASCII would make every later request fail, if it were."""
    heads: list[bytes] = []

    async def serve(stream: trio.abc.Stream, head: bytes) -> None:
        heads.append(head)
        cookies = ["Set-Cookie: a=\u00b6", "Set-Cookie: b=1; Expires=Wed, 99 xyz"]
        await answering(b'{"peers":[]}', "200 OK", *cookies)(stream, head)

    async with listening(serve) as url, HttpxClient(limits=LIMITS) as client:
        with trio.fail_after(OUTER_S):
            for _ in range(3):
                assert (await client.request("GET", url)).status == 200
    assert not any(b"cookie" in head.lower() for head in heads)


async def test_t48_mutated_answers_are_answers_or_one_of_two_errors() -> None:
    chance = random.Random(48)
    whole = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b\r\n"
        b'\r\nc\r\n{"peers":[]}\r\n0\r\n\r\n'
    )
    inserts = [b"\r\n", b"\n", b":", b"\x00", b"\xff\xfe", b"Upgrade: h2c\r\n", b"HTTP/1.1 101 S\r\n\r\n", b"999"]

    async def serve(stream: trio.abc.Stream, _: bytes) -> None:
        wounded = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(wounded))
            match chance.randrange(3):
                case 0:
                    wounded[at] = chance.randrange(256)
                case 1:
                    wounded[at:at] = chance.choice(inserts)
                case _:
                    del wounded[at : at + chance.randint(1, 10)]
        await stream.send_all(bytes(wounded))

    outcomes = set()
    async with listening(serve) as url, HttpxClient(limits=LIMITS) as client:
        with trio.fail_after(OUTER_S):
            for _ in range(200):
                try:
                    await client.request("GET", url)
                    outcomes.add("answer")
                except (RemoteProtocolError, ConnectFailed) as error:
                    outcomes.add(type(error).__name__)
    assert {"answer", "RemoteProtocolError"} <= outcomes


async def test_nobody_there_is_a_failed_connection() -> None:
    with pytest.raises(ConnectFailed) as caught:
        await ask(f"http://127.0.0.1:{free_port()}")
    assert caught.value.reason is Reason.REFUSED


async def test_a_name_without_an_address_is_a_failed_connection() -> None:
    with pytest.raises(ConnectFailed):
        await ask("http://nobody.invalid", limits=Limits(registry_s_max=GIVEN_UP_S))


async def test_https_is_checked_against_the_authorities_given(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with listening(answering(b'{"peers":[]}'), tls=authority.issue_cert("127.0.0.1")) as url:
        assert (await ask(url, ca_file=tmp_path / "ca.pem")).server == "127.0.0.1"
        with pytest.raises(ConnectFailed, match=r"not accepted: .*--tls-ca"):
            await ask(url)
    async with listening(answering(b'{"peers":[]}'), tls=authority.issue_cert("elsewhere.example")) as url:
        with pytest.raises(ConnectFailed, match=r"not accepted: [^;]*$"):
            await ask(url, ca_file=tmp_path / "ca.pem")


async def test_the_wrong_one_of_http_and_https_is_told_as_such() -> None:
    async with listening(answering(b""), tls=trustme.CA().issue_cert("127.0.0.1")) as url:
        with pytest.raises((RemoteProtocolError, ConnectFailed), match="ask with https://"):
            await ask(url.replace("https:", "http:"))

    async def plain(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
        with pytest.raises(ConnectFailed, match="asked with http://"):
            await ask(f"https://127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_file_without_authorities_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    config = p2p.BootstrapConfig(registry_url="https://127.0.0.1:1", ca_file=path)
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        async with p2p.make_http_bootstrap(config, lambda _: None):
            await trio.sleep_forever()


async def test_t48_a_registry_that_turns_hostile_ends_nothing_and_is_asked_on() -> None:
    """One that floods, then sends us elsewhere, then lies about types, then fails, then is well, but for an entry."""
    listed = {"host": "127.0.0.1", "tcp_port": 9102, "node_id": "cellar"}
    replies: list[Serve] = [
        answering(b" " * 300_000),
        answering(b"", "302 Found", "Location: http://169.254.169.254/"),
        answering(b'{"peers":{"host":1}}'),
        answering(b"", "500 Oh"),
        answering(json.dumps({"peers": [listed | {"host": "169.254.169.254"}, {"host": 1}, listed]}).encode()),
    ]
    asked = 0

    async def serve(stream: trio.abc.Stream, head: bytes) -> None:
        nonlocal asked
        asked += 1
        await replies[min(asked, len(replies)) - 1](stream, head)

    found: list[p2p.DiscoveryAnnouncement] = []
    well = trio.Event()

    def on_peer(announcement: p2p.DiscoveryAnnouncement) -> None:
        found.append(announcement)
        well.set()

    async with listening(serve) as url:
        config = p2p.BootstrapConfig(registry_url=url, poll_interval_ms=100)
        with trio.fail_after(OUTER_S):
            async with p2p.make_http_bootstrap(config, on_peer) as bootstrap:
                await well.wait()
    assert found[0] == p2p.DiscoveryAnnouncement("cellar", "127.0.0.1", 9102)
    assert bootstrap.counters.failures == len(replies) - 1
    assert bootstrap.counters.hints_refused >= 2


async def test_a_request_that_is_cancelled_leaves_nothing_behind() -> None:
    """Neither a connection nor a generator: the latter is a warning, and a warning fails this suite."""
    reached, ended = trio.Event(), trio.Event()

    async def serve(stream: trio.abc.Stream, _: bytes) -> None:
        reached.set()
        assert await stream.receive_some() in {b"", b"{}"}
        await stream.receive_some()
        ended.set()

    async with listening(serve) as url, trio.open_nursery() as nursery:

        async def post() -> None:
            async with HttpxClient(limits=Limits()) as client:
                await client.request("POST", url, b"{}")

        nursery.start_soon(post)
        with trio.fail_after(OUTER_S):
            await reached.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()
    gc.collect()
