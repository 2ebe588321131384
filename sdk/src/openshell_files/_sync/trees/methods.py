# Written by sdk/unasync.py from _async/trees/methods.py. Change that file instead.
"""Public methods that transfer trees."""

from __future__ import annotations

import os
from typing import Unpack

from openshell_files._arguments import checked
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.sandbox_methods import SandboxMethods
from openshell_files._values import wrong_value
from openshell_files.options import RemotePath
from openshell_files.tree_options import Links, TreeArguments, TreeOptions, tree_options
from openshell_files.tree_results import TreeProgressCallback, TreeResult


class TreeMethods(SandboxMethods):
    """Methods of `SandboxFiles` for trees: directories with everything below them.

    Both send only what the other side does not have: an entry of the same type, size and modified time is
    unchanged (TRE-7). A call that failed or was interrupted goes on where it ended when it is made again;
    `tree_so_far(error)` tells what has arrived. Their remote paths may have bytes that are not UTF-8, as
    surrogates (`os.fsdecode`).
    """

    @checked
    def upload_tree(
        self,
        source: str | os.PathLike[str],
        destination: RemotePath,
        *,
        options: TreeOptions | None = None,
        timeout: float | None = None,
        progress: TreeProgressCallback | None = None,
        **tree: Unpack[TreeArguments],
    ) -> TreeResult:
        """Upload a local directory with everything below it.

        Regular files with their holes, directories, symbolic links as they are and hard links within the tree
        arrive, with permission bits and modified times. What cannot be sent, or does not get into place, is a
        problem in the result, and the rest arrives.

        Args:
            source: local directory; a link to one is followed.
            destination: path of the directory itself in the sandbox, not of one that receives it.
            options: see `TreeOptions`.
            timeout: seconds for the whole call, with retries; None for no limit.
            progress: called after each step.
            **tree: fields of `TreeOptions`.

        Returns:
            Counts, and each entry that did not arrive as it was.

        Raises:
            LocalFileError: `source` does not exist, is no directory, or cannot be read.
            NothingMatched: there are patterns, and nothing is left of the tree.
            FileExists: the destination exists, and `atomic` is given.
            TreeIncomplete: an entry has a problem, and `atomic` is given; nothing was published.
            OutcomeUnknown: with `atomic`, it is unknown whether the tree was published.
            Unsupported: gateway or sandbox have no trees.
            FilesError: anything else, by the error table.
        """
        # A program that moves files alone does not wait for the import of what trees need.
        from openshell_files._sync.trees import transfers  # noqa: PLC0415 - see above

        deadline, chosen = Deadline(timeout), tree_options(options, tree)
        return transfers.upload(
            self._rpc, self._address, os.fsdecode(source), destination, chosen, deadline, progress
        )

    @checked
    def download_tree(
        self,
        source: RemotePath,
        destination: str | os.PathLike[str],
        *,
        options: TreeOptions | None = None,
        timeout: float | None = None,
        progress: TreeProgressCallback | None = None,
        **tree: Unpack[TreeArguments],
    ) -> TreeResult:
        """Download a directory of the sandbox with everything below it.

        As `upload_tree`, in the other direction. Permission bits are those of the sandbox less the local umask.
        Nothing is written outside of `destination`, whatever the sandbox sends.

        Args:
            source: directory in the sandbox; a link to one is followed.
            destination: path of the local directory itself, not of one that receives it; a link to a directory
                is followed.
            options: see `TreeOptions`, but not `gitignore` and `Links.FOLLOW`.
            timeout: as in `upload_tree`.
            progress: as in `upload_tree`.
            **tree: fields of `TreeOptions`.

        Returns:
            As `upload_tree`.

        Raises:
            FileNotFound: `source` does not exist.
            NotADirectory: `source` is no directory.
            LocalFileError: `destination` cannot be written, or exists, and `atomic` is given.
            NothingMatched: there are patterns, and nothing is left of the tree.
            TreeIncomplete: an entry has a problem, and `atomic` is given; nothing was published.
            Unsupported: gateway or sandbox have no trees.
            FilesError: anything else, by the error table.
        """
        # A program that moves files alone does not wait for the import of what trees need.
        from openshell_files._sync.trees import transfers  # noqa: PLC0415 - see above

        deadline, chosen = Deadline(timeout), tree_options(options, tree)
        if chosen.gitignore:
            wrong_value("gitignore", "is for uploads: give a download include or exclude")
        if chosen.links is Links.FOLLOW:
            wrong_value("links", "FOLLOW is only for uploads: give Links.KEEP or Links.SKIP")
        return transfers.download(
            self._rpc, self._address, source, os.fsdecode(destination), chosen, deadline, progress
        )
