"""MovePath: a rename inside one file system (DIR-20 to DIR-22, DIR-27)."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from openshell_files_disk.filesystem.errno_reasons import mapped, transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import directories_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.directory_requests import PlaceRequest
from openshell_supervisor_sim.agent.directories.entries import (
    refuse_entry,
    require_named_as_directory,
    require_version,
    required,
)
from openshell_supervisor_sim.agent.directories.publishing import Destinations
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe, same_inode
from openshell_supervisor_sim.agent.paths.location import Location, sync_directory
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.destination_locks import DestinationLocks


class Mover:
    """Moves entries. Methods block, and any thread may call them.

    Args:
        root: the sandbox's root.
        fs: system calls.
        destinations: renames.
        locks: of destinations.
    """

    def __init__(
        self, root: SandboxRoot, fs: FileSystem, destinations: Destinations, locks: DestinationLocks
    ) -> None:
        self._root = root
        self._fs = fs
        self._destinations = destinations
        self._locks = locks

    def move(self, request: PlaceRequest, interrupt: Interrupt) -> directories_pb2.MovePathResponse:
        """Rename an entry.

        Raises:
            TransferError: both names are as they were.
        """
        with self._root.locate(request.source, "source", directories=True) as source:
            status = required(source, "source")
            require_named_as_directory(source, "source", request.source, status)
            with mapped(f"moving {source.path}"):
                refuse_entry(self._root, source, status, leaves=True)
            with self._destinations.locate(request) as destination:
                self._destinations.refuse_inside(destination, status, source.path)
                with self._locks.hold(source, destination), mapped(f"moving {source.path}"):
                    replaced = self._renamed(source, destination, request, interrupt)
                # Moved: nothing below raises.
                with suppress(TransferError):
                    status = destination.lstat() or status
                sync_directory(self._fs, destination.parent_fd)
                sync_directory(self._fs, source.parent_fd)
                return directories_pb2.MovePathResponse(
                    file=describe(status, destination.path), replaced=replaced
                )

    def _renamed(
        self, source: Location, destination: Location, request: PlaceRequest, interrupt: Interrupt
    ) -> bool:
        """Check source and destination again, and rename; return whether something was replaced."""
        status = required(source, "source")
        require_version(source, "source", status, request.source_version)
        self._refuse_same(source, destination, status)
        there = self._destinations.examine(destination, request, status, interrupt)
        try:
            self._destinations.rename(source, destination, exclusive=not request.replaces)
        except OSError as error:
            raise _refusal(error, source, destination) from error
        if there is not None and same_inode(there, status):
            self._drop_second_name(source, status)
        return there is not None

    def _refuse_same(self, source: Location, destination: Location, status: os.stat_result) -> None:
        """Refuse one entry as source and destination, perhaps in other letters where the file system ignores case."""
        there = destination.lstat()
        if there is None or not same_inode(there, status):
            return
        parents = [self._fs.fstat(location.parent_fd) for location in (source, destination)]
        same_name = same_inode(*parents) and source.name == destination.name
        if same_name or stat.S_ISDIR(status.st_mode) or status.st_nlink < 2:
            raise invalid("destination", f"{destination.path} is the source")

    def _drop_second_name(self, source: Location, moved: os.stat_result) -> None:
        """Remove the source where both names are of one file: the kernel's rename leaves both."""
        left = self._fs.lstat(source.name, source.parent_fd)
        if left is not None and same_inode(left, moved):
            self._fs.remove_file(source.name, source.parent_fd)


def _refusal(error: OSError, source: Location, destination: Location) -> TransferError:
    """Return the error for a rename that failed."""
    refusal = transfer_error(
        error, f"moving {source.path} to {destination.path}", missing=Reason.PARENT_NOT_FOUND
    )
    if refusal.reason is Reason.OTHER_FILE_SYSTEM:
        refusal.message = f"{source.path} and {destination.path} are on different file systems: copy it, then remove the source"
    return refusal
