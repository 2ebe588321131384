"""One supervisor's session: its announcements, and a queue of control messages to it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import exec_relay_pb2, file_relay_pb2, openshell_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.tasks import EventFirst, race
from openshell_files_gateway.relay.core.announcement import believable

#: Control messages that may wait for a slow supervisor; upstream's bound.
OUTBOUND_MESSAGES: Final = 64


class SupervisorSession:
    """The session of a connected supervisor.

    The method ConnectSupervisor owns it: it writes the queued messages to the
    stream, and calls `end` when the stream ends. All other parts only send.

    Args:
        session_id: random id, as in SessionAccepted.
        hello: the supervisor's hello, for a sandbox that its token allows.

    Attributes:
        files: the hello's announcement of file transfer, as far as it is believable; None without one.
        commands: the hello's announcement of commands; None without one.
    """

    def __init__(self, session_id: str, hello: openshell_pb2.SupervisorHello) -> None:
        self.session_id: Final = session_id
        self.sandbox_id: Final[str] = hello.sandbox_id
        self.instance_id: Final[str] = hello.instance_id
        self.connection_epoch: Final[int] = hello.connection_epoch
        self.files: Final[file_relay_pb2.FileTransferCapability | None] = (
            believable(hello.file_transfer) if hello.HasField("file_transfer") else None
        )
        self.commands: Final[exec_relay_pb2.ExecCapability | None] = (
            hello.exec if hello.HasField("exec") else None
        )
        self._outbound: asyncio.Queue[openshell_pb2.GatewayMessage] = asyncio.Queue(OUTBOUND_MESSAGES)
        self._ended = asyncio.Event()
        self.end_reason = ""

    def __repr__(self) -> str:
        state = f"ended: {self.end_reason}" if self._ended.is_set() else "open"
        return f"<SupervisorSession {self.session_id} of {self.sandbox_id}, {state}, {self._outbound.qsize()} queued>"

    def end(self, reason: str) -> None:
        """End the session; only the first reason counts."""
        if not self._ended.is_set():
            self.end_reason = reason
            self._ended.set()

    async def wait_ended(self) -> None:
        """Wait until the session ends."""
        await self._ended.wait()

    def send_first(self, message: openshell_pb2.GatewayMessage) -> None:
        """Queue the first message, before the session is registered."""
        self._outbound.put_nowait(message)

    async def send(self, message: openshell_pb2.GatewayMessage) -> None:
        """Queue a control message.

        Raises:
            TransferError: SUPERVISOR_NOT_CONNECTED if the session has ended,
                or ends while the queue is full.
        """
        if not self._ended.is_set():
            try:
                self._outbound.put_nowait(message)
            except asyncio.QueueFull:
                await self._send_when_room(message)
            else:
                return
        if self._ended.is_set():
            raise TransferError(
                Reason.SUPERVISOR_NOT_CONNECTED, "supervisor session disconnected", retry_delay=1.0
            )

    async def _send_when_room(self, message: openshell_pb2.GatewayMessage) -> None:
        with suppress(EventFirst):
            await race(self._outbound.put(message), self._ended)

    async def next_outbound(self) -> openshell_pb2.GatewayMessage:
        """Return the next message for the supervisor."""
        return await self._outbound.get()
