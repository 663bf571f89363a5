"""The lifespan of an ASGI application: started before the first request, told when the last one is over.

Responsible for saying how it went: an application that takes part and cannot start has failed, one that never heard of
lifespans is served without. (hypercorn's own goes on as if nothing was when a group holds what ends the program, and
takes one that returns at once for one that broke down.)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import trio

from http_control.bugs import told
from http_control.contained import contained
from http_control.limits import HttpLimits
from p2p import P2PError

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, LifespanState, Scope

_log = logging.getLogger("p2p.http")


class ApplicationFailed(P2PError):
    """The application could not be started, or ended by itself."""


class Lifespan:
    """One application over one life of the server.

    Args:
        app: the application.
        limits: `startup_s_max` and `stop_grace_s` are used.

    Attributes:
        state: what the application puts there at its start is in the scope of every request.
    """

    def __init__(self, app: ASGIFramework, limits: HttpLimits) -> None:
        self.state: LifespanState = {}
        self._app = app
        self._limits = limits
        # The two events of a lifespan; nobody waits for room.
        self._say, self._told = trio.open_memory_channel[Any](2)
        self._is_started = trio.Event()
        self._is_over = trio.Event()
        self._takes_part = False
        self._is_ending = False
        self._refusal: str | None = None

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the application; it lives in the nursery, which ends with `ApplicationFailed` if it breaks down.

        Raises:
            ApplicationFailed: it cannot start, or takes longer than it may.
        """
        nursery.start_soon(self._live)
        self._say.send_nowait({"type": "lifespan.startup"})
        with trio.move_on_after(self._limits.startup_s_max) as patience:
            await self._is_started.wait()
        if patience.cancelled_caught:
            raise ApplicationFailed(
                f"the application's startup takes longer than {self._limits.startup_s_max:g} s (startup_s_max)"
            )
        if self._refusal is not None:
            raise ApplicationFailed(f"the application's startup failed: {self._refusal}")

    async def end(self) -> None:
        """Tell it that no request comes any more, and wait for what it does then, within bounds."""
        self._is_ending = True
        if not self._takes_part:
            return
        self._say.send_nowait({"type": "lifespan.shutdown"})
        with trio.move_on_after(self._limits.stop_grace_s) as patience:
            await self._is_over.wait()
        if patience.cancelled_caught:
            _log.warning("the application's shutdown took longer than %g s", self._limits.stop_grace_s)

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"spec_version": "2.0", "version": "3.0"}, "state": self.state}
        receive = cast("ASGIReceiveCallable", self._told.receive)
        failure: BaseException | None = None
        try:
            await self._app(cast("Scope", scope), receive, cast("ASGISendCallable", self._hear))
        except BaseException as error:  # noqa: BLE001  # what ends the program is raised on
            failure = contained(error)
        finally:
            self._is_started.set()
            self._is_over.set()
        if failure is not None and self._is_ending:
            _log.error("the application's shutdown failed: %s", told(failure))
        if self._is_ending or not self._takes_part:
            # By ASGI an application that raises here, or returns, without a word of its own has no lifespan.
            return
        what = "its lifespan returned" if failure is None else told(failure)
        raise ApplicationFailed(f"the application ended by itself: {what}") from failure

    async def _hear(self, message: Any) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._takes_part = True
                self._is_started.set()
            case "lifespan.startup.failed":
                self._refusal = message.get("message") or "it does not say why"
                self._is_started.set()
            case "lifespan.shutdown.failed":
                _log.error("the application's shutdown failed: %s", message.get("message") or "it does not say why")
                self._is_over.set()
            case "lifespan.shutdown.complete":
                self._is_over.set()
