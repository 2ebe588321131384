"""Token provider that reads a file."""

from __future__ import annotations

import os
import select
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from openshell_files._core.token_exchange import credentials_error

#: Largest token; a device has no end.
_MAX_BYTES: Final = 64 * 1024

_FIX: Final = "Check the path of the token file, and its permissions."

#: Seconds that a call waits for the token of a pipe.
PIPE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class FileToken:
    """Reads the token for every call, so that a rotated token is used at once.

    A pipe, a terminal or a device (`/dev/stdin`, `<(command)`) can be read once:
    the first call reads it, and later calls use the same token.

    Attributes:
        path: a file with the token and nothing else.
    """

    path: Path
    _remembered: list[str] = field(default_factory=list[str], compare=False, repr=False)

    def __call__(self) -> str:
        """Return the token.

        Raises:
            CredentialsError: the file cannot be read, is empty, or is larger
                than a token can be (64 KiB), or a pipe gave no token in 5 s.
        """
        if self._remembered:
            return self._remembered[0]
        try:
            content, regular = _read(self.path)
        except OSError as error:
            raise credentials_error(
                f"cannot read the token file {self.path}: {error.strerror or error}", _FIX
            ) from error
        token = content.decode("ascii", "replace").strip()
        if not token or len(content) > _MAX_BYTES:
            what = "is empty" if not token else "is too large for a token"
            raise credentials_error(f"the token file {self.path} {what}", _FIX)
        if not regular:
            self._remembered.append(token)
        return token


def _read(path: Path) -> tuple[bytes, bool]:
    """Return the content of a file, limited to a little more than a token, and whether it can be read again."""
    # Without O_NONBLOCK the open of a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(_MAX_BYTES + 1), True
        return _read_pipe(descriptor), False
    finally:
        os.close(descriptor)


def _read_pipe(descriptor: int) -> bytes:
    """Return the content of a pipe up to its end or the end of a line.

    Raises:
        TimeoutError: the pipe had no complete token within `PIPE_SECONDS`.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + PIPE_SECONDS
    content = b""
    ended = False
    while b"\n" not in content.lstrip() and len(content) <= _MAX_BYTES:
        piece: bytes | None
        try:
            piece = os.read(descriptor, _MAX_BYTES + 1)
        except BlockingIOError:
            piece = None
        if piece:
            content += piece
            continue
        # No bytes mean the end, unless the pipe had no writer yet.
        if piece is not None and (content or ended):
            break
        left = deadline - time.monotonic()
        events = poll.poll(left * 1000) if left > 0 else []
        if not events:
            raise TimeoutError(f"it gave no token within {PIPE_SECONDS:g} s")
        ended = bool(events[0][1] & select.POLLHUP)
    return content
