# Written by sdk/unasync.py from _async/trees/methods.py. Change that file instead.
"""Public methods that transfer trees."""

from __future__ import annotations

import os
from functools import partial
from subprocess import TimeoutExpired
from typing import Unpack

from openshell_files_protocol.digests import PREFERRED

from openshell_files._arguments import checked
from openshell_files._local.trees.directories import check_system, find_place, open_source
from openshell_files._local.trees.engines import make_receiver, make_sender
from openshell_files._local.trees.git_files import git_files
from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.sandbox_methods import SandboxMethods
from openshell_files._sync.trees.attempts import transfer_tree
from openshell_files._sync.trees.download import TreeDownload
from openshell_files._sync.trees.upload import TreeUpload
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
        deadline, chosen = Deadline(timeout), tree_options(options, tree)
        path = os.fsdecode(source)
        check_system()
        only = self._git_files(path, deadline) if chosen.gitignore else None
        transfer = TreeUpload(
            self._rpc,
            self._address,
            path,
            destination,
            chosen,
            partial(make_sender, path, chosen, only),
            digests=self._rpc.promising(PREFERRED),
            deadline=deadline,
            progress=progress,
        )
        return transfer_tree(self._rpc, self._address, transfer, chosen, str(destination), deadline)

    def _git_files(self, path: str, deadline: Deadline) -> frozenset[bytes]:
        """Return the files of a local directory that git would take.

        Raises:
            LocalFileError: git cannot tell them.
            DeadlineExceeded: it took too long.
        """
        # The error for a missing directory is that of the sender.
        os.close(_io.in_thread(open_source, path))
        try:
            return _io.in_thread(git_files, path, deadline.left())
        except TimeoutExpired:
            deadline.left()
            raise

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
        deadline, chosen = Deadline(timeout), tree_options(options, tree)
        if chosen.gitignore:
            wrong_value("gitignore", "is for uploads: give a download include or exclude")
        if chosen.links is Links.FOLLOW:
            wrong_value("links", "FOLLOW is only for uploads: give Links.KEEP or Links.SKIP")
        check_system()
        place = _io.in_thread(
            find_place, os.fsdecode(destination), parents=chosen.parents, absent=chosen.atomic
        )
        transfer = TreeDownload(
            self._rpc,
            self._address,
            source,
            place,
            chosen,
            partial(make_receiver, place, chosen, deadline.left),
            digests=self._rpc.promising(PREFERRED),
            deadline=deadline,
            progress=progress,
        )
        return transfer_tree(self._rpc, self._address, transfer, chosen, str(source), deadline)
