"""The network window of a real machine: each scheme with its own transport, and datagrams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.errors import ConfigError, ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.base import Datagrams, LinkStream, Listener, Neighbourhood
from p2p.transport.tcp import TcpNetwork
from p2p.transport.tls import TlsFiles
from p2p.windows import Entropy, system_entropy

if TYPE_CHECKING:
    from p2p.transport.websocket import WebSocketNetwork

_WEB = frozenset({"ws", "wss"})


class SystemNetwork:
    """`Network` over the machine's TCP and UDP, and WebSocket where it is installed and used.

    Args:
        limits: the bounds of the node.
        entropy: jitter of pauses; not security-relevant.
        tls: certificates for `wss://`.
    """

    __slots__ = ("_entropy", "_limits", "_nursery", "_tcp", "_tls", "_web")

    def __init__(
        self, limits: Limits | None = None, entropy: Entropy = system_entropy, tls: TlsFiles | None = None
    ) -> None:
        self._limits = limits or Limits()
        self._entropy = entropy
        self._tls = tls
        self._tcp = TcpNetwork(self._limits, entropy)
        self._web: WebSocketNetwork | None = None
        self._nursery: trio.Nursery | None = None

    def enter(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        if self._web is not None:
            self._web.enter(nursery)

    async def listen(self, host: str | None, port: int, scheme: str | None = None) -> Listener:
        if scheme in _WEB:
            return await self._websocket().listen(host, port)
        if scheme not in {None, "tcp"}:
            raise ConfigError(f"cannot listen for {scheme}://")
        return await self._tcp.listen(host, port)

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        return await self._tcp.resolve(endpoint)

    async def connect(self, endpoint: PeerEndpoint) -> LinkStream:
        if endpoint.scheme not in _WEB:
            return await self._tcp.connect(endpoint)
        try:
            web = self._websocket()
        except ConfigError as error:
            raise ConnectFailed(Reason.UNSUPPORTED, str(error)) from None
        return await web.connect(endpoint)

    async def datagrams(self, near: Neighbourhood) -> Datagrams:
        from p2p.transport.udp import open_datagrams

        return await open_datagrams(near, limits=self._limits, entropy=self._entropy)

    def _websocket(self) -> WebSocketNetwork:
        if self._web is None:
            try:
                from p2p.transport.websocket import WebSocketNetwork
            except ModuleNotFoundError as missing:
                raise ConfigError(
                    f"ws:// and wss:// need the package {missing.name}: pip install 'trio-p2p[ws]'"
                ) from None
            self._web = WebSocketNetwork(self._limits, self._tls, self._entropy)
            if self._nursery is not None:
                self._web.enter(self._nursery)
        return self._web
