"""Fault injection: pauses or kills the agent at a named point of a transfer.

A simulated supervisor exists to show failures. A fault waits for one of the agent's trace points,
prints a line on standard error, and acts once. SIGUSR1 resumes paused transfers.
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
    """The action at the point."""

    #: The transfer pauses until it is released or the process ends.
    PAUSE = "pause"
    #: The process ends by SIGKILL.
    KILL = "kill"


@dataclass(slots=True)
class Fault:
    """An action when a point is reached for the n-th time.

    Attributes:
        point: name of a trace point, e.g. ``upload.renamed``.
        action: at the point.
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
            ValueError: the text has another form.
        """
        action, at, rest = text.partition("@")
        point, _, occurrence = rest.partition("#")
        if not at or not point or action not in list(FaultAction) or not _COUNT.fullmatch(occurrence or "1"):
            raise ValueError(f"{text!r} is not ACTION@POINT or ACTION@POINT#N with ACTION pause or kill")
        return cls(point, FaultAction(action), int(occurrence or "1"))

    def reached(self, point: str) -> bool:
        """Count a trace point; return whether the action is due."""
        if point != self.point:
            return False
        with self._lock:
            self._reached += 1
            return self._reached == self.occurrence

    def act(self) -> None:
        """Act; called from the agent's disk threads."""
        self._paused = True
        print(f"fault: {self.action} at {self.point}", file=sys.stderr, flush=True)
        if self.action is FaultAction.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        self._released.wait()

    @property
    def holds_a_transfer(self) -> bool:
        """True while a transfer is paused at the point."""
        return self._paused and not self._released.is_set()

    def release(self) -> None:
        """Resume the paused transfer; safe in a signal handler."""
        if self._paused:
            self._released.set()


def strike(faults: Sequence[Fault], point: str) -> None:
    """Count a trace point in every fault, and then act in those that are due."""
    for fault in [fault for fault in faults if fault.reached(point)]:
        fault.act()


def release_on_signal(faults: Sequence[Fault]) -> None:
    """Resume paused transfers at each SIGUSR1; call in the main thread."""

    def release(_number: int, _frame: FrameType | None) -> None:
        for fault in faults:
            fault.release()

    signal.signal(signal.SIGUSR1, release)
