"""The directory of a sandbox: its root directory, and the supervisor's state, token and log."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger("openshell_files_gateway.compute")

#: Directories of a new sandbox; relative paths start in the first.
SKELETON: Final = ("sandbox", "tmp", "home", "etc", "var/lib")
WORKDIR: Final = "/sandbox"

#: Size at which a supervisor's log is truncated; one older part is kept.
MAX_LOG_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class SandboxHome:
    """The paths of a sandbox's files.

    Attributes:
        path: directory of the sandbox, accessible to its owner only.
        owner: user and group id of its files; None for this process's own.
    """

    path: Path
    owner: tuple[int, int] | None = None

    @property
    def root(self) -> Path:
        """Directory that is the sandbox's `/`."""
        return self.path / "root"

    @property
    def state(self) -> Path:
        """Directory of the supervisor's state, for example its uploads."""
        return self.path / "state"

    @property
    def token(self) -> Path:
        """File with the supervisor's token."""
        return self.path / "token"

    @property
    def log(self) -> Path:
        """The supervisor's log file."""
        return self.path / "supervisor.log"

    def lay_out(self, token: str) -> None:
        """Create all missing files and directories.

        Args:
            token: token that replaces the current one.

        Raises:
            OSError: a file or directory cannot be created.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for place, mode in ((self.path, 0o700), (self.root, 0o777), (self.state, 0o700)):
            if not place.exists():
                place.mkdir(mode=mode)
                self._give(place)
        for directory in SKELETON:
            # A file in place of a directory was put there by the sandbox's commands, which may do so.
            with suppress(OSError):
                _make_inside(self.root, directory, self.owner)
        self.replace_token(token)
        self.bound_log()

    def replace_token(self, token: str) -> None:
        """Replace the token atomically.

        Raises:
            OSError: the file cannot be written.
        """
        fresh = self.path / "token.new"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token)
            if self.owner is not None:
                os.fchown(file.fileno(), *self.owner)
        fresh.replace(self.token)

    def _give(self, place: Path) -> None:
        if self.owner is not None:
            os.chown(place, *self.owner, follow_symlinks=False)

    def bound_log(self) -> None:
        """Truncate the log if it is too large.

        The supervisor has the file open and appends, so the log is copied and
        truncated; lines that are written in between are lost.
        """
        try:
            if self.log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("supervisor's log cannot be truncated", file=str(self.log), reason=str(error))


def _make_inside(root: Path, directory: str, owner: tuple[int, int] | None) -> None:
    """Create a directory below the root without following links, which could lead out of the sandbox."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    here = os.open(root, flags)
    try:
        for part in directory.split("/"):
            try:
                os.mkdir(part, dir_fd=here)
                made = True
            except FileExistsError:
                made = False
            following = os.open(part, flags, dir_fd=here)
            if made and owner is not None:
                os.fchown(following, *owner)
            os.close(here)
            here = following
    finally:
        os.close(here)
