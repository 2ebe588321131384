# Written by sdk/unasync.py from _async/trees/attempts.py. Change that file instead.
"""Repeats the transfer of a tree after lost streams, and says what has arrived when it fails (TRE-55)."""

from __future__ import annotations

from typing import Protocol

from openshell_files._core.requests import SandboxAddress
from openshell_files._core.trees.failures import without_trees
from openshell_files._core.trees.outcome import TreeCourse
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.rpc import Rpc
from openshell_files.errors import FilesError
from openshell_files.tree_options import TreeOptions
from openshell_files.tree_results import TreeResult, note_tree


class TreeTransfer(Protocol):
    """One direction."""

    #: What became of the entries.
    course: TreeCourse

    @property
    def started(self) -> bool:
        """True if the other side began the newest attempt."""
        ...

    def attempt(self) -> TreeResult:
        """Open a stream and transfer everything.

        Raises:
            FilesError: it failed.
        """
        ...

    def settled(self, error: FilesError) -> TreeResult | None:
        """Return the result of a transfer that succeeded although its stream failed; None if it is to be repeated.

        Raises:
            FilesError: the transfer must not be repeated.
        """
        ...

    def last(self, error: FilesError) -> FilesError:
        """Return the error of a transfer that is not repeated."""
        ...


def transfer_tree(
    rpc: Rpc,
    address: SandboxAddress,
    transfer: TreeTransfer,
    options: TreeOptions,
    path: str,
    deadline: Deadline,
) -> TreeResult:
    """Transfer a tree, with as many attempts as the retry policy allows.

    An attempt that got further than those before it resets the count of failures, as the next one has less to do. An
    atomic one does not, because everything of it is lost. A dry run is not repeated after it began.

    Args:
        rpc: the gateway.
        address: the sandbox.
        transfer: the direction.
        options: of the call.
        path: the remote path, for messages.
        deadline: end of the caller's time.

    Raises:
        FilesError: it was refused, or the retries are used up; `tree_so_far` tells what has arrived.
    """
    budget, gate = rpc.budget(), rpc.gate(address)
    try:
        entered = gate.enter(deadline, paced=False)
        try:
            while True:
                try:
                    return transfer.attempt()
                except FilesError as error:
                    without_trees(error)
                    error.about(path)
                    address.name_in(error)
                    rpc.refused(address, error)
                    if (result := transfer.settled(error)) is not None:
                        return result
                    if options.dry_run and transfer.started:
                        raise
                    if transfer.course.advanced and not options.atomic:
                        budget.progressed()
                    try:
                        rpc.recover(error, budget, deadline)
                    except FilesError as final:
                        raise transfer.last(final) from final.__cause__
        finally:
            if entered:
                gate.leave(paced=False)
    except BaseException as error:
        note_tree(error, transfer.course.result())
        raise
