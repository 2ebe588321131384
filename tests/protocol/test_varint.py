"""Varints and tags of the wire format."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.varint import (
    MAX_LENGTH_VARINT_BYTES,
    MAX_VARINT_BYTES,
    WIRE_I32,
    WIRE_LEN,
    WIRE_VARINT,
    VarintError,
    decode_length,
    decode_varint,
    encode_varint,
    tag,
)
from wire_strategies import MAX_UINT64, padded_varint, uint64s

EDGES = [0, 1, 0x7F, 0x80, 0x3FFF, 0x4000, 2**32 - 1, 2**32, 2**63, MAX_UINT64]


@pytest.mark.parametrize("value", EDGES[1:])
def test_encoding_is_protobufs(value: int) -> None:
    assert tag(1, WIRE_VARINT) + encode_varint(value) == (
        files_pb2.UploadFileResponse(bytes_written=value).SerializeToString()
    )


@settings(deadline=None)
@given(value=uint64s, before=st.binary(max_size=3), after=st.binary(max_size=3))
def test_round_trip_anywhere_in_a_buffer(value: int, before: bytes, after: bytes) -> None:
    encoded = encode_varint(value)
    for buffer in (bytes, bytearray, memoryview):
        assert decode_varint(buffer(before + encoded + after), len(before)) == (
            value,
            len(before) + len(encoded),
        )


@settings(deadline=None)
@given(value=uint64s)
def test_a_cut_varint_is_not_a_value(value: int) -> None:
    encoded = encode_varint(value)
    for end in range(len(encoded)):
        assert decode_varint(encoded[:end], 0) is None


@pytest.mark.parametrize("length", range(1, MAX_VARINT_BYTES + 1))
def test_padding_to_ten_bytes_is_legal(length: int) -> None:
    assert decode_varint(padded_varint(3, length), 0) == (3, length)


def test_more_than_ten_bytes_are_refused() -> None:
    with pytest.raises(VarintError):
        decode_varint(padded_varint(3, MAX_VARINT_BYTES + 1), 0)
    with pytest.raises(VarintError):
        decode_varint(b"\x80" * MAX_VARINT_BYTES, 0)
    assert decode_varint(b"\x80" * (MAX_VARINT_BYTES - 1), 0) is None


@pytest.mark.parametrize("length", range(1, MAX_VARINT_BYTES + 2))
def test_a_length_is_taken_exactly_when_protobuf_takes_it(length: int) -> None:
    encoded = padded_varint(3, length)
    message = tag(2, WIRE_LEN) + encoded + b"abc"
    if length <= MAX_LENGTH_VARINT_BYTES:
        assert decode_length(encoded, 0) == (3, length)
        assert files_pb2.UploadFileRequest.FromString(message).chunk == b"abc"
    else:
        assert decode_length(encoded, 0) is None


def test_a_cut_length_is_not_a_value() -> None:
    assert decode_length(b"", 0) is None
    assert decode_length(b"\x80\x80", 0) is None


def test_a_negative_value_is_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        encode_varint(-1)


@pytest.mark.parametrize(
    ("field", "wire_type", "expected"),
    [
        (1, WIRE_VARINT, b"\x08"),
        (2, WIRE_LEN, b"\x12"),
        (3, WIRE_I32, b"\x1d"),
        (1000, WIRE_LEN, b"\xc2\x3e"),
    ],
)
def test_tags(field: int, wire_type: int, expected: bytes) -> None:
    assert tag(field, wire_type) == expected
