"""What a connection asks of its node: the words between the two, and nothing that happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from p2p import msg
from p2p.errors import Reason
from p2p.session.events import PeerProven

if TYPE_CHECKING:
    from p2p.peer.connection import Connection

Routing: TypeAlias = msg.Relay | msg.Attached
"""Messages about other peers than the two of the link."""

Pause: TypeAlias = Callable[[], Awaitable["Pause | None"]]
"""What a link has to wait for before it reads on, and then for what it gives. It is called when the wait begins: on a
link that is over by then, cancelled at its first checkpoint."""


class Served(Protocol):
    """A request of the peer that waits for its handler, or is with it."""

    def cancel(self) -> None:
        """The peer does not wait for the answer any more. Never waits."""


class Owner(Protocol):
    """What a connection asks of its node. All but a returned pause are plain calls and must not raise."""

    def on_proven(self, link: Connection, proven: PeerProven) -> tuple[Reason, str] | None:
        """Admit (None) or refuse an identity that was just proven."""

    def on_live(self, link: Connection) -> None:
        """The session is live."""

    def on_data(self, link: Connection, message_id: int, flags: int, data: msg.Data) -> Pause | None:
        """An application message, which answers nothing. May return a pause."""

    def on_late_answer(self, link: Connection) -> None:
        """An answer that nobody waits for any more."""

    def on_row(self, link: Connection, channel: str, bodies: list[bytes]) -> Pause | None:
        """Application messages that came one after another and ask nothing. May return a pause."""

    def on_wal(self, link: Connection, message: msg.AnyMessage) -> Pause | None:
        """A replication message. May return a pause, or raise RemoteProtocolError, which ends the link."""

    def on_probed(self, link: Connection, *, alive: bool) -> None:
        """The answer to `Connection.probe`, unless the link ended before there was one."""

    def on_routing(self, link: Connection, message: Routing) -> None:
        """A step of a circuit, or news of who is attached to a relay. May raise RemoteProtocolError."""

    def on_ignored(self, link: Connection) -> None:
        """A message of a type that a later version may know."""

    def on_flood(self, link: Connection) -> None:
        """The peer sends more of what costs it nothing than it may; the link is not read for a moment."""

    def on_rest(self, link: Connection) -> None:
        """The link carries circuits and is not read for a while: told each second."""

    def on_ended(self, link: Connection) -> None:
        """The link is over; `reason`, `detail` and `clean` tell how. Called exactly once."""
