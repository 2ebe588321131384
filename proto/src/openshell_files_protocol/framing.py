"""Frames of the file protocol inside a relay (FRM-1, FRM-10, FRM-11).

The file protocol is a byte stream of frames, each a varint length and that many
bytes. The relay carries the stream in `RelayFrame` messages, which may split it
anywhere.

Both codecs work on views: a frame that arrives in one piece is not copied.
Senders pass segments, so that header and payload are joined once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from openshell_files_protocol.limits import MAX_FRAME_BYTES, MAX_MESSAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.varint import (
    WIRE_LEN,
    VarintError,
    decode_length,
    decode_varint,
    encode_varint,
    tag,
)

#: First bytes of an SSH server. A supervisor that does not know the file target
#: connects the relay to its SSH socket (upstream treats unknown targets as SSH).
SSH_BANNER: Final = b"SSH-"

_RELAY_DATA: Final = tag(2, WIRE_LEN)

#: Largest payload of a relay frame within the message limit: the tag takes one
#: byte, the length three bytes for up to 2 MiB.
MAX_RELAY_PAYLOAD: Final = MAX_MESSAGE_BYTES - 4

#: Pieces of an unfinished frame below this size are joined on arrival: one
#: object per piece would take 200 times the size of a frame sent byte by byte.
_SMALL_PIECE: Final = 4096


class FramingError(ValueError):
    """The peer's bytes are not frames of this protocol."""


class FrameDecoder:
    """Decodes a byte stream into frames, even if the stream was split anywhere.

    It buffers at most one unfinished frame of `max_frame_bytes`.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._header = b""
        self._parts: list[memoryview | bytearray] = []
        self._missing = 0
        self._started = False

    @property
    def buffered(self) -> int:
        """Buffered bytes of an unfinished frame."""
        return len(self._header) + sum(map(len, self._parts))

    @property
    def at_boundary(self) -> bool:
        """True if all bytes so far belong to complete frames."""
        return not self._header and not self._missing

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Decode the next bytes of the stream.

        Args:
            data: the bytes. They must not change while frames are in use.

        Yields:
            The content of each completed frame, without its length.

        Raises:
            FramingError: a length is invalid or above the limit, or the peer
                is an SSH server.
        """
        view = memoryview(data)
        position = 0
        while position < len(view):
            if self._missing:
                piece = view[position : position + self._missing]
                self._keep(piece)
                self._missing -= len(piece)
                position += len(piece)
                if not self._missing:
                    parts, self._parts = self._parts, []
                    yield memoryview(b"".join(parts))
                continue
            head: bytes | memoryview = view[position : position + 10]
            carried = self._header
            if carried:
                head = carried + bytes(head)
            undecided = not self._started and _may_be_ssh(head)
            length = None if undecided else self._length(head)
            if length is None:
                self._header = bytes(head)
                return
            size, consumed = length
            self._header = b""
            self._started = True
            if consumed < len(carried):
                # The bytes that were buffered to detect a banner are content.
                view = memoryview(carried[consumed:] + bytes(view[position:]))
                position = 0
            else:
                position += consumed - len(carried)
            frame = view[position : position + size]
            position += len(frame)
            if len(frame) == size:
                yield frame
            else:
                self._missing = size - len(frame)
                if len(frame):
                    self._keep(frame)

    def _keep(self, piece: memoryview) -> None:
        if len(piece) >= _SMALL_PIECE:
            self._parts.append(piece)
        elif self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += piece
        else:
            self._parts.append(bytearray(piece))

    def _length(self, head: bytes | memoryview) -> tuple[int, int] | None:
        try:
            decoded = decode_varint(head, 0)
        except VarintError as error:
            raise FramingError(f"frame length: {error}") from None
        if decoded is not None and decoded[0] > self._max:
            raise FramingError(f"frame of {decoded[0]} bytes, at most {self._max} are allowed")
        return decoded


def _may_be_ssh(head: bytes | memoryview) -> bool:
    """Return True if the first bytes of a stream may be the start of an SSH banner.

    A frame of 83 bytes starts with the banner's first letter as well, so more
    bytes are needed to decide.

    Raises:
        FramingError: the peer is an SSH server.
    """
    start = bytes(head[: len(SSH_BANNER)])
    if start == SSH_BANNER:
        raise FramingError("the peer is an SSH server, not a file agent")
    return SSH_BANNER.startswith(start)


def frame_segments(payload: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Return the segments of a frame: its length, and its payload in segments."""
    return [encode_varint(sum(map(len, payload))), *payload]


def encode_relay_data(segments: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """Encode bytes as `RelayFrame` messages.

    Args:
        segments: consecutive bytes of the stream.

    Yields:
        Serialized messages of at most `MAX_MESSAGE_BYTES` each; none if there
        are no bytes.
    """
    size = sum(map(len, segments))
    if size <= MAX_RELAY_PAYLOAD:
        if size:
            yield b"".join((_RELAY_DATA, encode_varint(size), *segments))
        return
    whole = memoryview(b"".join(segments))
    for start in range(0, size, MAX_RELAY_PAYLOAD):
        piece = whole[start : start + MAX_RELAY_PAYLOAD]
        yield b"".join((_RELAY_DATA, encode_varint(len(piece)), piece))


def decode_relay_data(message: bytes) -> memoryview | None:
    """Return the payload of a serialized `RelayFrame`.

    Returns:
        A view of the payload; None if the message is not a data frame.

    Raises:
        FramingError: the message is not a RelayFrame.
    """
    if message[:1] == _RELAY_DATA:
        length = decode_length(message, 1)
        if length is not None and length[1] + length[0] == len(message):
            return memoryview(message)[length[1] :]
    # An unusual but valid encoding: unknown fields, a repeated field.
    try:
        frame = openshell_pb2.RelayFrame.FromString(message)
    except DecodeError as error:
        raise FramingError(f"relay frame: {error}") from None
    return memoryview(frame.data) if frame.WhichOneof("payload") == "data" else None
