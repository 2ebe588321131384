# Written by sdk/unasync.py from _async/reporting.py. Change that file instead.
"""Calls the caller's progress callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from openshell_files._sync import _io

_Progress = TypeVar("_Progress")


class Reporter(Generic[_Progress]):
    """Hands progress to a callback, and remembers the exception that the callback raised.

    Args:
        callback: None reports nothing.

    Attributes:
        raised: exception of the callback; None if it raised none.
    """

    def __init__(self, callback: Callable[[_Progress], None] | None) -> None:
        self._callback = callback
        self.raised: BaseException | None = None

    @property
    def wanted(self) -> bool:
        """True if there is a callback."""
        return self._callback is not None

    def report(self, progress: _Progress) -> None:
        """Call the callback. A call of the client inside it takes no place in the gate."""
        if self._callback is None:
            return
        inside = _io.REPORTING.set(True)
        try:
            self._callback(progress)
        except BaseException as error:
            self.raised = error
            raise
        finally:
            _io.REPORTING.reset(inside)
