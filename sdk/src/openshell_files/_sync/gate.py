# Written by sdk/unasync.py from _async/gate.py. Change that file instead.
"""Limits the concurrent transfers of one client in one sandbox to the number that the gateway allows (RLY-24)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline

#: Limit until the gateway has told its own.
DEFAULT_LIMIT: Final = 16

#: Seconds without movement after which a paced transfer enters although the gate is full.
_PATIENCE_SECONDS: Final = 5.0


@dataclass(slots=True, eq=False)
class _Waiter:
    paced: bool
    flag: _io.Flag = field(default_factory=_io.Flag)
    admitted: bool = False


class Gate:
    """Semaphore of transfers, with a queue in order of arrival.

    A paced transfer has the caller's code at its other end (a generator, a
    function that takes bytes, an iteration), which may wait for another
    transfer of the same client. To prevent a deadlock, paced transfers never
    take the last place, and enter if nothing moves.
    """

    def __init__(self) -> None:
        self._limit = DEFAULT_LIMIT
        self._running = self._paced = 0
        self._moves = 0
        self._waiting: deque[_Waiter] = deque()
        self._lock = _io.Guard()

    @property
    def running(self) -> int:
        """Number of transfers that have entered and not left."""
        return self._running + self._paced

    def heard(self, limit: int) -> None:
        """Take the gateway's limit; 0 means unknown."""
        if limit > 0:
            with self._lock:
                self._limit = limit
                self._admit()

    def enter(self, deadline: Deadline, *, paced: bool) -> bool:
        """Wait for a place.

        Args:
            deadline: end of the caller's time.
            paced: the caller's code determines the speed of the transfer.

        Returns:
            True if the caller has to `leave`. A call inside a progress callback
            takes no place, because its transfer has one already.

        Raises:
            DeadlineExceeded: no place became free in time.
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
        """Release a place."""
        with self._lock:
            self._left(paced=paced)

    def _left(self, *, paced: bool) -> None:
        if paced:
            self._paced -= 1
        else:
            self._running -= 1
        self._admit()

    def _admit(self) -> None:
        """Admit waiting transfers, in their order, as far as there are places."""
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
