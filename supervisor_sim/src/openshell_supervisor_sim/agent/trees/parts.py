"""The parts of an agent that receive and send trees."""

from __future__ import annotations

from collections.abc import Callable

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions

from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.tree_requests import ReceiveRequest, SendRequest
from openshell_supervisor_sim.agent.directories.copying import LeftoverNotes
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.trace_points import Trace
from openshell_supervisor_sim.agent.trees.destination import TreeDestination
from openshell_supervisor_sim.agent.trees.guarding import PlacesGuard
from openshell_supervisor_sim.agent.trees.origin import TreeOrigin
from openshell_supervisor_sim.agent.trees.places import locate_destination, open_origin, refuse_destination
from openshell_supervisor_sim.agent.trees.staged_names import StagedNames


class TreeParts:
    """Opens the places of trees. Methods block, and any thread may call them.

    Args:
        root: the sandbox's root.
        fs: system calls.
        journal: notes staging directories.
        leftovers: removes later what could not be removed.
        umask: of directories that are made and not announced.
        trace: hook, see `TracePoint`.
    """

    def __init__(
        self,
        *,
        root: SandboxRoot,
        fs: FileSystem,
        journal: Journal,
        leftovers: LeftoverNotes,
        umask: int,
        trace: Trace,
    ) -> None:
        self._root = root
        self._fs = fs
        self._journal = journal
        self._leftovers = leftovers
        self._umask = umask
        self._trace = trace

    def receive(
        self,
        request: ReceiveRequest,
        limits: Limits,
        check: Callable[[], None],
        *,
        field: str = "start.path",
        ordered: bool = True,
    ) -> TreeDestination:
        """Return the destination of a tree; the caller closes it.

        Args:
            request: of the caller.
            limits: of the operation.
            check: called between the steps of long work; raises to end it.
            field: of the path, for errors.
            ordered: the rules for the order of entries hold; False for archives.

        Raises:
            TransferError: the path cannot receive a tree; nothing was changed but missing directories above it.
        """
        names = StagedNames(self._journal, self._leftovers)
        options = ReceiveOptions(
            delete_others=request.delete_others,
            atomic=request.atomic,
            dry_run=request.dry_run,
            compare_content=request.compare_content,
            fsync=request.fsync,
            algorithm=request.algorithm,
            max_entries=limits.max_tree_entries,
            max_file_bytes=limits.max_file_bytes,
            ordered=ordered,
            umask=self._umask,
            note=names.note,
            forget=names.forget,
            check=check,
        )
        location, path = locate_destination(
            self._root,
            request.path,
            field,
            create_parents=request.create_parents,
            dry_run=request.dry_run,
        )
        try:
            refuse_destination(self._root, self._fs, location)
            guard = PlacesGuard(self._root.guarded_places())
            return TreeDestination(self._fs, location, path, options, names, guard, self._trace)
        except BaseException:
            location.close()
            raise

    def send(self, request: SendRequest, *, field: str = "start.path") -> TreeOrigin:
        """Return the origin of a tree; the caller closes it.

        Args:
            request: of the caller.
            field: of the path, for errors.

        Raises:
            TransferError: the path leads to no directory, or a pattern cannot be read.
        """
        guard = PlacesGuard(self._root.guarded_places())
        top, path = open_origin(self._root, self._fs, request.path, field)
        return TreeOrigin(self._fs, top, path, request, guard, self._trace)
