"""Frames of the file protocol inside a relay (FRM-1 to FRM-5).

Two layers meet here. The file protocol is a byte stream of frames, each a
varint length and so many bytes. The relay carries that stream in `RelayFrame`
messages and may cut it anywhere.

Both codecs work on views: a frame that arrives in one piece is never copied.
Senders hand over segments, so that header and payload are joined once.
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

#: What an SSH server says first. A supervisor that does not know the file
#: target connects it to its SSH socket (upstream reads "unknown" as SSH).
SSH_BANNER: Final = b"SSH-"

_RELAY_DATA: Final = tag(2, WIRE_LEN)

#: Largest payload of a relay frame whose encoding fits the message limit:
#: one byte of tag and three of length for anything up to 2 MiB.
MAX_RELAY_PAYLOAD: Final = MAX_MESSAGE_BYTES - 4

#: Pieces of an unfinished frame below this size are joined when they arrive:
#: the objects for a frame sent byte by byte would take 200 times its size.
_SMALL_PIECE: Final = 4096


class FramingError(ValueError):
    """The peer's bytes are not frames of this protocol."""


class FrameDecoder:
    """Cuts a byte stream into frames, however the stream was cut on its way.

    Holds at most one unfinished frame, so at most `max_frame_bytes`.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._header = b""
        self._parts: list[memoryview | bytearray] = []
        self._missing = 0
        self._started = False

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not complete."""
        return len(self._header) + sum(map(len, self._parts))

    @property
    def at_boundary(self) -> bool:
        """Whether every byte fed so far belongs to a complete frame."""
        return not self._header and not self._missing

    def feed(self, data: bytes | memoryview) -> Iterator[memoryview]:
        """Take bytes and give the frames they complete.

        Args:
            data: the next bytes of the stream. It must not change while
                frames of it are in use.

        Yields:
            The content of each frame without its length.

        Raises:
            FramingError: a length is malformed or above the limit, or the
                stream is that of an SSH server.
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
                # What was kept back to recognise a banner is content.
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
    """Tell whether a stream may yet turn out to be that of an SSH server.

    A frame of 83 bytes begins with the banner's first letter too, so what
    comes next has to be waited for.

    Raises:
        FramingError: it is one.
    """
    start = bytes(head[: len(SSH_BANNER)])
    if start == SSH_BANNER:
        raise FramingError("the peer is an SSH server, not a file agent")
    return SSH_BANNER.startswith(start)


def frame_segments(payload: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """Put the length in front of a frame that is given in segments."""
    return [encode_varint(sum(map(len, payload))), *payload]


def encode_relay_data(segments: Sequence[bytes | memoryview]) -> Iterator[bytes]:
    """Encode bytes as `RelayFrame` messages.

    Args:
        segments: consecutive bytes of the stream; they are joined once.

    Yields:
        Serialized messages of at most `MAX_MESSAGE_BYTES` each; none for no
        bytes.
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
        A view of the payload, empty for an empty data frame; None if the
        message is not a data frame.

    Raises:
        FramingError: the message is not a RelayFrame.
    """
    if message[:1] == _RELAY_DATA:
        length = decode_length(message, 1)
        if length is not None and length[1] + length[0] == len(message):
            return memoryview(message)[length[1] :]
    # An unusual but legal encoding: unknown fields, a field given twice.
    try:
        frame = openshell_pb2.RelayFrame.FromString(message)
    except DecodeError as error:
        raise FramingError(f"relay frame: {error}") from None
    return memoryview(frame.data) if frame.WhichOneof("payload") == "data" else None
