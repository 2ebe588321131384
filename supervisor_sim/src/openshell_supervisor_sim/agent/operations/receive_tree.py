"""One UploadTree: the caller's messages in, disk work in short turns, replies out (TRE-2 to TRE-5)."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Final, TypeVar

from openshell_files_protocol.chunks import embed
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.tree_replies import Replies
from openshell_supervisor_sim.agent.core.tree_requests import receive_request
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.caller_messages import CallerMessages
from openshell_supervisor_sim.agent.operations.disk_queue import DiskQueue
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import WORKING_PER_TIMEOUT, Inbound, Outbound
from openshell_supervisor_sim.agent.trees.destination import TreeDestination
from openshell_supervisor_sim.agent.upload.status import Caller

#: Seconds that a disk thread works on messages before their replies go out. The sender goes on meanwhile, as far as
#: its open entries allow.
_TURN_SECONDS: Final = 0.05

#: Seconds that a disk thread works on the steps after the last entry before others get a turn.
_SLICE_SECONDS: Final = 0.25

_FIELD: Final = "upload_tree"
_NUMBER: Final = file_relay_pb2.FileRelayResponse.DESCRIPTOR.fields_by_name[_FIELD].number

_WORKING: Final = file_relay_pb2.FileRelayResponse(
    upload_tree=trees_pb2.UploadTreeResponse(working=trees_pb2.TreeWorking())
)

_Message = trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd

_T = TypeVar("_T")


class TreeUpload:
    """Receives one tree. `read` and `run` are two tasks.

    Args:
        services: of the agent.
        caller: of the operation.
        inbound: frames of the gateway.
        outbound: frames for the gateway.
        keeps: another operation may follow on the stream.
    """

    def __init__(
        self, services: Services, caller: Caller, inbound: Inbound, outbound: Outbound, *, keeps: bool
    ) -> None:
        self._services = services
        self._caller = caller
        self._outbound = outbound
        self._interrupt = Interrupt()
        self._messages = CallerMessages(inbound, _FIELD, trees_pb2.UploadTreeRequest, keeps=keeps)
        self._queue: DiskQueue[_Message] = DiskQueue(services.settings.pipeline_bytes)
        #: Taken from the queue, and not carried out yet.
        self._taken: deque[_Message] = deque()
        self._replies = Replies()
        self._steps = 0
        self._clock = asyncio.get_running_loop().time
        self._told_at = self._clock()

    @property
    def buffered(self) -> int:
        """Bytes that wait for the disk."""
        return self._queue.buffered

    @property
    def followed_by(self) -> memoryview | None:
        """First frame of the next operation, if it came already."""
        return self._messages.followed_by

    async def read(self) -> None:
        """Queue the caller's messages; after the last one look for a cancellation.

        Raises:
            CancelledByPeer: the caller or the relay is gone.
            TransferError: INVALID_REQUEST, UPLOAD_INCOMPLETE, TRANSFER_IDLE and others of the stream.
        """
        while self._messages.followed_by is None:
            got = await self._messages.next()
            if got is not None:
                message, size = got
                if (taken := self._taken_of(message)) is not None:
                    await self._queue.put([taken], size)
            elif not self._messages.complete:
                raise TransferError(
                    Reason.UPLOAD_INCOMPLETE, "the caller's stream ended before `end` (FRM-36)"
                )

    def _taken_of(self, message: trees_pb2.UploadTreeRequest) -> _Message | None:
        """Return what a message of the caller carries; None for `waiting`."""
        kind = message.WhichOneof("payload")
        if self._messages.complete:
            raise invalid(kind or "payload", "came after `end` (TRE-2)")
        match kind:
            case "manifest":
                return message.manifest
            case "content":
                return message.content
            case "end":
                self._messages.complete = True
                return message.end
            case "waiting":
                return None
            case "start":
                raise invalid("start", "must be the first message, and may not be repeated (TRE-2)")
            case _:
                raise invalid("payload", "is empty or unknown to this agent")

    async def run(self, start: trees_pb2.UploadTreeStart, accepted: file_relay_pb2.FileRelayResponse) -> None:
        """Receive the tree, with its frames around it.

        Raises:
            TransferError: the tree is not complete; what is in place stays (TRE-54).
            ConnectionError: the peer is gone.
        """
        request = receive_request(start, self._caller.limits.digests)
        services = self._services
        opening = services.disk.run(
            partial(services.trees.receive, request, self._caller.limits, self._interrupt.check),
            interrupt=self._interrupt,
            discard=lambda opened: opened.close(),
        )
        tree = await self._outbound.while_working(opening)
        try:
            await self._outbound.put_message(accepted)
            await self._put(
                trees_pb2.UploadTreeResponse(
                    started=trees_pb2.TreeStarted(path=tree.path, digest_algorithm=tree.algorithm.wire)
                )
            )
            await self._outbound.flush()
            end = await self._entries(tree)
            await self._finish(tree, end)
            result = await self._disk(tree.result)
        except TransferError:
            # An error answers the caller, who waits until everything is cleared away.
            await self._disk(tree.close)
            raise
        finally:
            await services.disk.run(tree.close)
        await self._put(trees_pb2.UploadTreeResponse(result=result))
        await self._outbound.put_message(
            file_relay_pb2.FileRelayResponse(tree_end=file_relay_pb2.FileRelayTreeEnd())
        )
        await self._outbound.flush()

    async def _entries(self, tree: TreeDestination) -> trees_pb2.TreeEnd:
        """Have the disk carry out the messages until the last one."""
        while True:
            if not self._taken:
                self._messages.wait()
                await self._queue.arrived()
                self._messages.work()
            end, replies = await self._disk(partial(self._turn, tree))
            await self._tell(replies)
            if end is not None:
                return end

    def _turn(self, tree: TreeDestination) -> tuple[trees_pb2.TreeEnd | None, Sequence[trees_pb2.TreeReply]]:
        """Carry out messages in a disk thread; return the last message, if it was reached, and the replies."""
        turn_ends = time.monotonic() + _TURN_SECONDS
        self._taken = self._taken or deque(self._queue.take(0))
        while self._taken:
            self._interrupt.check()
            message = self._taken.popleft()
            if isinstance(message, trees_pb2.TreeEnd):
                return message, self._replies.take()
            self._replies.add(tree.take(message))
            self._steps += 1
            if time.monotonic() >= turn_ends:
                break
        return None, self._replies.take()

    async def _finish(self, tree: TreeDestination, end: trees_pb2.TreeEnd) -> None:
        steps = tree.finish(end)
        while True:
            over, replies = await self._disk(partial(self._slice, steps))
            await self._tell(replies)
            if over:
                return

    def _slice(self, steps: Generator[trees_pb2.TreeReply]) -> tuple[bool, Sequence[trees_pb2.TreeReply]]:
        """Carry out some steps in a disk thread; return whether they were the last, and the replies."""
        slice_ends = time.monotonic() + _SLICE_SECONDS
        for reply in steps:
            self._interrupt.check()
            self._replies.add(reply)
            self._steps += 1
            if time.monotonic() >= slice_ends:
                return False, self._replies.take()
        return True, self._replies.take()

    async def _disk(self, work: Callable[[], _T]) -> _T:
        """Run work in a disk thread, and tell the caller of it while it takes long (TRE-16)."""
        running = self._services.disk.run(work, interrupt=self._interrupt)
        return await self._outbound.while_working(running, lambda: self._steps, _WORKING)

    async def _tell(self, replies: Sequence[trees_pb2.TreeReply]) -> None:
        """Send replies; a turn without news is told as work, if nothing else was sent for long."""
        for reply in replies:
            await self._put(trees_pb2.UploadTreeResponse(reply=reply))
        if not replies:
            if self._clock() - self._told_at < self._outbound.idle_timeout / WORKING_PER_TIMEOUT:
                return
            await self._outbound.put_message(_WORKING)
        await self._outbound.flush()
        self._told_at = self._clock()

    async def _put(self, message: trees_pb2.UploadTreeResponse) -> None:
        await self._outbound.put(embed([message.SerializeToString()], _NUMBER))
