"""The top directory of a tree that is received, with the receiver that fills it (TRE-18, TRE-53)."""

from __future__ import annotations

from collections.abc import Callable, Generator

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.filesystem.file_info import describe
from openshell_supervisor_sim.agent.paths.location import Location
from openshell_supervisor_sim.agent.trees.staged_names import StagedNames


class TreeDestination:
    """One tree on its way to the disk. Methods block; close it after use.

    Args:
        fs: system calls.
        location: of the top directory; closed by `close`.
        path: its absolute path.
        options: how the tree is received, without the notes.
        names: notes of the staging directory.
        guard: refuses places.
        trace: hook, see `TracePoint`.

    Attributes:
        path: as given.
        tree: the receiver.

    Raises:
        TransferError: FILE_EXISTS, LEAF_IS_LINK or NOT_A_DIRECTORY because of what is at the place.
    """

    def __init__(
        self,
        fs: FileSystem,
        location: Location,
        path: bytes,
        options: ReceiveOptions,
        names: StagedNames,
        guard: TreeGuard,
        trace: Callable[[str], None],
    ) -> None:
        self._location = location
        self._options = options
        self._names = names
        self.path = path
        place = TreePlace(location.parent_fd, location.parent_path, location.name)
        self.tree = TreeReceiver(fs, place, options, guard=guard, trace=trace)

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Algorithm of all digests."""
        return DigestAlgorithm(self._options.algorithm)

    @property
    def durability(self) -> files_pb2.Durability.ValueType:
        """The durability that was reached, after the last step."""
        # The flush is one of the whole file system, so it covers directories that were made above, too.
        return files_pb2.DURABILITY_FSYNC if self.tree.durable else files_pb2.DURABILITY_RENAME

    def take(self, message: trees_pb2.TreeManifest | trees_pb2.TreeContent) -> trees_pb2.TreeReply:
        """Carry out one message of the sender; see `TreeReceiver.take`."""
        return self.tree.take(message)

    def finish(self, end: trees_pb2.TreeEnd) -> Generator[trees_pb2.TreeReply]:
        """Do what follows the last entry, by steps; see `TreeReceiver.finish`."""
        return self.tree.finish(end)

    def describe(self) -> files_pb2.FileInfo:
        """Return the description of the top directory; of one that a dry run would make only its path.

        Raises:
            TransferError: FILE_CHANGED, another program removed it; or it cannot be looked at.
        """
        shown = self.path.decode("utf-8", "replace")
        status = self._location.lstat()
        if status is not None:
            return describe(status, shown)
        if not self._options.dry_run:
            raise TransferError(Reason.FILE_CHANGED, f"another program removed {shown} while it was received")
        return files_pb2.FileInfo(path=shown)

    def result(self) -> trees_pb2.UploadTreeResult:
        """Return the result, after the last step."""
        return trees_pb2.UploadTreeResult(
            directory=self.describe(),
            durability=self.durability,
            deleted_entries=self.tree.deleted_entries,
            created=self.tree.created,
        )

    def close(self) -> None:
        """Remove what is staged, and free everything; more than once is fine."""
        try:
            self.tree.close()
        except TransferError as error:
            self._names.leave(error)
        finally:
            self._location.close()
