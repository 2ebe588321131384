"""Counts the content bytes in a transfer's messages, for the log."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from openshell_files_protocol.chunks import Chunk, decode_chunk
from openshell_files_protocol.pb.openshell.v1 import files_pb2


class ContentCount:
    """Counter of the content bytes that the gateway has passed on.

    Args:
        message_type: type of the transfer's messages.
    """

    def __init__(
        self, message_type: type[files_pb2.UploadFileRequest | files_pb2.DownloadFileResponse]
    ) -> None:
        self._type = message_type
        #: Bytes of content, holes included: for a whole file, its size.
        self.content_bytes = 0
        #: Bytes of content that messages carried as `hole_bytes`.
        self.hole_bytes = 0

    def add(self, message: bytes | memoryview) -> int:
        """Add a message to the counts, and return its content bytes without its holes."""
        chunk = decode_chunk(message) or self._parsed(message)
        if chunk is None:
            return 0
        self.content_bytes += chunk.size
        self.hole_bytes += chunk.hole_bytes
        return len(chunk.data)

    def facts(self) -> dict[str, object]:
        """Return the counts as fields of the log line."""
        holes: dict[str, object] = {"hole_bytes": self.hole_bytes} if self.hole_bytes else {}
        return {"content_bytes": self.content_bytes, **holes}

    def _parsed(self, message: bytes | memoryview) -> Chunk | None:
        """Parse a message that the fast decoder does not recognize."""
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
