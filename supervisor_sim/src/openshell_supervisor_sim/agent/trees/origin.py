"""The top directory of a tree that is sent, with the sender that reads it (TRE-17)."""

from __future__ import annotations

from collections.abc import Callable

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.links import Links
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sender import TreeSender
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

from openshell_supervisor_sim.agent.core.tree_requests import SendRequest
from openshell_supervisor_sim.agent.filesystem.file_info import describe


class TreeOrigin:
    """One tree on its way from the disk. Close it after use.

    Args:
        fs: system calls.
        top_fd: descriptor of the top directory; closed by `close`, or if this raises.
        path: its absolute path.
        request: of the caller.
        guard: refuses places.
        trace: hook, see `TracePoint`.

    Attributes:
        path: as given.
        tree: the sender.

    Raises:
        TransferError: INVALID_REQUEST for a pattern that cannot be read.
    """

    def __init__(
        self,
        fs: FileSystem,
        top_fd: int,
        path: bytes,
        request: SendRequest,
        guard: TreeGuard,
        trace: Callable[[str], None],
    ) -> None:
        self.path = path
        shown = path.decode("utf-8", "replace")
        try:
            with mapped(f"looking at {shown}"):
                self._status = fs.fstat(top_fd)
            selection = Selection(exclude=request.exclude, include=request.include)
        except BaseException:
            fs.close(top_fd)
            raise
        with mapped(f"opening {shown}"):
            # It owns the descriptor from here on, even if it raises.
            self.tree = TreeSender(
                fs,
                top_fd,
                selection,
                compare_content=request.compare_content,
                links=Links.SKIP if request.skip_links else Links.KEEP,
                guard=guard,
                shown=shown,
                algorithm=request.algorithm,
                trace=trace,
            )

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Algorithm of all digests."""
        return self.tree.algorithm

    def next(self) -> trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd | None:
        """Return the next message for the receiver; None if a reply is needed first. Blocks."""
        return self.tree.next()

    def reply(self, reply: trees_pb2.TreeReply) -> None:
        """Take a reply of the receiver; the event loop may call it.

        Raises:
            TransferError: the receiver broke the protocol.
        """
        self.tree.reply(reply)

    def describe(self) -> files_pb2.FileInfo:
        """Return the description of the top directory when it was opened."""
        return describe(self._status, self.path.decode("utf-8", "replace"))

    def close(self) -> None:
        """Free everything; more than once is fine. Blocks."""
        self.tree.close()
