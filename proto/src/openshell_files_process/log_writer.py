"""Writes log lines without ever blocking who logs.

A pipe that nobody reads, a terminal that was stopped, a disk that hangs: a
write to standard error may block for ever. An event loop that logs would then
answer nobody and hear no signal. So lines go into a bounded queue, a thread
writes them, and lines that find the queue full are counted and left out.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from openshell_files_protocol.limits import MIB

#: Lines that wait for a slow reader: a few thousand.
QUEUE_BYTES: Final = MIB

#: How long the end of the process waits for lines that are not written yet.
FAREWELL_SECONDS: Final = 1.0


class LogWriter:
    """A text stream for loggers; `write` never blocks once the thread runs.

    Until `start` is called lines are written at once, since a process may have
    to do something before it has threads.

    Args:
        descriptor: where lines go; None throws them away.
        notice: makes the line that says how many lines were left out.
        max_bytes: of lines that wait.
    """

    def __init__(
        self, descriptor: int | None, notice: Callable[[int], str], *, max_bytes: int = QUEUE_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._max_bytes = max_bytes
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._left_out = 0
        self._writing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> int:
        """Take a line, or several; returns the number of characters, as text streams do."""
        data = text.encode("utf-8", "backslashreplace")
        if self._thread is None:
            self._put(data)
            return len(text)
        with self._changed:
            if self._waiting_bytes + len(data) > self._max_bytes:
                self._left_out += 1
            else:
                if self._left_out:
                    self._queue(self._say_left_out())
                self._queue(data)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Do nothing: whoever logs must not wait for the writing."""

    def start(self) -> None:
        """Write in a thread from now on. May be called more than once."""
        with self._changed:
            if self._thread is not None:
                return
            # A daemon: a write that blocks must not keep the process alive.
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()
        atexit.register(self.drain)

    def drain(self, seconds: float = FAREWELL_SECONDS) -> bool:
        """Wait until everything is written; whether it was within so many seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not (self._lines or self._writing or self._left_out), timeout=seconds
            )

    def _queue(self, data: bytes) -> None:
        self._lines.append(data)
        self._waiting_bytes += len(data)

    def _say_left_out(self) -> bytes:
        count, self._left_out = self._left_out, 0
        return self._notice(count).encode()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._left_out)
                # Several lines in one system call, each of them whole.
                batch = b"".join(self._lines) or self._say_left_out()
                self._lines.clear()
                self._writing = True
            self._put(batch)
            with self._changed:
                # What is being written still takes up its room.
                self._waiting_bytes = sum(map(len, self._lines))
                self._writing = False
                self._changed.notify_all()

    def _put(self, data: bytes) -> None:
        """Write everything; what cannot be written is lost, as nobody is left to tell."""
        if self._descriptor is None:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # The other end made the pipe non-blocking.
                select.select((), (self._descriptor,), ())
            except OSError:
                return
