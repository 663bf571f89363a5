"""What asks a command to stop: SIGINT, SIGTERM, and SIGHUP when its terminal is closed."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager

import trio


def stop_signals() -> AbstractContextManager[AsyncIterator[int]]:
    """Receive the signals that mean stop; SIGHUP not where `nohup` said that it means nothing."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return trio.open_signal_receiver(*numbers)


async def on_signal(signals: AsyncIterator[int], act: Callable[[int], None]) -> None:
    """Call `act` with each signal that comes."""
    async for number in signals:
        act(number)
