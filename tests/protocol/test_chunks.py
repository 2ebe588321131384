"""UPL-5, UPL-7, DWN-1: the content codec says what protobuf says, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_protocol.chunks import (
    Chunk,
    crc32c,
    decode_chunk,
    embed,
    embedded,
    encode_chunk,
    encode_hole,
    encode_plain,
)
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.varint import WIRE_I32, WIRE_LEN, WIRE_VARINT, encode_varint, tag
from vector_cases import Checksum, Chunks, ContentMessage, content_of, named, read
from wire_strategies import damaged, length_delimited, messages, padded_varint, uint64s, varints

type_of_content = pytest.mark.parametrize(
    "content", [files_pb2.UploadFileRequest, files_pb2.DownloadFileResponse], ids=["upload", "download"]
)
Content = type[files_pb2.UploadFileRequest] | type[files_pb2.DownloadFileResponse]

checksums = st.one_of(st.sampled_from([0, 1, 2**32 - 1]), st.integers(0, 2**32 - 1))
file_chunks = st.builds(
    files_pb2.FileChunk, offset=uint64s, data=st.binary(max_size=40), crc32c=checksums, hole_bytes=uint64s
)
content_messages = st.one_of(
    st.builds(files_pb2.UploadFileRequest, data=file_chunks),
    st.builds(files_pb2.UploadFileRequest, chunk=st.binary(max_size=200)),
).map(lambda message: message.SerializeToString())

#: Fields of a FileChunk in any order and number, some unknown or of another
#: wire type.
chunk_fields = st.one_of(
    varints().map(lambda value: tag(1, WIRE_VARINT) + value),
    length_delimited(st.binary(max_size=20)).map(lambda body: tag(2, WIRE_LEN) + body),
    st.binary(min_size=4, max_size=4).map(lambda value: tag(3, WIRE_I32) + value),
    varints().map(lambda value: tag(4, WIRE_VARINT) + value),
    varints().map(lambda value: tag(3, WIRE_VARINT) + value),
    varints().map(lambda value: tag(5, WIRE_VARINT) + value),
    length_delimited(st.binary(max_size=4)).map(lambda body: tag(1, WIRE_LEN) + body),
)
chunk_bodies = st.lists(chunk_fields, max_size=5).map(b"".join)
nearly_content = length_delimited(chunk_bodies).map(lambda body: tag(10, WIRE_LEN) + body)


def joined(segments: Sequence[bytes | memoryview]) -> bytes:
    return b"".join(segments)


def assert_protobuf_agrees(message: bytes, chunk: Chunk, content: Content) -> None:
    parsed = content.FromString(message)
    if chunk.offset is None:
        assert parsed.WhichOneof("payload") == "chunk"
        assert (parsed.chunk, chunk.crc32c, chunk.hole_bytes) == (chunk.data, None, 0)
    else:
        assert parsed.WhichOneof("payload") == "data"
        assert parsed.data == files_pb2.FileChunk(
            offset=chunk.offset, data=bytes(chunk.data), crc32c=chunk.crc32c or 0, hole_bytes=chunk.hole_bytes
        )


@type_of_content
@settings(deadline=None)
@given(offset=uint64s, data=st.binary(max_size=300), checksum=checksums)
def test_a_checked_chunk_is_written_as_protobuf_writes_it(
    content: Content, offset: int, data: bytes, checksum: int
) -> None:
    expected = content(data=files_pb2.FileChunk(offset=offset, data=data, crc32c=checksum))
    assert joined(encode_chunk(offset, data, checksum)) == expected.SerializeToString()
    assert joined(encode_chunk(offset, memoryview(data), checksum)) == expected.SerializeToString()


@type_of_content
@settings(deadline=None)
@given(offset=uint64s, hole_bytes=uint64s)
def test_a_hole_is_written_as_protobuf_writes_it(content: Content, offset: int, hole_bytes: int) -> None:
    expected = content(data=files_pb2.FileChunk(offset=offset, hole_bytes=hole_bytes))
    assert encode_hole(offset, hole_bytes) == expected.SerializeToString()


@type_of_content
@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_a_plain_chunk_is_written_as_protobuf_writes_it(content: Content, data: bytes) -> None:
    assert joined(encode_plain(data)) == content(chunk=data).SerializeToString()


@settings(deadline=None)
@given(message=content_messages)
def test_embedding_is_written_as_protobuf_writes_it(message: bytes) -> None:
    """FRM-4: a caller's message is carried as it came."""
    upload = file_relay_pb2.FileRelayRequest(upload=files_pb2.UploadFileRequest.FromString(message))
    download = file_relay_pb2.FileRelayResponse(download=files_pb2.DownloadFileResponse.FromString(message))
    assert joined(embed([message])) == upload.SerializeToString() == download.SerializeToString()
    view = embedded(memoryview(joined(embed([message[:1], message[1:]]))))
    assert view is not None
    assert bytes(view) == message


@settings(deadline=None)
@given(message=content_messages)
def test_what_protobuf_writes_is_read(message: bytes) -> None:
    for received in (message, memoryview(message)):
        chunk = decode_chunk(received)
        assert chunk is not None
        assert_protobuf_agrees(message, chunk, files_pb2.UploadFileRequest)
        assert_protobuf_agrees(message, chunk, files_pb2.DownloadFileResponse)


@settings(deadline=None, max_examples=400)
@given(message=st.one_of(messages(bodies=chunk_bodies), nearly_content, damaged(content_messages)))
def test_never_a_wrong_answer(message: bytes) -> None:
    """What is not plain is left to protobuf; it is never misread."""
    chunk = decode_chunk(message)
    if chunk is not None:
        assert_protobuf_agrees(message, chunk, files_pb2.UploadFileRequest)
        assert_protobuf_agrees(message, chunk, files_pb2.DownloadFileResponse)


@settings(deadline=None, max_examples=200)
@given(
    frame=st.one_of(
        messages(bodies=content_messages),
        damaged(content_messages.map(lambda message: joined(embed([message])))),
        st.builds(file_relay_pb2.FileRelayRequest, input_end=st.just(file_relay_pb2.FileRelayInputEnd())).map(
            lambda frame: frame.SerializeToString()
        ),
    )
)
def test_embedded_is_never_a_wrong_answer(frame: bytes) -> None:
    """FRM-4: the view is the caller's message as protobuf would find it."""
    view = embedded(memoryview(frame))
    if view is None:
        return
    # An inner message that is damaged is for its reader to refuse: what
    # matters is that the outer one is field 2 and nothing else.
    outer = files_pb2.UploadFileRequest.FromString(frame)
    assert outer.WhichOneof("payload") == "chunk"
    assert outer.chunk == view


_OFFSET = tag(1, WIRE_VARINT) + encode_varint(7)
_DATA = tag(2, WIRE_LEN) + encode_varint(2) + b"ab"
_CRC = tag(3, WIRE_I32) + b"\1\0\0\0"


def _wrapped(body: bytes) -> bytes:
    return tag(10, WIRE_LEN) + encode_varint(len(body)) + body


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="empty"),
        pytest.param(tag(10, 3) + _OFFSET + tag(10, 4), id="group"),
        pytest.param(_wrapped(tag(2, 3) + tag(2, 4)), id="group inside"),
        pytest.param(_wrapped(_CRC[:-1]), id="crc cut"),
        pytest.param(_wrapped(_DATA[:-1]), id="data cut"),
        pytest.param(_wrapped(_OFFSET[:-1]), id="offset cut"),
        pytest.param(_wrapped(tag(1, WIRE_VARINT) + b"\xff" * 9 + b"\x7f"), id="offset over 64 bits"),
        pytest.param(_wrapped(tag(4, WIRE_VARINT) + b"\xff" * 9 + b"\x7f"), id="hole over 64 bits"),
        pytest.param(_wrapped(tag(1, WIRE_VARINT) + b"\x80" * 11), id="offset over ten bytes"),
        pytest.param(_wrapped(tag(2, WIRE_LEN) + padded_varint(1, 6) + b"a"), id="data length of six bytes"),
        pytest.param(_wrapped(_DATA)[:-1], id="message cut"),
        pytest.param(_wrapped(_DATA) + b"\0", id="byte too many"),
        pytest.param(tag(10, WIRE_LEN) + b"\x80", id="length cut"),
        pytest.param(tag(2, WIRE_LEN) + padded_varint(1, 6) + b"a", id="length of six bytes"),
        pytest.param(tag(2, WIRE_LEN) + b"\x80" * 11, id="length over ten bytes"),
        pytest.param(
            files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish()).SerializeToString(), id="finish"
        ),
        pytest.param(
            files_pb2.UploadFileRequest(metadata=files_pb2.UploadFileMetadata()).SerializeToString(),
            id="metadata",
        ),
    ],
)
def test_left_to_protobuf(message: bytes) -> None:
    assert decode_chunk(message) is None


#: Vectors that the codec leaves to protobuf, since they are not written plainly.
NOT_PLAIN = {
    "fields in another order",
    "a field twice: the last counts",
    "an unknown field",
    "an unknown field behind the payload",
    "a payload in two parts is merged",
    "data behind chunk: the last payload counts",
    "chunk behind data: the last payload counts",
}


@pytest.mark.parametrize("case", read(Chunks).messages, ids=named)
def test_vectors(case: ContentMessage) -> None:
    """UPL-7, FRM-4: protobuf and the codec read the same, and write what is canonical."""
    message, data = content_of(case.message), content_of(case.data)
    if case.offset is None:
        chunk, written = Chunk(None, data), joined(encode_plain(data))
    else:
        chunk = Chunk(int(case.offset), data, int(case.crc32c or "0", 16), int(case.hole_bytes))
        written = (
            encode_hole(int(case.offset), chunk.hole_bytes)
            if chunk.hole_bytes or not data
            else joined(encode_chunk(int(case.offset), data, chunk.crc32c or 0))
        )
    for content in (files_pb2.UploadFileRequest, files_pb2.DownloadFileResponse):
        parsed = content.FromString(message)
        parsed.DiscardUnknownFields()
        assert_protobuf_agrees(parsed.SerializeToString(), chunk, content)
    assert (written == message) is case.canonical
    assert decode_chunk(message) == (None if case.name in NOT_PLAIN else chunk)
    relayed = file_relay_pb2.FileRelayRequest(upload=files_pb2.UploadFileRequest.FromString(message))
    if case.canonical:
        assert joined(embed([message])) == relayed.SerializeToString()


def _part_of_a_message(data: bytes) -> memoryview:
    return memoryview(b"x" + data)[1:]


@pytest.mark.parametrize("wrap", [bytes, memoryview, _part_of_a_message])
@pytest.mark.parametrize("case", read(Chunks).checksums, ids=named)
def test_checksum_vectors(case: Checksum, wrap: Callable[[bytes], bytes | memoryview]) -> None:
    """UPL-7: CRC-32C of any buffer, whole and continued."""
    content = content_of(case.content)
    assert crc32c(wrap(content)) == int(case.crc32c, 16)
    half = len(content) // 2
    assert crc32c(content[half:], crc32c(content[:half])) == int(case.crc32c, 16)


def test_the_crc_of_a_received_chunk_can_be_checked() -> None:
    """UPL-7: what `decode_chunk` gives goes into `crc32c` as it is."""
    chunk = decode_chunk(joined(encode_chunk(5, b"content", crc32c(b"content"))))
    assert chunk is not None
    assert crc32c(chunk.data) == chunk.crc32c


def test_content_is_a_view_of_the_message() -> None:
    message = joined(encode_chunk(0, b"content", 1))
    chunk = decode_chunk(message)
    assert chunk is not None
    assert isinstance(chunk.data, memoryview)
    assert chunk.data.obj is message


def test_segments_are_not_copied() -> None:
    data = memoryview(b"content")
    assert any(segment is data for segment in encode_chunk(1, data, 1))
    assert any(segment is data for segment in encode_plain(data))
    assert any(segment is data for segment in embed([data]))


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (Chunk(None, b"abc"), 3),
        (Chunk(9, b"abc", 1), 3),
        (Chunk(9, b"", 0, 1 << 40), 1 << 40),
        (Chunk(0, b"", 0), 0),
    ],
)
def test_size_is_what_the_chunk_covers(chunk: Chunk, size: int) -> None:
    assert chunk.size == size
