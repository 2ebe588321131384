"""Rules for the messages of an uploading caller, as they are checked when a message arrives."""

from __future__ import annotations

from typing import Final

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_calls import Call
from openshell_files_conformance.peers.file_core import Core
from openshell_files_conformance.peers.file_sandbox import MAX_MESSAGE_BYTES, SURE_CHUNK_BYTES, Upload, crc32c
from openshell_files_conformance.peers.file_status import Status

#: Most entries of accepted_digests (DIG-21).
_MOST_DIGESTS: Final = 16
#: What a later request for an upload may have in another way than the first.
_FREE_FIELDS: Final = ("upload_id", "request_id", "epoch", "lanes", "accepted_digests", "explicit_finish")


def check_metadata(
    core: Core, call: Call, metadata: files_pb2.UploadFileMetadata, *, small: bool = False
) -> None:
    """Check what metadata alone shows.

    Args:
        core: of the gateway.
        call: that carries it.
        metadata: of an upload.
        small: it is that of WriteFile.

    Raises:
        Status: the refusal.
    """
    settings = core.settings
    if len(metadata.accepted_digests) > _MOST_DIGESTS:
        raise core.refuse("DIG-21", "INVALID_REQUEST", f"{call.name} accepts more than 16 digests")
    if metadata.lanes > 1:
        if not (metadata.upload_id and metadata.explicit_finish):
            raise core.refuse("LAN-13", "INVALID_REQUEST", "lanes without upload_id or explicit_finish")
        if metadata.lanes > max(1, settings.max_lanes):
            raise core.refuse(
                "LAN-1" if settings.max_lanes else "CAP-10",
                "INVALID_REQUEST",
                f"{call.name} has {metadata.lanes} lanes, allowed are {settings.max_lanes}",
            )
    if metadata.is_archive:
        raise core.refuse(
            "CAP-10", "ARCHIVE_UNSUPPORTED", f"{call.name} sends an archive, which was not offered"
        )
    if call.method == "UploadFile" and _extends(metadata) and not core.answered_extension and not small:
        core.violates("RFC-8", f"{call.name} uses extensions before an answer to a method of an extension")


def _extends(metadata: files_pb2.UploadFileMetadata) -> bool:
    """Return whether the stream will have messages of an extension."""
    return bool(metadata.explicit_finish or metadata.upload_id)


def differences(first: files_pb2.UploadFileMetadata, now: files_pb2.UploadFileMetadata) -> list[str]:
    """Return the fields in which a request differs from the first one for its upload (RSM-11)."""
    left, right = files_pb2.UploadFileMetadata(), files_pb2.UploadFileMetadata()
    left.CopyFrom(first)
    right.CopyFrom(now)
    for name in _FREE_FIELDS:
        left.ClearField(name)
        right.ClearField(name)
    return [
        field.name
        for field in left.DESCRIPTOR.fields
        if getattr(left, field.name) != getattr(right, field.name)
    ]


class Incoming:
    """Messages of one stream behind its metadata.

    Args:
        core: of the gateway.
        call: the stream.
        upload: that it belongs to.
        explicit: the stream ends with a finish.
        resumed: the stream goes on where the upload stands.

    Attributes:
        received: offset behind the last content.
    """

    def __init__(self, core: Core, call: Call, upload: Upload, *, explicit: bool, resumed: bool) -> None:
        self._core = core
        self._call = call
        self._upload = upload
        self._explicit = explicit
        self._resumed = resumed
        self._kind = ""
        self._begun = False
        self.received = len(upload.staged)

    def take(self, message: files_pb2.UploadFileRequest) -> bool:
        """Check and stage a message; return whether it is the finish.

        Raises:
            Status: the refusal.
        """
        if message.ByteSize() > MAX_MESSAGE_BYTES:
            raise self._refuse("UPL-15", "INVALID_REQUEST", f"a message of {message.ByteSize()} bytes")
        kind = message.WhichOneof("payload") or "nothing"
        match kind:
            case "finish" if not self._explicit:
                raise self._refuse("UPL-21", "INVALID_REQUEST", "a finish without explicit_finish")
            case "finish":
                return True
            case "waiting":
                self._core.violates("CAP-10", f"{self._call.name} sends waiting, which was not offered")
            case "data" | "chunk":
                self._content(message, kind)
            case "metadata":
                raise self._refuse("UPL-19", "INVALID_REQUEST", "a second metadata")
            case _:
                raise self._refuse("UPL-4", "INVALID_REQUEST", f"{kind} in the middle of a stream")
        return False

    def _content(self, message: files_pb2.UploadFileRequest, kind: str) -> None:
        if self._kind and self._kind != kind:
            raise self._refuse("UPL-22", "INVALID_REQUEST", "both chunk and data")
        self._kind = kind
        chunk = message.data
        if kind == "chunk":
            self._small_enough(len(message.chunk))
            self._stage(message.chunk)
            return
        if bool(chunk.data) == bool(chunk.hole_bytes):
            raise self._refuse("UPL-26", "INVALID_REQUEST", "a chunk has both data and a hole, or neither")
        if chunk.offset != self.received:
            raise self._misplaced(chunk.offset)
        self._begun = True
        if chunk.hole_bytes:
            self._stage(bytes(chunk.hole_bytes))
            return
        self._small_enough(len(chunk.data))
        if crc32c(chunk.data) != chunk.crc32c:
            raise self._refuse(
                "UPL-7", "CHUNK_CHECKSUM", f"the CRC-32C of the chunk at {chunk.offset} is wrong"
            )
        self._stage(chunk.data)

    def _stage(self, data: bytes) -> None:
        self._upload.staged += data
        self.received = len(self._upload.staged)

    def _small_enough(self, size: int) -> None:
        settings = self._core.settings
        limit = settings.max_chunk_bytes if self._core.knows_limits else SURE_CHUNK_BYTES
        if size > limit:
            clause = "UPL-24" if self._core.knows_limits else "CAP-5"
            raise self._refuse(clause, "CHUNK_TOO_LARGE", f"a chunk of {size} bytes; the limit is {limit}")

    def _misplaced(self, offset: int) -> Status:
        """Return the refusal of a chunk that does not begin where the content ends."""
        clause = "RSM-4" if self._resumed and not self._begun else "UPL-5"
        text = f"{self._call.name}: a chunk begins at {offset}, expected is {self.received}"
        return self._core.refuse(
            clause, "OFFSET_MISMATCH", text, expected_offset=str(self.received), provided_offset=str(offset)
        )

    def _refuse(self, clause: str, reason: str, text: str) -> Status:
        return self._core.refuse(clause, reason, f"{self._call.name}: {text}")
