"""Reads a caller's messages ahead, and forwards them to the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from openshell_files_protocol.chunks import FILE_FIELD
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.framing import MAX_RELAY_PAYLOAD
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES

from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.batch import MessageBatch
from openshell_files_gateway.relay.file_relay import FileRelay

#: Bytes for the headers that a message gets inside a relay frame.
_HEADER_ROOM: Final = 64

#: Reads the next message of a call. A result that is not bytes is the end of the input, or `BROKEN`.
Read = Callable[[], Coroutine[Any, Any, object]]

#: Read instead of a message: the input broke, which is not its end. `UploadStreams.unless_broken` raises the reason.
BROKEN: Final = object()


class CallerInput:
    """Reads the messages of a call in order, and forwards them unparsed (FRM-4).

    `read_on` reads ahead as much as a `MessageBatch` holds, even before the
    relay is open: a small file has arrived completely by then.

    Args:
        read: reads the messages that follow the first one.
        field: number of the frame's field that carries a message to the agent.
        short: a small input, which goes out in one write.
        confirm_end: returns True if the caller half-closed its stream, False
            if it cancelled the call; None if the end of the stream publishes
            nothing (UPL-3).
    """

    def __init__(
        self,
        read: Read,
        *,
        field: int = FILE_FIELD,
        short: bool = False,
        confirm_end: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._read = read
        self._field = field
        self._batch = MessageBatch(short=short)
        self._confirm_end = confirm_end
        self._activity: Activity | None = None
        self._stopped = False
        #: Bytes of the messages that were read.
        self.message_bytes = 0

    async def read_on(self) -> None:
        """Read until the end of the input, in a task of its own.

        Returns without an error if the input breaks: `UploadStreams.unless_broken` raises it.

        Raises:
            TransferError: raised by `admit` or the reader.
        """
        while isinstance(message := await self._read(), bytes):
            if self._activity is not None:
                self._activity.touch()
            self.message_bytes += len(message)
            self.admit(message)
            await self._batch.put(message)
        if message is not BROKEN:
            self._batch.end()

    def admit(self, message: bytes) -> None:
        """Refuse a message that must not reach the agent.

        Raises:
            TransferError: INVALID_REQUEST for a message above 1 MiB.
        """
        if len(message) > MAX_MESSAGE_BYTES:
            raise invalid(
                "payload", f"the message has {len(message)} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
            )

    async def forward(self, relay: FileRelay, activity: Activity) -> None:
        """Forward all messages and the end of the input, in a task of its own.

        Returns without an error if the relay breaks: the reader of the agent's
        answer notices that as well, and may receive a better reason.

        Args:
            relay: the relay to the agent.
            activity: restarted by every message from now on.
        """
        self._activity = activity
        with suppress(TransferError):
            messages = await self._take()
            while not (self._batch.over or self._stopped):
                await relay.forward(messages, field=self._field)
                activity.touch()
                messages = await self._take()
            if self._stopped:
                return
            if self._confirm_end is None or await self._confirm_end():
                await relay.forward(messages, ended=True, field=self._field)
            else:
                await relay.cancel_input()
            activity.touch()

    def stop(self) -> None:
        """Let `forward` end after its current write: the agent has answered, and needs no more input."""
        self._stopped = True
        self._batch.drop()

    async def _take(self) -> list[bytes]:
        return await self._batch.take(MAX_RELAY_PAYLOAD - _HEADER_ROOM)
