# Written by sdk/unasync.py from _async/gate.py. Change that file instead.
"""Holds transfers back that the gateway would refuse: it says how many one caller may run (RLY-9)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline

#: How many transfers run at a time until the gateway has said how many may.
DEFAULT_LIMIT: Final = 16

#: How long a transfer that its caller paces is held back while nothing moves, in seconds.
_PATIENCE_SECONDS: Final = 5.0


@dataclass(slots=True, eq=False)
class _Waiter:
    paced: bool
    flag: _io.Flag = field(default_factory=_io.Flag)
    admitted: bool = False


class Gate:
    """Lets as many transfers of one client run in one sandbox as may; the rest wait in their order.

    A transfer whose other end is the caller's own code (a generator, a function
    that takes bytes, an iteration) may wait for another transfer of the same
    client. So such ones never keep the last place, and are let through when
    nothing moves: no two transfers can wait for each other here.
    """

    def __init__(self) -> None:
        self._limit = DEFAULT_LIMIT
        self._running = self._paced = 0
        self._moves = 0
        self._waiting: deque[_Waiter] = deque()
        self._lock = _io.Guard()

    @property
    def running(self) -> int:
        """How many have been let through and have not left."""
        return self._running + self._paced

    def heard(self, limit: int) -> None:
        """Take what the gateway says; 0 says nothing."""
        if limit > 0:
            with self._lock:
                self._limit = limit
                self._admit()

    def enter(self, deadline: Deadline, *, paced: bool) -> bool:
        """Wait for a place.

        Args:
            deadline: when to give up.
            paced: the caller's own code decides how fast the transfer moves.

        Returns:
            Whether there is a place to `leave`: a call made inside a progress
            callback takes none, since the transfer that it waits for has one.

        Raises:
            DeadlineExceeded: none came free in time.
        """
        if _io.REPORTING.get():
            return False
        waiter = _Waiter(paced)
        with self._lock:
            self._waiting.append(waiter)
            self._admit()
            moves = self._moves
        try:
            while not waiter.admitted:
                waiter.flag.wait(deadline.cap(_PATIENCE_SECONDS))
                with self._lock:
                    if paced and waiter in self._waiting and moves == self._moves:
                        self._waiting.remove(waiter)
                        self._let_in(waiter)
                    moves = self._moves
        except BaseException:
            with self._lock:
                if waiter.admitted:
                    self._left(paced=paced)
                else:
                    self._waiting.remove(waiter)
            raise
        return True

    def leave(self, *, paced: bool) -> None:
        """Give a place back."""
        with self._lock:
            self._left(paced=paced)

    def _left(self, *, paced: bool) -> None:
        if paced:
            self._paced -= 1
        else:
            self._running -= 1
        self._admit()

    def _admit(self) -> None:
        """Let in who may, in their order."""
        while waiter := next((w for w in self._waiting if self._may(w)), None):
            self._waiting.remove(waiter)
            self._let_in(waiter)

    def _may(self, waiter: _Waiter) -> bool:
        full = self._running + self._paced >= self._limit
        return not full or (not waiter.paced and self._running == 0)

    def _let_in(self, waiter: _Waiter) -> None:
        waiter.admitted = True
        self._moves += 1
        if waiter.paced:
            self._paced += 1
        else:
            self._running += 1
        waiter.flag.set()
