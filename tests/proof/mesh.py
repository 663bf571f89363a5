"""Suppliers in real processes: a batch comes about once, and who is killed or hangs is replaced.

    python -m pytest tests/proof/mesh.py

The times are bounds that no other work on the machine breaks; `python -m benchmarks processes` measures them.
"""

from __future__ import annotations

import signal

from benchmarks.processes import Mesh, full_mesh
from benchmarks.worker import start_alike

PROCESSES = 7
MENDED_S_MAX = 60.0


async def test_a_batch_comes_once_and_who_is_lost_is_replaced() -> None:
    losses = (signal.SIGKILL, signal.SIGSTOP)
    async with start_alike(PROCESSES, "member") as started:
        mesh = Mesh(started)
        await mesh.link(full_mesh(PROCESSES))
        measured = await mesh.measure(10, losses)
    assert measured.copies <= 1.1
    assert len(measured.mended_s) == len(losses)
    assert max(measured.mended_s) <= MENDED_S_MAX
