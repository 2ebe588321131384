"""Staging files: content on its way to a destination (UPL-8, UPL-36).

A staging file lies in the destination's directory, so that publishing is one rename on one file
system. A resumable upload has a named file. Any other upload uses a file without a name where the
file system has them (O_TMPFILE), which the kernel frees even if the agent is killed.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem, is_regular
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.filesystem.file_info import same_inode, untouched
from openshell_supervisor_sim.agent.filesystem.storable_times import require_storable_time
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.store.journal import Journal

_log = logging.getLogger(__name__)

#: Errors of a file system that lacks a call.
_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY})
#: Errors of open where O_TMPFILE is unknown; old kernels see O_DIRECTORY.
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})


def staging_name(token: str) -> bytes:
    """Return the name of the staging file with a token."""
    return STAGING_PREFIX + token.encode("ascii")


class Staging:
    """An open staging file. Close or discard it after use.

    Attributes:
        fd: its descriptor, for reading and writing.
        name: in the destination's directory; None for a file without a name.
    """

    def __init__(
        self, fs: FileSystem, location: Location, fd: int, name: bytes | None, journal: Journal | None
    ) -> None:
        self._fs = fs
        self._location = location
        self.fd = fd
        self.name = name
        #: The journal, if it has a note of the name.
        self._journal = journal

    def close(self) -> None:
        """Close the file and keep its name; more than once is fine."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._fs.close(fd)

    def discard(self) -> None:
        """Close the file and remove its name; more than once is fine."""
        self.close()
        if self.name is not None:
            name, self.name = self.name, None
            with mapped(f"removing the staging file of {self._location.path}"):
                self._fs.unlink(name, self._location.parent_fd)
            if self._journal is not None:
                _drop_name(self._journal, self._location, name)

    def flush(self) -> bool:
        """Flush content and metadata to the device.

        Returns:
            False if the file system cannot promise that.

        Raises:
            OSError: the device failed; its content is unknown.
        """
        try:
            self._fs.fsync(self.fd)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        return True

    def is_untouched(self, sealed: os.stat_result) -> bool:
        """Return whether nothing changed the file.

        Args:
            sealed: its earlier status.

        Raises:
            TransferError: UPLOAD_UNKNOWN if its name was removed, or names another file by now.
        """
        with mapped(f"looking at the staging file of {self._location.path}"):
            now = self._fs.fstat(self.fd)
            if self.name is not None and self._fs.fstat(self._location.parent_fd).st_nlink:
                named = self._fs.lstat(self.name, self._location.parent_fd)
                if named is None or not same_inode(named, now):
                    raise _lost(self._location)
        return untouched(sealed, now)

    def rename_into_place(self, *, exclusive: bool, journal: Journal) -> None:
        """Make the file the destination by one rename.

        Args:
            exclusive: fail if the destination exists (CND-4); the kernel decides.
            journal: notes a name that the rename needs for a moment.

        Raises:
            TransferError: FILE_EXISTS, IS_A_DIRECTORY and others of the file system; the
                destination is as it was.
        """
        location = self._location
        with mapped(f"publishing {location.path}", missing=Reason.PARENT_NOT_FOUND):
            if self.name is None:
                self._link_into_place(exclusive=exclusive, journal=journal)
            else:
                try:
                    self._rename(self.name, exclusive=exclusive, journal=journal)
                except FileNotFoundError:
                    if self._is_lost(self.name):
                        raise _lost(location) from None
                    raise
        if self.name is not None and self._journal is not None:
            _drop_name(self._journal, location, self.name)
        self.name = None

    def _is_lost(self, name: bytes) -> bool:
        """Return whether the staging file was removed and its directory exists."""
        directory = self._location.parent_fd
        return self._fs.fstat(directory).st_nlink > 0 and self._fs.lstat(name, directory) is None

    def _rename(self, name: bytes, *, exclusive: bool, journal: Journal) -> None:
        if exclusive:
            self._rename_exclusively(name, journal)
        else:
            self._fs.rename(self._location.parent_fd, name, self._location.name)

    def _rename_exclusively(self, name: bytes, journal: Journal) -> None:
        directory, destination = self._location.parent_fd, self._location.name
        try:
            self._fs.rename_noreplace(directory, name, destination)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._fs.link(directory, name, destination)
            # The file is published, even if a later step fails.
            try:
                self._fs.unlink(name, directory)
            except OSError:
                _log.exception("%s has a second name until the next start", self._location.path)
                journal.add_name(self._location.parent_path, name)

    def _link_into_place(self, *, exclusive: bool, journal: Journal) -> None:
        location = self._location
        try:
            self._fs.link_descriptor(self.fd, location.parent_fd, location.name)
        except FileExistsError:
            if exclusive:
                raise
        else:
            return
        # A link cannot replace a file, so the staging file gets a name for the rename.
        name = staging_name(secrets.token_hex(16))
        journal.add_name(location.parent_path, name)
        try:
            self._fs.link_descriptor(self.fd, location.parent_fd, name)
            self._fs.rename(location.parent_fd, name, location.name)
        except BaseException:
            # The journal keeps its note until the file is removed, so that the next start tries
            # again.
            if self._is_removed(name):
                _drop_name(journal, location, name)
            raise
        _drop_name(journal, location, name)

    def _is_removed(self, name: bytes) -> bool:
        try:
            self._fs.unlink(name, self._location.parent_fd)
        except FileNotFoundError:
            return True
        except OSError:
            _log.exception("a staging file beside %s stays until the next start", self._location.path)
            return False
        return True

    def flush_directory(self) -> bool:
        """Flush the destination's directory; see `sync_directory`."""
        return sync_directory(self._fs, self._location.parent_fd)


def _drop_name(journal: Journal, location: Location, name: bytes) -> None:
    """Delete the note of a name; if that fails, the next start finds no such file."""
    try:
        journal.drop_name(location.parent_path, name)
    except TransferError:
        _log.exception("a staging name beside %s stays in the journal", location.path)


def create_named(
    fs: FileSystem,
    location: Location,
    name: bytes,
    journal: Journal | None = None,
    *,
    modified_ns: int | None = None,
) -> Staging:
    """Create a staging file under a name that the journal has already.

    Args:
        fs: system calls.
        location: the destination.
        name: of the staging file.
        journal: has a note of the name, which `discard` deletes; None if the upload's row has the name.
        modified_ns: modified time of the published file; None for now.

    Raises:
        TransferError: ACCESS_DENIED, READ_ONLY_FILE_SYSTEM, DISK_FULL, ...;
            INVALID_REQUEST for a time that the file system cannot store. No file is left.
    """
    with mapped(f"creating a file beside {location.path}", missing=Reason.PARENT_NOT_FOUND):
        fd = fs.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=location.parent_fd)
    return _of_lasting_time(fs, Staging(fs, location, fd, name, journal), location, modified_ns)


def _of_lasting_time(
    fs: FileSystem, staging: Staging, location: Location, modified_ns: int | None
) -> Staging:
    """Return a new staging file if the file system can store its time; otherwise remove it and raise."""
    try:
        with mapped(f"setting the time of a file beside {location.path}"):
            require_storable_time(fs, staging.fd, location.path, modified_ns)
    except BaseException:
        staging.discard()
        raise
    return staging


def create_transient(
    fs: FileSystem, location: Location, journal: Journal, *, nameless: bool, modified_ns: int | None = None
) -> Staging:
    """Create a staging file that ends with its stream.

    Args:
        fs: system calls.
        location: the destination.
        journal: notes the name, if the file needs one.
        nameless: files without a name can be published (/proc is mounted).
        modified_ns: modified time of the published file; None for now.

    Raises:
        TransferError: as `create_named`.
    """
    if nameless:
        with mapped(f"creating a file beside {location.path}", missing=Reason.PARENT_NOT_FOUND):
            try:
                fd = fs.open(b".", os.O_TMPFILE | os.O_RDWR, dir_fd=location.parent_fd)
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
            else:
                nameless_file = Staging(fs, location, fd, None, None)
                return _of_lasting_time(fs, nameless_file, location, modified_ns)
    name = staging_name(secrets.token_hex(16))
    journal.add_name(location.parent_path, name)
    try:
        return create_named(fs, location, name, journal, modified_ns=modified_ns)
    except BaseException:
        _drop_name(journal, location, name)
        raise


def _lost(location: Location) -> TransferError:
    """Make the error for a staging file that a command of the sandbox removed."""
    return TransferError(
        Reason.UPLOAD_UNKNOWN,
        f"the staging file of {location.path} was removed inside the sandbox; send the file again",
    )


def _open_writable(fs: FileSystem, location: Location, name: bytes) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return fs.open(name, flags, dir_fd=location.parent_fd)
    except PermissionError:
        # An agent that died before the rename had set the mode of the published file, which may
        # forbid its owner to write (CRS-6).
        fd = fs.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=location.parent_fd)
        try:
            if not is_regular(fs.fstat(fd)):
                raise
            fs.chmod_entry(fd, 0o600)
        finally:
            fs.close(fd)
        return fs.open(name, flags, dir_fd=location.parent_fd)


def open_named(fs: FileSystem, location: Location, name: bytes) -> Staging:
    """Open the staging file of an earlier attempt.

    Raises:
        TransferError: UPLOAD_UNKNOWN if it was removed.
    """
    lost = _lost(location)
    with mapped(f"opening the staging file of {location.path}"):
        try:
            fd = _open_writable(fs, location, name)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise lost from error
            raise
        try:
            regular = is_regular(fs.fstat(fd))
        except BaseException:
            fs.close(fd)
            raise
        if not regular:
            fs.close(fd)
            raise lost
    return Staging(fs, location, fd, name, None)
