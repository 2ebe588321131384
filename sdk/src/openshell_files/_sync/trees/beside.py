"""Work beside the owner's: the reader of a stream that the owner writes, and the bell by which it wakes the owner."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self


class Bell:
    """Wakes one waiting thread; rings before the wait count."""

    def __init__(self) -> None:
        # Not an Event: a signal can leave its lock locked.
        self._rings: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Wake the waiting thread."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float) -> None:
        """Wait for a ring since the last wait, at most `seconds`."""
        with suppress(Empty):
            self._rings.get(timeout=seconds)


class Beside:
    """Runs work in a thread until it ends or its owner leaves the context.

    Args:
        work: the work.
        unblock: ends a wait inside `work`.
        bell: rung at the end of the work.
    """

    def __init__(self, work: Callable[[], None], unblock: Callable[[], object], bell: Bell) -> None:
        self._work = work
        self._unblock = unblock
        self._bell = bell
        self._over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="openshell-files-beside", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._unblock()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised in the owner's thread
            self._error = error
        finally:
            self._over = True
            self._bell.ring()

    def over(self) -> bool:
        """Return whether the work has ended.

        Raises:
            Exception: the error that ended it.
        """
        if self._over and self._error is not None:
            raise self._error
        return self._over
