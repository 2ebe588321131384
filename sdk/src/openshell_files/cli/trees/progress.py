"""Progress line of a tree: entries and bytes."""

from __future__ import annotations

from openshell_files.cli.output.progress_bar import Line
from openshell_files.cli.output.results_in_words import size_words
from openshell_files.results import Progress
from openshell_files.tree_results import TreeProgress


class TreeLine(Line):
    """Content of the line at a given time. An entry without content counts as movement, too."""

    _tree: TreeProgress | None = None

    def update_tree(self, progress: TreeProgress, now: float) -> None:
        """Take the progress."""
        if self._tree is None or progress.entries_done != self._tree.entries_done:
            self.moved(now)
        self._tree = progress
        self.update(
            Progress(progress.bytes_done, progress.bytes_total, attempt=progress.attempt),
            now,
        )

    def amounts(self, progress: Progress) -> str:
        """Return the entries and bytes so far, with the totals as soon as they are known."""
        tree = self._tree
        if tree is None:
            return super().amounts(progress)
        entries, size = str(tree.entries_done), size_words(tree.bytes_done)
        if tree.entries_total is not None:
            entries += f" of {tree.entries_total}"
        if tree.bytes_total:
            size += f" of {size_words(tree.bytes_total)}"
        noun = "entry" if entries == "1" else "entries"
        return f"{entries} {noun}, {size}"

    def all_sent(self) -> bool:
        """Return whether everything is in place, so that the sandbox only deletes, flushes and publishes."""
        tree = self._tree
        if tree is None or tree.entries_total is None or not self.where.uploading:
            return False
        return tree.entries_done >= tree.entries_total
