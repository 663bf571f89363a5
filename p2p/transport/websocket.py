"""The network window over WebSocket: `ws://`, and `wss://` with TLS. For networks where only HTTP gets through.

TCP does the resolving, the race over addresses and the accepting, trio TLS, and trio-websocket the rest; here they are
put together. TLS and HTTP prove nothing about who is there: that is the session's part, as everywhere. `wss://`
verifies the certificate all the same, because a proxy that holds it may be all that stands between a node and a
stranger's traffic.
"""

from __future__ import annotations

import ssl
from dataclasses import replace

import trio

from p2p.errors import ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.tcp import TcpNetwork
from p2p.transport.tcp_listener import TcpListener
from p2p.transport.tls import NO_TLS, TlsFiles
from p2p.transport.websocket_stream import Refused, WebSocketStream
from p2p.windows import Entropy, system_entropy

_DEFAULT_PORTS = {"ws": 80, "wss": 443}


class WebSocketNetwork:
    """`Transport` over WebSocket. Its streams need tasks: `enter` comes before the first of them.

    Args:
        limits: those of TCP, and `ws_…`.
        tls: certificates. With one to listen with, `listen` opens a `wss://` door, without a `ws://` one.
        entropy: jitter of pauses; not security-relevant.
    """

    __slots__ = ("_dialling", "_limits", "_nursery", "_tcp", "_tls")

    def __init__(
        self, limits: Limits | None = None, tls: TlsFiles | None = None, entropy: Entropy = system_entropy
    ) -> None:
        self._limits = limits or Limits()
        self._tls = tls or TlsFiles()
        self._tcp = TcpNetwork(self._limits, entropy)
        self._dialling: ssl.SSLContext | None = None
        self._nursery: trio.Nursery | None = None

    def enter(self, nursery: trio.Nursery) -> None:
        """Run the tasks of streams in this nursery from now on. None of them ever raises into it."""
        self._nursery = nursery

    @property
    def nursery(self) -> trio.Nursery:
        """Where streams run their tasks.

        Raises:
            RuntimeError: `enter` was not called.
        """
        if self._nursery is None:
            raise RuntimeError("a WebSocket needs a task of its own: call enter(nursery) on the network first")
        return self._nursery

    async def listen(self, host: str | None, port: int) -> WebSocketListener:
        context = None
        if self._tls.cert is not None:
            try:
                context = await trio.to_thread.run_sync(self._tls.for_listening)
            except RuntimeError as error:  # no thread can be started for it
                raise ConfigError(f"the certificate cannot be read: {error}") from None
        return WebSocketListener(await self._tcp.listen(host, port), self, context, self._limits)

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        return await self._tcp.resolve(endpoint)

    async def connect(self, endpoint: PeerEndpoint) -> WebSocketStream:
        if endpoint.scheme not in _DEFAULT_PORTS:
            raise ConnectFailed(Reason.UNSUPPORTED, f"{endpoint.scheme}:// is not WebSocket")
        with trio.move_on_after(self._limits.dial_s_max):
            nursery = self.nursery
            try:
                context = await self._dialling_tls(endpoint)
            except ConfigError as error:
                raise _not_connected(endpoint, error) from None
            wire = await self._tcp.connect(PeerEndpoint(endpoint.host, endpoint.port, judged=endpoint.judged))
            stream = WebSocketStream(
                wire,
                nursery,
                context,
                host=endpoint.host.partition("%")[0],
                host_header=_host_header(endpoint),
                remote=_with_scheme(wire.remote, endpoint.scheme),
                limits=self._limits,
            )
            try:
                await stream.shake_hands()
            except BaseException as error:
                stream.abort()
                if isinstance(error, trio.BrokenResourceError):
                    raise _not_connected(endpoint, error, is_answered=stream.is_answered) from None
                raise
            return stream
        raise ConnectFailed(Reason.TIMEOUT, f"{endpoint} did not answer within {self._limits.dial_s_max:g} s")

    async def _dialling_tls(self, endpoint: PeerEndpoint) -> ssl.SSLContext | None:
        if endpoint.scheme != "wss":
            return None
        if self._dialling is None:
            # The system's authorities are a file of a few hundred KiB.
            try:
                self._dialling = await trio.to_thread.run_sync(self._tls.for_dialling)
            except RuntimeError as error:  # no thread can be started for it
                raise ConnectFailed(Reason.REFUSED, f"{endpoint} was not dialled: {error}") from None
        return self._dialling


class WebSocketListener:
    """A TCP door whose streams get their coats; they shake hands when they are first used."""

    __slots__ = ("_context", "_door", "_limits", "_network")

    def __init__(
        self, door: TcpListener, network: WebSocketNetwork, context: ssl.SSLContext | None, limits: Limits
    ) -> None:
        self._door = door
        self._network = network
        self._context = context
        self._limits = limits

    @property
    def endpoints(self) -> tuple[PeerEndpoint, ...]:
        return tuple(PeerEndpoint(at.host, at.port, self._scheme) for at in self._door.endpoints)

    @property
    def _scheme(self) -> str:
        return "ws" if self._context is None else "wss"

    async def accept(self) -> WebSocketStream:
        nursery, wire = self._network.nursery, await self._door.accept()
        remote = _with_scheme(wire.remote, self._scheme)
        return WebSocketStream(wire, nursery, self._context, remote=remote, limits=self._limits)

    async def aclose(self) -> None:
        await self._door.aclose()


def _with_scheme(place: PeerEndpoint | None, scheme: str) -> PeerEndpoint | None:
    return None if place is None else PeerEndpoint(place.host, place.port, scheme)


def _host_header(endpoint: PeerEndpoint) -> str:
    host = endpoint.host.partition("%")[0]
    host = f"[{host}]" if ":" in host else host
    return host if endpoint.port == _DEFAULT_PORTS[endpoint.scheme] else f"{host}:{endpoint.port}"


def _not_connected(endpoint: PeerEndpoint, error: BaseException, *, is_answered: bool = True) -> ConnectFailed:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConnectFailed(Reason.CRYPTO, f"{endpoint}: its certificate is not accepted: {cause.verify_message}")
    if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
        what = f"{endpoint}: no TLS is spoken there: a WebSocket door without a certificate is dialled with ws://"
        return ConnectFailed(Reason.CRYPTO, what)
    if isinstance(cause, ssl.SSLError):
        return ConnectFailed(Reason.CRYPTO, f"{endpoint}: no TLS came about: {cause.reason or cause}")
    if isinstance(cause, Refused):
        return ConnectFailed(Reason.REFUSED, f"{endpoint}: {cause}")
    told = f"{endpoint}: no WebSocket came about: {cause or error}"
    if not is_answered:
        place = replace(endpoint, scheme="tcp", judged=())
        told += f" (no answer at all: a node that listens there on plain TCP is dialled with {place}"
        if endpoint.scheme == "ws":
            told += f", a door with a certificate with {replace(endpoint, scheme='wss', judged=())}"
        told += ")"
    return ConnectFailed(Reason.REFUSED, told)
