"""UPL-24, FRM-11: the largest chunk fits, through every layer, and no more does."""

from __future__ import annotations

from random import Random

import pytest
from openshell_files_protocol.chunks import crc32c, decode_chunk, embed, embedded, encode_chunk, encode_plain
from openshell_files_protocol.framing import (
    FrameDecoder,
    FramingError,
    decode_relay_data,
    encode_relay_data,
    frame_segments,
)
from openshell_files_protocol.limits import (
    KIB,
    MAX_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    MAX_MESSAGE_BYTES,
    MIB,
    MIN_CHUNK_LIMIT_BYTES,
    RFC_CHUNK_BYTES,
    STREAM_OPTIONS,
)
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from wire_strategies import MAX_UINT64


def test_the_largest_chunk_fits_one_relay_frame() -> None:
    """UPL-24, FRM-11: a chunk of the limit at the largest offset passes every layer in one message."""
    content = Random(1).randbytes(MAX_CHUNK_BYTES)
    checksum = crc32c(content)
    assert checksum != 0
    message = encode_chunk(MAX_UINT64, content, checksum)
    relay_frames = list(encode_relay_data(frame_segments(embed(message))))
    assert len(relay_frames) == 1
    assert len(relay_frames[0]) <= MAX_MESSAGE_BYTES

    payload = decode_relay_data(relay_frames[0])
    assert payload is not None
    (frame,) = FrameDecoder().feed(payload)
    view = embedded(frame)
    assert view is not None
    chunk = decode_chunk(view)
    assert chunk is not None
    assert (chunk.offset, chunk.crc32c, chunk.data) == (MAX_UINT64, checksum, content)


def test_protobuf_makes_the_largest_chunk_no_larger() -> None:
    """UPL-24: the same for a peer that uses protobuf alone."""
    message = files_pb2.UploadFileRequest(
        data=files_pb2.FileChunk(offset=MAX_UINT64, data=bytes(MAX_CHUNK_BYTES), crc32c=1)
    )
    frame = file_relay_pb2.FileRelayRequest(upload=message).SerializeToString()
    relay_frame = openshell_pb2.RelayFrame(data=b"".join(frame_segments([frame])))
    assert relay_frame.ByteSize() <= MAX_MESSAGE_BYTES


def test_the_largest_message_of_a_caller_fits_a_frame() -> None:
    """FRM-11: a message of exactly 1 MiB gets through, whatever it consists of."""
    message = encode_plain(bytes(MAX_MESSAGE_BYTES - 4))
    assert sum(map(len, message)) == MAX_MESSAGE_BYTES
    frame = embed(message)
    assert sum(map(len, frame)) <= MAX_FRAME_BYTES
    decoder = FrameDecoder()
    frames = [
        bytes(whole)
        for relay_frame in encode_relay_data(frame_segments(frame))
        for whole in decoder.feed(decode_relay_data(relay_frame) or b"")
    ]
    assert frames == [b"".join(frame)]


def test_a_frame_over_the_limit_is_refused() -> None:
    """FRM-11: a frame is at most 1 MiB + 64 bytes."""
    assert MAX_FRAME_BYTES == MIB + 64
    with pytest.raises(FramingError):
        list(FrameDecoder().feed(b"".join(frame_segments([bytes(MAX_FRAME_BYTES + 1)]))))


def test_every_server_takes_what_needs_no_question() -> None:
    """UPL-6, RFC-2: the sizes that are used without asking are within every limit."""
    assert MIN_CHUNK_LIMIT_BYTES == 256 * KIB
    assert RFC_CHUNK_BYTES <= MIN_CHUNK_LIMIT_BYTES <= MAX_CHUNK_BYTES < MAX_MESSAGE_BYTES == MIB


@pytest.mark.parametrize("option", ["grpc.max_receive_message_length", "grpc.max_send_message_length"])
def test_the_transport_refuses_no_message_of_the_protocol(option: str) -> None:
    assert dict(STREAM_OPTIONS)[option] >= MAX_FRAME_BYTES
