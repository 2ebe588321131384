"""Encodes and decodes content messages without protobuf's copies.

`UploadFileRequest` and `DownloadFileResponse` use the same field numbers for
content (`chunk` = 2, `data` = 10), so one codec serves both directions. It
writes the same bytes as protobuf. Unusual but valid encodings (unknown fields,
another order of fields) are left to protobuf's parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
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

#: Field of a FileRelayRequest (`upload`) and of a FileRelayResponse (`download`)
#: that carries a message of the caller, or for it. Trees have fields of their own.
FILE_FIELD: Final = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """Content at a place in the file.

    Attributes:
        offset: position in the file in bytes; None for a plain `chunk`, which
            follows the chunk before.
        data: the content; a view into the received message.
        crc32c: checksum from the message; None for a plain `chunk`.
        hole_bytes: size of a hole (zero bytes without storage); `data` is empty then.
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
        before: CRC-32C of the bytes in front of `data`; the result covers both.
    """
    # google_crc32c accepts only bytes. The copy costs less than half of the
    # checksum itself.
    whole = data if isinstance(data, bytes) else bytes(data)
    return cast("int", google_crc32c.extend(before, whole))  # pyright: ignore[reportUnknownMemberType]


def encode_chunk(offset: int, data: bytes | memoryview, checksum: int) -> list[bytes | memoryview]:
    """Encode a message with a FileChunk in `data`, as segments."""
    head = b"" if offset == 0 else _OFFSET + encode_varint(offset)
    if len(data):
        head += _DATA + encode_varint(len(data))
    tail = b"" if checksum == 0 else _CRC + checksum.to_bytes(4, "little")
    return [_CHECKED + encode_varint(len(head) + len(data) + len(tail)) + head, data, tail]


def encode_hole(offset: int, hole_bytes: int) -> bytes:
    """Encode a message with a FileChunk that is a hole."""
    body = b"" if offset == 0 else _OFFSET + encode_varint(offset)
    if hole_bytes:
        body += _HOLE + encode_varint(hole_bytes)
    return _CHECKED + encode_varint(len(body)) + body


def encode_plain(data: bytes | memoryview) -> list[bytes | memoryview]:
    """Encode a message with a plain `chunk`, as segments."""
    return [_PLAIN + encode_varint(len(data)), data]


def embed(message: list[bytes | memoryview], field: int = FILE_FIELD) -> list[bytes | memoryview]:
    """Encode the relay message that carries a caller's message, as segments.

    Args:
        message: the caller's message, in segments.
        field: number of the relay message's field.
    """
    return [_embedding_tag(field) + encode_varint(sum(map(len, message))), *message]


def embedded(frame: memoryview, field: int = FILE_FIELD) -> memoryview | None:
    """Return the caller's message inside a relay message.

    Args:
        frame: the relay message.
        field: number of its field.

    Returns:
        A view; None if the frame is another one, or has an encoding that only
        protobuf's parser reads.
    """
    return _only_field(frame, _embedding_tag(field))


@cache
def _embedding_tag(field: int) -> bytes:
    return tag(field, WIRE_LEN)


def decode_chunk(message: bytes | memoryview) -> Chunk | None:
    """Decode a content message.

    Returns:
        The chunk; None if the message is another one, or has an encoding that
        only protobuf's parser reads.
    """
    view = memoryview(message)
    body = _only_field(view, _PLAIN)
    if body is not None:
        return Chunk(None, body)
    body = _only_field(view, _CHECKED)
    return None if body is None else _decode_file_chunk(body)


def _only_field(view: memoryview, wanted: bytes) -> memoryview | None:
    """Return the content of the one length-delimited field that a message consists of; None for other messages."""
    if not view or view[0] != wanted[0] or bytes(view[: len(wanted)]) != wanted:
        return None
    length = decode_length(view, len(wanted))
    if length is None or length[0] + length[1] != len(view):
        return None
    return view[length[1] :]


def _decode_file_chunk(body: memoryview) -> Chunk | None:
    """Decode a FileChunk whose fields are in order, each at most once; None for other encodings."""
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
