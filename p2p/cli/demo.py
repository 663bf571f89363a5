"""`p2p demo`: five nodes write, part, meet again and agree.

The story, in which each step waits for what it promises: everybody writes alone; the links come up and all agree; two
links are cut, both sides write on and agree among themselves only; one node is killed with SIGKILL in the middle of
writing, comes back and goes on; the links are mended and all agree again. At the end the nodes are stopped, and every
store is checked from the first hash to the last signature.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import trio

from p2p.cli.demo_nodes import DemoFailed, DemoNode, Holdings, Link
from p2p.cli.demo_view import View, choose_view, rows_of
from p2p.cli.output import complain
from p2p.cli.settings import UsageError
from p2p.cli.signals import on_signal, stop_signals
from p2p.store.keys import new_network_key, open_reader
from p2p.windows import system_entropy

NAMES: Final = ("ann", "bob", "cat", "dan", "eve")
DIALS: Final = ((1, 0), (2, 1), (3, 2), (4, 3), (0, 4))
"""A ring: who dials whom. Nobody is linked to everybody, so records travel through third nodes."""
CUT: Final = ((2, 1), (0, 4))
"""The two links whose loss parts {ann, bob} from {cat, dan, eve}."""
SIDES: Final = ((0, 1), (2, 3, 4))
KILLED: Final = 3
DEMO_S_MAX: Final = 55.0
LOOK_S: Final = 0.1


def run_demo(*, as_json: bool, records: int, keep: Path | None, http: bool) -> int:
    """Play the whole story; 0 if all digests are equal at the end.

    With http every node serves its dashboard, and before the end they stay until somebody interrupts.
    """
    return trio.run(_run, as_json, records, keep, Watching() if http else None)


class Watching:
    """Somebody looks at the dashboards: an interrupt while the nodes stay lets the story go on."""

    def __init__(self) -> None:
        self.is_staying = False
        self.enough = trio.Event()


async def _run(as_json: bool, records: int, keep: Path | None, watching: Watching | None) -> int:
    code = 1
    with stop_signals() as signals:
        async with trio.open_nursery() as nursery:

            def obey(number: int) -> None:
                nonlocal code
                if watching is not None and watching.is_staying:
                    watching.enough.set()
                elif not nursery.cancel_scope.cancel_called:
                    code = 128 + number
                    complain("interrupted: the nodes are ended")
                    nursery.cancel_scope.cancel()

            nursery.start_soon(on_signal, signals, obey)
            code = await _play(as_json, records, keep, watching)
            nursery.cancel_scope.cancel()
    return code


async def _play(as_json: bool, records: int, keep: Path | None, watching: Watching | None) -> int:
    with _place(keep) as folder, choose_view(as_json=as_json) as view:
        key_file = folder / "network.key"
        new_network_key(key_file, entropy=system_entropy)
        nodes = [DemoNode(name, folder / name, key_file, http=watching is not None) for name in NAMES]
        story = _Story(nodes, view, records)
        failure: BaseException | None = None
        try:
            with trio.move_on_after(DEMO_S_MAX) as limit:
                await story.tell(limit, watching)
            if limit.cancelled_caught:
                raise DemoFailed(f"not done within {DEMO_S_MAX:.0f} s: it never came that {story.awaited}")
        except* DemoFailed as failures:
            failure = failures
        finally:
            with trio.CancelScope(shield=True):
                for node in nodes:
                    await node.clean_up()
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    if failure is not None:
        complain(str(failure))
        return 1
    return 0


@contextmanager
def _place(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--keep {keep}: no directory can be made there: {error.strerror}") from None
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="p2p-demo-") as folder:
        yield Path(folder)


class _Story:
    """One performance: the nodes, their links, and the clock."""

    def __init__(self, nodes: Sequence[DemoNode], view: View, records: int) -> None:
        self.nodes = nodes
        self.view = view
        self.count = records
        self.links = {pair: Link(nodes[pair[0]].name, nodes[pair[1]]) for pair in DIALS}
        self.ports: dict[tuple[int, int], int] = {}
        self.held: list[Holdings] = []
        self.awaited = "everybody started"

    async def tell(self, limit: trio.CancelScope, watching: Watching | None) -> None:
        """All of it, in order; while somebody is watching the limit rests."""
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for pair, link in self.links.items():
                self.ports[pair] = await nursery.start(link.run)
            await self._write_alone(nursery)
            if watching is not None:
                self.view.phase(f"watch it: {self.nodes[0].dashboard()}")
            first_s = await self._meet()
            await self._part_and_write()
            await self._kill_and_restart(nursery)
            second_s = await self._heal()
            if watching is not None:
                await self._stay(limit, watching)
            await self._stop_and_check()
            nursery.cancel_scope.cancel()
        self.view.summary(
            {
                "records": self.held[0].records,
                "first_meeting_s": round(first_s, 2),
                "converge_s": round(second_s, 2),
                "bytes": sum(link.bytes for link in self.links.values()),
                "handshakes": sum(node.handshakes for node in self.nodes) // 2,
                "total_s": round(trio.current_time() - begin, 2),
                "digest": self.held[0].digest,
                "equal": True,
            }
        )

    async def _start(self, nursery: trio.Nursery, index: int) -> None:
        dials = [port for (dialer, _), port in self.ports.items() if dialer == index]
        await self.nodes[index].start(nursery, dials)

    async def _write_alone(self, nursery: trio.Nursery) -> None:
        self.view.phase(f"five nodes start without any link, and each writes {self.count} records")
        async with trio.open_nursery() as starting:
            for index in range(len(self.nodes)):
                starting.start_soon(self._start, nursery, index)
        for node in self.nodes:
            await node.write(self.count, "offline")
        await self._until(lambda: self._own() == [self.count] * len(self.nodes), "everybody wrote offline")

    async def _meet(self) -> float:
        self.view.phase("the links come up: a ring, so that records travel through third nodes")
        for link in self.links.values():
            link.mend()
        return await self._until_all_agree("all agree for the first time")

    async def _part_and_write(self) -> None:
        sides = [[self.nodes[index] for index in side] for side in SIDES]
        names = " | ".join(" ".join(node.name for node in side) for side in sides)
        self.view.phase(f"two links are cut: {names}; both sides write on")
        for pair in CUT:
            self.links[pair].cut()
        for node in self.nodes:
            await node.write(self.count, "parted")
        everything = [2 * self.count] * len(self.nodes)
        await self._until(lambda: self._own() == everything and all(map(self._agree, sides)), "each side agrees")
        if self._agree(self.nodes):
            raise DemoFailed("the partition does not part: both sides hold the same data")

    async def _kill_and_restart(self, nursery: trio.Nursery) -> None:
        node = self.nodes[KILLED]
        self.view.phase(f"{node.name} is killed with SIGKILL in the middle of writing, and starts again")
        before = self._own()[KILLED]
        async with trio.open_nursery() as writing:
            writing.start_soon(node.write_on, "while the kill comes")
            await self._until(lambda: self._own()[KILLED] > before, f"{node.name} writes on")
            await node.kill()
        self._look()
        held = self._own()[KILLED]
        if held < before:
            raise DemoFailed(f"{node.name} lost durable records: {held} of {before} are left")
        await self._start(nursery, KILLED)
        await node.write(self.count, "after the kill")
        await self._until(lambda: self._own()[KILLED] == held + self.count, f"{node.name} goes on after the kill")

    async def _heal(self) -> float:
        self.view.phase("the cut links are mended")
        for pair in CUT:
            self.links[pair].mend()
        return await self._until_all_agree("all agree again")

    async def _until_all_agree(self, what: str) -> float:
        seconds = await self._until(lambda: self._agree(self.nodes), what)
        # The links were there before the records; what the nodes say of them comes a moment later.
        await self._until(lambda: all(node.connected for node in self.nodes), "everybody tells of its links")
        return seconds

    async def _stay(self, limit: trio.CancelScope, watching: Watching) -> None:
        limit.deadline = math.inf
        watching.is_staying = True
        for node in self.nodes:
            self.view.phase(f"all agree; dashboard of {node.dashboard()}")
        self.view.phase("the nodes stay until you press Ctrl-C")
        await watching.enough.wait()
        watching.is_staying = False
        limit.deadline = trio.current_time() + DEMO_S_MAX

    async def _stop_and_check(self) -> None:
        self.view.phase("all agree; the nodes are stopped and every store is checked")
        for node in self.nodes:
            code = await node.stop()
            if code != 0:
                raise DemoFailed(f"{node.name} stopped with exit code {code}: {node.last_words()}")
            with closing(open_reader(node.data_dir)) as reader:
                for damage in reader.verify():
                    raise DemoFailed(f"{node.name}: {damage}")
        self._look()
        if not self._agree(self.nodes):
            raise DemoFailed("the digests differ: " + ", ".join(held.digest for held in self.held))

    def _look(self) -> None:
        self.held = [node.holdings() for node in self.nodes]
        self.view.show(rows_of(self.nodes, self.held))

    def _own(self) -> list[int]:
        """How many of its own records each node holds."""
        return [held.of(node) for node, held in zip(self.nodes, self.held, strict=True)]

    def _agree(self, some: Sequence[DemoNode]) -> bool:
        """Whether these nodes hold the same, all of each other's logs included."""
        pairs = [(node, held) for node, held in zip(self.nodes, self.held, strict=True) if node in some]
        everything = all(held.of(node) == own.of(node) for _, held in pairs for node, own in pairs)
        return everything and len({held.digest for _, held in pairs}) == 1

    async def _until(self, come_true: Callable[[], bool], what: str) -> float:
        """Look again and again until it has come true; returns the seconds it took."""
        self.awaited = what
        begin = trio.current_time()
        self._look()
        while not come_true():
            for node in self.nodes:
                if node.process is not None and node.port is not None and node.process.poll() is not None:
                    raise DemoFailed(f"{node.name} ended before {what}: {node.last_words()}")
            await trio.sleep(LOOK_S)
            self._look()
        return trio.current_time() - begin
