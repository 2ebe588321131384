"""A client that speaks the protocol message by message, as the clauses have it.

Not the SDK: it does not retry, resume or check, and can stop anywhere.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import google.rpc.error_details_pb2 as error_details_pb2
import google.rpc.status_pb2 as status_pb2
import grpc
from digest_values import digest_of, finish_of
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c, decode_chunk, encode_chunk
from openshell_files_protocol.limits import STREAM_OPTIONS
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from status_details import reason_in

#: What every server takes (UPL-6).
CHUNK_BYTES = 256 * 1024


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason in a status' ErrorInfo; the code's name if it has none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            info = error_details_pb2.ErrorInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return info.reason
    return error.code().name


def _messages(
    metadata: files_pb2.UploadFileMetadata, content: bytes, chunk_bytes: int, stop_after: int | None
) -> Iterator[bytes]:
    """Yield the messages of an upload."""
    yield files_pb2.UploadFileRequest(metadata=metadata).SerializeToString()
    for number, offset in enumerate(range(0, len(content), chunk_bytes)):
        if number == stop_after:
            return
        data = content[offset : offset + chunk_bytes]
        yield b"".join(encode_chunk(offset, data, crc32c(data)))
    if stop_after is None:
        finish = finish_of(content)
        yield files_pb2.UploadFileRequest(finish=finish).SerializeToString()


@dataclass
class Downloaded:
    """What a checked download brought."""

    header: files_pb2.DownloadFileHeader | None = None
    content: bytearray = field(default_factory=bytearray)
    trailer: files_pb2.DownloadTrailer | None = None


class StackClient:
    """Calls of one user on a connection of its own."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._token = token

    def metadata(self, transfer_id: str = "") -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call, with its name for the logs."""
        return (
            ("authorization", f"Bearer {self._token}"),
            ("x-request-id", transfer_id or uuid.uuid4().hex),
        )

    async def upload(
        self,
        metadata: files_pb2.UploadFileMetadata,
        content: bytes,
        *,
        transfer_id: str = "",
        chunk_bytes: int = CHUNK_BYTES,
        stop_after: int | None = None,
        on_metadata_sent: Callable[[], object] = lambda: None,
    ) -> files_pb2.UploadFileResponse:
        """Send a file with chunks and finish, and return the answer.

        Args:
            metadata: the first message; `explicit_finish` is added.
            content: of the file.
            transfer_id: of the call.
            chunk_bytes: of each chunk.
            stop_after: chunks after which nothing more is sent, no finish
                either; None sends all.
            on_metadata_sent: called when the first message was taken.
        """
        channel: Any = self._channel
        call = channel.stream_unary(
            methods.UPLOAD_FILE, response_deserializer=files_pb2.UploadFileResponse.FromString
        )(metadata=self.metadata(transfer_id), wait_for_ready=True)
        metadata.explicit_finish = True
        try:
            await call.wait_for_connection()
            for number, message in enumerate(_messages(metadata, content, chunk_bytes, stop_after)):
                # Not `call.write`: when a server answers early, it replaces
                # the server's status by "Internal error from Core".
                await call._cython_call.send_serialized_message(message)
                if number == 0:
                    on_metadata_sent()
            if stop_after is None:
                await call.done_writing()
        except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            pass  # the answer says why
        except BaseException:
            call.cancel()
            raise
        response: files_pb2.UploadFileResponse = await call
        return response

    async def download(self, request: files_pb2.DownloadFileRequest, *, transfer_id: str = "") -> Downloaded:
        """Receive a checked download and compare offsets, checksums and digest (DWN-10)."""
        request.checked = True
        got = Downloaded()
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            methods.DOWNLOAD_FILE
        )
        call = method(request.SerializeToString(), metadata=self.metadata(transfer_id), wait_for_ready=True)
        async for message in call:
            chunk = decode_chunk(message)
            if chunk is None:
                response = files_pb2.DownloadFileResponse.FromString(message)
                if response.WhichOneof("payload") == "header":
                    got.header = response.header
                else:
                    got.trailer = response.trailer
                continue
            assert chunk.offset == len(got.content)
            assert chunk.hole_bytes or chunk.crc32c == crc32c(chunk.data)
            got.content += bytes(chunk.hole_bytes) or chunk.data
        assert got.trailer is not None
        assert got.trailer.digest == digest_of(bytes(got.content))
        return got

    async def stat(self, sandbox_id: str, path: str, *, transfer_id: str = "") -> files_pb2.FileInfo:
        request = files_pb2.StatFileRequest(
            sandbox=files_pb2.SandboxRef(id=sandbox_id), remote_path=path, include_digest=True
        )
        data = await self._unary(methods.STAT_FILE, request.SerializeToString(), transfer_id)
        return files_pb2.StatFileResponse.FromString(data).file

    async def start(self, request: files_pb2.StartUploadRequest) -> files_pb2.StartUploadResponse:
        data = await self._unary(methods.START_UPLOAD, request.SerializeToString())
        return files_pb2.StartUploadResponse.FromString(data)

    async def status(
        self, sandbox_id: str, request_id: str = "", *, upload_id: str = "", digest: bool = False
    ) -> files_pb2.UploadStatus:
        """Ask for an upload; one that is not known has no state."""
        request = files_pb2.GetUploadRequest(
            sandbox=files_pb2.SandboxRef(id=sandbox_id),
            request_id=request_id,
            upload_id=upload_id,
            include_digest=digest,
        )
        try:
            data = await self._unary(methods.GET_UPLOAD, request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            if reason_in(error) != "UPLOAD_UNKNOWN":
                raise
            return files_pb2.UploadStatus()
        return files_pb2.GetUploadResponse.FromString(data).upload

    async def unfinished(self, sandbox_id: str) -> list[files_pb2.UploadStatus]:
        request = files_pb2.ListUploadsRequest(sandbox=files_pb2.SandboxRef(id=sandbox_id))
        data = await self._unary(methods.LIST_UPLOADS, request.SerializeToString())
        return list(files_pb2.ListUploadsResponse.FromString(data).uploads)

    async def abort(self, sandbox_id: str, upload_id: str) -> files_pb2.UploadStatus:
        request = files_pb2.AbortUploadRequest(
            sandbox=files_pb2.SandboxRef(id=sandbox_id), upload_id=upload_id
        )
        data = await self._unary(methods.ABORT_UPLOAD, request.SerializeToString())
        return files_pb2.AbortUploadResponse.FromString(data).upload

    async def _unary(self, method: str, request: bytes, transfer_id: str = "") -> bytes:
        callable_: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        return await callable_(request, metadata=self.metadata(transfer_id), wait_for_ready=True)


@asynccontextmanager
async def stack_client(endpoint: str, token: str) -> AsyncGenerator[StackClient, None]:
    """Connect to a gateway; connections are not shared."""
    options = [
        *STREAM_OPTIONS,
        ("grpc.use_local_subchannel_pool", 1),
        # A gateway that is started again is found at once.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    async with grpc.aio.insecure_channel(endpoint, options) as channel:
        yield StackClient(channel, token)
