"""The directory of a sandbox: its root, and the supervisor's state, token and log."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger("openshell_files_gateway.compute")

#: What a sandbox has at the start; relative paths begin in the first.
SKELETON: Final = ("sandbox", "tmp", "home", "etc", "var/lib")
WORKDIR: Final = "/sandbox"

#: A supervisor's log is cut when it is larger; one older part is kept.
MAX_LOG_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class SandboxHome:
    """Where everything of a sandbox is.

    Attributes:
        path: for its owner only, since others have no business in a sandbox.
        owner: user and group of everything in it; None for this process's own.
    """

    path: Path
    owner: tuple[int, int] | None = None

    @property
    def root(self) -> Path:
        """The sandbox's `/`."""
        return self.path / "root"

    @property
    def state(self) -> Path:
        """Where the supervisor remembers uploads."""
        return self.path / "state"

    @property
    def token(self) -> Path:
        """File with the supervisor's token."""
        return self.path / "token"

    @property
    def log(self) -> Path:
        """What the supervisor says."""
        return self.path / "supervisor.log"

    def lay_out(self, token: str) -> None:
        """Make what is missing.

        Args:
            token: takes the place of the one there is.

        Raises:
            OSError: something cannot be made.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for place, mode in ((self.path, 0o700), (self.root, 0o777), (self.state, 0o700)):
            if not place.exists():
                place.mkdir(mode=mode)
                self._give(place)
        for directory in SKELETON:
            # What is there instead, its inhabitants put there.
            with suppress(OSError):
                _make_inside(self.root, directory, self.owner)
        self.replace_token(token)
        self.bound_log()

    def replace_token(self, token: str) -> None:
        """Write a new token; whoever reads the file sees the old one or the new.

        Raises:
            OSError: it cannot be written.
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
        """Keep the log from growing for ever.

        The supervisor holds the file open and appends, so it is copied and
        cut; what is written meanwhile is lost.
        """
        try:
            if self.log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_suffix(".log.1"))
                os.truncate(self.log, 0)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("supervisor's log cannot be cut", file=str(self.log), reason=str(error))


def _make_inside(root: Path, directory: str, owner: tuple[int, int] | None) -> None:
    """Make a directory below the root, through no link: it could lead out of the sandbox."""
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
