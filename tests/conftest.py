"""What every test shares: a heap that is quick to look through, and the Hypothesis profiles, chosen by
HYPOTHESIS_PROFILE.

dev   (default) 50 fresh examples a test; a failure is kept in .hypothesis and tried first next time.
ci    (default where CI is set) 100 examples from fixed seeds: a red run says something about the change, not the dice.
soak  5,000 fresh examples: what hunts for new seeds. A seed that fails goes into the test as an @example, for ever.
quick 50 fresh examples; what fails is neither made small nor kept: for tests.proof.mutants, which asks only whether.

No profile has a deadline, and none minds how long an example takes to draw: on a shared machine both would measure the
neighbours.

What tests write lies in memory where there is room for it: thousands of syncs of small files are a third of the store's
tests, and prove nothing that a copy of the bytes, a planted failure or a kill does not. PYTEST_DEBUG_TEMPROOT says
another place.
"""

from __future__ import annotations

import gc
import os
import signal
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings

_CALM: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _CALM, max_examples=50)
settings.register_profile("ci", _CALM, max_examples=100, derandomize=True, database=None, print_blob=True)
settings.register_profile("soak", _CALM, max_examples=5_000)
settings.register_profile("quick", _CALM, max_examples=50, database=None, phases=[Phase.explicit, Phase.generate])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


_MEMORY: Final = "/dev/shm"  # pytest makes a folder there that is its own
_MEMORY_BYTES_MIN: Final = 2 << 30


def _is_room_in_memory() -> bool:
    try:
        place = os.statvfs(_MEMORY)
    except OSError:
        return False
    is_fit = os.access(_MEMORY, os.W_OK) and not place.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
    return is_fit and place.f_bavail * place.f_frsize >= _MEMORY_BYTES_MIN


if _is_room_in_memory():
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _MEMORY)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell gives that to what it starts with `&`, and the processes that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Take what the collected modules made out of every later garbage collection: nothing of it will ever be garbage,
    and there is so much of it that tests which collect often spent most of their time there."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _what_is_old_stays() -> None:
    """Nor will what the tests before have imported: with it each collection took a third of a second."""
    gc.collect()
    gc.freeze()
