# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""Public methods that list, make, remove, move and copy entries."""

from __future__ import annotations

from collections.abc import AsyncIterator

from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import directories_pb2

from openshell_files._arguments import checked
from openshell_files._async.deadline import Deadline
from openshell_files._async.directories.changing import change
from openshell_files._async.sandbox_methods import SandboxMethods
from openshell_files._async.unary import call_with_retries
from openshell_files._core.directories import answers, requests
from openshell_files.options import Condition, Durability, LeafLink, RemotePath
from openshell_files.results import (
    CopyResult,
    DirectoryEntry,
    MakeDirectoryResult,
    MoveResult,
    RemoveResult,
)


class DirectoryMethods(SandboxMethods):
    """Methods of `AsyncSandboxFiles` for directories (DIR-1).

    Their paths may have bytes that are not UTF-8, as surrogates (`os.fsdecode`). A gateway or a
    sandbox without these methods raises `Unsupported`, and nothing is changed.
    """

    @checked
    async def list_directory(
        self, path: RemotePath = ".", *, recursive: bool = False, timeout: float | None = None
    ) -> AsyncIterator[DirectoryEntry]:
        """Yield the entries of a directory, in the order of their names' bytes; a directory before its content.

        Pages are fetched while they are needed. An entry that vanishes meanwhile is left out. Links are
        described and not followed.

        Args:
            path: directory in the sandbox; a link to one is followed.
            recursive: list the content of all directories below it, too. A directory that cannot be
                read is an entry with a `reason`.
            timeout: seconds for the whole listing; None for no limit.

        Raises:
            FileNotFound: the path does not exist.
            NotADirectory: it is no directory.
            FilesError: anything else, by the error table.
        """
        deadline = Deadline(timeout)
        request = requests.list_request(self._address, path, recursive=recursive)
        while True:
            page = await call_with_retries(
                self._rpc, self._address, self._rpc.list_directory, request, deadline, str(path)
            )
            for entry in answers.entries(page, request):
                yield entry
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    @checked
    async def make_directory(
        self,
        path: RemotePath,
        *,
        mode: int | None = None,
        parents: bool = False,
        exist_ok: bool = False,
        timeout: float | None = None,
    ) -> MakeDirectoryResult:
        """Make a directory.

        Args:
            path: of the directory in the sandbox.
            mode: permission bits; None takes 0777 less the sandbox's umask.
            parents: make missing directories above it, too.
            exist_ok: a directory that is there already is a success, and stays as it is.
            timeout: seconds for all tries; None limits each try by the client's `timeout`.

        Raises:
            FileExists: the path exists.
            ParentNotFound: a directory above it does not exist.
            OutcomeUnknown: it is unknown whether it was made.
            FilesError: anything else, by the error table.
        """
        request = requests.make_request(self._address, path, mode=mode, parents=parents, exist_ok=exist_ok)
        answer = await change(
            self._rpc,
            self._address,
            methods.MAKE_DIRECTORY,
            request,
            directories_pb2.MakeDirectoryResponse,
            timeout,
            path=str(path),
            what="made",
        )
        return answers.made(answer)

    @checked
    async def remove(
        self,
        path: RemotePath,
        *,
        recursive: bool = False,
        missing_ok: bool = False,
        if_version: str = "",
        timeout: float | None = None,
    ) -> RemoveResult:
        """Remove a file, a link itself, or a directory.

        Args:
            path: in the sandbox.
            recursive: remove a directory with its content; otherwise only an empty one.
            missing_ok: a path that does not exist is a success.
            if_version: refuse an entry of another version, from `FileInfo.version`.
            timeout: seconds for all tries; None for no limit.

        Returns:
            The number of removed entries.

        Raises:
            FileNotFound: the path does not exist.
            DirectoryNotEmpty: a directory has entries, and `recursive` is not given.
            ConditionFailed: the entry has another version.
            OutcomeUnknown: it is unknown whether it was removed.
            FilesError: anything else, by the error table. After a failure in the middle,
                `metadata` has `removed_entries`, and `path` of the entry that could not be removed.
        """
        request = requests.remove_request(
            self._address, path, recursive=recursive, missing_ok=missing_ok, if_version=if_version
        )
        answer = await change(
            self._rpc,
            self._address,
            methods.REMOVE_PATH,
            request,
            directories_pb2.RemovePathResponse,
            timeout,
            path=str(path),
            what="removed",
            lasts=True,
        )
        return answers.removed(answer)

    @checked
    async def move(
        self,
        source: RemotePath,
        destination: RemotePath,
        *,
        replace: bool = False,
        source_version: str = "",
        condition: Condition | None = None,
        parents: bool = False,
        timeout: float | None = None,
    ) -> MoveResult:
        """Move an entry inside one file system of the sandbox, by one rename.

        Args:
            source: path in the sandbox; a link is moved itself.
            destination: path of the moved entry itself, not of a directory that receives it.
            replace: replace a file or link by a file or link, and an empty directory by a directory.
            source_version: refuse a source of another version.
            condition: on the destination. Another one than `Condition.absent()` implies `replace`.
            parents: make missing directories above the destination.
            timeout: seconds for all tries; None limits each try by the client's `timeout`.

        Raises:
            FileExists: the destination exists, and `replace` is not given.
            OtherFileSystem: the destination is on another file system: copy, then remove.
            OutcomeUnknown: it is unknown whether it was moved.
            FilesError: anything else, by the error table.
        """
        request = requests.move_request(
            self._address,
            source,
            destination,
            replace=replace,
            source_version=source_version,
            condition=condition,
            parents=parents,
        )
        answer = await change(
            self._rpc,
            self._address,
            methods.MOVE_PATH,
            request,
            directories_pb2.MovePathResponse,
            timeout,
            path=str(source),
            what="moved",
        )
        return answers.moved(answer)

    @checked
    async def copy(
        self,
        source: RemotePath,
        destination: RemotePath,
        *,
        recursive: bool = False,
        replace: bool = False,
        source_version: str = "",
        condition: Condition | None = None,
        parents: bool = False,
        durability: Durability = Durability.FSYNC,
        leaf_link: LeafLink = LeafLink.REFUSE,
        timeout: float | None = None,
    ) -> CopyResult:
        """Copy a file or a directory inside the sandbox; no content passes through this process.

        The copy appears under its name whole or not at all. It has mode and modified time of its
        source. Links in a directory are copied as they are, and hard links within it are kept.

        Args:
            source: path in the sandbox.
            destination: path of the copy itself, not of a directory that receives it.
            recursive: copy a directory with its content; its destination must not exist.
            replace: replace a file or link at the destination.
            source_version: refuse a source of another version.
            condition: on the destination, as in `move`.
            parents: make missing directories above the destination.
            durability: what survives a power loss.
            leaf_link: treatment of a link as the source; NOFOLLOW copies the link itself.
            timeout: seconds for all tries; None for no limit.

        Raises:
            FileExists: the destination exists, and `replace` is not given or the source is a directory.
            NotARegularFile: the source is a FIFO, socket or device, or has one below it; `metadata`
                has its `path`.
            FileChanged: a file changed while it was copied.
            OutcomeUnknown: it is unknown whether it was copied.
            FilesError: anything else, by the error table; nothing was published.
        """
        request = requests.copy_request(
            self._address,
            source,
            destination,
            recursive=recursive,
            replace=replace,
            source_version=source_version,
            condition=condition,
            parents=parents,
            durability=durability,
            leaf_link=leaf_link,
        )
        answer = await change(
            self._rpc,
            self._address,
            methods.COPY_PATH,
            request,
            directories_pb2.CopyPathResponse,
            timeout,
            path=str(source),
            what="copied",
            lasts=True,
        )
        return answers.copied(answer)
