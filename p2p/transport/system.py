"""The network window of a real machine: each scheme with its own transport, and datagrams."""

from __future__ import annotations

from p2p.errors import ConnectFailed, Reason
from p2p.ids import PeerEndpoint
from p2p.limits import Limits
from p2p.transport.base import Datagrams, LinkStream, Listener, Neighbourhood, Transport
from p2p.transport.tcp import TcpNetwork
from p2p.transport.udp import open_datagrams
from p2p.windows import Entropy, system_entropy


class SystemNetwork:
    """`Network` over the machine's TCP and UDP.

    Args:
        limits: the bounds of the node.
        entropy: jitter of pauses; not security-relevant.
    """

    __slots__ = ("_entropy", "_limits", "_transports")

    def __init__(self, limits: Limits | None = None, entropy: Entropy = system_entropy) -> None:
        self._limits = limits or Limits()
        self._entropy = entropy
        self._transports: dict[str, Transport] = {"tcp": TcpNetwork(self._limits, entropy)}

    async def listen(self, host: str | None, port: int) -> Listener:
        return await self._transports["tcp"].listen(host, port)

    async def resolve(self, endpoint: PeerEndpoint) -> tuple[PeerEndpoint, ...]:
        return await self._transport(endpoint).resolve(endpoint)

    async def connect(self, endpoint: PeerEndpoint) -> LinkStream:
        return await self._transport(endpoint).connect(endpoint)

    async def datagrams(self, near: Neighbourhood) -> Datagrams:
        return await open_datagrams(near, limits=self._limits, entropy=self._entropy)

    def _transport(self, endpoint: PeerEndpoint) -> Transport:
        transport = self._transports.get(endpoint.scheme)
        if transport is None:
            raise ConnectFailed(Reason.UNSUPPORTED, f"{endpoint.scheme}:// is not carried here")
        return transport
