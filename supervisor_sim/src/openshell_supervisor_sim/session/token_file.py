"""The file of the sandbox's token: read for every call, replaced by a renewal."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger("openshell_supervisor_sim.token")


class TokenFileError(Exception):
    """The token file cannot be read, or contains no token."""


class TokenSource(Protocol):
    """Source of the token for each call."""

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the call metadata that carries the token.

        Raises:
            TokenFileError: no token can be read.
        """
        ...


class TokenFile:
    """A bearer token in a file.

    A renewal replaces the file, and the next call uses the new token, without a new session. This
    process may renew the token, see `replace`, or another one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        #: The last token that was read, used when the file cannot be read any more: this process
        #: may have become another user.
        self._last: str | None = None
        #: A renewed token that could not be written, and the one it replaces.
        self._unwritten: tuple[str, str] | None = None
        self._warned = False
        #: Status of the file when `_last` was read.
        self._seen: tuple[int, ...] | None = None

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the call metadata that carries the token.

        Every relay needs it. An unchanged file is not read again, which saves each relay a hop to a
        thread.

        Raises:
            TokenFileError: as `read` raises it.
        """
        token = self._unchanged()
        if token is None:
            token = await asyncio.to_thread(self.read)
        return (("authorization", f"Bearer {token}"),)

    def read(self) -> str:
        """Return the token.

        Raises:
            TokenFileError: the file cannot be read, is empty, or contains more than a token.
        """
        seen = self._look()
        try:
            token = self._path.read_text("ascii").strip()
        except PermissionError as error:
            if self._last is None:
                raise TokenFileError(f"--token-file {self._path}: {error.strerror}") from error
            token = self._last
        except OSError as error:
            raise TokenFileError(f"--token-file {self._path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise TokenFileError(
                f"--token-file {self._path}: contains something else than a token"
            ) from error
        if not token:
            raise TokenFileError(f"--token-file {self._path}: the file is empty")
        if not is_token(token):
            raise TokenFileError(f"--token-file {self._path}: contains more than one token")
        self._last, self._seen = token, seen
        if self._unwritten is not None:
            replaced, renewed = self._unwritten
            if token == replaced:
                return renewed
            # Another process wrote a newer one.
            self._unwritten = None
        return token

    def _unchanged(self) -> str | None:
        """Return the last token if the file is unchanged; None if it must be read."""
        if self._seen is None or self._unwritten is not None or self._look() != self._seen:
            return None
        return self._last

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        # A change in place within one tick of the file system's clock that keeps the size is
        # missed. A replaced file, as by `replace`, is always noticed.
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def replace(self, replaced: str, renewed: str) -> None:
        """Replace the token in the file by a renewed one, atomically; blocks.

        If the file cannot be written, the token is used from memory until another process changes
        the file. Then it does not survive this process.

        Args:
            replaced: the token that was renewed.
            renewed: the new one.
        """
        path = os.path.realpath(self._path)
        # The name must not be predictable: other users may write in the directory.
        staging = f"{path}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "w", encoding="ascii") as file:
                    file.write(f"{renewed}\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(staging, path)
            except BaseException:
                os.unlink(staging)
                raise
        except OSError as error:
            in_file = replaced if self._unwritten is None else self._unwritten[0]
            self._unwritten = (in_file, renewed)
            if not self._warned:
                self._warned = True
                log.warning(
                    "the renewed token is in memory only: --token-file cannot be written",
                    path=path,
                    reason=error.strerror,
                )
            return
        self._unwritten = None
        self._last = renewed
        self._seen = None


def is_token(text: str) -> bool:
    """Return whether a text is one token that a header can carry."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
