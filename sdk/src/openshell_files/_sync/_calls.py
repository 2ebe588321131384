"""gRPC calls of the blocking flavour: messages as bytes, failures as `FilesError`."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final, Protocol, Self, cast

import grpc

from openshell_files._connectivity import CONNECTING, Way, state_of
from openshell_files._core.borrowed_channel_errors import CLOSED
from openshell_files._core.upload.lane_choice import MOST_LANES
from openshell_files._known_errors import idle_error
from openshell_files._sync._failures import failures_mapped
from openshell_files._sync._io import Ahead
from openshell_files.errors import FilesError

Metadata = Sequence[tuple[str, str]]

#: Messages between the caller's thread and gRPC's sending thread.
_OUTBOX: Final = 2


class Cancellable(Protocol):
    """A running call."""

    def cancel(self) -> object: ...


class CallEndedError(Exception):
    """The server ended the call before everything was sent; `response` returns or raises its answer."""


class Connection:
    """A channel that the first call opens, and one for each further lane of an upload.

    Any thread may use it.

    Args:
        target: of gRPC.
        credentials: None for plaintext.
        options: channel options.
    """

    #: Most streams of an upload.
    most_lanes = MOST_LANES

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None,
        options: Sequence[tuple[str, int | str]],
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._options = options
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._lanes: dict[int, grpc.Channel] = {}
        self._closed = False

    @property
    def ready(self) -> bool:
        """True if a call would be sent at once, or if a borrowed channel does not report its state."""
        return state_of(self._opened()) in {grpc.ChannelConnectivity.READY, None}

    def connecting(self) -> bool:
        """Begin to connect, unless there is a connection; return whether one may follow soon."""
        return state_of(self._opened(), connect=True) in CONNECTING

    def _opened(self) -> grpc.Channel:
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._channel is None:
                self._channel = self._new_channel()
            return self._channel

    def _lane(self, index: int) -> grpc.Channel:
        """Return the channel of a lane. Streams of one connection would share its window (LAN-1)."""
        channel = self._opened()
        if index == 0:
            return channel
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if index not in self._lanes:
                self._lanes[index] = self._new_channel()
            return self._lanes[index]

    def _new_channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self._target, list(self._options))
        return grpc.secure_channel(self._target, self._credentials, list(self._options))

    def _open_lanes(self) -> None:
        """Begin to connect all lanes, so that an upload finds them connected."""
        with suppress(RuntimeError):
            for index in range(1, self.most_lanes):
                # The public method polls in a thread that outlives the channel. If gRPC
                # has no such layer, the first call of a lane connects it.
                below = getattr(self._lane(index), "_channel", None)
                if below is not None:
                    below.check_connectivity_state(True)

    def unary(
        self,
        path: str,
        message: bytes,
        metadata: Metadata,
        timeout: float,
        lanes_after: float | None = None,
    ) -> bytes:
        """Call a unary method.

        Args:
            path: of the method.
            message: the request.
            metadata: of the call.
            timeout: in seconds.
            lanes_after: connect lanes if no answer came within this many
                seconds, which means a long round trip; None never does.

        Raises:
            FilesError: the call failed.
        """
        method = cast(
            "grpc.UnaryUnaryMultiCallable[bytes, bytes]", self._opened().unary_unary(path, None, None)
        )
        with self._lanes_opened_after(lanes_after), failures_mapped():
            return method(message, metadata=tuple(metadata), timeout=timeout)

    @contextmanager
    def _lanes_opened_after(self, seconds: float | None) -> Generator[None]:
        if seconds is None:
            yield
            return
        timer = threading.Timer(seconds, self._open_lanes)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def upload(
        self, path: str, metadata: Metadata, idle: float, timeout: float | None, lane: int = 0
    ) -> UploadCall:
        """Begin a client-streaming call on the connection of a lane."""
        method = cast(
            "grpc.StreamUnaryMultiCallable[bytes, bytes]", self._lane(lane).stream_unary(path, None, None)
        )
        with failures_mapped():
            return UploadCall(method, metadata, idle, timeout, Way(self._lane(lane)))

    def download(
        self, path: str, message: bytes, metadata: Metadata, idle: float, timeout: float | None
    ) -> DownloadCall:
        """Begin a server-streaming call."""
        method = cast(
            "grpc.UnaryStreamMultiCallable[bytes, bytes]", self._opened().unary_stream(path, None, None)
        )
        with failures_mapped():
            return DownloadCall(method(message, metadata=tuple(metadata), timeout=timeout), idle)

    def both_ways(self, path: str) -> grpc.StreamStreamMultiCallable[bytes, bytes]:
        """Return a method in which both sides stream."""
        return cast(
            "grpc.StreamStreamMultiCallable[bytes, bytes]", self._opened().stream_stream(path, None, None)
        )

    @property
    def way(self) -> Way:
        """The connection of a call that begins now."""
        return Way(self._opened())

    def note(self, call: Cancellable) -> None:
        """Note a running call, which a borrowed connection cancels at its end."""

    def close(self) -> None:
        """Close the channels; running calls are cancelled."""
        with self._lock:
            self._closed = True
            channels = list(self._lanes.values())
            if self._channel is not None:
                channels.append(self._channel)
            self._channel = None
            self._lanes.clear()
        for channel in channels:
            channel.close()


class Outbox(Iterator[bytes]):
    """Queue of at most `_OUTBOX` messages from the caller's thread to gRPC's sending thread.

    Made of `SimpleQueue`s, because a signal can leave a `Condition` locked, and
    gRPC's threads would then wait for ever.

    Args:
        way: the connection of the call.

    Attributes:
        last_left: True if the last message may have left this process.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self._room: SimpleQueue[bool] = SimpleQueue()
        self._closed = False
        self._last: bytes | None = None
        self.last_left = False
        for _ in range(_OUTBOX):
            self._room.put(True)

    def put(self, message: bytes, timeout: float, *, last: bool = False) -> bool:
        """Wait for room and add a message.

        Args:
            message: serialized.
            timeout: seconds to wait.
            last: the message is the last, which `last_left` reports.

        Returns:
            False if there was no room in time.

        Raises:
            CallEndedError: the call is over.
        """
        try:
            self._room.get(timeout=timeout)
        except Empty:
            return False
        if self._closed:
            raise CallEndedError
        if last:
            self._last = message
        self._messages.put(message)
        return True

    def finish(self) -> None:
        """End the queue; the messages in it are still sent."""
        self._messages.put(None)

    def close(self) -> None:
        """Wake both threads; nothing more is sent."""
        self._closed = True
        self._room.put(True)
        self._messages.put(None)

    def __next__(self) -> bytes:
        self._way.is_open()
        message = None if self._closed else self._messages.get()
        if message is not None and message is self._last and self._way.is_open():
            # Before the test of `_closed`: if a closer then finds it False, the message was not sent.
            self.last_left = True
        if message is None or self._closed:
            raise StopIteration
        self._room.put(True)
        return message


class UploadCall:
    """Client-streaming call: many messages, one answer.

    Leaving the context cancels the call unless it is over.
    """

    def __init__(
        self,
        method: grpc.StreamUnaryMultiCallable[bytes, bytes],
        metadata: Metadata,
        idle: float,
        timeout: float | None,
        way: Way,
    ) -> None:
        self._idle = idle
        self._outbox = Outbox(way)
        self._over: SimpleQueue[None] = SimpleQueue()
        self._call = method.future(self._outbox, metadata=tuple(metadata), timeout=timeout)
        self._call.add_done_callback(self._on_over)

    def _on_over(self, _call: object) -> None:
        self._outbox.close()
        self._over.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the call."""
        self._outbox.close()
        self._call.cancel()

    @property
    def finish_left(self) -> bool:
        """True if the finish may have left this process: a connection may have taken it."""
        return self._outbox.last_left

    def write(self, message: bytes, *, last: bool = False) -> None:
        """Send a message; return when the sending thread has room for it.

        Args:
            message: serialized.
            last: the message is the finish, which `finish_left` reports.

        Raises:
            CallEndedError: the call is over (UPL-13).
            DeadlineExceeded: the connection took nothing for the idle timeout.
        """
        if not self._outbox.put(message, self._idle, last=last):
            raise idle_error(self._idle, "sent")

    def finish(self, message: bytes) -> None:
        """Send the last message and half-close."""
        self.write(message, last=True)
        self.half_close()

    def half_close(self) -> None:
        """Half-close: no message follows."""
        self._outbox.finish()

    def ends_within(self, seconds: float) -> bool:
        """Wait for the end of the call, at most `seconds`; return whether it is over."""
        try:
            # Not gRPC's own wait: a signal can leave it locked.
            self._over.get(timeout=seconds)
        except Empty:
            return False
        # For the next caller of this method.
        self._over.put(None)
        return True

    def failure(self) -> FilesError | None:
        """Return the error of a failed call; None if it runs or succeeded."""
        if not self._call.done():
            return None
        try:
            self.response()
        except FilesError as error:
            return error
        return None

    def response(self) -> bytes:
        """Return the answer.

        Raises:
            FilesError: the call failed.
        """
        if not self.ends_within(self._idle):
            raise idle_error(self._idle, "answered")
        with failures_mapped():
            return self._call.result()


class DownloadCall:
    """Server-streaming call: one request, many messages. Leaving the context cancels it unless it is over."""

    def __init__(self, call: _Stream, idle: float) -> None:
        self._call = call
        self.idle = idle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()

    def cancel(self) -> None:
        """End the call."""
        self._call.cancel()

    def messages(self) -> Iterator[bytes]:
        """Yield the messages. `received_ahead`, their reader, applies the idle timeout.

        Raises:
            FilesError: the call failed.
        """
        with failures_mapped():
            yield from self._call


class _Stream(Cancellable, Protocol):
    def __iter__(self) -> Iterator[bytes]: ...


def received_ahead(call: DownloadCall) -> Ahead[bytes]:
    """Receive while the previous message is checked and written."""
    return Ahead(call.messages(), unblock=call.cancel, idle=call.idle)
