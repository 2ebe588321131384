"""End of the command by SIGINT, SIGTERM or SIGHUP.

A command has three phases:

* starting: modules are imported, and the command line is read. A signal ends
  the process at once, with one line. An exception would be raised inside an
  import, where libraries swallow it or print a traceback.
* working: the first signal raises an exception, so that the command cleans up
  and reports its state.
* settled: the outcome is known. A signal cannot change it, so the command
  reports it and ends by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

from openshell_files._local.open_files import is_file_of

#: A second signal within this time counts as the first: a shell and a parent
#: may both send one. It must not interrupt the cleanup.
_SAME_SIGNAL_SECONDS: Final = 1.0

#: Longest cleanup after a signal, in seconds; then the process ends.
LEAVING_SECONDS: Final = 10.0

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Names of `ExitCode`, whose module is imported later.
_REASONS: Final = {
    signal.SIGINT: "INTERRUPTED",
    signal.SIGTERM: "TERMINATED",
    signal.SIGHUP: "HUNG_UP",
}

_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Told(BaseException):
    """A signal ended the command.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """Exit status, by the convention of shells."""
        return status_of(self.number)

    @property
    def words(self) -> str:
        """The signal in words, for a message."""
        return words_of(self.number)


def status_of(number: int) -> int:
    """Return the exit status of a command that a signal ended."""
    return 128 + number


def words_of(number: int) -> str:
    """Return the effect of a signal in words."""
    return _WORDS[signal.Signals(number)]


class Leaving:
    """Handles the signals of one command."""

    def __init__(self) -> None:
        self._working = False
        self._settled = False
        self._since: float | None = None
        self._importing = False
        self._told: Told | None = None

    def install(self) -> None:
        """Handle the signals, except those that the parent process ignores."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def work(self) -> None:
        """Enter the phase in which a signal raises an exception."""
        self._working, self._settled, self._since, self._told = True, False, None, None

    def settle(self) -> None:
        """Enter the phase in which the outcome is known and signals are ignored."""
        self._settled = True

    @contextmanager
    def importing(self) -> Generator[None]:
        """Raise the exception of a signal only after the imports of the block."""
        self._importing = True
        try:
            yield
        finally:
            self._importing = False
        if self._told is not None:
            raise self._told

    def again(self, number: int) -> None:
        """Deliver a signal again whose exception was lost in a place that cannot raise."""
        self._since = None
        later = threading.Timer(0.05, os.kill, (os.getpid(), number))
        later.daemon = True
        later.start()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self._working:
            self._end_at_once(number, "nothing was changed")
        if self._settled:
            return
        if self._since is not None:
            if now - self._since >= _SAME_SIGNAL_SECONDS:
                self._end_at_once(number, "the cleanup was cut short")
            return
        self._since = now
        last = threading.Timer(
            LEAVING_SECONDS, self._end_at_once, (number, "the cleanup took too long and was cut short")
        )
        last.daemon = True
        last.start()
        if self._importing:
            self._told = Told(number)
            return
        raise Told(number)

    @staticmethod
    def _end_at_once(number: int, state: str) -> None:
        """Say one line without any buffer, and end the process without any cleaning up."""
        end_at_once(f"{words_of(number)}; {state}", status_of(number), _REASONS[signal.Signals(number)])


def end_at_once(message: str, status: int, reason: str, fix: str = "") -> NoReturn:
    """Say one line about a failure without any buffer, and end the process without any cleaning up.

    Args:
        message: for people; with `fix` behind it.
        status: exit status.
        reason: name of the status.
        fix: what a person can do.
    """
    if "--json" in sys.argv[1:]:
        # Standard output may be a download's content by now.
        words = sys.argv[2:]
        content = sys.argv[1:2] == ["download"] and any(w == "-" or is_file_of(w, sys.stdout) for w in words)
        descriptor = 2 if content else 1
        # No `json`, which is not imported yet.
        line = (
            f'{{"ok": false, "error": {{"message": {_quoted(message)}, "exit_code": {status}, '
            f'"reason": "{reason}", "retry": "never", "fix": {_quoted(fix)}}}}}\n'
        )
    else:
        descriptor, line = 2, f"openshell-files: error: {f'{message}. {fix}' if fix else message}\n"
    with suppress(OSError):
        os.write(descriptor, line.encode())
    os._exit(status)


def _quoted(text: str) -> str:
    """Return text as a string of JSON."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() and c.isascii() else "?" for c in plain) + '"'


def no_resources_words(error: BaseException) -> str:
    """Return what a failure for lack of memory or threads is, for a message."""
    return f"this process gets no more memory or threads ({str(error) or type(error).__name__})"


#: The handler of this process.
leaving: Final = Leaving()
