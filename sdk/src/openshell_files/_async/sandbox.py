# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""Files of one sandbox."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import BinaryIO, Final, Literal, TypeVar, overload

from google.protobuf.message import Message
from openshell_files_protocol.digests import Digest
from openshell_files_protocol.limits import MIB, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._arguments import checked
from openshell_files._async import _io, file_objects
from openshell_files._async.deadline import Deadline
from openshell_files._async.download.download import Download
from openshell_files._async.download.sinks import FileSink, MemorySink, Sink, StreamSink, open_special
from openshell_files._async.file_objects import AsyncRemoteReader, AsyncRemoteWriter
from openshell_files._async.rpc import Rpc
from openshell_files._async.upload.caller_content import content_of
from openshell_files._async.upload.content import Content, hash_up_to
from openshell_files._async.upload.file_content import open_file
from openshell_files._async.upload.upload import Upload
from openshell_files._core import answers
from openshell_files._core.digests import ContentDigest
from openshell_files._core.download.events import Piece
from openshell_files._core.requests import (
    DownloadOptions,
    SandboxAddress,
    UploadOptions,
    accepted_digests,
    stat_request,
    upload_metadata,
)
from openshell_files._core.upload.upload_plan import UploadPlan
from openshell_files._error_mapping import say_which_sandbox
from openshell_files._local.special_file import is_written_into
from openshell_files._local.target_file import TargetFile
from openshell_files._local.umask import current_umask
from openshell_files._values import wrong_value
from openshell_files.errors import FilesError
from openshell_files.options import Condition, DigestChoice, Durability, LeafLink, RemotePath
from openshell_files.results import (
    DownloadResult,
    FileInfo,
    FileType,
    ProgressCallback,
    UploadInfo,
    UploadResult,
)

_Request = TypeVar("_Request", bound=Message)
_Answer = TypeVar("_Answer", bound=Message)

#: Seconds to wait for the verdict on a finish whose answer was lost.
_VERDICT_PATIENCE: Final = 300.0

#: Longest hole that `iter_download` gives as one piece of zeros.
_HOLE_PIECE_BYTES: Final = MIB

#: What `read_bytes` takes unless told otherwise.
DEFAULT_READ_LIMIT: Final = 64 * MIB


class AsyncSandboxFiles:
    """Moves files in and out of one sandbox. Made by `AsyncFilesClient.sandbox`.

    Every method raises a child of `FilesError`, and a `TypeError` or
    `ValueError` that names the argument before anything is sent if one is
    none that can be. What may be tried again by
    the error table is tried again, within the client's `RetryPolicy`; an
    upload or download goes on where it stopped.

    Remote paths name the file itself, as a `str` or a `PurePosixPath`.
    Absolute ones start at the sandbox's root, others at its working directory
    (PTH-1). `./x`, `a//b` and `a/./b` are simplified. `a/../b` is refused: if
    `a` is a link, only the sandbox's disk knows where it leads.

    An upload replaces the file at its path by a new one. It needs the right to
    write to the directory, not to the old file: a read-only file is replaced.
    `condition=Condition.absent()` refuses to replace anything.
    """

    def __init__(self, rpc: Rpc, address: SandboxAddress) -> None:
        self._rpc = rpc
        self._address = address

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._address}>"

    # Uploading

    @checked
    async def upload_path(
        self,
        local: str | os.PathLike[str],
        remote: RemotePath,
        *,
        mode: int | None = None,
        preserve_mtime: bool = True,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        keep_read_only: bool = False,
        skip_identical: bool = False,
        digest: DigestChoice = "auto",
        upload_id: str = "",
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> UploadResult:
        """Upload a local file.

        The file is published whole or not at all. Holes stay holes. If it
        changes while it is sent, nothing is published.

        Args:
            local: path of a regular file; a symbolic link is followed.
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            mode: permission bits; None keeps the local file's.
            preserve_mtime: keep the modification time; else it is the time of publishing.
            parents: create missing directories.
            leaf_link: what to do with a symbolic link at `remote`.
            condition: what must be true of `remote`.
            durability: what has to survive a power loss.
            keep_read_only: refuse with `AccessDenied` to replace a file that
                the sandbox's user may not write. Without it only the
                directory has to be writable, as for `mv` (UPL-17).
            skip_identical: hash first, and send nothing if the same content
                is there already (RSM-9).
            digest: what the content is compared by: BLAKE3 where the server
                computes it, else SHA-256 ("auto"), or one of the two
                ("blake3", "sha256").
            upload_id: an unfinished upload to go on with, also of an earlier
                process. If it is gone, or the file is another one by now, a
                new upload begins.
            timeout: seconds for everything; None for no limit.
            progress: called whenever something advanced.

        Returns:
            What was published.

        Raises:
            LocalFileError: the local file cannot be read.
            LocalFileChanged: it changed meanwhile.
            UploadInterrupted: the connection broke for good; the error's
                `upload_id` goes on with it.
            OutcomeUnknown: it cannot be known whether it was published.
            FilesError: anything else, by the error table.
        """
        deadline = Deadline(timeout)
        file = await open_file(os.fspath(local), MIN_CHUNK_LIMIT_BYTES, deadline)
        try:
            options = UploadOptions(
                mode=file.file.mode if mode is None else mode,
                modified_ns=file.file.modified_ns if preserve_mtime else None,
                parents=parents,
                leaf_link=leaf_link,
                condition=condition,
                durability=durability,
                keep_read_only=keep_read_only,
            )
            return await self._upload(
                file.content,
                remote,
                options,
                skip_identical=skip_identical,
                upload_id=upload_id,
                deadline=deadline,
                progress=progress,
                digest=digest,
            )
        finally:
            await file.close()

    @checked
    async def upload(
        self,
        source: bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes],
        remote: RemotePath,
        *,
        mode: int | None = None,
        modified_ns: int | None = None,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        keep_read_only: bool = False,
        skip_identical: bool = False,
        digest: DigestChoice = "auto",
        upload_id: str = "",
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> UploadResult:
        """Upload bytes, a binary file object from its position on, or a stream.

        A stream that cannot go back (an iterable, a pipe) of more than
        256 KiB is sent once: if the connection breaks, the call fails with
        `SourceNotReplayable`.

        Args:
            source: the content.
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            mode: permission bits; None keeps those of the file that is
                replaced, or takes the sandbox's default.
            modified_ns: modification time, nanoseconds since the epoch.
            parents: as in `upload_path`, like all that follow.
            leaf_link: as in `upload_path`.
            condition: as in `upload_path`.
            durability: as in `upload_path`.
            keep_read_only: as in `upload_path`.
            skip_identical: as in `upload_path`; not for streams.
            digest: as in `upload_path`.
            upload_id: as in `upload_path`; not for streams.
            timeout: as in `upload_path`.
            progress: as in `upload_path`.

        Returns:
            What was published.

        Raises:
            FilesError: as in `upload_path`.
        """
        options = UploadOptions(
            mode=mode,
            modified_ns=modified_ns,
            parents=parents,
            leaf_link=leaf_link,
            condition=condition,
            durability=durability,
            keep_read_only=keep_read_only,
        )
        deadline = Deadline(timeout)
        return await self._upload(
            await content_of(source, MIN_CHUNK_LIMIT_BYTES, deadline),
            remote,
            options,
            skip_identical=skip_identical,
            digest=digest,
            upload_id=upload_id,
            deadline=deadline,
            progress=progress,
        )

    @checked
    async def write_bytes(
        self,
        remote: RemotePath,
        data: bytes | bytearray | memoryview,
        *,
        mode: int | None = None,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        keep_read_only: bool = False,
        skip_identical: bool = False,
        digest: DigestChoice = "auto",
        timeout: float | None = None,
    ) -> UploadResult:
        """Write a file from bytes; see `upload`.

        Raises:
            FilesError: as in `upload_path`.
        """
        return await self.upload(
            data,
            remote,
            mode=mode,
            parents=parents,
            leaf_link=leaf_link,
            condition=condition,
            durability=durability,
            keep_read_only=keep_read_only,
            skip_identical=skip_identical,
            digest=digest,
            timeout=timeout,
        )

    async def _upload(
        self,
        source: Content,
        remote: RemotePath,
        options: UploadOptions,
        *,
        skip_identical: bool,
        upload_id: str,
        deadline: Deadline,
        progress: ProgressCallback | None,
        digest: DigestChoice,
    ) -> UploadResult:
        digests = self._rpc.promising(accepted_digests(digest))
        own = ContentDigest(digests[0])
        source_digest: Digest | None = None
        if skip_identical and source.size is not None:
            await hash_up_to(source, own, source.size, deadline)
            source_digest = own.digest()
        plan = UploadPlan(
            self._address,
            upload_metadata(self._address, remote, source.size, options),
            inline=source.size is not None and source.size <= MIN_CHUNK_LIMIT_BYTES,
            source=source_digest,
            resume=upload_id if source.size is not None else "",
            budget=self._rpc.budget(),
            new_id=lambda: str(uuid.uuid4()),
            patience=_VERDICT_PATIENCE,
            digests=digests,
        )
        upload = Upload(
            self._rpc,
            self._address,
            source,
            own,
            plan,
            deadline=deadline,
            progress=progress,
            id_given=bool(upload_id),
        )
        return await upload.run()

    # Downloading

    @checked
    async def download_path(
        self,
        remote: RemotePath,
        local: str | os.PathLike[str],
        *,
        mode: int | None = None,
        preserve_mode: bool = False,
        preserve_mtime: bool = True,
        fsync: bool = True,
        offset: int = 0,
        length: int | None = None,
        tail: int | None = None,
        if_version: str = "",
        allow_changes: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        max_bytes: int | None = None,
        digest: DigestChoice = "auto",
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> DownloadResult:
        """Download to a local file.

        The content is received into a temporary file beside `local`, checked
        to the last byte, and renamed. Until then, and after any failure, an
        older file at `local` is untouched. A symbolic link there is replaced.
        A device of characters or a FIFO there, or a link to one, is written
        into, as by `download`; mode, time and flush do not apply to it. A
        block device or a socket is refused.

        Args:
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            local: path of the file itself; its directory must exist.
            mode: permission bits, exactly; None takes the remote file's less the
                umask, as for every new file.
            preserve_mode: take the remote file's permission bits as they are,
                whatever the umask (never set-id bits).
            preserve_mtime: keep the modification time.
            fsync: flush the local file and its directory.
            offset: first byte wanted. At the end of the file the content is
                empty; behind it the call fails with `RangeInvalid` (DWN-4).
            length: so many bytes at most; None reads to the end.
            tail: the last so many bytes; neither offset nor length beside it.
            if_version: refuse another version of the file.
            allow_changes: carry on if the file changes while it is read; the
                result says so. For logs.
            leaf_link: REFUSE or FOLLOW a symbolic link at `remote`.
            max_bytes: refuse to receive more.
            digest: as in `upload_path`.
            timeout: seconds for everything; None for no limit.
            progress: called whenever something advanced.

        Returns:
            What was received.

        Raises:
            LocalIsADirectory: `local` is a directory.
            LocalFileError: it cannot be written.
            IncompleteDownload: the stream ended early, again and again.
            IntegrityError: what came was damaged, again and again.
            FileTooLarge: there is more than `max_bytes`.
            FilesError: anything else, by the error table.
        """
        options = DownloadOptions(
            offset, length, tail, if_version, allow_changes, leaf_link, max_bytes, digest
        )
        path = os.fsdecode(local)
        deadline = Deadline(timeout)
        if await _io.in_thread(is_written_into, path):
            with await open_special(path, deadline) as file:
                return await self._download(
                    remote, StreamSink(file, deadline, path), options, deadline, progress
                )
        target = TargetFile(path)
        try:
            await _io.in_thread(target.open)
            result = await self._download(remote, FileSink(target), options, deadline, progress)
            masked = result.mode if preserve_mode else result.mode & ~await _io.in_thread(current_umask)
            await _io.in_thread(
                target.publish,
                result.size,
                mode=masked if mode is None else mode,
                modified_ns=result.modified_ns if preserve_mtime else None,
                fsync=fsync,
            )
            return result
        finally:
            await _io.in_thread(target.close)

    @checked
    async def download(
        self,
        remote: RemotePath,
        sink: BinaryIO | Callable[[bytes], object | Awaitable[object]],
        *,
        offset: int = 0,
        length: int | None = None,
        tail: int | None = None,
        if_version: str = "",
        allow_changes: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        max_bytes: int | None = None,
        digest: DigestChoice = "auto",
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> DownloadResult:
        """Download into a binary file object or a function that takes bytes.

        Every piece is checked before it is handed on, the whole at the end:
        only when this returns is the content known to be right. What was
        handed on cannot be taken back, so a file that changes meanwhile is an
        error and not another try.

        Args:
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            sink: takes the bytes in order. `timeout` counts while it takes
                nothing, too, except where a plain function or method of the
                caller blocks: nothing interrupts that.
            offset: as in `download_path`, like all that follow.
            length: as in `download_path`.
            tail: as in `download_path`.
            if_version: as in `download_path`.
            allow_changes: as in `download_path`.
            leaf_link: as in `download_path`.
            max_bytes: as in `download_path`.
            digest: as in `download_path`.
            timeout: as in `download_path`.
            progress: as in `download_path`.

        Returns:
            What was received.

        Raises:
            FilesError: as in `download_path`.
        """
        options = DownloadOptions(
            offset, length, tail, if_version, allow_changes, leaf_link, max_bytes, digest
        )
        deadline = Deadline(timeout)
        return await self._download(remote, StreamSink(sink, deadline), options, deadline, progress)

    @checked
    async def iter_download(
        self,
        remote: RemotePath,
        *,
        offset: int = 0,
        length: int | None = None,
        tail: int | None = None,
        if_version: str = "",
        allow_changes: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        max_bytes: int | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield a file's content piece by piece; see `download`.

        The content is known to be right when the iteration has ended without
        an error. Close the generator if you leave it early.

        Raises:
            FilesError: as in `download_path`.
        """
        options = DownloadOptions(offset, length, tail, if_version, allow_changes, leaf_link, max_bytes)
        transfer = Download(
            self._rpc, self._address, str(remote), options, deadline=Deadline(timeout), restartable=False
        )
        async with aclosing(transfer.events()) as events:
            async for event in events:
                if not isinstance(event, Piece):
                    continue
                if progress is not None:
                    progress(transfer.progress())
                for start in range(0, event.hole_bytes, _HOLE_PIECE_BYTES):
                    yield bytes(min(_HOLE_PIECE_BYTES, event.hole_bytes - start))
                if len(event.data):
                    yield bytes(event.data)

    @checked
    async def read_bytes(
        self,
        remote: RemotePath,
        *,
        max_bytes: int | None = DEFAULT_READ_LIMIT,
        offset: int = 0,
        length: int | None = None,
        tail: int | None = None,
        if_version: str = "",
        allow_changes: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        timeout: float | None = None,
    ) -> bytes:
        """Return a file's content.

        Args:
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            max_bytes: refuse to receive more, since it is kept in memory; 64 MiB unless
                given. None is no limit, as for `download`.
            offset: as in `download_path`, like all that follow.
            length: as in `download_path`.
            tail: as in `download_path`.
            if_version: as in `download_path`.
            allow_changes: as in `download_path`.
            leaf_link: as in `download_path`.
            timeout: as in `download_path`.

        Raises:
            FileTooLarge: there is more than `max_bytes`.
            FilesError: as in `download_path`.
        """
        options = DownloadOptions(offset, length, tail, if_version, allow_changes, leaf_link, max_bytes)
        sink = MemorySink()
        await self._download(remote, sink, options, Deadline(timeout), None)
        return sink.content()

    async def _download(
        self,
        remote: RemotePath,
        sink: Sink,
        options: DownloadOptions,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> DownloadResult:
        transfer = Download(
            self._rpc,
            self._address,
            str(remote),
            options,
            deadline=deadline,
            restartable=sink.restartable,
        )
        return await transfer.into(sink, progress)

    # As a file object

    @overload
    def open(
        self,
        remote: RemotePath,
        mode: Literal["rb"] = "rb",
        *,
        leaf_link: LeafLink = LeafLink.REFUSE,
        if_version: str = "",
        timeout: float | None = None,
    ) -> AsyncRemoteReader: ...

    @overload
    def open(
        self,
        remote: RemotePath,
        mode: Literal["wb", "xb"],
        *,
        permissions: int | None = None,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        timeout: float | None = None,
    ) -> AsyncRemoteWriter: ...

    @checked
    def open(
        self,
        remote: RemotePath,
        mode: Literal["rb", "wb", "xb"] = "rb",
        *,
        permissions: int | None = None,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        if_version: str = "",
        timeout: float | None = None,
    ) -> AsyncRemoteReader | AsyncRemoteWriter:
        """Return a file object, for programs that want one.

        A file that is written appears when it is closed, whole or not at all;
        an exception in its `with` block publishes nothing. A file that is read
        can be sought in, and every byte is verified before it is handed out.

        Args:
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            mode: "rb" reads; "wb" writes; "xb" writes only where nothing is.
            permissions: of a file that is written; None as for `upload`.
            parents: as in `upload_path`; for writing.
            leaf_link: as in `upload_path` or `download_path`.
            condition: as in `upload_path`; for writing.
            durability: as in `upload_path`; for writing.
            if_version: refuse another version of the file; for reading.
            timeout: seconds for the whole of what is written, or for each part
                that is read; None for no limit.

        Raises:
            FileNotFound: there is no file to read. The asynchronous flavour
                says so when the file is entered or first read.
            FilesError: as in `upload` and `download`, from the file object too.
        """
        if mode == "rb":
            if permissions is not None or parents or condition is not None:
                wrong_value("mode", '"rb" takes no permissions, parents or condition, which are for writing')

            async def fetch(version: str, offset: int, length: int) -> tuple[bytes, int]:
                options = DownloadOptions(
                    offset, length, if_version=if_version or version, leaf_link=leaf_link, max_bytes=length
                )
                sink = MemorySink()
                result = await self._download(remote, sink, options, Deadline(timeout), None)
                return sink.content(), result.file_size

            def look() -> Awaitable[FileInfo]:
                return self._file_to_read(remote, if_version, leaf_link, timeout)

            return file_objects.reader(look, fetch, str(remote))
        if if_version:
            wrong_value("if_version", "is for reading; for writing give condition=Condition.version(...)")
        if mode == "xb":
            if condition is not None:
                wrong_value("condition", '"xb" is one already: nothing may be there')
            condition = Condition.absent()
        uploading = partial(
            self.upload,
            remote=remote,
            mode=permissions,
            parents=parents,
            leaf_link=leaf_link,
            condition=condition,
            durability=durability,
            timeout=timeout,
        )
        return file_objects.writer(uploading, str(remote), mode)

    async def _file_to_read(
        self, remote: RemotePath, if_version: str, leaf_link: LeafLink, timeout: float | None
    ) -> FileInfo:
        """Look at a file before its first byte is read, and refuse what has none.

        Raises:
            FilesError: as `download` would.
        """
        info = await self.stat(remote, leaf_link=leaf_link, timeout=timeout)
        if info.type is not FileType.REGULAR or (if_version and info.version != if_version):
            # A download of nothing has the right words.
            await self.read_bytes(
                remote, length=0, if_version=if_version, leaf_link=leaf_link, timeout=timeout
            )
        return info

    # Looking

    @checked
    async def stat(
        self,
        remote: RemotePath,
        *,
        digest: DigestChoice | bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        timeout: float | None = None,
    ) -> FileInfo:
        """Describe what is at a path: a file, a directory, `/`, `.`, or a link (PTH-9).

        Args:
            remote: path in the sandbox, a `str` or a `PurePosixPath`.
            digest: compute a digest: True or "auto" as in `upload_path`, or
                one of the two. It costs a read of the file; give a `timeout`
                that suits its size.
            leaf_link: REFUSE or FOLLOW a symbolic link at `remote`, or
                describe the link itself with NOFOLLOW; its target is then
                in `FileInfo.link_target`.
            timeout: seconds for everything; None takes the client's for each try.

        Raises:
            FileNotFound: nothing is there.
            FilesError: anything else, by the error table.
        """
        choice: DigestChoice = "auto" if isinstance(digest, bool) else digest
        digests = accepted_digests(choice) if digest else ()
        request = stat_request(self._address, remote, digests=digests, leaf_link=leaf_link)
        answer = await self._asked(self._rpc.stat_file, request, timeout, str(remote))
        return answers.hashed_file_info(answer.file) if digest else answers.file_info(answer.file)

    @checked
    async def uploads(self, *, timeout: float | None = None) -> list[UploadInfo]:
        """Return the caller's own unfinished uploads, oldest first (RSM-8).

        Raises:
            FilesError: by the error table.
        """
        request = files_pb2.ListUploadsRequest(sandbox=self._address.ref())
        answer = await self._asked(self._rpc.list_uploads, request, timeout)
        return [answers.upload_info(upload) for upload in answer.uploads]

    @checked
    async def upload_status(self, upload_id: str, *, timeout: float | None = None) -> UploadInfo:
        """Say what became of an upload (RSM-7). Never takes it over.

        Raises:
            UploadUnknown: the sandbox does not know it, or not any more.
            FilesError: anything else, by the error table.
        """
        request = files_pb2.GetUploadRequest(sandbox=self._address.ref(), upload_id=upload_id)
        answer = await self._asked(self._rpc.get_upload, request, timeout)
        return answers.upload_info(answer.upload)

    @checked
    async def abort_upload(self, upload_id: str, *, timeout: float | None = None) -> UploadInfo:
        """Give an upload up, and free what is staged (RSM-10).

        Raises:
            UploadUnknown: there is none of that name.
            FilesError: anything else, by the error table.
        """
        request = files_pb2.AbortUploadRequest(sandbox=self._address.ref(), upload_id=upload_id)
        answer = await self._asked(self._rpc.abort_upload, request, timeout)
        return answers.upload_info(answer.upload)

    async def _asked(
        self,
        call: Callable[[_Request, Deadline], Awaitable[_Answer]],
        request: _Request,
        timeout: float | None,
        path: str = "",
    ) -> _Answer:
        """Call a method that changes nothing when it is called twice, as often as the policy allows."""
        deadline, budget = Deadline(timeout), self._rpc.budget()
        gate = self._rpc.gate(self._address)
        held = await gate.enter(deadline, paced=False)
        try:
            while True:
                try:
                    return await call(request, deadline)
                except FilesError as error:
                    error.about(path)
                    say_which_sandbox(error, self._address.described())
                    self._rpc.refused(self._address, error)
                    await self._rpc.recover(error, budget, deadline)
        finally:
            if held:
                gate.leave(paced=False)
