"""Writes log lines from a thread, so that logging never blocks.

A write to standard error may block for ever: a pipe without a reader, a stopped
terminal, a hung disk. An event loop that blocks on it serves no call and handles
no signal. So lines go into a bounded queue, a thread writes them, and lines that
do not fit are counted and dropped.
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

#: Size of the queue: a few thousand lines.
QUEUE_BYTES: Final = MIB

#: Longest wait for queued lines at the end of the process.
DRAIN_SECONDS: Final = 1.0


class LogWriter:
    """A text stream for loggers whose `write` does not block once the thread runs.

    Before `start`, lines are written directly, since a process may have steps
    that must precede its first thread.

    Args:
        descriptor: descriptor that lines are written to; None drops them.
        notice: returns the line about a number of dropped lines.
        max_bytes: size of the queue.
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
        """Write one or more lines; return the number of characters, as text streams do."""
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
        """Do nothing, since a logger must not wait for the thread."""

    def start(self) -> None:
        """Start the thread that writes; idempotent."""
        with self._changed:
            if self._thread is not None:
                return
            # A daemon, because a blocked write must not keep the process alive.
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()
        atexit.register(self.drain)

    def drain(self, seconds: float = DRAIN_SECONDS) -> bool:
        """Wait up to `seconds` until all lines are written; return True if they are."""
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
                # All queued lines in one system call; no line is split.
                batch = b"".join(self._lines) or self._say_left_out()
                self._lines.clear()
                self._writing = True
            self._put(batch)
            with self._changed:
                # A batch leaves the queue's count only after it was written.
                self._waiting_bytes = sum(map(len, self._lines))
                self._writing = False
                self._changed.notify_all()

    def _put(self, data: bytes) -> None:
        """Write all bytes; drop them on an error, which cannot be reported anywhere."""
        if self._descriptor is None:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                # Another process made the shared pipe non-blocking.
                select.select((), (self._descriptor,), ())
            except OSError:
                return
