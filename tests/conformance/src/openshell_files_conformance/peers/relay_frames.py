"""The file protocol inside a relay: messages after their length as a varint.

`RelayFrame.data` is a byte stream that may be cut anywhere (FRM-1), so the
decoder is incremental: bytes go in as they come, whole messages come out.
Both directions use it: a fake gateway decodes `FileRelayResponse`, a fake
supervisor `FileRelayRequest`, and the same framing carries the command
protocol. Broken frames can be encoded as well, since peers that misbehave
send them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from openshell_files_conformance.pb.openshell.v1 import exec_relay_pb2, file_relay_pb2

# FRM-11: the largest frame that a receiver must take.
MAX_FRAME_BYTES = (1 << 20) + 64
# Seven bits in each byte: 64 bits need ten bytes.
MAX_VARINT_BYTES = 10

M = TypeVar("M", bound=Message)


class FramingError(Exception):
    """The bytes are not frames of this protocol."""


def encode_varint(value: int) -> bytes:
    """The varint of `value`, in as few bytes as possible."""
    if value < 0:
        raise ValueError("a varint has no sign")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_body(body: bytes) -> bytes:
    """`body` behind its length."""
    return encode_varint(len(body)) + body


def encode_frame(message: Message) -> bytes:
    """`message` behind its length."""
    return encode_body(message.SerializeToString())


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """Cut `data` into pieces of these sizes; what remains is the last piece."""
    position = 0
    for size in sizes:
        if position >= len(data):
            return
        yield data[position : position + size]
        position += size
    if position < len(data):
        yield data[position:]


class FrameDecoder(Generic[M]):
    """Frames of one message type out of a byte stream."""

    def __init__(self, message: type[M], limit: int = MAX_FRAME_BYTES) -> None:
        self._message = message
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Take the next bytes of the stream, and return the frames that they complete."""
        self._buffer += data
        frames: list[M] = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    @property
    def pending(self) -> bytes:
        """The bytes of a frame that is not complete yet."""
        return bytes(self._buffer)

    def finish(self) -> None:
        """The stream is over: bytes of half a frame are an error."""
        if self._buffer:
            raise FramingError(f"the stream ends inside a frame, {len(self._buffer)} bytes after its start")

    def _next(self) -> M | None:
        head = self._length()
        if head is None:
            return None
        length, start = head
        if length > self._limit:
            raise FramingError(f"a frame of {length} bytes; {self._limit} are allowed")
        if len(self._buffer) < start + length:
            return None
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        try:
            return self._message.FromString(body)
        except DecodeError as error:
            raise FramingError(f"a frame of {length} bytes is no {self._message.__name__}") from error

    def _length(self) -> tuple[int, int] | None:
        value = 0
        for index, byte in enumerate(self._buffer):
            if index == MAX_VARINT_BYTES:
                raise FramingError("the length is no varint of 64 bits")
            value |= (byte & 0x7F) << (7 * index)
            if not byte & 0x80:
                if value >= 1 << 64:
                    raise FramingError("the length is no varint of 64 bits")
                return value, index + 1
        if len(self._buffer) >= MAX_VARINT_BYTES:
            raise FramingError("the length is no varint of 64 bits")
        return None


def requests(limit: int = MAX_FRAME_BYTES) -> FrameDecoder[file_relay_pb2.FileRelayRequest]:
    """A decoder of what a gateway sends to a file agent."""
    return FrameDecoder(file_relay_pb2.FileRelayRequest, limit)


def responses(limit: int = MAX_FRAME_BYTES) -> FrameDecoder[file_relay_pb2.FileRelayResponse]:
    """A decoder of what a file agent sends to a gateway."""
    return FrameDecoder(file_relay_pb2.FileRelayResponse, limit)


def exec_requests(limit: int = MAX_FRAME_BYTES) -> FrameDecoder[exec_relay_pb2.ExecRelayRequest]:
    """A decoder of what a gateway sends on the relay of a command."""
    return FrameDecoder(exec_relay_pb2.ExecRelayRequest, limit)


def exec_responses(limit: int = MAX_FRAME_BYTES) -> FrameDecoder[exec_relay_pb2.ExecRelayResponse]:
    """A decoder of what a supervisor sends on the relay of a command."""
    return FrameDecoder(exec_relay_pb2.ExecRelayResponse, limit)
