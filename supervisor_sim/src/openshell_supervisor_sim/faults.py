"""Faults on demand: stop the agent at a named point of a transfer.

A simulated supervisor is there to show what happens when things go wrong. A
fault waits at one of the agent's trace points, says so on standard error, and
then does what it was asked to, once. SIGUSR1 lets paused transfers go on.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import FrameType
from typing import Final

_COUNT: Final = re.compile("[1-9][0-9]*")


class FaultAction(StrEnum):
    """What happens at the point."""

    #: The transfer stands still there until the process ends or is released.
    PAUSE = "pause"
    #: The process is killed there, as if by the kernel.
    KILL = "kill"


@dataclass(slots=True)
class Fault:
    """An action at the n-th time that a point is reached.

    Attributes:
        point: name of a trace point, e.g. ``upload.renamed``.
        action: what happens there.
        occurrence: counted from 1.
    """

    point: str
    action: FaultAction
    occurrence: int = 1
    _reached: int = 0
    _paused: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _released: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse ``action@point`` or ``action@point#n``.

        Raises:
            ValueError: it is neither.
        """
        action, at, rest = text.partition("@")
        point, _, occurrence = rest.partition("#")
        if not at or not point or action not in list(FaultAction) or not _COUNT.fullmatch(occurrence or "1"):
            raise ValueError(f"{text!r} is not ACTION@POINT or ACTION@POINT#N with ACTION pause or kill")
        return cls(point, FaultAction(action), int(occurrence or "1"))

    def reached(self, point: str) -> bool:
        """Count a point, and tell whether the action is due now."""
        if point != self.point:
            return False
        with self._lock:
            self._reached += 1
            return self._reached == self.occurrence

    def act(self) -> None:
        """Do it; called from the agent's worker threads."""
        self._paused = True
        print(f"fault: {self.action} at {self.point}", file=sys.stderr, flush=True)
        if self.action is FaultAction.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        self._released.wait()

    @property
    def holds_a_transfer(self) -> bool:
        """Whether a transfer stands still at the point now."""
        return self._paused and not self._released.is_set()

    def release(self) -> None:
        """Let the transfer that stands still at the point go on; safe in a signal handler."""
        if self._paused:
            self._released.set()


def strike(faults: Sequence[Fault], point: str) -> None:
    """Do what is due at a point, once every fault has counted it."""
    for fault in [fault for fault in faults if fault.reached(point)]:
        fault.act()


def release_on_signal(faults: Sequence[Fault]) -> None:
    """Release what is paused whenever the process gets SIGUSR1; call in the main thread."""

    def release(_number: int, _frame: FrameType | None) -> None:
        for fault in faults:
            fault.release()

    signal.signal(signal.SIGUSR1, release)
