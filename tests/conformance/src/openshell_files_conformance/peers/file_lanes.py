"""Lanes: the streams of one upload, read in turn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from dataclasses import dataclass, field
from typing import Final

from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_conformance.peers.file_core import Core, Live
from openshell_files_conformance.peers.file_status import refusal

#: How long the streams of an upload wait for each other, in seconds (LAN-6).
_JOIN_SECONDS: Final = 10.0
_Message = files_pb2.UploadFileRequest


@dataclass
class _Lane:
    """One further stream: its messages, and whether its upload is over."""

    queue: asyncio.Queue[_Message | None] = field(default_factory=lambda: asyncio.Queue(8))
    over: asyncio.Event = field(default_factory=asyncio.Event)
    taken: bool = False


class Lanes:
    """Joins the streams of uploads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._lanes = dict[tuple[str, int, int], _Lane]()

    def _lane(self, upload_id: str, epoch: int, index: int) -> _Lane:
        return self._lanes.setdefault((upload_id, epoch, index), _Lane())

    async def carry(
        self, live: Live, first: file_options_pb2.UploadLane, messages: AsyncIterator[_Message]
    ) -> None:
        """Hand the messages of a further stream to its upload, until that is over (LAN-7)."""
        self._core.admit_sandbox(first.sandbox_id, first.sandbox)
        upload = self._core.sandbox.uploads.get(first.upload_id)
        if upload is None:
            raise refusal("UPLOAD_UNKNOWN", "there is no such upload")
        if not 1 <= first.index < max(1, self._core.settings.max_lanes):
            raise self._core.refuse(
                "LAN-3", "INVALID_REQUEST", f"{live.call.name}: there is no lane {first.index}"
            )
        lane = self._lane(first.upload_id, first.epoch, first.index)
        if lane.taken:
            raise self._core.refuse(
                "LAN-3", "INVALID_REQUEST", f"{live.call.name}: lane {first.index} comes twice"
            )
        lane.taken = True
        over = asyncio.create_task(lane.over.wait())
        reading = asyncio.create_task(self._read(lane, messages))
        try:
            await asyncio.wait({over, reading}, return_when=asyncio.FIRST_COMPLETED)
            await over
        finally:
            over.cancel()
            reading.cancel()
            # A stream that breaks off ends the input when its turn comes.
            with contextlib.suppress(asyncio.QueueFull):
                lane.queue.put_nowait(None)

    @staticmethod
    async def _read(lane: _Lane, messages: AsyncIterator[_Message]) -> None:
        async for message in messages:
            await lane.queue.put(message)
        await lane.queue.put(None)

    @contextlib.contextmanager
    def joined(
        self, live: Live, metadata: files_pb2.UploadFileMetadata, messages: AsyncGenerator[_Message]
    ) -> Generator[AsyncIterator[_Message]]:
        """Yield the messages of all streams of an upload, in their order; its lanes end with the context."""
        if metadata.lanes <= 1:
            yield messages
            return
        further = [
            self._lane(metadata.upload_id, metadata.epoch, index) for index in range(1, metadata.lanes)
        ]
        try:
            yield self._merged(live, messages, further)
        finally:
            for lane in further:
                lane.over.set()

    async def _merged(
        self, live: Live, messages: AsyncGenerator[_Message], further: list[_Lane]
    ) -> AsyncGenerator[_Message]:
        """Message k after the first ones travels on stream k mod lanes (LAN-5)."""
        turn = 0
        while True:
            if turn == 0:
                message = await anext(messages, None)
            else:
                try:
                    async with asyncio.timeout(_JOIN_SECONDS):
                        message = await further[turn - 1].queue.get()
                except TimeoutError:
                    raise refusal("LANE_LOST", f"lane {turn} of {live.call.name} gives nothing") from None
                if message is not None:
                    live.call.messages.append(message)
            if message is None:
                return
            yield message
            turn = (turn + 1) % (len(further) + 1)
