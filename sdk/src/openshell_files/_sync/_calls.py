"""One gRPC call, blocking: messages in and out as bytes, failures as `FilesError`."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final, Protocol, Self, cast

import grpc

from openshell_files._connectivity import Way, state_of
from openshell_files._core.borrowed import CLOSED, owners_failure
from openshell_files._core.upload.lanes import MOST_LANES
from openshell_files._error_mapping import error_from_status, idle_error
from openshell_files._sync._io import Ahead
from openshell_files.errors import FilesError

Metadata = Sequence[tuple[str, str]]

#: Messages between the caller's thread and gRPC's sending thread.
_OUTBOX: Final = 2

_CANCELLED: Final = 1


class CallEndedError(Exception):
    """The server has answered although not everything was sent; `response` tells its words."""


class Connection:
    """A channel that is opened by the first call, and one for each further lane of an upload.

    Any thread may use it.

    Args:
        target: as gRPC takes it.
        credentials: None for plaintext.
        options: channel options.
    """

    #: Over how many streams an upload may travel here.
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
        """Whether a call would be sent at once; True if a channel of somebody else does not tell."""
        return state_of(self._opened()) in {grpc.ChannelConnectivity.READY, None}

    def _opened(self) -> grpc.Channel:
        with self._lock:
            if self._closed:
                raise RuntimeError(CLOSED)
            if self._channel is None:
                self._channel = self._new_channel()
            return self._channel

    def _lane(self, index: int) -> grpc.Channel:
        """Return the channel of a lane. All streams of one connection would share its window (UPL-15)."""
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
        """Begin to connect all lanes, so that they are there when an upload wants them."""
        with suppress(RuntimeError):
            for index in range(1, self.most_lanes):
                # The public method polls in a thread, which outlives the
                # channel. Without the layer below a lane's first call connects.
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
        """Call a method that takes and gives one message.

        Args:
            path: of the method.
            message: the request.
            metadata: of the call.
            timeout: in seconds.
            lanes_after: connects lanes if no answer came for so long, in
                seconds: it comes from afar. None for none.

        Raises:
            FilesError: the call failed.
        """
        method = cast(
            "grpc.UnaryUnaryMultiCallable[bytes, bytes]", self._opened().unary_unary(path, None, None)
        )
        with self._lanes_opened_after(lanes_after), _failures_mapped():
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
        """Begin a call that takes many messages and gives one, on the connection of a lane."""
        method = cast(
            "grpc.StreamUnaryMultiCallable[bytes, bytes]", self._lane(lane).stream_unary(path, None, None)
        )
        with _failures_mapped():
            return UploadCall(method, metadata, idle, timeout, Way(self._lane(lane)))

    def download(
        self, path: str, message: bytes, metadata: Metadata, idle: float, timeout: float | None
    ) -> DownloadCall:
        """Begin a call that takes one message and gives many."""
        method = cast(
            "grpc.UnaryStreamMultiCallable[bytes, bytes]", self._opened().unary_stream(path, None, None)
        )
        with _failures_mapped():
            return DownloadCall(method(message, metadata=tuple(metadata), timeout=timeout), idle)

    def close(self) -> None:
        """Close the channel; calls that are running are cancelled."""
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
    """Hands messages from the caller's thread to gRPC's. Holds at most `_OUTBOX`.

    Made of `SimpleQueue`s, which a signal cannot leave locked: an interrupt
    inside a `Condition` may, and gRPC's threads would then wait for ever.

    Args:
        way: of the call.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        self._room: SimpleQueue[bool] = SimpleQueue()
        self._closed = False
        self._last: bytes | None = None
        #: Whether the last message can have left this process.
        self.last_left = False
        for _ in range(_OUTBOX):
            self._room.put(True)

    def put(self, message: bytes, timeout: float, *, last: bool = False) -> bool:
        """Wait for room and add a message.

        Args:
            message: serialized.
            timeout: seconds to wait.
            last: `last_left` depends on it.

        Returns:
            False if there was no room in time.

        Raises:
            CallEndedError: nobody takes messages any more.
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
        """Say that no more comes; what waits is still sent."""
        self._messages.put(None)

    def close(self) -> None:
        """Wake both sides up: nothing is sent any more."""
        self._closed = True
        self._room.put(True)
        self._messages.put(None)

    def __next__(self) -> bytes:
        self._way.is_open()
        message = None if self._closed else self._messages.get()
        if message is not None and message is self._last and self._way.is_open():
            # Before the look at `_closed`: whoever closes and then sees it unset knows that it stays here.
            self.last_left = True
        if message is None or self._closed:
            raise StopIteration
        self._room.put(True)
        return message


class UploadCall:
    """A call that takes many messages and gives one.

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
        """Whether the last message can have left this process: a connection may have taken it."""
        return self._outbox.last_left

    def write(self, message: bytes, *, last: bool = False) -> None:
        """Send a message; returns when the sending thread has room for it.

        Args:
            message: serialized.
            last: it is the finish, and `finish_left` depends on it.

        Raises:
            CallEndedError: the call is over already (UPL-13).
            DeadlineExceeded: nothing moved for the idle time.
        """
        if not self._outbox.put(message, self._idle, last=last):
            raise idle_error(self._idle, "sent")

    def finish(self, message: bytes) -> None:
        """Send the last message and half-close."""
        self.write(message, last=True)
        self.half_close()

    def half_close(self) -> None:
        """Say that no message follows."""
        self._outbox.finish()

    def ends_within(self, seconds: float) -> bool:
        """Wait until the call is over, at most so long; whether it is."""
        try:
            # Not in gRPC's own wait, which a signal can leave locked.
            self._over.get(timeout=seconds)
        except Empty:
            return False
        # For whoever asks next.
        self._over.put(None)
        return True

    def failure(self) -> FilesError | None:
        """Return why the call failed; None if it runs, or ended in order."""
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
        with _failures_mapped():
            return self._call.result()


class DownloadCall:
    """A call that gives many messages; leaving the context cancels it unless it is over."""

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
        """Yield the messages. Their reader, `received_ahead`, watches the time.

        Raises:
            FilesError: the call failed.
        """
        with _failures_mapped():
            yield from self._call


class _Stream(Protocol):
    """gRPC's object for a running call."""

    def __iter__(self) -> Iterator[bytes]: ...

    def cancel(self) -> object: ...


def received_ahead(call: DownloadCall) -> Ahead[bytes]:
    """Receive while the message before is checked and written."""
    return Ahead(call.messages(), unblock=call.cancel, idle=call.idle)


@contextmanager
def _failures_mapped() -> Generator[None]:
    """Turn what gRPC raises, and what interceptors of a borrowed channel do, into this SDK's errors."""
    try:
        yield
    except grpc.FutureCancelledError:
        raise error_from_status(_CANCELLED, "the client was closed", ()) from None
    except grpc.RpcError as error:
        trailing = cast("Sequence[tuple[str, str | bytes]]", error.trailing_metadata() or ())
        raise error_from_status(error.code().value[0], error.details() or "", trailing) from error
    except Exception as error:
        # Nothing else of this is foreign code: whoever owns the channel gets a token in it.
        raise owners_failure(error) from error
