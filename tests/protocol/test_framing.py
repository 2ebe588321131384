"""FRM-1, FRM-10, FRM-11: frames in a byte stream that may be cut anywhere."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from random import Random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from openshell_files_protocol.framing import (
    MAX_RELAY_PAYLOAD,
    SSH_BANNER,
    FrameDecoder,
    FramingError,
    decode_relay_data,
    encode_relay_data,
    frame_segments,
)
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.varint import encode_varint
from vector_cases import Frames, FrameStream, RelayMessage, content_of, named, read
from wire_strategies import cuts, damaged, messages

#: A frame of so many bytes begins like an SSH banner.
LIKE_SSH = SSH_BANNER[0]

contents = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=120, max_size=140),
    st.binary(min_size=LIKE_SSH, max_size=LIKE_SSH),
    st.sampled_from([b"S", b"SS", b"SH", b"SHx", b"SSH"]).map(lambda start: start.ljust(LIKE_SSH, b".")),
)


def framed(frames: Iterable[bytes]) -> bytes:
    return b"".join(segment for frame in frames for segment in frame_segments([frame]))


def fed(decoder: FrameDecoder, pieces: Iterable[bytes]) -> list[bytes]:
    return [bytes(frame) for piece in pieces for frame in decoder.feed(piece)]


def one_by_one(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def looks_like_ssh(stream: bytes) -> bool:
    return stream.startswith(SSH_BANNER)


@settings(deadline=None, max_examples=200)
@given(frames=st.lists(contents, max_size=6), data=st.data())
@example(frames=[b"S" * LIKE_SSH], data=None)
def test_any_cut_gives_the_same_frames(frames: list[bytes], data: st.DataObject | None) -> None:
    stream = framed(frames)
    # A frame that begins so is no message: its first field would be a group.
    assume(not looks_like_ssh(stream))
    pieces = one_by_one(stream) if data is None else data.draw(cuts(stream))
    decoder = FrameDecoder()
    got: list[bytes] = []
    taken = 0
    for piece in pieces:
        got += fed(decoder, [piece])
        taken += len(piece)
        whole = len(framed(got))
        unfinished = stream[whole:taken]
        length_bytes = len(encode_varint(len(frames[len(got)]))) if unfinished else 0
        # What is held is the unfinished frame without the length once that is known.
        assert decoder.buffered in {len(unfinished), len(unfinished) - length_bytes}
        assert decoder.at_boundary == (not unfinished)
    assert got == frames
    assert decoder.at_boundary
    assert decoder.buffered == 0


@settings(deadline=None)
@given(frames=st.lists(contents, min_size=1, max_size=4))
def test_a_byte_at_a_time(frames: list[bytes]) -> None:
    stream = framed(frames)
    assume(not looks_like_ssh(stream))
    assert fed(FrameDecoder(), one_by_one(stream)) == frames
    assert fed(FrameDecoder(), [stream]) == frames


#: What a refusal says.
FAULTS = {"too long": "at most", "no length": "ten bytes", "ssh": "SSH server"}


def some_cuts(stream: bytes) -> Iterator[list[bytes]]:
    """Cut a stream in pieces of one size, and in two near its beginning."""
    for size in {1, 2, 3, 4095, 4096, 16 * 1024, len(stream) + 1}:
        if len(stream) // size < 10_000:
            yield [stream[at : at + size] for at in range(0, len(stream), size)]
    for at in range(1, 6):
        yield [stream[:at], stream[at:]]


@pytest.mark.parametrize("case", read(Frames).streams, ids=named)
def test_vectors(case: FrameStream) -> None:
    """FRM-1, FRM-10, FRM-11, FRM-15: the same frames and the same fault, however the stream is cut."""
    stream = content_of(case.stream)
    for pieces in some_cuts(stream):
        decoder = FrameDecoder()
        got: list[bytes] = []
        if case.error is None:
            got += fed(decoder, pieces)
            assert decoder.at_boundary is not case.unfinished
        else:
            with pytest.raises(FramingError, match=FAULTS[case.error]):
                got.extend(bytes(frame) for piece in pieces for frame in decoder.feed(piece))
            # Nothing was taken of what follows the length.
            assert decoder.buffered < 11
        assert got == [content_of(frame) for frame in case.frames]


def test_a_smaller_limit() -> None:
    decoder = FrameDecoder(max_frame_bytes=5)
    assert fed(decoder, [framed([b"12345"])]) == [b"12345"]
    with pytest.raises(FramingError, match="6 bytes, at most 5"):
        fed(decoder, [framed([b"123456"])])


def test_memory_stays_near_the_frames_size_when_it_comes_byte_by_byte() -> None:
    """DESIGN 3.5: memory does not grow with what a peer does."""
    size = 16 * 1024
    stream = framed([bytes(size)])
    decoder = FrameDecoder()
    tracemalloc.start()
    try:
        for at in range(len(stream) - 1):
            assert not list(decoder.feed(stream[at : at + 1]))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.buffered == size - 1
    assert held < 2 * size


def test_a_frame_in_one_piece_is_not_copied() -> None:
    stream = framed([b"one", b"two"])
    for frame in FrameDecoder().feed(stream):
        assert frame.obj is stream


def test_frame_segments_keep_the_segments() -> None:
    segments: list[bytes | memoryview] = [b"head", memoryview(b"body")]
    assert frame_segments(segments)[0] == encode_varint(8)
    assert frame_segments(segments)[1] is segments[0]
    assert frame_segments(segments)[2] is segments[1]


# Relay frames


def relayed(segments: Sequence[bytes | memoryview]) -> bytes:
    """Send bytes through relay frames, each read by protobuf and by our decoder."""
    received = bytearray()
    for message in encode_relay_data(segments):
        assert len(message) <= MAX_MESSAGE_BYTES
        frame = openshell_pb2.RelayFrame.FromString(message)
        assert frame.SerializeToString() == message
        payload = decode_relay_data(message)
        assert payload is not None
        assert frame.data == payload
        received += payload
    return bytes(received)


@settings(deadline=None)
@given(segments=st.lists(st.binary(max_size=300), max_size=5))
def test_relay_data_is_written_as_protobuf_writes_it(segments: list[bytes]) -> None:
    assert relayed(segments) == b"".join(segments)
    assert relayed([memoryview(segment) for segment in segments]) == b"".join(segments)


def test_no_bytes_are_no_relay_frame() -> None:
    assert list(encode_relay_data([])) == []
    assert list(encode_relay_data([b"", memoryview(b"")])) == []


@pytest.mark.parametrize(
    ("size", "count"),
    [
        (MAX_RELAY_PAYLOAD - 1, 1),
        (MAX_RELAY_PAYLOAD, 1),
        (MAX_RELAY_PAYLOAD + 1, 2),
        (2 * MAX_RELAY_PAYLOAD, 2),
        (2 * MAX_RELAY_PAYLOAD + 1, 3),
    ],
)
def test_no_relay_frame_exceeds_the_message_limit(size: int, count: int) -> None:
    """UPL-15: no message is larger than 1 MiB."""
    whole = Random(size).randbytes(size)
    segments: list[bytes | memoryview] = [whole[:1000], memoryview(whole)[1000:]]
    assert relayed(segments) == whole
    messages = list(encode_relay_data(segments))
    assert len(messages) == count
    # The room is used to the last byte.
    assert count == 1 or len(messages[0]) == MAX_MESSAGE_BYTES


@settings(deadline=None)
@given(frames=st.lists(contents, max_size=6), data=st.data())
def test_frames_through_relay_frames(frames: list[bytes], data: st.DataObject) -> None:
    """FRM-1: how the relay cuts the stream means nothing."""
    stream = framed(frames)
    assume(not looks_like_ssh(stream))
    decoder = FrameDecoder()
    got: list[bytes] = []
    for piece in data.draw(cuts(stream)):
        for message in encode_relay_data([piece]):
            payload = decode_relay_data(message)
            assert payload is not None
            got += [bytes(frame) for frame in decoder.feed(payload)]
    assert got == frames


relay_frames = st.one_of(
    st.builds(openshell_pb2.RelayFrame, data=st.binary(max_size=200)),
    st.builds(
        openshell_pb2.RelayFrame, init=st.builds(openshell_pb2.RelayInit, channel_id=st.text(max_size=5))
    ),
).map(lambda frame: frame.SerializeToString())


@settings(deadline=None, max_examples=300)
@given(message=st.one_of(relay_frames, messages(st.sampled_from([1, 2, 3])), damaged(relay_frames)))
def test_relay_frames_are_read_as_protobuf_reads_them(message: bytes) -> None:
    try:
        expected = openshell_pb2.RelayFrame.FromString(message)
    except DecodeError:
        with pytest.raises(FramingError, match="relay frame"):
            decode_relay_data(message)
        return
    payload = decode_relay_data(message)
    is_data = expected.WhichOneof("payload") == "data"
    assert (None if payload is None else bytes(payload)) == (expected.data if is_data else None)


@pytest.mark.parametrize("case", read(Frames).relay_messages, ids=named)
def test_relay_message_vectors(case: RelayMessage) -> None:
    """FRM-1: the data of a message, also of one that protobuf would have written otherwise."""
    message, expected = content_of(case.message), None if case.data is None else content_of(case.data)
    decoded = decode_relay_data(message)
    assert (None if decoded is None else bytes(decoded)) == expected
    frame = openshell_pb2.RelayFrame.FromString(message)
    assert (frame.data if frame.WhichOneof("payload") == "data" else None) == expected
