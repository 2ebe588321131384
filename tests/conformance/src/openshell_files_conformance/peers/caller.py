"""One user of one sandbox: the calls that cases make again and again, right unless a case says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.client import OK, Call, Channel, Ended
from openshell_files_conformance.peers.model_files import BLAKE3, SHA256, crc32c, digest_of

#: Every server takes chunks of this size (UPL-6).
CHUNK_BYTES: Final = 256 << 10

Up = files_pb2.UploadFileRequest
__all__ = [
    "BLAKE3",
    "CHUNK_BYTES",
    "OK",
    "SHA256",
    "Caller",
    "Download",
    "Up",
    "chunks",
    "crc32c",
    "data",
    "digest_of",
    "finish",
    "hole",
]


def data(offset: int, content: bytes, checksum: int | None = None) -> Up:
    """A chunk at an offset, with the right checksum unless another is given."""
    value = crc32c(content) if checksum is None else checksum
    return Up(data=files_pb2.FileChunk(offset=offset, data=content, crc32c=value))


def hole(offset: int, size: int) -> Up:
    """A hole at an offset."""
    return Up(data=files_pb2.FileChunk(offset=offset, hole_bytes=size))


def finish(content: bytes, algorithm: int = SHA256, *, size: int | None = None) -> Up:
    """The finish of an upload of this content."""
    told = len(content) if size is None else size
    return Up(finish=files_pb2.UploadFinish(size_bytes=told, digest=digest_of(content, algorithm)))


def chunks(content: bytes, start: int = 0, size: int = CHUNK_BYTES) -> list[Up]:
    """The messages that carry content from an offset on."""
    return [data(at, content[at : at + size]) for at in range(start, len(content), size)]


@dataclass
class Download:
    """What a download gave.

    Attributes:
        ended: how the call ended.
    """

    ended: Ended[Any]

    @property
    def reason(self) -> str:
        """OK, or the reason."""
        return self.ended.reason

    @property
    def kinds(self) -> list[str]:
        """The kinds of all messages, in order."""
        return [str(one.WhichOneof("payload")) for one in self.ended.answers]

    @property
    def header(self) -> files_pb2.DownloadFileHeader:
        """The first message; empty if it was none."""
        first = self.ended.answers[0] if self.ended.messages else files_pb2.DownloadFileResponse()
        return first.header

    @property
    def trailer(self) -> files_pb2.DownloadTrailer | None:
        """The trailer, if there is one."""
        found = [one.trailer for one in self.ended.answers if one.HasField("trailer")]
        return found[-1] if found else None

    @property
    def content(self) -> bytes:
        """What came, holes as zeros."""
        parts = list[bytes]()
        for one in self.ended.answers:
            if one.HasField("chunk"):
                parts.append(one.chunk)
            elif one.HasField("data"):
                parts.append(one.data.data or bytes(one.data.hole_bytes))
        return b"".join(parts)

    @property
    def chunks(self) -> list[files_pb2.FileChunk]:
        """The pieces of a checked download."""
        return [one.data for one in self.ended.answers if one.HasField("data")]

    @property
    def sizes(self) -> list[int]:
        """The sizes of the pieces that have content."""
        found = [len(one.chunk or one.data.data) for one in self.ended.answers]
        return [size for size in found if size]


class Caller:
    """A user with a token, and the sandbox that its calls name.

    Attributes:
        channel: the connection.
        token: sent with every call.
        sandbox_id: named by every call.
    """

    def __init__(self, channel: Channel, token: str, sandbox_id: str) -> None:
        self.channel = channel
        self.token = token
        self.sandbox_id = sandbox_id

    @property
    def sandbox(self) -> files_pb2.SandboxRef:
        """The sandbox, as most requests name it."""
        return files_pb2.SandboxRef(id=self.sandbox_id)

    def open(self, method: str, **options: Any) -> Call[Any]:
        """Begin a call."""
        return self.channel.open(method, token=self.token, **options)

    async def call(self, method: str, *messages: Message, **options: Any) -> Ended[Any]:
        """Call a method, half-close, and wait for its end."""
        return await self.channel.call(method, *messages, token=self.token, **options)

    def metadata(self, path: str, **fields: Any) -> files_pb2.UploadFileMetadata:
        """Return metadata for this sandbox."""
        named: dict[str, Any] = {"sandbox_id": self.sandbox_id, "remote_path": path, **fields}
        return files_pb2.UploadFileMetadata(**named)

    async def begin(self, path: str, *messages: Up, **fields: Any) -> Call[Any]:
        """Begin an upload: its metadata, and what else is given."""
        call = self.open("UploadFile")
        await call.send(Up(metadata=self.metadata(path, **fields)), *messages)
        return call

    async def rfc_upload(
        self, path: str, content: bytes, *, size: int | None = None, piece: int = CHUNK_BYTES, **fields: Any
    ) -> Ended[Any]:
        """Upload as the RFC has it: metadata, chunks, half-close."""
        told = len(content) if size is None else size
        call = await self.begin(path, size_bytes=told, **fields)
        for at in range(0, len(content), piece):
            if not await call.send(Up(chunk=content[at : at + piece])):
                break
        await call.half_close()
        return await call.end()

    async def upload(
        self, path: str, content: bytes, *, algorithm: int = SHA256, **fields: Any
    ) -> Ended[Any]:
        """Upload with an explicit finish."""
        if algorithm != SHA256:
            fields.setdefault("accepted_digests", [algorithm])
        call = await self.begin(path, explicit_finish=True, **fields)
        await call.send(*chunks(content), finish(content, algorithm))
        await call.half_close()
        return await call.end()

    async def write(self, path: str, content: bytes, *, algorithm: int = SHA256, **fields: Any) -> Ended[Any]:
        """Call WriteFile; `crc32c`, `digest` and `content` replace what would be right."""
        request: dict[str, Any] = {
            "content": content,
            "crc32c": crc32c(content),
            "digest": digest_of(content, algorithm),
        }
        for name in ("content", "crc32c", "digest"):
            if name in fields:
                request[name] = fields.pop(name)
        return await self.call(
            "WriteFile", files_pb2.WriteFileRequest(metadata=self.metadata(path, **fields), **request)
        )

    async def download(self, path: str, **fields: Any) -> Download:
        """Download a file; unchecked unless asked for."""
        request = files_pb2.DownloadFileRequest(sandbox_id=self.sandbox_id, remote_path=path, **fields)
        return Download(await self.call("DownloadFile", request))

    async def stat(self, path: str, **fields: Any) -> Ended[Any]:
        """Describe a file."""
        return await self.call(
            "StatFile", files_pb2.StatFileRequest(sandbox=self.sandbox, remote_path=path, **fields)
        )

    async def start(self, path: str, *, digest: files_pb2.Digest | None = None, **fields: Any) -> Ended[Any]:
        """Call StartUpload."""
        request = files_pb2.StartUploadRequest(metadata=self.metadata(path, **fields), digest=digest)
        return await self.call("StartUpload", request)

    async def get(
        self, *, upload_id: str = "", request_id: str = "", include_digest: bool = False
    ) -> Ended[Any]:
        """Call GetUpload."""
        request = files_pb2.GetUploadRequest(
            sandbox=self.sandbox, upload_id=upload_id, request_id=request_id, include_digest=include_digest
        )
        return await self.call("GetUpload", request)

    async def abort(self, upload_id: str) -> Ended[Any]:
        """Call AbortUpload."""
        return await self.call(
            "AbortUpload", files_pb2.AbortUploadRequest(sandbox=self.sandbox, upload_id=upload_id)
        )

    async def list_uploads(self) -> Ended[Any]:
        """Call ListUploads."""
        return await self.call("ListUploads", files_pb2.ListUploadsRequest(sandbox=self.sandbox))

    async def capabilities(self, **options: Any) -> Ended[Any]:
        """Call GetTransferCapabilities."""
        request = files_pb2.GetTransferCapabilitiesRequest(sandbox=self.sandbox)
        return await self.call("GetTransferCapabilities", request, **options)

    async def missing(self, path: str) -> bool:
        """Whether a download says that there is no such file."""
        found = await self.download(path)
        return found.reason == "FILE_NOT_FOUND"

    async def content(self, path: str) -> bytes | str:
        """Return a file's content, or the reason why it cannot be had."""
        found = await self.download(path)
        if found.ended.ok and found.kinds[:1] != ["header"]:
            return "no header"
        return found.content if found.ended.ok else found.reason


def reasons(ended: Sequence[Ended[Any]]) -> list[str]:
    """Return how several calls ended."""
    return [one.reason for one in ended]
