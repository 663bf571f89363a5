"""The acceptor: takes connections off the listener and decides, before anything is allocated, whether to serve them.

Responsible for the slots of connections that have not proven anything yet: per prefix and in total (threats T02, T03),
so that silent or hostile ones never crowd out those who prove themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from p2p.errors import Reason
from p2p.node.supervisor import Supervisor
from p2p.peer.connection import Connection
from p2p.policy.admission import ConnectionSlots
from p2p.transport.base import Listener
from p2p.windows import Clock


@trio.lowlevel.enable_ki_protection
async def accept_links(
    listener: Listener,
    supervisor: Supervisor,
    slots: ConnectionSlots[Connection],
    clock: Clock,
    log_line: Callable[[str], None],
) -> None:
    """Accept connections until the listener is closed."""
    while True:
        try:
            stream = await listener.accept()
        except trio.ClosedResourceError:
            return
        host = stream.remote.host if stream.remote is not None else ""
        if not slots.admits(host, clock.monotonic()):
            stream.abort()
            continue
        link = supervisor.start(stream)
        evicted = slots.enter(link, host)
        if evicted is not None:
            evicted.abort(Reason.FULL, "too many connections that prove nothing")
