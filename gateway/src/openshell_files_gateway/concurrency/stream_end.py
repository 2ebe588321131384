"""Tells the end of a peer's stream from a cancelled call, as far as gRPC allows (UPL-1, ADR 0001).

grpc.aio reads both as the end: a cancelled call, a reset stream, an expired
deadline and a lost connection give EOF first, and only later is the task of
the call cancelled. Two kinds of peers have to be told apart:

- Most reset the stream without ending it (gRPC's C, Python, C++, Go, Java,
  Rust and .NET; any peer that is killed). Then gRPC knows of the reset when it
  says EOF, and refuses to write to the stream. A write finds out, exactly.
- Some end the stream first and reset it after (grpc-js when it is cancelled;
  a caller that half-closes and then cancels). Between the two the stream looks
  finished, and all that helps is to wait.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import grpc
from openshell_files_process.tasks import to_the_end

#: So long is waited: a reset that comes up to 20 ms behind the end is seen,
#: with the time that frames need. It is counted in short steps of a loop that
#: turns, since a loop that is late sees the reset late, too.
_STEP_SECONDS: Final = 0.002
_STEPS: Final = 25

#: While more wants to run than there are CPUs, a client on this machine has to
#: wait for its turn between the end and the reset, and a step counts for less.
_CROWDED_STEP: Final = 0.2

_LOAD: Final = Path("/proc/loadavg")
_CPUS: Final = os.cpu_count() or 1

#: Sends something on the call that means nothing to the peer.
Write = Callable[[], Coroutine[Any, Any, object]]


async def was_reset(write: Write) -> bool:
    """Tell whether a stream that gave EOF was reset, and not ended by its peer.

    Does not find a peer that ended its stream and resets it a moment later.

    Args:
        write: sends the call's initial metadata, for instance. gRPC fails it
            on a stream that is reset. Never cut off, since gRPC has begun it.

    Raises:
        CancelledError: the caller was cancelled; the write is over.
    """
    try:
        await to_the_end(write())
    except grpc.aio.BaseError:
        return True
    return False


async def let_reset_come() -> None:
    """Wait until a reset that closely follows the end of a stream would have been seen.

    50 ms, and up to 250 ms on a machine that is busier than it has CPUs. The
    task of the call that was reset is cancelled meanwhile.
    """
    steps = 0.0
    while steps < _STEPS:
        await asyncio.sleep(_STEP_SECONDS)
        steps += _CROWDED_STEP if _crowded() else 1.0


async def ended_for_good(write: Write) -> bool:
    """Tell whether a stream that gave EOF was ended by its peer; takes as long as `let_reset_come` if it was.

    Only for an end that decides something which cannot be undone.

    Args:
        write: as for `was_reset`.
    """
    if await was_reset(write):
        return False
    await let_reset_come()
    return True


def _crowded() -> bool:
    """Tell whether more wants to run on this machine than there are CPUs; False where nobody says so."""
    try:
        runnable = _LOAD.read_text("ascii").split()[3].partition("/")[0]
        return int(runnable) > _CPUS
    except (OSError, ValueError, IndexError):
        return False
