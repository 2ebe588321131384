"""Standard input, output and error of a command, whatever they are.

Not part of the protocol; it lives here because all commands depend on this
package. It imports only the standard library, so that a command can use it
before its heavy imports.

The rule: a report that cannot be written does not change what happened. So a
stream that is closed, full, or encodes no `é` never ends a command with a
traceback; `say` returns the error instead, and the command decides.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


def hold_standard_streams() -> None:
    """Give a process that was started with closed descriptors streams that fail in order.

    Without this, the next file that the process opens gets the free number,
    and a library that logs to descriptor 2 writes into that file. Python sets
    `sys.stdout` and its like to None then, so `print` loses its text without
    an error.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _stand_in(number)
    stdin: TextIO | None = sys.stdin
    stdout: TextIO | None = sys.stdout
    stderr: TextIO | None = sys.stderr
    # They live as long as the process.
    if stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding does not have is shown as `\xe9`.
            stream.reconfigure(errors="backslashreplace")


def _stand_in(number: int) -> None:
    """Take the place of a closed descriptor with a pipe's wrong end: every use of it is an error."""
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
        text: without the line's end. Characters that the stream's encoding
            does not have are written as `\xe9` and the like.

    Returns:
        Why the line could not be written; None if it was.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except OSError as error:
        return error
    except ValueError as error:
        # Python says so of a stream object that was closed.
        return OSError(str(error))
    return None
