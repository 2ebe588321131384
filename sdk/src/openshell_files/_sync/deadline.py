# Written by sdk/unasync.py from _async/deadline.py. Change that file instead.
"""Deadline of a call, checked by every step that takes time."""

from __future__ import annotations

from openshell_files._known_errors import timeout_error
from openshell_files._sync import _io


class Deadline:
    """End of the time that the caller allows.

    Args:
        timeout: seconds from now; None for no limit.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._end = None if timeout is None else _io.monotonic() + timeout

    def left(self) -> float | None:
        """Return the seconds left; None for no limit.

        Raises:
            DeadlineExceeded: no time is left.
        """
        if self._end is None or self._timeout is None:
            return None
        left = self._end - _io.monotonic()
        if left <= 0:
            raise timeout_error(self._timeout)
        return left

    def over(self) -> bool:
        """Return whether no time is left."""
        return self._end is not None and _io.monotonic() >= self._end

    def cap(self, seconds: float) -> float:
        """Return `seconds`, or the time left if that is less.

        Raises:
            DeadlineExceeded: no time is left.
        """
        left = self.left()
        return seconds if left is None else min(seconds, left)
