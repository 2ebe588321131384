"""The staging directory of a received tree: made, locked, removed; and those of killed transfers (TRE-45, TRE-57)."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Generator
from contextlib import suppress
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.opening import LISTING
from openshell_files_disk.trees.receiving.deletion import Removal
from openshell_files_disk.trees.receiving.options import ReceiveOptions

#: Of trees alone: what else has the prefix is not locked while it is used.
TREE_PREFIX: Final = STAGING_PREFIX + b"tree-"

_NAME: Final = re.compile(re.escape(TREE_PREFIX.decode()) + "[0-9a-f]{32}")

#: Attempts to make one: another transfer may take it for a stale one before it is locked.
_ATTEMPTS: Final = 16

#: A name that a file system which ignores case or normalisation finds under the other name.
_PROBE: Final = "Probe-\u00c9".encode()
_PROBE_OTHERWISE: Final = "pROBE-e\u0301".encode()
#: The same for a file system that ignores one of the two.
_PROBES: Final = (_PROBE_OTHERWISE, "probe-\u00e9".encode(), "Probe-E\u0301".encode())


class StagingDirectory:
    """A directory for what is not in place yet, locked while it is used. Remove it after use.

    Attributes:
        fd: its descriptor.

    Args:
        fs: system calls.
        dir_fd: descriptor of the directory that it is in; stays open until it is removed.
        dir_path: path of that directory, for notes.
        options: of the tree.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, fs: FileSystem, dir_fd: int, dir_path: bytes, options: ReceiveOptions) -> None:
        self._fs = fs
        self._dir_fd = dir_fd
        self._dir_path = dir_path
        self._options = options
        self.fd = -1
        self._name = b""
        self._remove_stale()
        for _ in range(_ATTEMPTS):
            if self._made():
                return
        raise TransferError(Reason.FILE_CHANGED, "other programs remove the staging directory")

    def folds(self) -> bool:
        """Try out whether the file system takes names for one that differ in case or normalisation."""
        self._fs.close(
            self._fs.open(_PROBE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=self.fd)
        )
        try:
            return any(self._fs.lstat(name, self.fd) is not None for name in _PROBES)
        finally:
            self._fs.unlink(_PROBE, self.fd)

    def remove(self) -> Generator[None]:
        """Remove it with its content, by steps; more than once is fine.

        Raises:
            OSError: a part of it could not be removed.
            TransferError: other programs change it.
        """
        if self.fd < 0:
            return
        removal = Removal(self._fs, None, own=True)
        try:
            yield from removal.steps(self._name, self._dir_fd)
            if removal.kept:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        finally:
            fd, self.fd = self.fd, -1
            self._fs.close(fd)
        self._options.forget(self._dir_path, self._name)

    def _made(self) -> bool:
        """Make and lock one; return False if another transfer took it for a stale one."""
        name = TREE_PREFIX + secrets.token_hex(16).encode()
        self._options.note(self._dir_path, name)
        made, fd = False, -1
        try:
            self._fs.mkdir(name, self._dir_fd, 0o700)
            made = True
            fd = self._fs.open(name, LISTING, dir_fd=self._dir_fd)
            named = self._fs.lstat(name, self._dir_fd) if self._fs.lock(fd) else None
            if named is not None and os.path.samestat(named, self._fs.fstat(fd)):
                self.fd, self._name = fd, name
                return True
        except FileNotFoundError:
            if not made:
                raise
        except BaseException:
            if made:
                with suppress(OSError):
                    self._fs.remove_directory(name, self._dir_fd)
            raise
        finally:
            if self.fd < 0:
                if fd >= 0:
                    self._fs.close(fd)
                self._options.forget(self._dir_path, name)
        return False

    def _remove_stale(self) -> None:
        """Remove what killed transfers left; what cannot be removed stays."""
        with suppress(OSError, TransferError):
            listing = self._fs.open(b".", LISTING, dir_fd=self._dir_fd)
            try:
                for name in _stale_names(self._fs, listing):
                    self._options.check()
                    self._remove_one(name)
            finally:
                self._fs.close(listing)

    def _remove_one(self, name: bytes) -> None:
        with suppress(OSError, TransferError):
            fd = self._fs.open(name, LISTING, dir_fd=self._dir_fd)
            try:
                if self._fs.lock(fd):
                    for _ in Removal(self._fs, None, own=True).steps(name, self._dir_fd):
                        self._options.check()
                    self._options.forget(self._dir_path, name)
            finally:
                self._fs.close(fd)


def _stale_names(fs: FileSystem, fd: int) -> list[bytes]:
    with fs.scan(fd) as entries:
        found = [os.fsencode(entry.name) for entry in entries if _NAME.fullmatch(entry.name)]
    return [name for name in found if (status := fs.lstat(name, fd)) and stat.S_ISDIR(status.st_mode)]
