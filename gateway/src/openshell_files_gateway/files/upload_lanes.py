"""Brings the streams of an upload together (LAN-1).

The first stream's call, which has the metadata, opens the upload's lanes and
reads from all of them in turn. Every further stream is a call of its own that
finds the upload here, hands its messages over one at a time when it is asked,
and ends when the first stream's call is over. Nothing is read ahead: what a
lane holds is its window.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.stream_end import Write, was_reset
from openshell_files_gateway.concurrency.tasks import EventFirst, race
from openshell_files_gateway.files.core.lane_budget import LaneBudget, LaneStatistics

_T = TypeVar("_T")

#: Reads one message of a stream; anything but bytes is its end.
Read = Callable[[], Awaitable[Any]]

#: All streams of an upload are opened in one breath. One that does not come
#: for so long has gone to another gateway, or was refused on its way.
ARRIVAL_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class LaneKey:
    """What the streams of an upload have in common. Whose they are is part of it.

    Attributes:
        principal: the caller's key.
        sandbox_id: of the sandbox as it was found for this caller.
        upload_id: as StartUpload answered.
        epoch: of the attempt.
    """

    principal: str
    sandbox_id: str
    upload_id: str
    epoch: int


class _Lane:
    """One further stream: its call gives a message whenever the first stream's call asks for one."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()
        self._given: asyncio.Future[bytes | None] | None = None

    async def next(self) -> bytes | None:
        """Ask for the next message; None at the end of the stream."""
        self._given = asyncio.get_running_loop().create_future()
        self._wanted.set()
        return await self._given

    async def wanted(self) -> None:
        """Wait until a message is asked for."""
        await self._wanted.wait()
        self._wanted.clear()

    def give(self, message: bytes | None) -> None:
        """Answer with it."""
        if self._given is not None and not self._given.done():
            self._given.set_result(message)


class UploadLanes:
    """The streams of one upload beyond its first.

    Args:
        count: of streams, the first included.
        transfer_id: of the first stream's call.
        arrival_seconds: how long a stream may take to come.
    """

    def __init__(self, count: int, transfer_id: str, arrival_seconds: float) -> None:
        self.count = count
        self.transfer_id = transfer_id
        self._arrival_seconds = arrival_seconds
        loop = asyncio.get_running_loop()
        self._arrivals: list[asyncio.Future[_Lane]] = [loop.create_future() for _ in range(1, count)]
        self._over = asyncio.Event()
        self._broken = asyncio.Event()
        self._why = ""
        self._input_over = False

    # The first stream's call

    async def next(self, index: int) -> bytes | None:
        """Return the next message of a stream; None at its end, which is the end of the input.

        Args:
            index: of the stream, from 1.

        Raises:
            TransferError: LANE_LOST if the stream does not come.
        """
        try:
            async with asyncio.timeout(self._arrival_seconds):
                lane = await asyncio.shield(self._arrivals[index - 1])
        except TimeoutError:
            self._lose(index, f"did not come within {self._arrival_seconds:g} s")
            raise self._lost() from None
        return await lane.next()

    def input_over(self) -> None:
        """Note that one of the streams has ended at its turn, be it the first.

        What becomes of the other streams from here on means nothing, and
        neither does what they still hold.
        """
        self._input_over = True

    async def unless_lost(self, work: Awaitable[_T]) -> _T:
        """Return what `work` gives, unless a stream is lost before.

        Raises:
            TransferError: LANE_LOST, or what `work` raises.
        """
        try:
            return await race(work, self._broken)
        except EventFirst:
            raise self._lost() from None

    def close(self) -> None:
        """Let the calls of all further streams end: the first stream's call is over."""
        self._over.set()

    # The calls of the further streams

    async def carry(self, index: int, read: Read, write: Write) -> None:
        """Hand a stream's messages over until the first stream's call is over.

        Args:
            index: of the stream, from 1.
            read: reads it.
            write: as for `was_reset`.

        Raises:
            TransferError: INVALID_REQUEST if the upload has no such stream, or
                has it already.
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
                    # Publishes nothing, so nobody waits for a reset behind an end (LAN-1).
                    if await was_reset(write):
                        self._lose(index, "broke off")
                    else:
                        lane.give(None)
                    break
                lane.give(message)
            await self._over.wait()
        except EventFirst:
            pass
        finally:
            # Nothing is awaited before: to a cancelled call, EOF looks like the end of its stream.
            self._lose(index, "broke off")

    def _lose(self, index: int, how: str) -> None:
        if not (self._over.is_set() or self._input_over or self._broken.is_set()):
            self._why = f"stream {index} of the upload's {self.count} {how}"
            self._broken.set()

    def _lost(self) -> TransferError:
        return TransferError(Reason.LANE_LOST, self._why)


class LaneTable:
    """The uploads that have lanes, and the lanes that are looking for one.

    Args:
        max_total: streams beyond the first of all uploads together.
        arrival_seconds: how long streams wait for each other.
        share: part of the streams that one principal may have.
    """

    def __init__(self, max_total: int, arrival_seconds: float, share: float = 1.0) -> None:
        self._budget = LaneBudget(max_total, share)
        self._arrival_seconds = arrival_seconds
        self._uploads: dict[LaneKey, UploadLanes] = {}
        self._waiting: defaultdict[LaneKey, set[asyncio.Future[UploadLanes]]] = defaultdict(set)

    @property
    def most(self) -> int:
        """Over how many streams an upload may travel if enough are free, the first included."""
        return self._budget.most

    @contextmanager
    def opened(self, key: LaneKey, count: int, transfer_id: str) -> Generator[UploadLanes | None]:
        """Take what an upload's streams need, as long as its first stream's call runs.

        A second call for the same attempt gets the streams that come from then
        on; which of the two may write is the agent's to decide.

        Returns:
            The lanes; None if the upload has only the one stream.

        Raises:
            TransferError: TOO_MANY_LANES.
        """
        if count <= 1:
            yield None
            return
        self._budget.take(count, key.principal)
        lanes = self._uploads[key] = UploadLanes(count, transfer_id, self._arrival_seconds)
        for waiting in self._waiting.pop(key, ()):
            if not waiting.done():
                waiting.set_result(lanes)
        try:
            yield lanes
        finally:
            lanes.close()
            if self._uploads.get(key) is lanes:
                del self._uploads[key]
            self._budget.give_back(count, key.principal)

    async def find(self, key: LaneKey) -> UploadLanes:
        """Return the lanes of an upload; waits for its first stream.

        Raises:
            TransferError: LANE_LOST if that does not come, TOO_MANY_LANES if
                too many wait already.
        """
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

    def statistics(self) -> LaneStatistics:
        """Return what is taken."""
        return self._budget.statistics()

    def _forget(self, key: LaneKey, coming: asyncio.Future[UploadLanes]) -> None:
        if (waiting := self._waiting.get(key)) is not None:
            waiting.discard(coming)
            if not waiting:
                del self._waiting[key]
