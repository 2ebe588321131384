"""Publishes a verified staging file: makes it the destination (UPL-8, UPL-36 to UPL-43)."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from openshell_files_disk.filesystem.errno_reasons import mapped, transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import Absent, HasDigest, UploadRequest
from openshell_supervisor_sim.agent.core.wire_numbers import signed
from openshell_supervisor_sim.agent.filesystem.file_info import (
    Interrupt,
    describe,
    same_content,
    same_inode,
    version,
)
from openshell_supervisor_sim.agent.paths.destination import DestinationCheck, publish_mode
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.destination_locks import DestinationLocks
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.staging import Staging
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.staged_content import Snapshot

_log = logging.getLogger(__name__)

#: How often a finish is prepared again because the destination or the staging file changed meanwhile.
_TRIES: Final = 16

#: Size from which another thread frees the space of a replaced file.
_LARGE_BYTES: Final = 16 * MIB


class FlushFailedError(Exception):
    """The device failed while content was flushed: the staged bytes cannot be trusted."""

    def __init__(self, error: TransferError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a finish that was carried out.

    Attributes:
        response: the answer to the finish.
        durable: file and name are on the device, so the record must be too.
    """

    response: files_pb2.UploadFileResponse
    durable: bool


class Publisher:
    """Carries out finishes (CND-5, CND-6).

    It holds no lock while it flushes or hashes; the lock of each destination covers the last check
    and the rename.

    Args:
        check: compares destinations with conditions.
        root: the sandbox's root.
        journal: notes names that a rename needs for a moment.
        fs: system calls.
        umask: for files without a mode.
        trace: hook, see `TracePoint`.
        later: runs work in another thread without waiting for it.
        destinations: locks that every operation on a destination holds.
    """

    def __init__(
        self,
        *,
        check: DestinationCheck,
        root: SandboxRoot,
        journal: Journal,
        fs: FileSystem,
        umask: int,
        trace: Trace,
        later: Callable[[Callable[[], object]], object],
        destinations: DestinationLocks,
    ) -> None:
        self._check = check
        self._root = root
        self._journal = journal
        self._fs = fs
        self._umask = umask
        self._trace = trace
        self._later = later
        self._destinations = destinations

    def publish(
        self,
        upload: LiveUpload,
        location: Location,
        staging: Staging,
        content: Snapshot,
        *,
        resumed_from: int,
        interrupt: Interrupt,
        verify: Callable[[], None],
        last_look: Callable[[], None],
    ) -> Outcome:
        """Make the staging file the destination. A failure after the rename only lowers the promised durability.

        The file is verified as it will be renamed: with its mode and time, and
        flushed. If a program touches it afterwards, it is prepared and
        verified again.

        Args:
            upload: in state VERIFYING.
            location: of the destination.
            staging: the staging file.
            content: that arrived.
            resumed_from: bytes of earlier streams, for the answer.
            interrupt: stops a condition that reads a large file.
            verify: compares the staging file with `content`; raises TransferError.
            last_look: called immediately before the rename; raises
                TransferError if the caller has cancelled meanwhile (UPL-34).

        Raises:
            TransferError: the destination and the staged bytes are as they were.
            FlushFailedError: the destination is as it was; the staged bytes
                are lost.
        """
        request = upload.request
        replaced = self._check.examine(location, replace(request, condition=_cheap(request)), interrupt)
        # Before the file gets its time: a start-up reads the time of the last
        # byte from the file and from the journal.
        self._record_intent(upload, staging, content)
        mode = publish_mode(request, replaced, self._umask)
        flushed = self._finish_file(staging, location, request, mode)
        self._trace(TracePoint.UPLOAD_FLUSHED)
        sealed = self._sealed(staging, location, verify)
        for _ in range(_TRIES):
            read = self._read_condition(location, request, interrupt)
            with self._destinations.hold(location):
                replaced = self._check.examine(location, _unread(request), interrupt)
                wanted = publish_mode(request, replaced, self._umask)
                unchanged = wanted == mode and staging.is_untouched(sealed)
                if unchanged and read in {None, replaced and version(replaced)}:
                    last_look()
                    self._rename(staging, location, request, replaced)
                    published = self._look_at_published(staging, location)
                    break
            # Another upload to this path was published meanwhile, or a program touched the staging file.
            if not unchanged:
                mode = wanted
                flushed = self._finish_file(staging, location, request, mode)
                sealed = self._sealed(staging, location, verify)
        else:
            raise TransferError(
                Reason.CONDITION_FAILED,
                f"{location.path} changed {_TRIES} times while the upload was published",
            )
        # Published: nothing below raises.
        durable = flushed and self._flushed_names(upload, location)
        response = files_pb2.UploadFileResponse(
            bytes_written=content.size,
            file=_described(published, sealed, location, content, mode),
            upload_id=upload.upload_id,
            durability=files_pb2.DURABILITY_FSYNC if durable else files_pb2.DURABILITY_RENAME,
            resumed_from=resumed_from,
        )
        return Outcome(response, durable)

    def flush_names(self, upload: LiveUpload, location: Location) -> bool:
        """Flush the destination's directory, and the directories above it that the upload made and nobody has flushed.

        Returns:
            False if one of them cannot be flushed.
        """
        parents = partial(self._root.directories.flush_parents, location.parent_path)
        return upload.flush_parents(parents) and sync_directory(self._fs, location.parent_fd)

    def _flushed_names(self, upload: LiveUpload, location: Location) -> bool:
        try:
            self._trace(TracePoint.UPLOAD_RENAMED)
            return self.flush_names(upload, location)
        except Exception:  # noqa: BLE001 - the file is published: a bug must not undo that
            _log.exception("the directory of %s could not be flushed", location.path)
            return False

    def _sealed(self, staging: Staging, location: Location, verify: Callable[[], None]) -> os.stat_result:
        """Verify the staging file; return its status before that, so that a later change is seen."""
        with mapped(f"looking at the staging file of {location.path}"):
            before = self._fs.fstat(staging.fd)
        verify()
        return before

    def _look_at_published(self, staging: Staging, location: Location) -> os.stat_result | None:
        """Return the status of the file that was just renamed; None if it cannot be read or another file is there."""
        try:
            published = self._fs.fstat(staging.fd)
            there = self._fs.lstat(location.name, location.parent_fd)
        except Exception:  # noqa: BLE001 - the file is published: the answer describes less
            _log.exception("%s is published and cannot be described", location.path)
            return None
        return published if there is not None and same_inode(there, published) else None

    def _read_condition(self, location: Location, request: UploadRequest, interrupt: Interrupt) -> str | None:
        """Check a condition that reads the destination; return the version of the file, None if none was read."""
        if not isinstance(request.condition, HasDigest):
            return None
        read = self._check.examine(location, request, interrupt)
        return version(read) if read is not None else ""

    def _rename(
        self,
        staging: Staging,
        location: Location,
        request: UploadRequest,
        replaced: os.stat_result | None,
    ) -> None:
        """Give the staging file its name. Returns if the file has it, even if the rename raised."""
        with self._freed_later(location, replaced):
            try:
                staging.rename_into_place(
                    exclusive=isinstance(request.condition, Absent), journal=self._journal
                )
            except Exception:
                if not self._has_its_name(staging, location):
                    raise
                _log.exception("%s is published, although renaming failed", location.path)

    def _has_its_name(self, staging: Staging, location: Location) -> bool:
        """Return whether the file was renamed although the call failed, as on a network file system."""
        try:
            ours = self._fs.fstat(staging.fd)
            there = self._fs.lstat(location.name, location.parent_fd)
        except OSError:
            return False
        return there is not None and same_inode(there, ours)

    @contextmanager
    def _freed_later(self, location: Location, replaced: os.stat_result | None) -> Generator[None]:
        """Free the space of a large file that the block replaces without making the caller wait.

        The kernel frees it in the rename, page by page, unless the file is
        still open: 0.2 s for each GiB of memory.
        """
        fd = None
        if replaced is not None and replaced.st_size >= _LARGE_BYTES:
            # Only the space matters, so it may be another file by now.
            with suppress(OSError):
                fd = self._fs.open(location.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=location.parent_fd)
        try:
            yield
        finally:
            if fd is not None:
                self._later(partial(self._fs.close, fd))

    def _finish_file(self, staging: Staging, location: Location, request: UploadRequest, mode: int) -> bool:
        """Set mode and times on the descriptor, then flush."""
        with mapped(f"setting mode and time of {location.path}"):
            self._fs.chmod(staging.fd, mode)
            self._fs.set_modified(staging.fd, request.modified_ns)
        if not request.fsync:
            return False
        try:
            return staging.flush()
        except OSError as error:
            raise FlushFailedError(transfer_error(error, f"flushing {location.path}")) from error

    def _record_intent(self, upload: LiveUpload, staging: Staging, content: Snapshot) -> None:
        """Let a start-up after a crash find out whether the rename happened."""
        if not upload.resumable:
            return
        with mapped("looking at a staging file"):
            inode = signed(self._fs.fstat(staging.fd).st_ino)
        upload.record_intent(inode, content.size, content.digest)


def _described(
    published: os.stat_result | None,
    sealed: os.stat_result,
    location: Location,
    content: Snapshot,
    mode: int,
) -> files_pb2.FileInfo:
    """Describe the published file; without a digest unless it is certainly the file that was verified."""
    if published is not None:
        verified = same_content(sealed, published)
        if not verified:
            _log.warning("%s was changed inside the sandbox while it was published", location.path)
        return describe(published, location.path, content.digest if verified else None)
    return files_pb2.FileInfo(
        path=location.path,
        type=files_pb2.FILE_TYPE_REGULAR,
        size_bytes=content.size,
        mode=mode,
    )


def _cheap(request: UploadRequest) -> Absent | None:
    """Return the condition if it needs no reading; others are checked after the flush."""
    return request.condition if isinstance(request.condition, Absent) else None


def _unread(request: UploadRequest) -> UploadRequest:
    """Return the request without a condition that reads the file."""
    return replace(request, condition=None) if isinstance(request.condition, HasDigest) else request
