"""The receiving side of a tree: the agent's in UploadTree, the caller's in DownloadTree (TRE-4 ff.).

The sender is not trusted. What breaks the protocol ends the stream, and what prevents one entry is
a problem of that entry.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from openshell_files_protocol.errors import invalid
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

from openshell_files_disk.filesystem.errno_reasons import transfer_error
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.receiving.completion import Completion
from openshell_files_disk.trees.receiving.content import Contents
from openshell_files_disk.trees.receiving.entries import Entries
from openshell_files_disk.trees.receiving.links import PlacedLinks
from openshell_files_disk.trees.receiving.options import ReceiveOptions, TreePlace
from openshell_files_disk.trees.receiving.publishing import Publishing
from openshell_files_disk.trees.receiving.reception import Reception

__all__ = ["ReceiveOptions", "TreePlace", "TreeReceiver"]


def _no_trace(_point: str) -> None:
    """Do nothing."""


class TreeReceiver:
    """Receives one tree. Methods block, and one thread at a time calls them. Close it after use.

    Args:
        fs: system calls.
        place: of the top directory.
        options: how the tree is received.
        guard: refuses places; None refuses nothing.
        trace: hook for fault injection.

    Raises:
        TransferError: FILE_EXISTS, LEAF_IS_LINK or NOT_A_DIRECTORY because of what is at the place.
    """

    def __init__(
        self,
        fs: FileSystem,
        place: TreePlace,
        options: ReceiveOptions,
        *,
        guard: TreeGuard | None = None,
        trace: Callable[[str], None] = _no_trace,
    ) -> None:
        self._reception = Reception(fs, place, options, guard, trace)
        self._completion = Completion(self._reception)
        self._contents = Contents(self._reception, self._completion.release)
        links = PlacedLinks(self._reception, self._contents, self._completion.release)
        self._entries = Entries(self._reception, self._completion, self._contents, links)
        self._ended = False
        self._closed = False
        self._durable = False

    @property
    def decided(self) -> int:
        """Number of entries that are decided."""
        return self._reception.announced

    @property
    def problems(self) -> int:
        """Number of problems, and of entries that the sender could not send."""
        return self._reception.problems

    @property
    def deleted_entries(self) -> int:
        """Number of deleted entries, those in deleted directories included; in a dry run without these."""
        return self._reception.deleted

    @property
    def folds(self) -> bool:
        """Whether the file system takes different names for one; known after the first entry."""
        return self._reception.folds

    @property
    def created(self) -> bool:
        """Whether the top directory did not exist."""
        return self._reception.created

    @property
    def durable(self) -> bool:
        """Whether everything was flushed, after the last step of `finish`."""
        return self._durable

    def take(self, message: trees_pb2.TreeManifest | trees_pb2.TreeContent) -> trees_pb2.TreeReply:
        """Take entries or content; return what becomes of entries.

        Directories that are complete are cleared of others meanwhile (TRE-14), which may take long;
        `ReceiveOptions.check` is called between.

        Raises:
            TransferError: INVALID_REQUEST, the sender broke the protocol; TREE_TOO_LARGE; what prevents every
                further entry (TRE-59). The stream is over: close the receiver.
        """
        is_manifest = isinstance(message, trees_pb2.TreeManifest)
        if self._ended or self._closed:
            raise invalid("manifest" if is_manifest else "content", "came after `end` (TRE-2)")
        if isinstance(message, trees_pb2.TreeManifest):
            self._entries.take(message)
        else:
            self._contents.take(message)
        return self._reception.take_reply()

    def finish(self, end: trees_pb2.TreeEnd) -> Generator[trees_pb2.TreeReply]:
        """Complete the tree by steps: remove others, set directories, flush, publish (TRE-52).

        Yields:
            What became of entries since the last reply; often nothing.

        Raises:
            TransferError: INVALID_REQUEST, entries or content are missing (TRE-15); TREE_INCOMPLETE (TRE-13); others.
        """
        reception = self._reception
        if self._ended or self._closed:
            raise invalid("end", "came twice (TRE-2)")
        self._ended = True
        missing = self._contents.missing
        if missing is not None:
            raise invalid("end", f"came before the content of entry {missing} was complete (TRE-15)")
        if end.entries != reception.announced:
            raise invalid("end.entries", f"is {end.entries}, and {reception.announced} entries came (TRE-15)")
        top, directories = self._entries.top, self._entries.directories
        if top is None or directories is None:
            if reception.options.ordered:
                raise invalid("end.entries", "is 0, and a tree has a top directory (TRE-4)")
            top, directories = self._entries.begin_unannounced()
        reception.trace("tree.ending")
        publishing = Publishing(reception, self._completion)
        publishing.refuse_incomplete()
        while directories.current is not top:
            for _ in self._completion.leave(directories.leave()):
                yield reception.take_reply()
        for _ in self._completion.leave(top):
            yield reception.take_reply()
        yield reception.take_reply()
        for _ in publishing.steps(top):
            yield reception.take_reply()
        self._durable = publishing.durable
        yield reception.take_reply()

    def close(self) -> None:
        """Remove what is staged, and free everything; more than once is fine.

        Entries that are in place stay, whole (TRE-54).

        Raises:
            TransferError: what is staged could not be removed; everything else is freed.
        """
        if self._closed:
            return
        self._closed = True
        self._contents.close()
        try:
            try:
                self._reception.remove_staging()
            finally:
                self._completion.restore()
        except OSError as error:
            raise transfer_error(error, "removing the staging directory") from error
        finally:
            self._reception.close()
