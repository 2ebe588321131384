"""One DownloadTree: reads the tree one message ahead and sends it, while replies come (TRE-2 to TRE-5)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.chunks import embed
from openshell_files_protocol.errors import invalid
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, trees_pb2

from openshell_supervisor_sim.agent.core.tree_requests import send_request
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.caller_messages import CallerMessages
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import Inbound, Outbound
from openshell_supervisor_sim.agent.trees.origin import TreeOrigin
from openshell_supervisor_sim.agent.upload.status import Caller

_FIELD: Final = "download_tree"
_NUMBER: Final = file_relay_pb2.FileRelayResponse.DESCRIPTOR.fields_by_name[_FIELD].number

_WORKING: Final = file_relay_pb2.FileRelayResponse(
    download_tree=trees_pb2.DownloadTreeResponse(working=trees_pb2.TreeWorking())
)


class TreeDownload:
    """Sends one tree. `read` and `run` are two tasks.

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
        self._messages = CallerMessages(inbound, _FIELD, trees_pb2.DownloadTreeRequest, keeps=keeps)
        self._tree: TreeOrigin | None = None
        #: A reply came, or no more will come.
        self._news = asyncio.Event()
        self._input_over = False
        self._buffered = 0

    @property
    def buffered(self) -> int:
        """Bytes that were read and not sent."""
        return self._buffered

    @property
    def followed_by(self) -> memoryview | None:
        """First frame of the next operation, if it came already."""
        return self._messages.followed_by

    async def read(self) -> None:
        """Pass the caller's replies to the sender; after the end look for a cancellation.

        Raises:
            CancelledByPeer: the caller or the relay is gone.
            TransferError: INVALID_REQUEST, TRANSFER_IDLE and others of the stream.
        """
        while self._messages.followed_by is None:
            got = await self._messages.next()
            if got is None:
                self._input_over = True
            else:
                self._take(got[0])
            self._news.set()

    def _take(self, message: trees_pb2.DownloadTreeRequest) -> None:
        match message.WhichOneof("payload"):
            case "reply":
                if self._tree is None:
                    raise invalid("reply", "came before an entry was announced (TRE-6)")
                self._tree.reply(message.reply)
            case "waiting":
                pass  # its bytes have restarted the idle timeout
            case "start":
                raise invalid("start", "must be the first message, and may not be repeated (TRE-2)")
            case _:
                raise invalid("payload", "is empty or unknown to this agent")

    async def run(
        self, start: trees_pb2.DownloadTreeStart, accepted: file_relay_pb2.FileRelayResponse
    ) -> None:
        """Send the tree, with its frames around it.

        Raises:
            TransferError: the tree was not sent.
            ConnectionError: the peer is gone.
        """
        request = send_request(start, self._caller.limits.digests)
        services = self._services
        opening = services.disk.run(
            partial(services.trees.send, request),
            interrupt=self._interrupt,
            discard=lambda opened: opened.close(),
        )
        tree = await self._outbound.while_working(opening)
        self._tree = tree
        try:
            await self._outbound.put_message(accepted)
            await self._put(
                trees_pb2.DownloadTreeResponse(
                    started=trees_pb2.TreeStarted(path=tree.path, digest_algorithm=tree.algorithm.wire)
                )
            )
            await self._outbound.flush()
            end = await self._send(tree)
        finally:
            await services.disk.run(tree.close)
        await self._put(trees_pb2.DownloadTreeResponse(end=end))
        await self._outbound.put_message(
            file_relay_pb2.FileRelayResponse(tree_end=file_relay_pb2.FileRelayTreeEnd())
        )
        # The next operation may begin as soon as the gateway has the last frame.
        self._messages.complete = True
        await self._outbound.flush()

    async def _send(self, tree: TreeOrigin) -> trees_pb2.TreeEnd:
        """Send manifests and content, one message behind the disk; return the last message."""
        message: trees_pb2.TreeManifest | trees_pb2.TreeContent | None = None
        async with TaskScope() as scope:
            while True:
                self._news.clear()
                read = self._services.disk.run(tree.next, interrupt=self._interrupt)
                ahead = scope.start(read, "file-agent-read-ahead")
                if message is not None:
                    await self._put_message(message)
                if not ahead.done():
                    # A sender gathers its next message for long; what is gathered here does not wait for that.
                    await self._outbound.flush()
                    await self._outbound.while_working(asyncio.wait({ahead}), working=_WORKING)
                following = ahead.result()
                if isinstance(following, trees_pb2.TreeEnd):
                    return following
                message = following
                if message is None:
                    await self._next_reply()

    async def _next_reply(self) -> None:
        """Wait for a reply, which the sender needs to go on."""
        await self._outbound.flush()
        if not self._news.is_set():
            if self._input_over:
                raise invalid("reply", "the caller's stream ended before it decided every entry (FRM-36)")
            self._messages.wait()
            await self._news.wait()
            self._messages.work()

    async def _put_message(self, message: trees_pb2.TreeManifest | trees_pb2.TreeContent) -> None:
        if isinstance(message, trees_pb2.TreeManifest):
            response = trees_pb2.DownloadTreeResponse(manifest=message)
        else:
            response = trees_pb2.DownloadTreeResponse(content=message)
        await self._put(response)

    async def _put(self, message: trees_pb2.DownloadTreeResponse) -> None:
        data = message.SerializeToString()
        self._buffered = len(data)
        await self._outbound.put(embed([data], _NUMBER))
        self._buffered = 0
