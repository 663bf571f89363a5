"""A task that runs around a body: what `async with` means for everything here that has `run` and `stop`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import trio

from p2p.errors import NodeClosed
from p2p.node.interrupts import uninterrupted


class Service(Protocol):
    """Something that is started in a nursery, says when it is up, and ends when it is told to stop."""

    async def run(self, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED) -> None: ...

    def stop(self) -> None: ...


@uninterrupted
class Runs(ABC):
    """What has `run` and `stop` has these, too: the life cycle of a node, of discovery and of a bootstrap is one."""

    @abstractmethod
    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop` or cancellation; `started()` once it is up."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to stop; returns at once. Idempotent."""

    async def start(self, nursery: trio.Nursery) -> None:
        """Start as a task of a nursery of yours; returns once it is up."""
        await nursery.start(self.run)

    _entered: Entered[Self] | None = None

    async def __aenter__(self) -> Self:
        if self._entered is None:
            self._entered = Entered(self)
        return await self._entered.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._entered is not None
        return await self._entered.__aexit__(kind, value, trace)


ServiceT = TypeVar("ServiceT", bound=Service)


@uninterrupted
class Entered(AbstractAsyncContextManager[ServiceT], Generic[ServiceT]):
    """`run_around` as an object: a second entry is refused, and takes nothing from the first. One that failed is none:
    whether the service may be run again is its own decision."""

    def __init__(self, service: ServiceT) -> None:
        self._service = service
        self._context: AbstractAsyncContextManager[ServiceT] | None = None

    async def __aenter__(self) -> ServiceT:
        if self._context is not None:
            raise NodeClosed("this was entered before: it runs once, make a new one")
        self._context = context = run_around(self._service)
        try:
            return await context.__aenter__()
        except BaseException:
            self._context = None
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._context is not None
        return await self._context.__aexit__(kind, value, trace)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def run_around(service: ServiceT) -> AsyncIterator[ServiceT]:
    """Run a service in a nursery of its own while the body runs, and stop it in order at the body's end.

    A service that is cancelled with its body may end before it, and then refuses what the body still asks of it. Who
    cancelled sees the cancellation and not that refusal.

    Raises:
        Exception: what the body raised, as itself; else what the service raised; never a group.
    """
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(service.run)
            try:
                yield service
            except BaseException as error:  # noqa: BLE001  # raised again below, where no nursery wraps it
                body_error = error
            service.stop()
            if body_error is not None and not isinstance(body_error, Exception):
                # Cancelled from outside, or an interrupt: there is no time for Goodbyes.
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        cause = first_cause(group)
        if body_error is None or (isinstance(body_error, trio.Cancelled) and not isinstance(cause, trio.Cancelled)):
            raise cause from None
        if not isinstance(cause, trio.Cancelled):
            body_error.add_note(f"and at its end: {cause!r}")
    except trio.Cancelled:
        if body_error is None:
            raise
    if body_error is not None:
        if all(isinstance(leaf, (NodeClosed, trio.Cancelled)) for leaf in _leaves_of(body_error)):
            await trio.lowlevel.checkpoint_if_cancelled()
        raise body_error


def _leaves_of(error: BaseException) -> list[BaseException]:
    """The exceptions that a group is made of, the outer ones first; of another exception itself."""
    leaves: list[BaseException] = []
    queue = [error]
    while queue:
        error = queue.pop(0)
        if isinstance(error, BaseExceptionGroup):
            queue.extend(error.exceptions)
        else:
            leaves.append(error)
    return leaves


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that a group is about: never a group, and Cancelled only if there is nothing else."""
    leaves = _leaves_of(group)
    causes = [leaf for leaf in leaves if not isinstance(leaf, trio.Cancelled)]
    chosen = causes[0] if causes else leaves[0]
    for other in causes[1:]:
        chosen.add_note(f"and at the same time: {other!r}")
    return chosen
