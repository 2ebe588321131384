"""StatFile: what is at a path."""

from __future__ import annotations

import os
import stat

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_supervisor_sim.agent.core.download import changed_error
from openshell_supervisor_sim.agent.core.requests import follows
from openshell_supervisor_sim.agent.errno_reasons import mapped
from openshell_supervisor_sim.agent.file_digest import digest_of_file
from openshell_supervisor_sim.agent.file_info import Interrupt, describe, same_file
from openshell_supervisor_sim.agent.filesystem import FileSystem
from openshell_supervisor_sim.agent.paths import Location, SandboxRoot, require_regular


def stat_file(
    root: SandboxRoot, fs: FileSystem, request: files_pb2.StatFileRequest, interrupt: Interrupt
) -> files_pb2.FileInfo:
    """Describe a file, a directory or a special file; blocks.

    Raises:
        TransferError: FILE_NOT_FOUND, LEAF_IS_LINK; with `include_digest`
            also what is not a regular file is refused.
    """
    with root.locate(
        request.remote_path, "remote_path", follow=follows("leaf_link", request.leaf_link)
    ) as found:
        if request.include_digest:
            algorithm = DigestAlgorithm.of(request.digest_algorithm)
            return _with_digest(root, fs, found, interrupt, algorithm)
        with mapped(f"opening {found.path}"):
            fd = fs.open(found.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=found.parent_fd)
            try:
                status = root.refuse_forbidden(fd, found.path)
            finally:
                fs.close(fd)
        if stat.S_ISLNK(status.st_mode):
            require_regular(status, found.path)
        return describe(status, found.path)


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
