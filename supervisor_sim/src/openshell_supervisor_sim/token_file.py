"""The sandbox's token, read anew for every call."""

from __future__ import annotations

import asyncio
from pathlib import Path


class TokenFileError(Exception):
    """The token file cannot be read or holds no token."""


class TokenFile:
    """A bearer token in a file.

    Whoever renews the token replaces the file; the next call uses it, so a
    session need not be interrupted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the call metadata that carries the token.

        Raises:
            TokenFileError: as `read` raises it.
        """
        return (("authorization", f"Bearer {await asyncio.to_thread(self.read)}"),)

    def read(self) -> str:
        """Return the token.

        Raises:
            TokenFileError: the file cannot be read, is empty, or holds more
                than a token.
        """
        try:
            token = self._path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TokenFileError(f"--token-file {self._path}: {error}") from error
        if not token:
            raise TokenFileError(f"--token-file {self._path}: the file is empty")
        if not token.isprintable() or " " in token:
            raise TokenFileError(f"--token-file {self._path}: holds more than one token")
        return token
