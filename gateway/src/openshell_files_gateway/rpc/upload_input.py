"""An upload's messages on their way from the caller to the agent, over one stream or several."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.framing import MAX_RELAY_PAYLOAD
from openshell_files_protocol.limits import KIB

from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.batch import MessageBatch
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.rpc.lanes import Read, UploadLanes
from openshell_files_gateway.rpc.tasks import cancel

#: Room for the headers that a message gets on its way into a relay frame.
_HEADER_ROOM: Final = 64

#: A file up to this size is sent when all of it is here: content, finish and
#: end come one right after the other, and the agent is busy with the admission.
_SMALL_BYTES: Final = 64 * KIB


class UploadInput:
    """Reads the caller's messages in their order, and forwards them as they came (FRM-4).

    Inside the context it reads ahead, as much as a `MessageBatch` holds, also
    while there is no relay yet: a small file is all there when the relay is.

    Args:
        read: reads the first stream, which has given the metadata.
        lanes: the other streams; None if there are none.
        declared_bytes: size of the file as the caller says; 0 if it does not.
    """

    def __init__(self, read: Read, lanes: UploadLanes | None, declared_bytes: int) -> None:
        self._read = read
        self._lanes = lanes
        self._batch = MessageBatch(short=0 < declared_bytes <= _SMALL_BYTES)
        self._activity: Activity | None = None
        self._reader: asyncio.Task[None] | None = None
        #: Read so far.
        self.content_bytes = 0

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read_on(), name="upload-input")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            await cancel(self._reader)

    async def forward(self, relay: FileRelay, activity: Activity) -> None:
        """Carry everything, and say when it is over.

        Ends quietly when the relay breaks: whoever waits for the agent's
        answer finds out, and may find a better reason than a broken relay.

        Args:
            relay: to the agent.
            activity: told of everything that moves from now on.
        """
        self._activity = activity
        with suppress(TransferError):
            messages = await self._take()
            while not self._batch.over:
                await relay.forward(messages)
                activity.touch()
                messages = await self._take()
            # A cancelled call looks like the end of the stream first and
            # is cancelled a turn of the loop later (grpc.aio).
            for _ in range(3):
                await asyncio.sleep(0)
            await relay.forward(messages, ended=True)
            activity.touch()

    async def _take(self) -> list[bytes]:
        return await self._batch.take(MAX_RELAY_PAYLOAD - _HEADER_ROOM)

    async def _read_on(self) -> None:
        """Read until the end. If a lane is lost the batch has none: whoever waits for the agent finds out."""
        count = self._lanes.count if self._lanes is not None else 1
        position = 0
        while isinstance(message := await self._next(position % count), bytes):
            if self._activity is not None:
                self._activity.touch()
            self.content_bytes += len(message)
            position += 1
            await self._batch.put(message)
        if self._lanes is not None:
            self._lanes.input_over()
        self._batch.end()

    async def _next(self, index: int) -> object:
        """Return the next message of a stream, or something else at its end."""
        if self._lanes is None or index == 0:
            return await self._read()
        return await self._lanes.next(index)
