"""Tells the end of a peer's stream from a cancelled call, as far as gRPC allows (UPL-1, UPL-32, UPL-33, ADR 0001).

grpc.aio reports both as the end: after a cancellation, a stream reset, an
expired deadline or a lost connection the reader gets EOF first, and the task of
the call is cancelled only later. Peers behave in two ways:

- Most reset the stream without a half-close (gRPC's C, Python, C++, Go, Java,
  Rust and .NET; any peer that is killed). gRPC knows of the reset when it
  reports EOF, and fails every write to the stream. One write decides.
- Some half-close the stream and reset it a moment later (grpc-js when it is
  cancelled; a caller that half-closes and then cancels). In between, the stream
  looks finished; only waiting shows the reset.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import grpc
from openshell_files_process.tasks import to_the_end

#: Length of the wait: 25 steps of 2 ms show a reset that follows the end within
#: 20 ms, delivery of the frames included. Steps count turns of the loop, since a
#: busy loop sees the reset late as well.
_STEP_SECONDS: Final = 0.002
_STEPS: Final = 25

#: While more threads are runnable than there are CPUs, a client on this machine
#: may wait for a CPU between the half-close and the reset, so a step counts less.
_CROWDED_STEP: Final = 0.2

_LOAD: Final = Path("/proc/loadavg")
_CPUS: Final = os.cpu_count() or 1

#: Writes something to the call that the peer ignores.
Write = Callable[[], Coroutine[Any, Any, object]]


async def was_reset(write: Write) -> bool:
    """Return True if a stream that gave EOF was reset, False if its peer half-closed it.

    Returns False for a peer that half-closes its stream and resets it a moment later.

    Args:
        write: for example sends the call's initial metadata. gRPC fails it on
            a stream that was reset. It always runs to its end, since gRPC
            cannot interrupt a write.

    Raises:
        CancelledError: the caller was cancelled; the write has ended.
    """
    try:
        await to_the_end(write())
    except grpc.aio.BaseError:
        return True
    return False


async def let_reset_come() -> None:
    """Wait long enough that a reset which closely follows a half-close cancels the calling task.

    Takes 50 ms, and up to 250 ms on a machine with more runnable threads than CPUs.
    """
    steps = 0.0
    while steps < _STEPS:
        await asyncio.sleep(_STEP_SECONDS)
        steps += _CROWDED_STEP if _crowded() else 1.0


async def ended_for_good(write: Write) -> bool:
    """Return True if the peer half-closed a stream that gave EOF; that answer takes as long as `let_reset_come`.

    For ends that publish a file or decide something else for good.

    Args:
        write: as for `was_reset`.
    """
    if await was_reset(write):
        return False
    await let_reset_come()
    return True


def _crowded() -> bool:
    """Return True if more threads are runnable than there are CPUs; False where the kernel does not report it."""
    try:
        runnable = _LOAD.read_text("ascii").split()[3].partition("/")[0]
        return int(runnable) > _CPUS
    except (OSError, ValueError, IndexError):
        return False
