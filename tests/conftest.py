"""What holds for every test."""

from __future__ import annotations

import gc
import signal
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

# Tests judge no time: machines are shared, and a slow draw says nothing about
# the code. Without `--hypothesis-profile=search` every run tries the same
# examples, so that a change is judged by itself; the long forms are for search.
_untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", _untimed)
settings.register_profile("same examples", _untimed, derandomize=True)
settings.load_profile("same examples")


@pytest.fixture(scope="session", autouse=True)
def _signals_reach_what_tests_start() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """Give processes that tests start the kernel's handlers, although ours may be started without.

    A signal that a parent ignores (a job in the background, nohup) is ignored
    by all below. One that is handled is not: exec resets the handler. The
    handler does nothing, so that this process goes on as it was told to.
    """
    ignored = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_IGN
    ]
    for number in ignored:
        signal.signal(number, lambda _number, _frame: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(scope="session", autouse=True)
def _all_is_collected_in_the_end() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    """Take back what `_quick_collections` set aside, for the last collection of the run."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:  # pyright: ignore[reportUnusedFunction]
    """Leave what is there already out of the collections that tests end with.

    Many tests collect to see what they left, and ten thousand collected tests
    are hundreds of thousands of objects: a fifth of a second each time. What a
    test makes itself is looked at as before.
    """
    gc.collect()
    gc.freeze()
