"""Makes the engines of a tree for the local disk: a sender of a directory, a receiver at a place."""

from __future__ import annotations

import os
from collections.abc import Callable

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sender import TreeSender
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

from openshell_files._core.trees.failures import local_failure
from openshell_files._core.trees.roles import ReceivingRole, SendingRole
from openshell_files._local.trees.directories import LocalPlace, open_parent, open_source
from openshell_files._local.umask import current_umask
from openshell_files.errors import FilesError, local_file_error
from openshell_files.options import Durability
from openshell_files.tree_options import TreeOptions


def make_sender(path: str, options: TreeOptions, only: frozenset[bytes] | None) -> SendingRole:
    """Return the sender of a local directory.

    Args:
        path: the directory.
        options: of the call.
        only: the files that git takes; None for all.

    Raises:
        LocalFileError: it cannot be read.
        InvalidRequest: a pattern is wrong.
    """
    try:
        selection = Selection(exclude=options.exclude, include=options.include, only=only)
        return TreeSender(
            FileSystem(),
            open_source(path),
            selection,
            compare_content=options.checksum,
            links=options.links,
            shown=path,
        )
    except TransferError as error:
        raise local_failure(error, path, "cannot read") from error
    except OSError as error:
        if isinstance(error, FilesError):
            raise
        raise local_file_error(error, path, "cannot read the directory") from error


class LocalReceiver(TreeReceiver):
    """A receiver that masks permission bits, and owns the descriptor of the directory above the top directory."""

    def __init__(self, place: TreePlace, options: ReceiveOptions) -> None:
        self._above: int | None = place.parent_fd
        self._mask = ~options.umask
        super().__init__(FileSystem(), place, options)

    def take(self, message: trees_pb2.TreeManifest | trees_pb2.TreeContent) -> trees_pb2.TreeReply:
        """Take a message; entries get the permission bits that new files of this process get."""
        if isinstance(message, trees_pb2.TreeManifest):
            for entry in message.entries:
                if entry.type != files_pb2.FILE_TYPE_SYMLINK and entry.mode & ~self._mask:
                    entry.mode &= self._mask
        return super().take(message)

    def close(self) -> None:
        """Remove what is not in place, and close everything; more than once is fine."""
        try:
            super().close()
        finally:
            above, self._above = self._above, None
            if above is not None:
                os.close(above)


def make_receiver(
    place: LocalPlace, options: TreeOptions, check: Callable[[], object], algorithm: DigestAlgorithm
) -> ReceivingRole:
    """Return the receiver of a tree at a place. It takes permission bits less the umask.

    Args:
        place: the top directory.
        options: of the call.
        check: raises to end long work.
        algorithm: of the digests.

    Raises:
        LocalFileError: the place cannot be written, or exists and the tree is atomic.
    """
    if options.dry_run and place.missing:
        # Nothing is made, so the first missing directory stands for the top directory.
        place = LocalPlace(place.parent, place.missing[0])

    def checked() -> None:
        check()

    parent = open_parent(place)
    try:
        return LocalReceiver(
            TreePlace(
                parent_fd=parent,
                parent_path=os.fsencode(os.path.dirname(place.path)),
                name=os.fsencode(place.name),
            ),
            ReceiveOptions(
                delete_others=options.delete,
                atomic=options.atomic,
                dry_run=options.dry_run,
                compare_content=options.checksum,
                fsync=options.durability is Durability.FSYNC,
                algorithm=algorithm,
                umask=current_umask(),
                check=checked,
            ),
        )
    except BaseException as error:
        os.close(parent)
        if isinstance(error, TransferError):
            raise local_failure(error, place.path, "cannot write") from error
        raise
