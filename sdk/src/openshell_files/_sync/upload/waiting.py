"""Sends `waiting` messages while the source of an upload yields nothing (WAI-2)."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

from openshell_files._core.upload.outgoing import waiting_message
from openshell_files._sync._calls import CallEndedError
from openshell_files.errors import FilesError


class _UploadStream(Protocol):
    """The stream of an upload or a tree, or lanes; this module writes to it beside the content."""

    def write(self, message: bytes) -> None: ...


class ContentWriter:
    """Writes content to a call, and `waiting` messages while there is none.

    The source runs in the caller's thread, so a second thread measures the pause.
    The end of the context ends the writing, so that the finish may follow.

    Args:
        call: receives the messages.
        interval: seconds without content after which `waiting` is due; None
            if the server does not take that message.
        message: the message `waiting` of the method; None takes that of UploadFile.
    """

    def __init__(self, call: _UploadStream, interval: float | None, message: bytes | None = None) -> None:
        self._call = call
        self._message = waiting_message() if message is None else message
        self._interval = interval
        # A mutex and an event made of queues, because a signal can leave a Condition locked. The thread
        # never waits for the mutex: if it is taken, the caller writes or has left.
        self._turn: SimpleQueue[None] = SimpleQueue()
        self._turn.put(None)
        self._left: SimpleQueue[None] = SimpleQueue()
        self._written_at = monotonic()

    def __enter__(self) -> Self:
        if self._interval is not None:
            threading.Thread(
                target=self._run, args=(self._interval,), name="openshell-files-waiting", daemon=True
            ).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.put(None)
        if error is None:
            # Never put back. The thread may be writing; the call's idle timeout bounds that.
            self._turn.get()

    def write(self, message: bytes) -> None:
        """Write content; see `UploadCall.write`."""
        self._turn.get()
        try:
            self._call.write(message)
            self._written_at = monotonic()
        finally:
            self._turn.put(None)

    def _run(self, interval: float) -> None:
        # The next write of content raises the error that ended the call.
        with suppress(CallEndedError, FilesError):
            while not self._told_to_leave(max(0.0, self._written_at + interval - monotonic())):
                try:
                    self._turn.get_nowait()
                except Empty:
                    # The caller writes, so no pause has to be reported.
                    self._written_at = monotonic()
                    continue
                try:
                    if monotonic() >= self._written_at + interval:
                        self._call.write(self._message)
                        self._written_at = monotonic()
                finally:
                    self._turn.put(None)

    def _told_to_leave(self, seconds: float) -> bool:
        try:
            self._left.get(timeout=seconds)
        except Empty:
            return False
        return True
