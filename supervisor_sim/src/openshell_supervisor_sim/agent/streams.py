"""Frames from and to the gateway on a byte stream (FRM-1 ff.)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from itertools import islice
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.chunks import Chunk, decode_chunk, embedded
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import FrameDecoder, FramingError, frame_segments
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.upload import Finish, Input, InputEnd, Misplaced, Waiting
from openshell_supervisor_sim.agent.core.wire_numbers import set_duration

#: Frames are gathered up to this many bytes, so that a small file goes out in one piece. A larger
#: frame is sent at once.
_GATHER_BYTES: Final = 128 * KIB

#: Frames that are parsed together; a message may hold a million empty ones.
_FRAMES_AT_ONCE: Final = 64

#: How often `working` is sent within an idle timeout, and for how many idle timeouts.
WORKING_PER_TIMEOUT: Final = 4
_WORKING_TIMEOUTS: Final = 10
WORKING: Final = file_relay_pb2.FileRelayResponse(working=file_relay_pb2.FileRelayWorking())

#: How long a write may last when its operation is over.
_LAST_WRITE_SECONDS: Final = 1.0

T = TypeVar("T")


class ByteStream(Protocol):
    """A stream of bytes in both directions: a relay, a socket, or a test's pair.

    One task may receive while another task sends.
    """

    async def receive(self) -> bytes | memoryview:
        """Return the next bytes, in pieces of any size; b"" at the end.

        May be cancelled without loss: the next call returns the bytes.

        Raises:
            ConnectionError: the peer is gone.
        """
        ...

    async def send(self, *segments: bytes | memoryview) -> None:
        """Send consecutive bytes, waiting until the peer takes them.

        The segments do not change afterwards; the stream joins them once.

        Raises:
            ConnectionError: the peer is gone.
        """
        ...


class Inbound:
    """Frames of the gateway.

    Args:
        stream: that brings them.
        idle_timeout: seconds to wait for bytes.
    """

    def __init__(self, stream: ByteStream, idle_timeout: float) -> None:
        self._stream = stream
        self._decoder = FrameDecoder()
        self._frames: Iterator[memoryview] = iter(())
        self._broken: FramingError | None = None
        self.idle_timeout = idle_timeout
        #: Bytes received; the session adds them to its counters and resets this.
        self.received = 0

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished frame."""
        return self._decoder.buffered

    async def frame(self, *, patient: bool = False) -> memoryview | None:
        """Return the next frame; None at the end of the stream, which has no meaning (FRM-14).

        Args:
            patient: wait without the idle timeout.

        Raises:
            TransferError: AGENT_PROTOCOL_ERROR if the bytes are not frames,
                TRANSFER_IDLE if none come.
        """
        frames = await self._next(1, patient=patient)
        return frames[0] if frames else None

    async def frames(self) -> list[memoryview]:
        """Return the frames that have arrived, at least one; none at the end of the stream.

        Raises:
            TransferError: as `frame`.
        """
        return await self._next(_FRAMES_AT_ONCE, patient=False)

    async def _next(self, most: int, *, patient: bool) -> list[memoryview]:
        while True:
            try:
                if self._broken is not None:
                    raise self._broken
                if frames := list(islice(self._frames, most)):
                    return frames
                data = await self._receive(patient=patient)
                if not data:
                    return []
                self.received += len(data)
                self._frames = self._decoder.feed(data)
            except FramingError as error:
                self._broken = error
                raise TransferError(
                    Reason.AGENT_PROTOCOL_ERROR, f"the bytes of the relay are not frames: {error}"
                ) from error

    async def _receive(self, *, patient: bool) -> bytes | memoryview:
        try:
            async with asyncio.timeout(None if patient else self.idle_timeout):
                return await self._stream.receive()
        except ConnectionError:
            return b""
        except TimeoutError:
            raise TransferError(
                Reason.TRANSFER_IDLE, f"nothing was received for {self.idle_timeout:g} seconds"
            ) from None


class Outbound:
    """Frames for the gateway.

    Args:
        stream: that carries them.
        idle_timeout: seconds to wait until the peer accepts bytes.
    """

    def __init__(self, stream: ByteStream, idle_timeout: float) -> None:
        self._stream = stream
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        #: Two tasks may flush; the stream takes one `send` at a time, in order.
        self._sending = asyncio.Lock()
        self.idle_timeout = idle_timeout
        #: A write is not cut off by the end of its operation: the error that ends it is sent on the same stream.
        self.finishes_writes = False
        #: Bytes sent; the session adds them to its counters and resets this.
        self.sent = 0

    @property
    def buffered(self) -> int:
        """Bytes gathered and not sent yet."""
        return self._gathered_bytes

    async def put(self, payload: list[bytes | memoryview]) -> None:
        """Send a frame given in segments, possibly gathered with later frames.

        Raises:
            ConnectionError: the peer is gone.
            TransferError: TRANSFER_IDLE if the peer accepts nothing.
        """
        segments = frame_segments(payload)
        size = sum(map(len, segments))
        if self._gathered_bytes + size > _GATHER_BYTES:
            await self.flush()
        self._gathered += segments
        self._gathered_bytes += size
        if size >= _GATHER_BYTES:
            await self.flush()

    async def while_working(
        self,
        work: Coroutine[Any, Any, T],
        progress: Callable[[], int] = lambda: 0,
        working: file_relay_pb2.FileRelayResponse = WORKING,
    ) -> T:
        """Carry out long work, and send `working` meanwhile so that the gateway does not time out (FRM-7).

        A device that hangs is not hidden for ever: after `_WORKING_TIMEOUTS` idle timeouts without
        progress the agent sends no more, and the gateway ends the call.

        Args:
            work: to carry out.
            progress: returns another number whenever the work has advanced.
            working: the frame to send; a message for the caller restarts the caller's timeout, too.

        Raises:
            ConnectionError: the peer is gone; the work was cancelled.
        """
        async with TaskScope() as scope:
            task = scope.start(work, "file-agent-work")
            rounds, reached = 0, progress()
            while rounds < _WORKING_TIMEOUTS * WORKING_PER_TIMEOUT:
                await asyncio.wait({task}, timeout=self.idle_timeout / WORKING_PER_TIMEOUT)
                if task.done():
                    break
                rounds = rounds + 1 if progress() == reached else 0
                reached = progress()
                await self.put_message(working)
                await self.flush()
            return await task

    async def put_message(self, message: file_relay_pb2.FileRelayResponse) -> None:
        """Send a message; see `put`."""
        await self.put([message.SerializeToString()])

    async def flush(self) -> None:
        """Send the gathered frames; see `put`."""
        segments, self._gathered = self._gathered, []
        size, self._gathered_bytes = self._gathered_bytes, 0
        if not segments:
            return
        send = self._finished_send if self.finishes_writes else self._stream.send
        try:
            async with asyncio.timeout(self.idle_timeout), self._sending:
                await send(*segments)
        except TimeoutError:
            raise TransferError(
                Reason.TRANSFER_IDLE, f"the peer accepted nothing for {self.idle_timeout:g} seconds"
            ) from None
        self.sent += size

    async def _finished_send(self, *segments: bytes | memoryview) -> None:
        """Send; a cancellation waits a moment for the end."""
        async with TaskScope() as scope:
            sending = scope.start(self._stream.send(*segments), "file-agent-write")
            try:
                await asyncio.wait({sending})
            except asyncio.CancelledError:
                await asyncio.wait({sending}, timeout=_LAST_WRITE_SECONDS)
                raise
        sending.result()


def is_open(frame: memoryview) -> bool:
    """Return whether a frame is the first of an operation."""
    if embedded(frame) is not None:
        return False
    try:
        return file_relay_pb2.FileRelayRequest.FromString(bytes(frame)).WhichOneof("frame") == "open"
    except DecodeError:
        return False


def parse_open(frame: memoryview) -> file_relay_pb2.FileRelayOpen:
    """Read the first frame (FRM-2).

    Raises:
        TransferError: INVALID_REQUEST or AGENT_PROTOCOL_ERROR.
    """
    message = parse_request(frame)
    if message.WhichOneof("frame") != "open":
        raise invalid("open", "must be the first frame (FRM-2)")
    return message.open


def parse_input(frame: memoryview) -> Input:
    """Read a frame after the first.

    Raises:
        TransferError: AGENT_PROTOCOL_ERROR.
    """
    carried = embedded(frame)
    if carried is not None:
        chunk = decode_chunk(carried)
        return chunk if chunk is not None else _parse_upload(bytes(carried))
    message = parse_request(frame)
    match message.WhichOneof("frame"):
        case "upload":
            return _upload_input(message.upload)
        case "input_end":
            return InputEnd(message.input_end.cancelled)
        case "open":
            return Misplaced("open", "must be the first frame, and may not be repeated (FRM-2)")
        case _:
            return Misplaced("frame", "is unknown to this agent")


def parse_request(frame: memoryview) -> file_relay_pb2.FileRelayRequest:
    """Parse a frame of the gateway.

    Raises:
        TransferError: AGENT_PROTOCOL_ERROR.
    """
    try:
        return file_relay_pb2.FileRelayRequest.FromString(bytes(frame))
    except DecodeError as error:
        raise TransferError(
            Reason.AGENT_PROTOCOL_ERROR, f"a frame is not a FileRelayRequest: {error}"
        ) from error


def _parse_upload(message: bytes) -> Input:
    try:
        return _upload_input(files_pb2.UploadFileRequest.FromString(message))
    except DecodeError:
        return Misplaced("upload", "is not an UploadFileRequest")


def _upload_input(message: files_pb2.UploadFileRequest) -> Input:
    match message.WhichOneof("payload"):
        case "chunk":
            return Chunk(None, message.chunk)
        case "data":
            data = message.data
            return Chunk(data.offset, data.data, data.crc32c, data.hole_bytes)
        case "finish":
            finish = message.finish
            return Finish(finish.size_bytes, finish.digest.algorithm, finish.digest.value)
        case "waiting":
            return Waiting()
        case "metadata":
            return Misplaced("metadata", "must be the first message, and may not be repeated (UPL-19)")
        case _:
            return Misplaced("payload", "is empty or unknown to this agent")


def error_message(error: TransferError) -> file_relay_pb2.FileRelayResponse:
    """Make the frame that reports an error to the gateway."""
    frame = file_relay_pb2.FileRelayError(
        reason=error.reason.name,
        message=error.message.encode("utf-8", "replace").decode(),
        code=int(error.code),
        metadata={key: str(value) for key, value in error.metadata.items()},
        field_violations=[
            file_relay_pb2.FileRelayFieldViolation(
                field=violation.field, description=violation.description.encode("utf-8", "replace").decode()
            )
            for violation in error.field_violations
        ],
    )
    if error.retry_delay is not None:
        set_duration(frame.retry_delay, error.retry_delay)
    return file_relay_pb2.FileRelayResponse(error=frame)
