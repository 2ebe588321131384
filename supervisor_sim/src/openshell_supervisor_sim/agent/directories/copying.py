"""CopyPath: a copy that is staged beside its destination and published by one rename (DIR-23 to DIR-26)."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import ExitStack, suppress
from typing import Protocol

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.directory_requests import CopyRequest
from openshell_supervisor_sim.agent.core.requests import LeafLink
from openshell_supervisor_sim.agent.directories.descent import open_top
from openshell_supervisor_sim.agent.directories.entries import (
    refuse_entry,
    require_named_as_directory,
    require_version,
    required,
)
from openshell_supervisor_sim.agent.directories.file_copy import CopiedBytes, FileCopy
from openshell_supervisor_sim.agent.directories.publishing import Destinations
from openshell_supervisor_sim.agent.directories.removal import TreeRemoval
from openshell_supervisor_sim.agent.directories.tree_copy import TreeCopy
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe, same_inode
from openshell_supervisor_sim.agent.paths.location import Location, require_regular, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.destination_locks import DestinationLocks
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.staging import create_transient, staging_name
from openshell_supervisor_sim.agent.trace_points import Trace, TracePoint

_log = logging.getLogger(__name__)


class LeftoverNotes(Protocol):
    """Removes later what could not be removed now."""

    def note(self, parent: bytes, name: bytes, error: Exception) -> None:
        """Note an entry, by the path of its directory and its name."""
        ...


class Copier:
    """Makes copies. Any thread may call it.

    Args:
        root: the sandbox's root.
        fs: system calls.
        destinations: checks destinations, and renames.
        locks: of destinations.
        journal: notes staged names, so that the next start removes them.
        leftovers: notes staged directories that could not be removed.
        trace: hook, see `TracePoint`.
    """

    def __init__(
        self,
        *,
        root: SandboxRoot,
        fs: FileSystem,
        destinations: Destinations,
        locks: DestinationLocks,
        journal: Journal,
        leftovers: LeftoverNotes,
        trace: Trace,
    ) -> None:
        self.root = root
        self.fs = fs
        self.destinations = destinations
        self.locks = locks
        self.journal = journal
        self.leftovers = leftovers
        self.trace = trace

    def copy(self, request: CopyRequest, interrupt: Interrupt) -> Copy:
        """Return the work of one copy."""
        return Copy(self, request, interrupt)


class Copy:
    """One CopyPath, step by step. Methods block.

    Args:
        copier: the parts.
        request: of the caller.
        interrupt: stops a condition that reads a large file.

    Attributes:
        response: the answer; complete after the last step.
    """

    def __init__(self, copier: Copier, request: CopyRequest, interrupt: Interrupt) -> None:
        self._parts = copier
        self._fs = copier.fs
        self._request = request
        self._interrupt = interrupt
        self._counts = CopiedBytes()
        self.response = directories_pb2.CopyPathResponse()

    def steps(self) -> Generator[None]:
        """Copy and publish, one entry or some MiB per step.

        A step that raises, and a generator that is closed, leave the destination as it was, and remove
        what was staged.

        Raises:
            TransferError: nothing was published.
        """
        request, root = self._request, self._parts.root
        follow = request.source_link is LeafLink.FOLLOW
        with root.locate(request.source, "source", follow=follow, directories=True) as source:
            status = required(source, "source")
            require_named_as_directory(source, "source", request.source, status)
            self._require_copyable(source, status)
            with mapped(f"copying {source.path}"):
                refuse_entry(root, source, status, leaves=False)
            require_version(source, "source", status, request.source_version)
            with self._parts.destinations.locate(request) as destination:
                self._parts.destinations.refuse_inside(destination, status, source.path)
                self._examine(destination, status)
                if stat.S_ISDIR(status.st_mode):
                    yield from self._directory(source, destination, status)
                elif stat.S_ISLNK(status.st_mode):
                    self._link(source, destination, status)
                else:
                    yield from self._file(source, destination, status)
                # Published: nothing below raises.
                self._parts.trace(TracePoint.COPY_RENAMED)
                self._answer(destination, status)

    def _require_copyable(self, source: Location, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode) and self._request.source_link is LeafLink.NOFOLLOW:
            return
        if not stat.S_ISDIR(status.st_mode):
            require_regular(status, source.path)
        elif not self._request.recursive:
            raise TransferError(Reason.IS_A_DIRECTORY, f"source: {source.path} is a directory; set recursive")

    def _examine(self, destination: Location, status: os.stat_result) -> None:
        """Check the destination; note whether something will be replaced."""
        there = self._parts.destinations.examine(destination, self._request, status, self._interrupt)
        if there is not None and same_inode(there, status):
            raise invalid("destination", f"{destination.path} is the source")
        if there is not None and stat.S_ISDIR(there.st_mode):
            raise TransferError(Reason.FILE_EXISTS, f"destination: {destination.path} exists")
        self.response.replaced = there is not None

    def _file(self, source: Location, destination: Location, status: os.stat_result) -> Generator[None]:
        parts = self._parts
        opened = parts.root.open_regular(source)
        try:
            with mapped(f"looking at {source.path}"):
                seen = self._fs.fstat(opened)
            require_version(source, "source", seen, self._request.source_version)
            staging = create_transient(self._fs, destination, parts.journal, nameless=parts.root.has_proc)
            try:
                with mapped(f"copying {source.path}"):
                    yield from FileCopy(self._fs, opened, staging.fd, self._counts, source.path).steps()
                    self._fs.chmod(staging.fd, stat.S_IMODE(seen.st_mode) & 0o777)
                    self._fs.set_modified(staging.fd, seen.st_mtime_ns)
                    flushed = self._request.fsync and staging.flush()
                parts.trace(TracePoint.COPY_STAGED)
                with parts.locks.hold(destination):
                    self._examine(destination, status)
                    staging.rename_into_place(exclusive=not self._request.replaces, journal=parts.journal)
            finally:
                staging.discard()
        finally:
            self._fs.close(opened)
        self.response.copied_entries = 1
        self._set_durability(flushed=flushed, destination=destination)

    def _link(self, source: Location, destination: Location, status: os.stat_result) -> None:
        staged = self._staged(destination)
        try:
            with mapped(f"copying {source.path}"):
                target = self._fs.readlink(source.name, source.parent_fd)
                self._fs.symlink(target, staged.name, staged.parent_fd)
                self._fs.set_link_time(staged.name, staged.parent_fd, status.st_mtime_ns)
            self._publish(staged, destination, status)
        except BaseException:
            with mapped(f"removing the staged copy beside {destination.path}"):
                self._fs.unlink(staged.name, staged.parent_fd)
            self._forget(staged)
            raise
        self.response.copied_entries = 1
        self._set_durability(flushed=self._request.fsync, destination=destination)

    def _directory(self, source: Location, destination: Location, status: os.stat_result) -> Generator[None]:
        staged = self._staged(destination)
        try:
            tree = yield from self._staged_tree(source, staged, status)
            flushed = self._request.fsync and self._flush_tree(staged)
            self._parts.trace(TracePoint.COPY_STAGED)
            self._publish(staged, destination, status)
        except GeneratorExit:
            for _ in self._discarding(staged):
                pass
            raise
        except BaseException:
            yield from self._discarding(staged)
            raise
        self.response.copied_entries = tree.entries
        self._set_durability(flushed=flushed, destination=destination)

    def _staged_tree(
        self, source: Location, staged: Location, status: os.stat_result
    ) -> Generator[None, None, TreeCopy]:
        """Copy the directory to its staged name."""
        with mapped(f"making a directory beside {staged.path}", missing=Reason.PARENT_NOT_FOUND):
            self._fs.mkdir(staged.name, staged.parent_fd, 0o700)
        with mapped(f"copying {source.path}"), ExitStack() as open_walks:
            reading = open_top(self._fs, source.name, source.parent_fd)
            open_walks.callback(reading.close)
            if not same_inode(reading.status, status):
                raise TransferError(Reason.FILE_CHANGED, f"{source.path} was replaced while it was copied")
            writing = open_top(self._fs, staged.name, staged.parent_fd)
            open_walks.callback(writing.close)
            tree = TreeCopy(
                self._parts.root, self._fs, reading, writing, source.path, self._counts, self._parts.trace
            )
            yield from tree.steps()
        return tree

    def _flush_tree(self, staged: Location) -> bool:
        """Flush the file system that has the staged directory; return False if it cannot promise that."""
        with mapped(f"flushing the copy beside {staged.path}"):
            walk = open_top(self._fs, staged.name, staged.parent_fd)
            try:
                self._fs.sync_file_system(walk.fd)
            except OSError as error:
                if error.errno == errno.ENOSYS:
                    return False
                raise
            finally:
                walk.close()
        return True

    def _discarding(self, staged: Location) -> Generator[None]:
        """Remove a staged directory; if that fails, the sweeper tries again."""
        try:
            status = staged.lstat()
            if status is not None:
                yield from TreeRemoval(
                    self._fs, staged, self._parts.root.guarded_places(), status, staged=True
                ).steps()
        except TransferError as error:
            self._parts.leftovers.note(staged.parent_path, staged.name, error)
        else:
            self._forget(staged)

    def _forget(self, staged: Location) -> None:
        """Delete the note of a staged name; if that fails, the next start finds no such entry."""
        try:
            self._parts.journal.drop_name(staged.parent_path, staged.name)
        except TransferError:
            _log.exception("a staged name beside %s stays in the journal", staged.path)

    def _set_durability(self, *, flushed: bool, destination: Location) -> None:
        """Flush the names; a failure after the rename only lowers the promised durability."""
        durable = (
            flushed
            and (destination.parents_flushed or self._flushed_parents(destination))
            and sync_directory(self._fs, destination.parent_fd)
        )
        self.response.durability = files_pb2.DURABILITY_FSYNC if durable else files_pb2.DURABILITY_RENAME

    def _flushed_parents(self, destination: Location) -> bool:
        return self._parts.root.directories.flush_parents(destination.parent_path)

    def _answer(self, destination: Location, status: os.stat_result) -> None:
        with suppress(TransferError):
            status = destination.lstat() or status
        self.response.file.CopyFrom(describe(status, destination.path))
        self.response.copied_bytes = self._counts.copied
        self.response.shared_bytes = self._counts.shared

    def _staged(self, destination: Location) -> Location:
        """Return the location of a staged entry beside the destination; the journal has its name."""
        name = staging_name(secrets.token_hex(16))
        self._parts.journal.add_name(destination.parent_path, name)
        return Location(self._fs, destination.parent_fd, destination.parent_path, name)

    def _publish(self, staged: Location, destination: Location, status: os.stat_result) -> None:
        with (
            self._parts.locks.hold(destination),
            mapped(f"publishing {destination.path}", missing=Reason.PARENT_NOT_FOUND),
        ):
            self._examine(destination, status)
            exclusive = stat.S_ISDIR(status.st_mode) or not self._request.replaces
            self._parts.destinations.rename(staged, destination, exclusive=exclusive)
        self._forget(staged)
