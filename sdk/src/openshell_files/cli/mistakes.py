"""Ends of a command that are no error of the SDK. They are apart, so that `--help` imports neither side of them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


class UsageMistake(Exception):  # noqa: N818 - not an error of the program
    """The command line is wrong."""


class ReportLostError(Exception):
    """The command succeeded and could not report it; the text is the reason."""


@contextmanager
def reading_options() -> Generator[None]:
    """Convert a `ValueError` of the block to a `UsageMistake`."""
    try:
        yield
    except ValueError as error:
        raise UsageMistake(str(error)) from None
