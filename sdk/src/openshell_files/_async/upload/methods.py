# ruff: noqa: ASYNC109 - a deadline that gRPC and every attempt know, not a cancellation from outside
"""Public methods that upload, and that ask about uploads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Iterable
from dataclasses import replace
from typing import BinaryIO, Unpack

from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from openshell_files._arguments import checked
from openshell_files._async.deadline import Deadline
from openshell_files._async.sandbox_methods import SandboxMethods
from openshell_files._async.unary import call_with_retries
from openshell_files._async.upload.caller_content import content_of
from openshell_files._async.upload.file_content import open_file
from openshell_files._async.upload.upload import upload_content
from openshell_files._core import answers
from openshell_files.options import WRITE_DEFAULTS, RemotePath, WriteArguments, WriteOptions, with_arguments
from openshell_files.results import ProgressCallback, UploadInfo, UploadResult


class UploadMethods(SandboxMethods):
    """Methods of `AsyncSandboxFiles` for uploads."""

    @checked
    async def upload_path(
        self,
        local: str | os.PathLike[str],
        remote: RemotePath,
        *,
        options: WriteOptions | None = None,
        preserve_mtime: bool = True,
        upload_id: str = "",
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
        **write: Unpack[WriteArguments],
    ) -> UploadResult:
        """Upload a local file.

        The file is published whole or not at all. Holes stay holes. If it
        changes during the upload, nothing is published.

        Args:
            local: path of a regular file; a symbolic link is followed.
            remote: path in the sandbox.
            options: see `WriteOptions`. Without `mode` the local file's
                permission bits are kept.
            preserve_mtime: keep the local file's modification time unless
                `modified_ns` is given; else it is the time of publishing.
            upload_id: id of an unfinished upload to resume, even of an earlier
                process. If the sandbox does not know it any more, or the file
                is another one by now, a new upload begins.
            timeout: seconds for the whole call, with retries; None for no limit.
            progress: called after each step.
            **write: fields of `WriteOptions`.

        Returns:
            The published file.

        Raises:
            LocalFileError: the local file cannot be read.
            LocalFileChanged: it changed during the upload.
            UploadInterrupted: the connection broke, and the retries are used
                up; pass the error's `upload_id` to resume.
            OutcomeUnknown: it is unknown whether the file was published.
            FilesError: anything else, by the error table.
        """
        chosen = with_arguments(options or WRITE_DEFAULTS, write)
        deadline = Deadline(timeout)
        file = await open_file(os.fspath(local), MIN_CHUNK_LIMIT_BYTES, deadline)
        try:
            if chosen.mode is None:
                chosen = replace(chosen, mode=file.file.mode)
            if chosen.modified_ns is None and preserve_mtime:
                chosen = replace(chosen, modified_ns=file.file.modified_ns)
            return await upload_content(
                self._rpc,
                self._address,
                file.content,
                remote,
                chosen,
                upload_id=upload_id,
                deadline=deadline,
                progress=progress,
            )
        finally:
            await file.close()

    @checked
    async def upload(
        self,
        source: bytes | bytearray | memoryview | BinaryIO | Iterable[bytes] | AsyncIterable[bytes],
        remote: RemotePath,
        *,
        options: WriteOptions | None = None,
        upload_id: str = "",
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
        **write: Unpack[WriteArguments],
    ) -> UploadResult:
        """Upload bytes, a binary file object from its position on, or a stream.

        A stream that cannot seek (an iterable, a pipe) of more than 256 KiB is
        sent once: if the connection breaks, the call fails with
        `SourceNotReplayable`.

        Args:
            source: the content.
            remote: path in the sandbox.
            options: see `WriteOptions`.
            upload_id: as in `upload_path`; not for streams.
            timeout: as in `upload_path`.
            progress: as in `upload_path`.
            **write: fields of `WriteOptions`.

        Returns:
            The published file.

        Raises:
            FilesError: as in `upload_path`.
        """
        chosen = with_arguments(options or WRITE_DEFAULTS, write)
        deadline = Deadline(timeout)
        return await upload_content(
            self._rpc,
            self._address,
            await content_of(source, MIN_CHUNK_LIMIT_BYTES, deadline),
            remote,
            chosen,
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
        options: WriteOptions | None = None,
        timeout: float | None = None,
        **write: Unpack[WriteArguments],
    ) -> UploadResult:
        """Write a file from bytes; see `upload`.

        Raises:
            FilesError: as in `upload_path`.
        """
        return await self.upload(data, remote, options=options, timeout=timeout, **write)

    @checked
    async def uploads(self, *, timeout: float | None = None) -> list[UploadInfo]:
        """Return the caller's own unfinished uploads, oldest first (RSM-31).

        Raises:
            FilesError: by the error table.
        """
        request = files_pb2.ListUploadsRequest(sandbox=self._address.ref())
        answer = await call_with_retries(self._rpc, self._address, self._rpc.list_uploads, request, timeout)
        return [answers.upload_info(upload) for upload in answer.uploads]

    @checked
    async def upload_status(self, upload_id: str, *, timeout: float | None = None) -> UploadInfo:
        """Return the state of an upload (RSM-7, RSM-19), without taking it over.

        Raises:
            UploadUnknown: the sandbox does not know the upload.
            FilesError: anything else, by the error table.
        """
        request = files_pb2.GetUploadRequest(sandbox=self._address.ref(), upload_id=upload_id)
        answer = await call_with_retries(self._rpc, self._address, self._rpc.get_upload, request, timeout)
        return answers.upload_info(answer.upload)

    @checked
    async def abort_upload(self, upload_id: str, *, timeout: float | None = None) -> UploadInfo:
        """Abort an upload, and free its staged bytes (RSM-34).

        Raises:
            UploadUnknown: the sandbox does not know the upload.
            FilesError: anything else, by the error table.
        """
        request = files_pb2.AbortUploadRequest(sandbox=self._address.ref(), upload_id=upload_id)
        answer = await call_with_retries(self._rpc, self._address, self._rpc.abort_upload, request, timeout)
        return answers.upload_info(answer.upload)
