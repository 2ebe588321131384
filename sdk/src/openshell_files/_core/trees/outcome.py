"""Turns accounts of a tree's streams into the caller's progress and result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from openshell_files._core.trees.account import Fate, TreeAccount
from openshell_files.options import Durability
from openshell_files.tree_results import TreeProgress, TreeResult


@dataclass(slots=True)
class TreeCourse:
    """One call over all its attempts: the account of the newest one, and what was moved by all.

    Attributes:
        source: path of the top directory at the source.
        path: path at the destination; what the caller gave until the other side named it.
        dry_run: nothing is changed.
        clock: in seconds.
        account: of the newest attempt.
        attempts: streams opened so far.
    """

    source: str
    path: str
    dry_run: bool
    clock: Callable[[], float]
    account: TreeAccount = field(init=False)
    attempts: int = 0
    _moved_before: int = 0
    #: Most entries that were in place after an earlier attempt.
    _most_placed: int = 0
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self.account = TreeAccount(self.dry_run)
        self._began = self.clock()

    def begin(self) -> TreeAccount:
        """Begin an attempt and return its account."""
        self._moved_before += self.account.content_bytes
        self._most_placed = max(self._most_placed, self._placed)
        self.account = TreeAccount(self.dry_run)
        self.attempts += 1
        return self.account

    def resume(self, account: TreeAccount) -> None:
        """Take up the account of an earlier attempt, which succeeded after all."""
        moved = self._moved_before + self.account.content_bytes
        self.account = account
        self._moved_before = moved - account.content_bytes

    @property
    def advanced(self) -> bool:
        """True if the newest attempt got entries into place, and more are there than after any attempt before it.

        Directories get their modified time at the end of a stream only, so every attempt that does not get that far
        changes them again: that alone is no progress, and must not be repeated for ever (ERR-3).
        """
        changed = self.account.count(Fate.SENT) + self.account.count(Fate.MADE)
        return bool(changed) and self._placed > self._most_placed

    @property
    def _placed(self) -> int:
        """Entries that are in place, as far as the newest attempt tells."""
        account = self.account
        return account.count(Fate.SENT) + account.count(Fate.MADE) + account.count(Fate.UNCHANGED)

    def progress(self) -> TreeProgress:
        """Return the progress so far."""
        account = self.account
        return TreeProgress(
            entries_done=account.done,
            entries_total=account.entries if account.complete else None,
            bytes_done=account.done_bytes,
            bytes_total=account.total_bytes if account.complete else None,
            content_bytes=self._moved_before + account.content_bytes,
            sent=account.count(Fate.SENT),
            made=account.count(Fate.MADE),
            deleted=account.deleted,
            failed=account.count(Fate.FAILED),
            attempt=self.attempts,
        )

    def result(
        self, *, durability: Durability | None = None, created: bool = False, deleted: int | None = None
    ) -> TreeResult:
        """Return what became of the tree, or what had become of it when the call failed.

        Args:
            durability: the reached one; None if it is not known.
            created: the top directory was made.
            deleted: entries; None takes the number of deleted paths.
        """
        account = self.account
        return TreeResult(
            path=self.path,
            source=self.source,
            entries=account.entries,
            sent=account.count(Fate.SENT),
            made=account.count(Fate.MADE),
            unchanged=account.count(Fate.UNCHANGED),
            excluded=account.count(Fate.EXCLUDED),
            failed=account.count(Fate.FAILED),
            unknown=account.unsettled,
            deleted=account.deleted if deleted is None else deleted,
            content_bytes=self._moved_before + account.content_bytes,
            total_bytes=account.total_bytes,
            seconds=self.clock() - self._began,
            durability=None if self.dry_run else durability,
            created=created,
            dry_run=self.dry_run,
            attempts=self.attempts,
            problems=tuple(account.problems),
            losses=tuple(account.losses),
            changed_paths=tuple(account.changed_paths),
            deleted_paths=tuple(account.deleted_paths),
            excluded_paths=tuple(account.excluded_paths),
        )
