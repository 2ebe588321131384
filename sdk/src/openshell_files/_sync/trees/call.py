"""A call in which both sides stream messages."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, cast

from openshell_files._known_errors import idle_error
from openshell_files._sync import _io
from openshell_files._sync._calls import CallEndedError, Connection, Metadata, Outbox
from openshell_files._sync._failures import failures_mapped


class TreeCall:
    """A call in which both sides stream. Leaving the context cancels it unless it is over.

    One thread writes, and one reads.

    Args:
        connection: the channel.
        path: of the method.
        metadata: of the call.
        idle: seconds without a message of either side after which the call fails.
        timeout: seconds until gRPC ends the call; None for no limit.
    """

    def __init__(
        self, connection: Connection, path: str, metadata: Metadata, idle: float, timeout: float | None
    ) -> None:
        self._idle = idle
        self._moved = _io.monotonic()
        self._over = False
        self._outbox = Outbox(connection.way)
        with failures_mapped():
            # The type of gRPC's stubs lacks what the call has.
            method = cast("Any", connection.both_ways(path))
            self._call = method(self._outbox, metadata=tuple(metadata), timeout=timeout)
            self._call.add_done_callback(self._on_over)
        connection.note(self)

    def _on_over(self, _call: object) -> None:
        self._over = True
        self._outbox.close()

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

    def idle_left(self) -> float:
        """Return the seconds until the call is idle for too long.

        Raises:
            DeadlineExceeded: it is.
        """
        left = self._moved + self._idle - _io.monotonic()
        if left <= 0:
            raise idle_error(self._idle, "sent or received")
        return left

    def write(self, message: bytes) -> None:
        """Send a message; return when the sending thread has room for it.

        Raises:
            CallEndedError: the call is over; `messages` raises its status.
            DeadlineExceeded: the connection took nothing for the idle timeout.
        """
        if self._over:
            # The outbox tells a writer only once that it is closed; a receiver writes further replies.
            raise CallEndedError
        if not self._outbox.put(message, self._idle):
            raise idle_error(self._idle, "sent")
        self._moved = _io.monotonic()

    def half_close(self) -> None:
        """Half-close: no message follows."""
        self._outbox.finish()

    def messages(self) -> Iterator[bytes]:
        """Yield the messages. Another reader than `ReceivedAhead` has to watch `idle_left`.

        Raises:
            FilesError: the call failed.
        """
        with failures_mapped():
            for message in self._call:
                self._moved = _io.monotonic()
                yield message


class ReceivedAhead(_io.Ahead[bytes]):
    """Receives while the previous message is taken.

    Args:
        call: the call.
        idle: seconds that the reader waits for a message before it fails.
    """

    def __init__(self, call: TreeCall, idle: float) -> None:
        super().__init__(call.messages(), unblock=call.cancel, idle=idle)
