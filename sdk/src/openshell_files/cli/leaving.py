"""How the command ends when it is told to: by SIGINT, SIGTERM or SIGHUP.

A command goes through three phases:

* starting: nothing was done yet, and modules are being imported. A signal ends
  the process at once, with one line. An exception would be raised inside of an
  import, where libraries swallow it or print a traceback.
* working: the first signal raises an exception, so that the command cleans up
  and says where it stands.
* settled: the outcome is known. A signal cannot change it any more, so the
  command reports it and ends by itself.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Final

#: A second signal within this time is the same wish, as when a shell and a
#: parent both send theirs. It must not break into the cleaning up.
_SAME_WISH_SECONDS: Final = 1.0

#: How long a command may clean up after a signal before the process ends anyway.
LEAVING_SECONDS: Final = 10.0

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: As `exit_codes` names them, which is imported only later.
_REASONS: Final = {
    signal.SIGINT: "INTERRUPTED",
    signal.SIGTERM: "TERMINATED",
    signal.SIGHUP: "HUNG_UP",
}

_WORDS: Final = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Told(BaseException):
    """A signal told the command to end.

    Attributes:
        number: which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status, as shells count it."""
        return status_of(self.number)

    @property
    def words(self) -> str:
        """What happened, for a message."""
        return words_of(self.number)


def status_of(number: int) -> int:
    """Return the exit status of a command that a signal ended."""
    return 128 + number


def words_of(number: int) -> str:
    """Return what a signal did to the command."""
    return _WORDS[signal.Signals(number)]


class Leaving:
    """Handles the signals of one command."""

    def __init__(self) -> None:
        self._working = False
        self._settled = False
        self._since: float | None = None

    def install(self) -> None:
        """Handle the signals that whoever started the command has not told it to ignore."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def work(self) -> None:
        """Begin: from here on a signal is an exception."""
        self._working, self._settled, self._since = True, False, None

    def settle(self) -> None:
        """Note that the outcome is known: no signal changes it any more."""
        self._settled = True

    def again(self, number: int) -> None:
        """Deliver a signal whose exception was lost in a place where none can be raised."""
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
            if now - self._since >= _SAME_WISH_SECONDS:
                self._end_at_once(number, "the cleaning up was cut short")
            return
        self._since = now
        last = threading.Timer(
            LEAVING_SECONDS, self._end_at_once, (number, "the cleaning up took too long and was cut short")
        )
        last.daemon = True
        last.start()
        raise Told(number)

    @staticmethod
    def _end_at_once(number: int, state: str) -> None:
        """Say one line without any buffer, and end the process without any cleaning up."""
        message = f"{words_of(number)}; {state}"
        status = status_of(number)
        if "--json" in sys.argv[1:]:
            # Standard output may be a download's content by now.
            descriptor = 2 if sys.argv[1:2] == ["download"] and "-" in sys.argv[2:] else 1
            reason = _REASONS[signal.Signals(number)]
            # Nothing here needs an escape, and `json` is not imported yet.
            line = (
                f'{{"ok": false, "error": {{"message": "{message}", "exit_code": {status}, '
                f'"reason": "{reason}", "retry": "never", "fix": ""}}}}\n'
            )
        else:
            descriptor, line = 2, f"openshell-files: error: {message}\n"
        with suppress(OSError):
            os.write(descriptor, line.encode())
        os._exit(status)


#: Of this process.
leaving: Final = Leaving()
