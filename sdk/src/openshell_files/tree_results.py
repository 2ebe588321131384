"""Results and progress of the transfer of a tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openshell_files.options import Durability


@dataclass(frozen=True, slots=True)
class TreeProblem:
    """An entry that did not get into place.

    Attributes:
        path: relative to the top directory, with components joined by `/`; empty for the top directory itself.
            Bytes that are not UTF-8 are surrogates, as from `os.fsdecode`.
        reason: name in the error table.
        message: description for a person.
    """

    path: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class TreeLoss:
    """An entry that was sent without one of its properties.

    Attributes:
        path: as in `TreeProblem`.
        losses: what was not carried: "special bits" (set-user-id, set-group-id, sticky) or "owner".
    """

    path: str
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TreeResult:
    """What became of the entries of a tree. Each counts once in the six counts from `sent` to `failed`.

    With `dry_run`, what would become of them.

    Attributes:
        path: absolute path of the top directory at the destination.
        source: path of the top directory at the source.
        entries: announced entries, the top directory included.
        sent: files whose content was sent and is in place.
        made: other entries that were changed: directories, links and hard links that were made, and entries
            that got another mode or time.
        unchanged: entries that were in place already.
        excluded: entries that a pattern, `gitignore` or `links` left out; a directory counts once.
        failed: entries that are not, or not completely, in place, as `problems` tells.
        unknown: entries about which nothing is known, because the transfer ended early.
        deleted: entries that were deleted at the destination; those in a deleted directory included.
        content_bytes: content that was sent, over all attempts, without holes.
        total_bytes: size of the files in the tree that were not excluded.
        seconds: duration of the call.
        durability: the reached durability; None if it is not known, and with `dry_run`.
        created: the top directory was made by this call.
        dry_run: nothing was changed.
        attempts: streams opened by this call.
        problems: entries that did not get into place, in the order in which that became known.
        losses: entries that were sent without one of their properties.
        changed_paths: with `dry_run`, the paths that would be written.
        deleted_paths: with `dry_run`, the paths that would be deleted; a directory stands for its content.
        excluded_paths: with `dry_run`, the paths that were left out; a directory stands for its content.
    """

    path: str
    source: str
    entries: int
    sent: int
    made: int
    unchanged: int
    excluded: int
    failed: int
    unknown: int
    deleted: int
    content_bytes: int
    total_bytes: int
    seconds: float
    durability: Durability | None
    created: bool
    dry_run: bool
    attempts: int
    problems: tuple[TreeProblem, ...] = ()
    losses: tuple[TreeLoss, ...] = ()
    changed_paths: tuple[str, ...] = ()
    deleted_paths: tuple[str, ...] = ()
    excluded_paths: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True if every entry that was to be sent is in place."""
        return not self.failed and not self.unknown


@dataclass(frozen=True, slots=True)
class TreeProgress:
    """Progress of the transfer of a tree. No number is an estimate.

    Attributes:
        entries_done: entries of which it is known what became of them.
        entries_total: entries of the tree; None until the whole tree was read.
        bytes_done: size of the files of which it is known, and what was sent of the others. Falls back when a
            stream was lost, and then moves on fast, over what is in place.
        bytes_total: size of all files; None until the whole tree was read.
        content_bytes: content that was sent, over all attempts.
        sent: as in `TreeResult`.
        made: as in `TreeResult`.
        deleted: as in `TreeResult`.
        failed: as in `TreeResult`.
        attempt: number of the stream, from 1; 0 before the first.
    """

    entries_done: int
    entries_total: int | None
    bytes_done: int
    bytes_total: int | None
    content_bytes: int
    sent: int
    made: int
    deleted: int
    failed: int
    attempt: int


#: Called in the caller's thread or event loop; it must return quickly. Its exception ends the transfer.
TreeProgressCallback = Callable[[TreeProgress], None]


def tree_so_far(error: BaseException) -> TreeResult | None:
    """Return what had become of the entries of a tree when a call failed or was interrupted; None if nothing is known.

    Every error has it: a `FilesError`, and others such as `KeyboardInterrupt` and `asyncio.CancelledError`. The same
    call again goes on where that one ended.

    Args:
        error: the exception of the call; its causes are searched, too.
    """
    seen = set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        result: object = getattr(found, "openshell_tree", None)
        if isinstance(result, TreeResult):
            return result
        found = found.__cause__ or found.__context__
    return None


def note_tree(error: BaseException, result: TreeResult) -> None:
    """Attach what became of the entries so far to the error that ended the call."""
    error.openshell_tree = result  # type: ignore[attr-defined]  # as for uploads, see `errors.note_upload`
