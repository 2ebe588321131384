"""UploadFile and DownloadFile as code has them that was generated from the RFC's text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import rfc_messages


@dataclass
class RfcClient:
    """UploadFile and DownloadFile as generated code offers them."""

    channel: grpc.aio.Channel
    metadata: tuple[tuple[str, str], ...]

    async def upload(self, metadata: rfc_messages.UploadFileMetadata, content: bytes) -> int:
        def messages() -> Iterator[rfc_messages.UploadFileRequest]:
            yield rfc_messages.UploadFileRequest(metadata=metadata)
            for offset in range(0, len(content), rfc_messages.CHUNK_BYTES):
                yield rfc_messages.UploadFileRequest(
                    chunk=content[offset : offset + rfc_messages.CHUNK_BYTES]
                )

        method: grpc.aio.StreamUnaryMultiCallable[
            rfc_messages.UploadFileRequest, rfc_messages.UploadFileResponse
        ] = self.channel.stream_unary(
            rfc_messages.UPLOAD_FILE,
            request_serializer=rfc_messages.UploadFileRequest.SerializeToString,
            response_deserializer=rfc_messages.UploadFileResponse.FromString,
        )
        return (await method(messages(), metadata=self.metadata)).bytes_written

    async def download(self, sandbox_id: str, path: str, *, as_archive: bool = False) -> Download:
        method: grpc.aio.UnaryStreamMultiCallable[rfc_messages.DownloadFileRequest, bytes] = (
            self.channel.unary_stream(
                rfc_messages.DOWNLOAD_FILE,
                request_serializer=rfc_messages.DownloadFileRequest.SerializeToString,
            )
        )
        request = rfc_messages.DownloadFileRequest(
            sandbox_id=sandbox_id, remote_path=path, as_archive=as_archive
        )
        got = Download()
        async for data in method(request, metadata=self.metadata):
            message = rfc_messages.DownloadFileResponse.FromString(data)
            kind = message.WhichOneof("payload")
            got.kinds.append(kind)
            if kind == "header":
                got.header = message.header
            got.content += message.chunk
        return got


@dataclass
class Download:
    """What came."""

    header: rfc_messages.DownloadFileHeader | None = None
    content: bytes = b""
    kinds: list[str | None] = field(default_factory=list[str | None])
