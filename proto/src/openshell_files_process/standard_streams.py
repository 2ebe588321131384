"""Makes standard input, output and error of a command safe to use, even if they are closed or full.

It is in this distribution because all commands depend on it. It imports only
the standard library, so that a command can use it before its heavy imports.

A failed write of a report must not change the outcome of a command. So a stream
that is closed, full, or cannot encode a character never ends a command with a
traceback; `say` returns the error instead, and the command decides.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def hold_standard_streams() -> None:
    """Replace closed standard descriptors by ones whose every use is an error.

    Otherwise the next file that the process opens gets the free number, and a
    library that logs to descriptor 2 writes into that file. Python sets
    `sys.stdout` etc. to None for closed descriptors, so `print` drops its text
    without an error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _stand_in(number)
    stdin: TextIO | None = sys.stdin
    stdout: TextIO | None = sys.stdout
    stderr: TextIO | None = sys.stderr
    # These files stay open for the life of the process.
    if stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot encode is written as `\xe9`.
            stream.reconfigure(errors="backslashreplace")


def _stand_in(number: int) -> None:
    """Occupy a closed descriptor with the wrong end of a pipe, so that every use of it is an error."""
    reading, writing = os.pipe()
    os.dup2(writing if number == 0 else reading, number)
    for end in (reading, writing):
        if end != number:
            os.close(end)
    os.set_inheritable(number, True)


def say(stream: TextIO, text: str) -> OSError | None:
    r"""Write a line and flush it.

    Args:
        stream: standard output or error.
        text: the line without its end. Characters that the stream cannot
            encode are written as escapes such as `\xe9`.

    Returns:
        The error of the write; None if it succeeded.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except OSError as error:
        return error
    except ValueError as error:
        # Python raises it for a closed stream object.
        return OSError(str(error))
    return None
