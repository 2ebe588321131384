"""The content messages, encoded and decoded without protobuf's copies.

`UploadFileRequest` and `DownloadFileResponse` use the same numbers for
content (`chunk` = 2, `data` = 10), so one codec serves both directions. What
it writes is byte for byte what protobuf would write; what it cannot read in
one glance (unknown fields, another field order) it leaves to protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import google_crc32c

from openshell_files_protocol.varint import (
    WIRE_I32,
    WIRE_LEN,
    WIRE_VARINT,
    VarintError,
    decode_length,
    decode_varint,
    encode_varint,
    tag,
)

_PLAIN: Final = tag(2, WIRE_LEN)
_CHECKED: Final = tag(10, WIRE_LEN)
_OFFSET: Final = tag(1, WIRE_VARINT)
_DATA: Final = tag(2, WIRE_LEN)
_CRC: Final = tag(3, WIRE_I32)
_HOLE: Final = tag(4, WIRE_VARINT)

#: In a FileRelayRequest (`upload`) and in a FileRelayResponse (`download`)
#: the caller's message is field 2.
_EMBEDDED: Final = tag(2, WIRE_LEN)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Content at a place in the file.

    Attributes:
        offset: first byte, from the start of the file; None for a plain
            `chunk`, which follows the one before.
        data: the content; a view into the received message.
        crc32c: as sent; None for a plain `chunk`.
        hole_bytes: zero bytes that need no storage; `data` is empty then.
    """

    offset: int | None
    data: bytes | memoryview
    crc32c: int | None = None
    hole_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes of the file that this chunk covers."""
        return self.hole_bytes or len(self.data)


def crc32c(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32C (Castagnoli, RFC 3720) of `data`.

    Args:
        data: the bytes.
        before: the CRC-32C of bytes in front of them, to get that of both.
    """
    # The extension takes nothing but bytes. The copy costs less than half of
    # the checksum itself.
    whole = data if isinstance(data, bytes) else bytes(data)
    return cast("int", google_crc32c.extend(before, whole))  # pyright: ignore[reportUnknownMemberType]


def encode_chunk(offset: int, data: bytes | memoryview, checksum: int) -> list[bytes | memoryview]:
    """Encode a message whose payload is `data` = FileChunk, as segments."""
    head = b"" if offset == 0 else _OFFSET + encode_varint(offset)
    if len(data):
        head += _DATA + encode_varint(len(data))
    tail = b"" if checksum == 0 else _CRC + checksum.to_bytes(4, "little")
    return [_CHECKED + encode_varint(len(head) + len(data) + len(tail)) + head, data, tail]


def encode_hole(offset: int, hole_bytes: int) -> bytes:
    """Encode a message whose payload is a FileChunk without content."""
    body = b"" if offset == 0 else _OFFSET + encode_varint(offset)
    if hole_bytes:
        body += _HOLE + encode_varint(hole_bytes)
    return _CHECKED + encode_varint(len(body)) + body


def encode_plain(data: bytes | memoryview) -> list[bytes | memoryview]:
    """Encode a message whose payload is `chunk`, as segments."""
    return [_PLAIN + encode_varint(len(data)), data]


def embed(message: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Encode the relay message that carries a caller's message, as segments."""
    return [_EMBEDDED + encode_varint(sum(map(len, message))), *message]


def embedded(frame: memoryview) -> memoryview | None:
    """Return the caller's message inside a relay message.

    Returns:
        A view, or None if the frame is something else or not plain enough to
        tell; then protobuf has to parse it.
    """
    return _only_field(frame, _EMBEDDED)


def decode_chunk(message: bytes | memoryview) -> Chunk | None:
    """Decode a content message.

    Returns:
        The chunk, or None if the message is something else or not plain
        enough to tell; then protobuf has to parse it.
    """
    view = memoryview(message)
    body = _only_field(view, _PLAIN)
    if body is not None:
        return Chunk(None, body)
    body = _only_field(view, _CHECKED)
    return None if body is None else _decode_file_chunk(body)


def _only_field(view: memoryview, wanted: bytes) -> memoryview | None:
    """Return the body of a message that consists of one length-delimited field."""
    if not view or view[0] != wanted[0]:
        return None
    length = decode_length(view, 1)
    if length is None or length[0] + length[1] != len(view):
        return None
    return view[length[1] :]


def _decode_file_chunk(body: memoryview) -> Chunk | None:
    """Decode the fields of a FileChunk if they come once each, in order."""
    offset = checksum = hole = position = last = 0
    data: memoryview = body[:0]
    try:
        while position < len(body):
            key = body[position]
            if key >> 3 <= last:
                return None
            last = key >> 3
            position += 1
            if key == _CRC[0]:
                if position + 4 > len(body):
                    return None
                checksum = int.from_bytes(body[position : position + 4], "little")
                position += 4
                continue
            decoded = (decode_length if key == _DATA[0] else decode_varint)(body, position)
            if decoded is None:
                return None
            value, position = decoded
            if key == _OFFSET[0]:
                offset = value
            elif key == _HOLE[0]:
                hole = value
            elif key == _DATA[0]:
                data = body[position : position + value]
                if len(data) != value:
                    return None
                position += value
            else:
                return None
    except VarintError:
        return None
    if max(offset, hole) >> 64:
        return None
    return Chunk(offset, data, checksum, hole)
