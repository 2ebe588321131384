"""Base-128 varints and field tags of the protobuf wire format."""

from __future__ import annotations

from typing import Final

#: A varint is at most ten bytes long (64 bits, seven per byte).
MAX_VARINT_BYTES: Final = 10

#: Longest encoding of a field's length that protobuf's parsers accept.
MAX_LENGTH_VARINT_BYTES: Final = 5

WIRE_VARINT: Final = 0
WIRE_I64: Final = 1
WIRE_LEN: Final = 2
WIRE_I32: Final = 5


class VarintError(ValueError):
    """A varint is longer than ten bytes."""


def encode_varint(value: int) -> bytes:
    """Encode an unsigned integer below 2**64."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | bytearray | memoryview, position: int) -> tuple[int, int] | None:
    """Decode the varint at `position`.

    Returns:
        The value and the position after it; None if `data` ends within it.

    Raises:
        VarintError: it has more than ten bytes.
    """
    value = shift = 0
    end = len(data)
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift >= 7 * MAX_VARINT_BYTES:
            raise VarintError("varint longer than ten bytes")
    return None


def decode_length(data: bytes | bytearray | memoryview, position: int) -> tuple[int, int] | None:
    """Decode the length of a length-delimited field at `position`.

    Returns:
        The length and the position after it; None if `data` ends within it, or
        if protobuf's parsers do not accept its encoding.
    """
    try:
        decoded = decode_varint(data, position)
    except VarintError:
        return None
    if decoded is None or decoded[1] - position > MAX_LENGTH_VARINT_BYTES:
        return None
    return decoded


def tag(field: int, wire_type: int) -> bytes:
    """Encode the tag of a field."""
    return encode_varint(field << 3 | wire_type)
