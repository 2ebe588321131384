"""Lanes: the streams that an upload has beyond its first (LAN-1).

The call of the first stream, which carries the metadata, opens the upload's lanes
and reads all streams in turn. Every lane is an UploadFile call of its own: it
finds the upload here, hands over one message whenever it is asked, and ends
with the call of the first stream. No lane is read ahead: what waits in a lane
waits in its HTTP/2 window.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.stream_end import Write, was_reset
from openshell_files_gateway.concurrency.tasks import EventFirst, race
from openshell_files_gateway.files.caller_input import BROKEN, Read
from openshell_files_gateway.files.options.core.lane_budget import (
    LaneBudget,
    LaneStatistics,
    check_lane,
    lanes_of,
)
from openshell_files_gateway.files.upload_input import SingleStream, UploadStreams
from openshell_files_gateway.server.calls import Call

_T = TypeVar("_T")

#: A client opens all streams of an upload at once. A stream that is still missing after this time went to another
#: gateway, or was refused on its way.
ARRIVAL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class LaneKey:
    """The values that all streams of one upload attempt share.

    Attributes:
        principal: the caller's key.
        sandbox_id: id of the sandbox that was found for this caller.
        upload_id: id from StartUpload's answer.
        epoch: number of the attempt.
    """

    principal: str
    sandbox_id: str
    upload_id: str
    epoch: int


class _Lane:
    """One lane: its call hands over a message whenever the call of the first stream asks for one."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._given: asyncio.Future[bytes | None] | None = None

    async def next(self) -> bytes | None:
        """Ask for the next message; None is the end of the stream."""
        self._given = asyncio.get_running_loop().create_future()
        self._wanted.set()
        return await self._given

    async def wanted(self) -> None:
        """Wait until `next` asks for a message."""
        await self._wanted.wait()
        self._wanted.clear()

    def give(self, message: bytes | None) -> None:
        """Answer the pending `next`."""
        if self._given is not None and not self._given.done():
            self._given.set_result(message)


class UploadLanes:
    """The streams of one upload, read in turn: message k comes on stream k mod n.

    Args:
        count: number of streams, the first included.
        first: reads the first stream.
        transfer_id: id of the first stream's call.
        arrival_seconds: how long the upload waits for each lane.
    """

    def __init__(self, count: int, first: Read, transfer_id: str, arrival_seconds: float) -> None:
        self.count = count
        self.transfer_id = transfer_id
        self._first = first
        self._arrival_seconds = arrival_seconds
        loop = asyncio.get_running_loop()
        self._arrivals: list[asyncio.Future[_Lane]] = [loop.create_future() for _ in range(1, count)]
        self._turn = 0
        self._over = asyncio.Event()
        self._broken = asyncio.Event()
        self._why = ""
        self._input_ended = False

    # For the call of the first stream

    async def read(self) -> object:
        """Return the next message of the upload; `BROKEN` if its lane did not come or broke.

        The first stream that has no message at its turn ends the input; later
        messages of the other streams are not read.
        """
        message = await (self._first() if self._turn == 0 else self._next(self._turn))
        if isinstance(message, bytes):
            self._turn = (self._turn + 1) % self.count
        elif message is not BROKEN:
            self._input_ended = True
        return message

    async def unless_broken(self, answer: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of `answer`, unless a lane breaks first.

        Raises:
            TransferError: LANE_LOST; or raised by `answer`.
        """
        try:
            return await race(answer, self._broken)
        except EventFirst:
            raise TransferError(Reason.LANE_LOST, self._why) from None

    def close(self) -> None:
        """Let the calls of all lanes end: the call of the first stream has ended."""
        self._over.set()

    async def _next(self, index: int) -> object:
        try:
            async with asyncio.timeout(self._arrival_seconds):
                lane = await asyncio.shield(self._arrivals[index - 1])
        except TimeoutError:
            self._break(index, f"did not come within {self._arrival_seconds:g} s")
            return BROKEN
        return await lane.next()

    # For the calls of the lanes

    async def carry(self, index: int, read: Read, write: Write) -> None:
        """Hand over a lane's messages until the call of the first stream ends.

        Args:
            index: the lane's index, from 1.
            read: reads the lane.
            write: see `was_reset`.

        Raises:
            TransferError: INVALID_REQUEST if the upload has no lane of this
                index, or has it already.
        """
        if index >= self.count:
            raise invalid("lane.index", f"is {index}; the upload has {self.count} streams")
        arrival = self._arrivals[index - 1]
        if arrival.done():
            raise invalid("lane.index", f"stream {index} of the upload is here already")
        lane = _Lane()
        arrival.set_result(lane)
        try:
            while True:
                await race(lane.wanted(), self._over)
                message = await race(read(), self._over)
                if not isinstance(message, bytes):
                    # The end of a lane publishes nothing, so a reset that follows it makes no difference (LAN-8, LAN-17).
                    if await was_reset(write):
                        self._break(index, "broke off")
                    else:
                        lane.give(None)
                    break
                lane.give(message)
            await self._over.wait()
        except EventFirst:
            pass
        finally:
            # Nothing is awaited before: to a cancelled call, EOF looks like the end of its stream.
            self._break(index, "broke off")

    def _break(self, index: int, how: str) -> None:
        if not (self._over.is_set() or self._input_ended or self._broken.is_set()):
            self._why = f"stream {index} of the upload's {self.count} {how}"
            self._broken.set()


class LaneTable:
    """All uploads that have lanes, and the lanes that wait for their upload.

    Args:
        max_total: lanes that all uploads together may have.
        arrival_seconds: how long the streams of an upload wait for each other.
        share: part of the lanes that one principal may have.
    """

    def __init__(self, max_total: int, arrival_seconds: float, share: float = 1.0) -> None:
        self._budget = LaneBudget(max_total, share)
        self._arrival_seconds = arrival_seconds
        self._uploads: dict[LaneKey, UploadLanes] = {}
        self._waiting: defaultdict[LaneKey, set[asyncio.Future[UploadLanes]]] = defaultdict(set)

    @property
    def most_streams(self) -> int:
        """Streams that one upload may have, the first included, while enough lanes are free."""
        return self._budget.most_streams

    def capability(self) -> file_options_pb2.LanesCapability | None:
        """Return the capability that the gateway announces (CAP-3); None if it serves no lanes."""
        if self.most_streams <= 1:
            return None
        return file_options_pb2.LanesCapability(max_lanes=self.most_streams)

    def streams_of(
        self, metadata: files_pb2.UploadFileMetadata, sandbox_id: str, call: Call
    ) -> AbstractContextManager[UploadStreams]:
        """Return the streams of an upload: a context that lasts as long as the call of its first stream.

        Entering it raises TOO_MANY_LANES if not enough lanes are free.

        Args:
            metadata: the upload's; `lanes` is cleared, since the agent always sees one stream.
            sandbox_id: the sandbox.
            call: the call of the first stream.

        Raises:
            TransferError: INVALID_REQUEST if the upload must not have lanes.
        """
        count = lanes_of(metadata)
        metadata.ClearField("lanes")
        if count == 1:
            return nullcontext(SingleStream(call.read))
        call.facts["lanes"] = count
        key = LaneKey(call.user.key, sandbox_id, metadata.upload_id, metadata.epoch)
        return self._opened(key, UploadLanes(count, call.read, call.transfer_id, self._arrival_seconds))

    async def carry(self, lane: file_options_pb2.UploadLane, sandbox_id: str, call: Call) -> None:
        """Carry one lane until the call of its upload's first stream ends (LAN-3, LAN-7).

        Raises:
            TransferError: INVALID_REQUEST; LANE_LOST if the first stream does
                not come; TOO_MANY_LANES if too many lanes wait already.
        """
        check_lane(lane)
        call.facts["lane"] = lane.index
        upload = await self._find(LaneKey(call.user.key, sandbox_id, lane.upload_id, lane.epoch))
        call.rename(upload.transfer_id)
        await upload.carry(lane.index, call.read, partial(call.context.send_initial_metadata, ()))

    def statistics(self) -> LaneStatistics:
        """Return the counts of lanes."""
        return self._budget.statistics()

    @contextmanager
    def _opened(self, key: LaneKey, lanes: UploadLanes) -> Generator[UploadLanes]:
        """Register an upload's lanes.

        A second call for the same attempt gets the lanes that come from then
        on; the agent decides which of the two calls may write.
        """
        self._budget.take(lanes.count, key.principal)
        self._uploads[key] = lanes
        for waiting in self._waiting.pop(key, ()):
            if not waiting.done():
                waiting.set_result(lanes)
        try:
            yield lanes
        finally:
            lanes.close()
            if self._uploads.get(key) is lanes:
                del self._uploads[key]
            self._budget.give_back(lanes.count, key.principal)

    async def _find(self, key: LaneKey) -> UploadLanes:
        """Return the lanes of an upload; wait for its first stream if it is not here."""
        if (lanes := self._uploads.get(key)) is not None:
            return lanes
        self._budget.wait(key.principal)
        coming: asyncio.Future[UploadLanes] = asyncio.get_running_loop().create_future()
        self._waiting[key].add(coming)
        try:
            async with asyncio.timeout(self._arrival_seconds):
                return await coming
        except TimeoutError:
            raise TransferError(
                Reason.LANE_LOST,
                f"the first stream of the upload did not come within {self._arrival_seconds:g} s",
            ) from None
        finally:
            self._budget.wait_no_more(key.principal)
            self._forget(key, coming)

    def _forget(self, key: LaneKey, coming: asyncio.Future[UploadLanes]) -> None:
        if (waiting := self._waiting.get(key)) is not None:
            waiting.discard(coming)
            if not waiting:
                del self._waiting[key]
