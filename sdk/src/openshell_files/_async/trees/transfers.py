"""Transfers of trees with the disk on this side: a sender or a receiver, and its place."""

from __future__ import annotations

import os
from functools import partial
from subprocess import TimeoutExpired

from openshell_files_protocol.digests import PREFERRED

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._async.rpc import Rpc
from openshell_files._async.trees.attempts import transfer_tree
from openshell_files._async.trees.download import TreeDownload
from openshell_files._async.trees.upload import TreeUpload
from openshell_files._core.requests import SandboxAddress
from openshell_files._local.trees.directories import check_system, find_place, open_source
from openshell_files._local.trees.engines import make_receiver, make_sender
from openshell_files._local.trees.git_files import git_files
from openshell_files.options import RemotePath
from openshell_files.tree_options import TreeOptions
from openshell_files.tree_results import TreeProgressCallback, TreeResult


async def upload(
    rpc: Rpc,
    address: SandboxAddress,
    path: str,
    destination: RemotePath,
    chosen: TreeOptions,
    deadline: Deadline,
    progress: TreeProgressCallback | None,
) -> TreeResult:
    """Upload a local directory; see `TreeMethods.upload_tree`."""
    check_system()
    only = await _git_files(path, deadline) if chosen.gitignore else None
    transfer = TreeUpload(
        rpc,
        address,
        path,
        destination,
        chosen,
        partial(make_sender, path, chosen, only),
        digests=rpc.promising(PREFERRED),
        deadline=deadline,
        progress=progress,
    )
    return await transfer_tree(rpc, address, transfer, chosen, str(destination), deadline)


async def download(
    rpc: Rpc,
    address: SandboxAddress,
    source: RemotePath,
    destination: str,
    chosen: TreeOptions,
    deadline: Deadline,
    progress: TreeProgressCallback | None,
) -> TreeResult:
    """Download a directory of the sandbox; see `TreeMethods.download_tree`."""
    check_system()
    place = await _io.in_thread(find_place, destination, parents=chosen.parents, absent=chosen.atomic)
    transfer = TreeDownload(
        rpc,
        address,
        source,
        place,
        chosen,
        partial(make_receiver, place, chosen, deadline.left),
        digests=rpc.promising(PREFERRED),
        deadline=deadline,
        progress=progress,
    )
    return await transfer_tree(rpc, address, transfer, chosen, str(source), deadline)


async def _git_files(path: str, deadline: Deadline) -> frozenset[bytes]:
    """Return the files of a local directory that git would take.

    Raises:
        LocalFileError: git cannot tell them.
        DeadlineExceeded: it took too long.
    """
    # The error for a missing directory is that of the sender.
    os.close(await _io.in_thread(open_source, path))
    try:
        return await _io.in_thread(git_files, path, deadline.left())
    except TimeoutExpired:
        deadline.left()
        raise
