"""Counts the content of a transfer's messages."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from openshell_files_protocol.chunks import Chunk, decode_chunk
from openshell_files_protocol.pb.openshell.v1 import files_pb2


class ContentCount:
    """How much of the file has passed, for the log.

    Args:
        message_type: of the messages.
    """

    def __init__(
        self, message_type: type[files_pb2.UploadFileRequest | files_pb2.DownloadFileResponse]
    ) -> None:
        self._type = message_type
        #: Of the file, the bytes of holes included: a whole file counts its size.
        self.content_bytes = 0
        #: The part of it that travelled as holes.
        self.hole_bytes = 0

    def add(self, message: bytes | memoryview) -> int:
        """Count a message; returns how many bytes of content it carries, without a hole's."""
        chunk = decode_chunk(message) or self._parsed(message)
        if chunk is None:
            return 0
        self.content_bytes += chunk.size
        self.hole_bytes += chunk.hole_bytes
        return len(chunk.data)

    def facts(self) -> dict[str, object]:
        """Return what is logged."""
        holes: dict[str, object] = {"hole_bytes": self.hole_bytes} if self.hole_bytes else {}
        return {"content_bytes": self.content_bytes, **holes}

    def _parsed(self, message: bytes | memoryview) -> Chunk | None:
        """Read a message that is not plain enough to tell in one glance."""
        try:
            parsed = self._type.FromString(bytes(message))
        except DecodeError:
            return None
        match parsed.WhichOneof("payload"):
            case "chunk":
                return Chunk(None, parsed.chunk)
            case "data":
                return Chunk(parsed.data.offset, parsed.data.data, None, parsed.data.hole_bytes)
            case _:
                return None
