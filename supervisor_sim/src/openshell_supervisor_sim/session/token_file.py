"""The sandbox's token, read anew for every call and replaced when it is renewed."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Protocol

import structlog

log = structlog.get_logger("openshell_supervisor_sim.token")


class TokenFileError(Exception):
    """The token file cannot be read or holds no token."""


class TokenSource(Protocol):
    """Where the token for a call comes from."""

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the call metadata that carries the token.

        Raises:
            TokenFileError: there is none.
        """
        ...


class TokenFile:
    """A bearer token in a file.

    Whoever renews the token replaces the file; the next call uses it, so a
    session need not be interrupted. That may be this process, see `replace`,
    or somebody else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        #: The last token that was read, for when the file cannot be read any
        #: more: this process may have become a user who may not.
        self._last: str | None = None
        #: A renewed token that could not be written, and the one it replaces.
        self._unwritten: tuple[str, str] | None = None
        self._warned = False
        #: The file as it was when `_last` was read.
        self._seen: tuple[int, ...] | None = None

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the call metadata that carries the token.

        Every relay needs it. A file that looks as it did is not read again: that
        would be a hop to a thread for each.

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
            TokenFileError: the file cannot be read, is empty, or holds more
                than a token.
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
            raise TokenFileError(f"--token-file {self._path}: holds something else than a token") from error
        if not token:
            raise TokenFileError(f"--token-file {self._path}: the file is empty")
        if not is_token(token):
            raise TokenFileError(f"--token-file {self._path}: holds more than one token")
        self._last, self._seen = token, seen
        if self._unwritten is not None:
            replaced, renewed = self._unwritten
            if token == replaced:
                return renewed
            # Somebody else put a newer one there.
            self._unwritten = None
        return token

    def _unchanged(self) -> str | None:
        """Return the last token, if there is nothing else to be found in the file."""
        if self._seen is None or self._unwritten is not None or self._look() != self._seen:
            return None
        return self._last

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        # A file that was written in place within one tick of the file system's clock looks the same if
        # its size is; one that was put there, as `replace` does, never does.
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def replace(self, replaced: str, renewed: str) -> None:
        """Write a renewed token, at once or not at all; blocks.

        Where the file cannot be written the token is kept in memory, until
        somebody else changes the file. It does not survive this process then.

        Args:
            replaced: the token that was renewed.
            renewed: the new one.
        """
        path = os.path.realpath(self._path)
        # Not a name that can be foreseen: others may write in the directory.
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
                    "the renewed token is kept in memory only: --token-file cannot be written",
                    path=path,
                    reason=error.strerror,
                )
            return
        self._unwritten = None
        self._last = renewed
        self._seen = None


def is_token(text: str) -> bool:
    """Return whether a text is one token, fit for a header."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
