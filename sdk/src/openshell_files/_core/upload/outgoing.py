"""Messages of an upload, and the pieces of the source that they carry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from openshell_files_protocol.chunks import crc32c, encode_chunk, encode_hole
from openshell_files_protocol.digests import Digest
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2

from openshell_files._core.digests import ContentDigest


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the source: content, or a hole.

    Attributes:
        data: the content, at most a chunk; empty for a hole.
        hole_bytes: size of the hole; 0 for content.
    """

    data: bytes | memoryview = b""
    hole_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Sealed:
    """A serialized message.

    Attributes:
        message: an UploadFileRequest.
        content: bytes of content in it.
        end: offset of its end in the file.
    """

    message: bytes
    content: int
    end: int


def seal(digest: ContentDigest, span: Span) -> Sealed:
    """Hash a span and serialize its message. The content is copied once.

    Args:
        digest: of everything before the span; its position is the span's offset.
        span: the next part of the source.
    """
    offset = digest.position
    if span.hole_bytes:
        digest.update_zeros(span.hole_bytes)
        return Sealed(encode_hole(offset, span.hole_bytes), 0, digest.position)
    digest.update(span.data)
    message = b"".join(encode_chunk(offset, span.data, crc32c(span.data)))
    return Sealed(message, len(span.data), digest.position)


def first_message(metadata: files_pb2.UploadFileMetadata) -> bytes:
    """Serialize the first message of an upload (UPL-4)."""
    return files_pb2.UploadFileRequest(metadata=metadata).SerializeToString()


def finish_message(size: int, digest: Digest) -> bytes:
    """Serialize the finish, which publishes (UPL-3)."""
    finish = files_pb2.UploadFinish(size_bytes=size, digest=digest.message)
    return files_pb2.UploadFileRequest(finish=finish).SerializeToString()


def waiting_message() -> bytes:
    """Serialize the message `waiting`: the source has no content at the moment (WAI-2)."""
    return files_pb2.UploadFileRequest(waiting=file_options_pb2.UploadWaiting()).SerializeToString()


def write_request(
    metadata: files_pb2.UploadFileMetadata, digest: ContentDigest, content: Sequence[Span]
) -> files_pb2.WriteFileRequest:
    """Return the request of WriteFile, with content, CRC and digest (UPL-16).

    Args:
        metadata: of the upload.
        digest: a digest at position 0.
        content: of the file, in order, without a hole.
    """
    request = files_pb2.WriteFileRequest(
        metadata=metadata, content=b"".join(bytes(span.data) for span in content)
    )
    digest.update(request.content)
    request.crc32c = crc32c(request.content)
    request.digest.CopyFrom(digest.digest().message)
    return request


class Rechunker:
    """Converts pieces of any size to chunks of one size.

    Between two calls it holds less than one chunk.

    Args:
        chunk_bytes: size of every chunk but the last.
    """

    def __init__(self, chunk_bytes: int) -> None:
        self._size = chunk_bytes
        self._parts: list[memoryview] = []
        self._held = 0

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes | memoryview]:
        """Take bytes and yield the chunks that they complete; chunks may be views of `data`."""
        view = memoryview(data).cast("B")
        while self._held + len(view) >= self._size:
            taken = self._size - self._held
            self._parts.append(view[:taken])
            view = view[taken:]
            parts, self._parts, self._held = self._parts, [], 0
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        if view:
            # A copy, because the caller may reuse its buffer before the chunk is full.
            self._parts.append(memoryview(bytes(view)))
            self._held += len(view)

    def flush(self) -> bytes:
        """Return the last, shorter chunk."""
        parts, self._parts, self._held = self._parts, [], 0
        return b"".join(parts)
