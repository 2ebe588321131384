"""StatFile: the description of a file, directory, link or special file."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.digest_choice import accepted_digests, choose
from openshell_supervisor_sim.agent.core.download import changed_error
from openshell_supervisor_sim.agent.core.requests import LeafLink, stat_leaf_link
from openshell_supervisor_sim.agent.filesystem.file_digest import digest_of_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, describe, same_file
from openshell_supervisor_sim.agent.paths.location import Location, require_regular
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot


def stat_file(
    root: SandboxRoot,
    fs: FileSystem,
    request: files_pb2.StatFileRequest,
    allowed: Sequence[DigestAlgorithm],
    interrupt: Interrupt,
) -> files_pb2.FileInfo:
    """Describe a file, a directory, a link or a special file (PTH-9); blocks.

    Raises:
        TransferError: FILE_NOT_FOUND; LEAF_IS_LINK unless links are followed or described; with
            `include_digest` also DIGEST_UNSUPPORTED and the refusal of everything but regular
            files.
    """
    algorithm = None
    if request.include_digest:
        algorithm = choose(
            "accepted_digests", accepted_digests("accepted_digests", request.accepted_digests), allowed
        )
    leaf_link = stat_leaf_link(request)
    if leaf_link is LeafLink.FOLLOW or _names_a_directory(request.remote_path):
        directory = root.locate_directory(request.remote_path, "remote_path")
        if directory is not None:
            return _directory(root, fs, *directory, digest=request.include_digest)
    with root.locate(
        request.remote_path, "remote_path", follow=leaf_link is LeafLink.FOLLOW, directories=True
    ) as found:
        if algorithm is not None:
            return _with_digest(root, fs, found, interrupt, algorithm)
        if _names_a_directory(request.remote_path) and found.lstat() is not None:
            raise TransferError(Reason.NOT_A_DIRECTORY, f"remote_path: {found.path} is no directory")
        return _as_it_is(root, fs, found, describe_links=leaf_link is LeafLink.NOFOLLOW)


def _names_a_directory(path: str) -> bool:
    """Return whether a path can only name a directory."""
    return path.endswith("/") or path.rpartition("/")[2] == "."


def _as_it_is(
    root: SandboxRoot, fs: FileSystem, found: Location, *, describe_links: bool
) -> files_pb2.FileInfo:
    with mapped(f"opening {found.path}"):
        fd = fs.open(found.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=found.parent_fd)
        try:
            status = root.refuse_forbidden(fd, found.path)
            if not stat.S_ISLNK(status.st_mode):
                return describe(status, found.path)
            if not describe_links:
                require_regular(status, found.path)
            info = describe(status, found.path)
            # Reads the link that is described, even if another file has its name by now.
            info.link_target = fs.readlink(b"", fd)
            return info
        finally:
            fs.close(fd)


def _directory(root: SandboxRoot, fs: FileSystem, fd: int, path: str, *, digest: bool) -> files_pb2.FileInfo:
    """Describe an open directory, and close it."""
    try:
        status = root.refuse_forbidden(fd, path)
        if digest:
            require_regular(status, path)
        return describe(status, path)
    finally:
        fs.close(fd)


def _with_digest(
    root: SandboxRoot, fs: FileSystem, found: Location, interrupt: Interrupt, algorithm: DigestAlgorithm
) -> files_pb2.FileInfo:
    fd = root.open_regular(found)
    try:
        with mapped(f"reading {found.path}"):
            before = fs.fstat(fd)
            digest, count = digest_of_file(fs, fd, before.st_size, interrupt, algorithm)
            after = fs.fstat(fd)
        if count != before.st_size or not same_file(before, after):
            raise changed_error(found.path)
        return describe(after, found.path, digest)
    finally:
        fs.close(fd)
