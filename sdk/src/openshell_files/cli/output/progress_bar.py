"""Progress line on a terminal: bytes, speed, time left, and the reason of a wait."""

from __future__ import annotations

import os
import sys
import threading
import time
import unicodedata
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, TextIO, TypeVar

from openshell_files.cli.output.report import printable
from openshell_files.cli.output.results_in_words import seconds_words, size_words
from openshell_files.cli.output.wording import Where, peer_words
from openshell_files.results import Progress, ProgressCallback

#: Seconds without movement after which the line tells what the command waits for.
_PATIENCE_SECONDS: Final = 2.0

#: Most and least columns of the bar; with less room there is no bar.
_BAR_WIDTH: Final = 20
_LEAST_BAR_WIDTH: Final = 5

#: Columns of the name that take precedence over a number.
_LEAST_NAME: Final = 10

_VERIFYING: Final = "verifying in the sandbox"

#: Interval of drawing.
_DRAW_SECONDS: Final = 0.1

_CLEAR: Final = "\r\x1b[K"


class Line:
    """Content of the line at a given time.

    Args:
        label: name of the file; empty for a call without content.
        where: subject of the command.
        width: columns of the terminal.
        now: the time.
    """

    def __init__(self, label: str, where: Where, width: int, now: float) -> None:
        self._label = printable(label)
        self.where = where
        self._width = max(1, width - 1)
        self._moved = self._began = now
        self._progress: Progress | None = None
        self._first: tuple[float, int] | None = None

    def update(self, progress: Progress, now: float) -> None:
        """Take the progress."""
        if self._progress is None or progress.transferred != self._progress.transferred:
            self.moved(now)
        if self._first is None or progress.transferred < self._first[1]:
            self._first = now, progress.transferred
        self._progress = progress

    def moved(self, now: float) -> None:
        """Note a movement."""
        self._moved = now
        self.where.retries.reset()

    def text(self, now: float) -> str:
        """Return the line; empty before there is any progress."""
        idle = now - self._moved
        words = self._waiting(idle) if idle >= _PATIENCE_SECONDS else self._moving(now)
        return shortened(words, self._width)

    def _waiting(self, idle: float) -> str:
        attempt, retry = self._progress.attempt if self._progress is not None else 0, self.where.retries.last
        peer = self.where.sandbox_words()
        if retry is not None:
            error, attempt = retry
            peer = peer_words(error, self.where)
        tries = f"try {attempt}, " if attempt else ""
        if self.all_sent() and retry is None:
            return f"{_VERIFYING} ({tries}{idle:.0f} s)"
        what = f"waiting for {peer} ({tries}{idle:.0f} s)"
        if len(what) > self._width:
            what = f"waiting ({tries}{idle:.0f} s)"
        return what

    def _moving(self, now: float) -> str:
        progress = self._progress
        if progress is None:
            return self._label
        rate = self._rate(now)
        facts = list[str]()
        if progress.total:
            facts.append(f"{min(100, progress.transferred * 100 // progress.total):3d}%")
        sizes = self.amounts(progress)
        facts.append(sizes)
        if rate:
            facts.append(f"{size_words(rate)}/s")
            if progress.total and progress.transferred < progress.total:
                facts.append(f"{_clock((progress.total - progress.transferred) / rate)} left")
        if self.all_sent():
            facts.append(_VERIFYING)
        # Without room, the least important numbers are left out.
        name = sum(map(_columns, self._label))
        least = min(name, _LEAST_NAME) + 2 if name else 0
        while len(facts) > 1 and least + len("  ".join(facts)) > self._width:
            facts.remove(sizes) if sizes in facts else facts.pop()
        words = "  ".join(facts)
        # The bar shrinks before the name, because the numbers have its information.
        bar = min(_BAR_WIDTH, self._width - len(words) - (name + 2 if name else 0) - len("[] "))
        if bar >= _LEAST_BAR_WIDTH and progress.total:
            filled = min(bar, progress.transferred * bar // progress.total)
            words = f"[{'#' * filled}{'.' * (bar - filled)}] {words}"
        room = self._width - len(words) - 2
        return f"{shortened(self._label, room)}  {words}" if name and room >= 4 else words

    def amounts(self, progress: Progress) -> str:
        """Return the bytes so far, with the total if it is known."""
        moved = size_words(progress.transferred)
        return f"{moved} of {size_words(progress.total)}" if progress.total else moved

    def all_sent(self) -> bool:
        """Return whether an upload is sent completely and waits for the verdict of the sandbox."""
        progress = self._progress
        if progress is None or not self.where.uploading or not progress.total:
            return False
        return progress.transferred >= progress.total

    def _rate(self, now: float) -> float:
        if self._progress is None or self._first is None or now <= self._first[0]:
            return 0.0
        return (self._progress.transferred - self._first[1]) / (now - self._first[0])


_Kind = TypeVar("_Kind", bound=Line)


def _clock(seconds: float) -> str:
    return seconds_words(seconds) if seconds >= 60 else f"{seconds:.0f} s"


def shortened(text: str, columns: int) -> str:
    """Return text shortened to a number of columns of a terminal."""
    if sum(_columns(c) for c in text) <= columns:
        return text
    ellipsis_, used, kept = "..." if columns > 3 else "", 0, ""
    for c in text:
        used += _columns(c)
        if used > columns - len(ellipsis_):
            break
        kept += c
    return kept + ellipsis_


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


@contextmanager
def progress_bar(label: str, where: Where, *, shown: bool) -> Generator[ProgressCallback | None]:
    """Show a line on standard error during the context.

    Args:
        label: name of the file; empty for a call without content.
        where: subject of the command.
        shown: as in `drawing`.
    """
    with drawing(Line, label, where, shown=shown) as line:
        yield None if line is None else lambda progress: line.update(progress, time.monotonic())


@contextmanager
def drawing(kind: type[_Kind], label: str, where: Where, *, shown: bool) -> Generator[_Kind | None]:
    """Draw a line on standard error during the context.

    Args:
        kind: class of the line.
        label: name of the file; empty for a call without content.
        where: subject of the command.
        shown: False shows no line, as does a standard error that is no
            terminal or cannot erase a line.
    """
    if not shown or not _can_draw(sys.stderr):
        yield None
        return
    line = kind(label, where, terminal_width(sys.stderr), time.monotonic())
    over = threading.Event()
    thread = threading.Thread(target=_draw, args=(line, sys.stderr, over), daemon=True)
    thread.start()
    try:
        yield line
    finally:
        over.set()
        thread.join()


def _draw(line: Line, terminal: TextIO, over: threading.Event) -> None:
    drawn = ""
    try:
        ending = False
        while not ending:
            # The last state is drawn too: a short transfer is over before the first interval.
            ending = over.wait(_DRAW_SECONDS)
            text = line.text(time.monotonic())
            if text != drawn:
                terminal.write(_CLEAR + text)
                terminal.flush()
                drawn = text
        if drawn:
            terminal.write(_CLEAR)
            terminal.flush()
    except (OSError, ValueError):
        # The terminal was closed. The transfer does not depend on it.
        return


def _can_draw(terminal: TextIO) -> bool:
    return terminal.isatty() and os.environ.get("TERM", "") not in {"", "dumb"}


def terminal_width(terminal: TextIO) -> int:
    """Return the columns of a terminal; 80 if unknown."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and 0 < len(given) < 6 and int(given):
        return int(given)
    try:
        return os.get_terminal_size(terminal.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
