# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""Public methods for archives."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import BinaryIO

from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES

from openshell_files._arguments import checked
from openshell_files._async.archives.download import ArchiveDownload
from openshell_files._async.archives.upload import ArchiveUpload
from openshell_files._async.deadline import Deadline
from openshell_files._async.download.sinks import StreamSink
from openshell_files._async.sandbox_methods import SandboxMethods
from openshell_files._async.upload.caller_content import content_of
from openshell_files._async.upload.content import Content
from openshell_files._async.upload.file_content import open_file
from openshell_files.archive_results import ArchiveResult
from openshell_files.options import Durability, ReadOptions, RemotePath
from openshell_files.results import ProgressCallback

#: An archive that is no local file.
ArchiveContent = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes]


class ArchiveMethods(SandboxMethods):
    """Methods of `AsyncSandboxFiles` for tar archives.

    `upload_tree` and `download_tree` need no archive, and send only what is missing. These methods are for
    archives that exist, or that another program makes or reads.
    """

    @checked
    async def upload_archive(
        self,
        source: str | os.PathLike[str] | ArchiveContent,
        destination: RemotePath,
        *,
        parents: bool = False,
        durability: Durability = Durability.FSYNC,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ArchiveResult:
        """Unpack a tar archive into a directory of the sandbox, while it is sent.

        The archive may be plain, or compressed by gzip or zstd. Entries get into place as they come, whole; after
        an error those that came before stay. What cannot be unpacked, such as a FIFO or a name that leads out of
        the directory, is a problem in the result, and the rest is unpacked.

        An archive is not resumed. After a lost connection it is sent again from its start, if the source can be
        read again.

        Args:
            source: a local file as a path, the bytes, a binary file object from its position on, or a stream of
                bytes.
            destination: path of the directory itself in the sandbox; it is made if it is missing.
            parents: make missing directories above it.
            durability: what survives a power loss.
            timeout: seconds for the whole call, with retries; None for no limit.
            progress: called after each step, with bytes of the archive.

        Returns:
            Counts, and each entry that was left out.

        Raises:
            InvalidArchive: the content is no complete archive.
            FileTooLarge: it is larger than the sandbox allows (`ARCHIVE_TOO_LARGE`).
            SourceNotReplayable: the connection broke, and the source is a stream.
            OutcomeUnknown: the same after everything was sent.
            Unsupported: gateway or sandbox have no archives.
            FilesError: anything else, by the error table.
        """
        deadline = Deadline(timeout)
        if not isinstance(source, str | os.PathLike):
            content = await content_of(source, MIN_CHUNK_LIMIT_BYTES, deadline)
            return await self._unpack(content, destination, parents, durability, deadline, progress)
        path = os.fspath(source)
        file = await open_file(path, MIN_CHUNK_LIMIT_BYTES, deadline)
        try:
            return await self._unpack(file.content, destination, parents, durability, deadline, progress)
        finally:
            await file.close()

    async def _unpack(
        self,
        content: Content,
        destination: RemotePath,
        parents: bool,  # noqa: FBT001 - passed on
        durability: Durability,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> ArchiveResult:
        upload = ArchiveUpload(
            self._rpc,
            self._address,
            content,
            destination,
            parents=parents,
            durability=durability,
            deadline=deadline,
            progress=progress,
        )
        return await upload.run()

    @checked
    async def download_archive(
        self,
        source: RemotePath,
        sink: str | os.PathLike[str] | BinaryIO | Callable[[bytes], object | Awaitable[object]],
        *,
        allow_changes: bool = False,
        max_bytes: int | None = None,
        fsync: bool = True,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> ArchiveResult:
        """Download a directory of the sandbox as a plain tar archive, made while it is sent.

        Names in the archive are relative to the directory, which is its first entry. What cannot be sent is a
        problem in the result, and the rest is in the archive.

        Args:
            source: directory in the sandbox; a link to one is followed.
            sink: a local file as a path, which appears when it is complete; or a binary file object or a function
                that takes bytes. Only a path allows a retry after content came.
            allow_changes: accept files that change while they are packed; each is a problem in the result. Without
                it the call fails after everything came.
            max_bytes: refuse to receive a larger archive.
            fsync: flush the local file and its directory.
            timeout: seconds for the whole call, with retries; None for no limit.
            progress: called after each step, with bytes of the archive.

        Returns:
            As `upload_archive`.

        Raises:
            FileNotFound: `source` does not exist.
            NotADirectory: `source` is no directory.
            FileChanged: a file changed while it was packed.
            LocalFileError: the local file cannot be written.
            Unsupported: gateway or sandbox have no archives.
            FilesError: anything else, by the error table.
        """
        deadline = Deadline(timeout)
        download = ArchiveDownload(
            self._rpc,
            self._address,
            str(source),
            ReadOptions(allow_changes=allow_changes, max_bytes=max_bytes),
            deadline=deadline,
            progress=progress,
        )
        if isinstance(sink, str | os.PathLike):
            return await download.to_path(os.fspath(sink), fsync=fsync)
        return await download.into(StreamSink(sink, deadline))
