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
from vector_cases import Frames, Varint, named, read
from wire_strategies import padded_varint, uint64s


@pytest.mark.parametrize("case", read(Frames).varints, ids=named)
def test_vectors(case: Varint) -> None:
    """FRM-10: the value, or that it is not there yet, or never will be."""
    encoded = bytes.fromhex(case.encoded)
    if case.error:
        with pytest.raises(VarintError):
            decode_varint(encoded, 0)
    elif case.value is None:
        assert decode_varint(encoded, 0) is None
    else:
        value = int(case.value)
        assert decode_varint(encoded, 0) == (value, len(encoded))
        assert (encode_varint(value) == encoded) is case.shortest
        if value:
            written = files_pb2.UploadFileResponse(bytes_written=value).SerializeToString()
            assert written == tag(1, WIRE_VARINT) + encode_varint(value)


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
