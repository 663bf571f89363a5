"""What every test shares: a heap that is quick to look through, and the Hypothesis profiles, chosen by
HYPOTHESIS_PROFILE.

dev   (default) 50 fresh examples a test; a failure is kept in .hypothesis and tried first next time.
ci    (default where CI is set) 100 examples from fixed seeds: a red run says something about the change, not the dice.
soak  5,000 fresh examples: what hunts for new seeds. A seed that fails goes into the test as an @example, for ever.

No profile has a deadline: on a shared machine it would measure the neighbours.
"""

from __future__ import annotations

import gc
import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=50, deadline=None)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell gives that to what it starts with `&`, and the processes that tests start and interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Take what the collected modules made out of every later garbage collection: nothing of it will ever be garbage,
    and there is so much of it that tests which collect often spent most of their time there."""
    gc.collect()
    gc.freeze()
