"""One stream and its operations, one after the other: first frame, operation, last frame."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Final

import structlog
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.digest_choice import source_digest
from openshell_supervisor_sim.agent.core.requests import recorded, upload_key, upload_request
from openshell_supervisor_sim.agent.core.upload import InputEnd, Misplaced
from openshell_supervisor_sim.agent.download.stat_file import stat_file
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt
from openshell_supervisor_sim.agent.operations.caller_messages import CancelledByPeer
from openshell_supervisor_sim.agent.operations.directory_operations import directory_operation
from openshell_supervisor_sim.agent.operations.receive_archive import receive_archive
from openshell_supervisor_sim.agent.operations.receive_tree import TreeUpload
from openshell_supervisor_sim.agent.operations.receive_upload import UploadSession, settled
from openshell_supervisor_sim.agent.operations.send_download import DownloadSession
from openshell_supervisor_sim.agent.operations.send_tree import TreeDownload
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.operations.write_file import write_file
from openshell_supervisor_sim.agent.streams import (
    ByteStream,
    Inbound,
    Outbound,
    error_message,
    is_open,
    parse_input,
    parse_open,
)
from openshell_supervisor_sim.agent.upload.status import Caller, Verifying

#: Gets one line for each operation. Messages for an agent's developer go to the standard log, as
#: everywhere in the agent.
log = structlog.get_logger("openshell_supervisor_sim.agent")
_log = logging.getLogger(__name__)

#: How long to wait for the next operation; gateways close an idle relay much earlier.
_IDLE_SECONDS: Final = 60.0

#: Length of an error's message in the log.
_LOGGED_CHARACTERS: Final = 1000

#: Long changes that nobody awaits any more when the relay is gone (DIR-18, DIR-23).
_END_WITH_THE_RELAY: Final = frozenset({"remove_path", "copy_path"})

#: Operations that read and send at the same time, so that what is read ends them in the middle of a write.
_TREES: Final = frozenset({"upload_tree", "download_tree"})

_ACCEPTED = file_relay_pb2.FileRelayResponse(
    accepted=file_relay_pb2.FileRelayAccepted(protocol_version=PROTOCOL_VERSION)
)


class Session:
    """Serves one stream.

    Args:
        services: of the agent.
        stream: to the gateway.
    """

    def __init__(self, services: Services, stream: ByteStream) -> None:
        self._services = services
        idle = services.limits.idle_timeout
        self._inbound = Inbound(stream, idle)
        self._outbound = Outbound(stream, idle)
        self._transfer: UploadSession | DownloadSession | TreeUpload | TreeDownload | None = None
        #: The wait for the next operation, between two operations.
        self._idle: asyncio.Timeout | None = None
        self._finishing = False
        #: First frame of the next operation, if it came while the last operation was still watched.
        self._followed_by: memoryview | None = None

    @property
    def kind(self) -> str:
        """`upload`, `download`, `other`, or `none` between two operations."""
        if self._idle is not None:
            return "none"
        match self._transfer:
            case UploadSession() | TreeUpload():
                return "upload"
            case DownloadSession() | TreeDownload():
                return "download"
            case None:
                return "other"

    @property
    def buffered(self) -> int:
        """Bytes between stream and disk."""
        transfer = self._transfer.buffered if self._transfer is not None else 0
        return transfer + self._inbound.buffered + self._outbound.buffered

    async def run(self) -> None:
        """Carry out the operations of the stream, each to its last frame (FRM-3, FRM-9).

        Raises:
            CancelledError: no other error is raised.
        """
        keeps = await self._carry_out(self._inbound.frame())
        while keeps and not self._finishing:
            keeps = await self._carry_out(self._next_open())

    def finish(self) -> None:
        """End after the current operation."""
        self._finishing = True
        if self._idle is not None and not self._idle.expired():
            self._idle.reschedule(asyncio.get_running_loop().time())

    async def _carry_out(self, first: Coroutine[object, object, memoryview | None]) -> bool:
        """Carry out one operation; return whether the stream may carry another."""
        keeps, kind = False, None
        try:
            frame = await first
            if frame is None:
                return False
            opened = parse_open(frame)
            keeps, kind = opened.keep_relay, opened.WhichOneof("operation")
            # Until here the stream's log lines have the id of its first operation.
            structlog.contextvars.bind_contextvars(transfer_id=opened.transfer_id)
            await self._operation(opened)
            log.info("operation ended", operation=kind, outcome="OK")
        except TransferError as error:
            self._services.counters.operations_failed += 1
            # As a value, which the log escapes: a path in the message may contain a line end.
            told = error.message[:_LOGGED_CHARACTERS]
            log.info("operation ended", operation=kind, outcome=error.reason.name, error=told)
            # The start of the next frame is unknown, so no further operation can be read.
            keeps = keeps and error.reason is not Reason.AGENT_PROTOCOL_ERROR
            return await self._send_error(error) and keeps
        except (ConnectionError, CancelledByPeer) as error:
            _log.debug("the peer is gone: %r", error)
            return False
        except Exception:  # noqa: BLE001 - a bug: the log gets the trace, and the peer an answer
            _log.exception("a file operation failed by a bug: %s", kind)
            self._services.counters.operations_failed += 1
            await self._send_error(TransferError(Reason.INTERNAL, "the file agent has a bug; see its log"))
            return False
        finally:
            self._transfer = None
            self._count_bytes()
        return keeps

    def _count_bytes(self) -> None:
        counters = self._services.counters
        counters.bytes_received += self._inbound.received
        counters.bytes_sent += self._outbound.sent
        self._inbound.received = self._outbound.sent = 0

    async def _next_open(self) -> memoryview | None:
        """Wait for the next operation's first frame; None if there is none.

        Remaining input of the last operation is discarded.
        """
        if self._followed_by is not None:
            followed_by, self._followed_by = self._followed_by, None
            return followed_by
        try:
            async with asyncio.timeout(_IDLE_SECONDS) as self._idle:
                return await self._read_open()
        except TimeoutError:
            return None
        finally:
            self._idle = None

    async def _read_open(self) -> memoryview | None:
        while True:
            frame = await self._inbound.frame(patient=True)
            if frame is None or is_open(frame):
                return frame
            # A message may hold any number of frames; other tasks get a turn.
            await asyncio.sleep(0)

    async def _send_error(self, error: TransferError) -> bool:
        try:
            await self._outbound.put_message(error_message(error))
            await self._outbound.flush()
        except (ConnectionError, TransferError) as gone:
            _log.debug("the error %s cannot be sent: %r", error, gone)
            return False
        return True

    async def _operation(self, opened: file_relay_pb2.FileRelayOpen) -> None:
        if not 1 <= opened.protocol_version <= PROTOCOL_VERSION:
            raise TransferError(
                Reason.FILES_UNSUPPORTED,
                f"open.protocol_version is {opened.protocol_version}, the agent speaks 1 to {PROTOCOL_VERSION}",
                {"protocol_version": str(PROTOCOL_VERSION)},
            )
        self._services = self._services.for_principal(opened.principal)
        caller = Caller(opened.principal, self._services.limits.stricter(opened))
        self._inbound.idle_timeout = self._outbound.idle_timeout = caller.limits.idle_timeout
        kind = opened.WhichOneof("operation")
        self._outbound.finishes_writes = kind in _TREES
        if kind in _TREES:
            await self._tree(opened, caller)
        elif kind == "upload":
            upload = self._transfer = UploadSession(self._services, caller, self._inbound, self._outbound)
            if opened.upload.is_archive:
                response = await receive_archive(
                    self._services, caller, self._outbound, upload, opened.upload, _ACCEPTED
                )
            else:
                response = await upload.run(opened.upload, _ACCEPTED)
            self._services.counters.uploads_published += not response.replayed
            await self._answer(file_relay_pb2.FileRelayResponse(upload=response))
        else:
            await self._watched(self._without_input(opened, caller), self._watch(opened))

    async def _tree(self, opened: file_relay_pb2.FileRelayOpen, caller: Caller) -> None:
        """Carry out an operation that reads and sends at the same time."""
        parts = self._services, caller, self._inbound, self._outbound
        if opened.WhichOneof("operation") == "upload_tree":
            upload = self._transfer = TreeUpload(*parts, keeps=opened.keep_relay)
            await self._watched(upload.run(opened.upload_tree, _ACCEPTED), upload.read())
            self._followed_by = upload.followed_by
        else:
            download = self._transfer = TreeDownload(*parts, keeps=opened.keep_relay)
            await self._watched(download.run(opened.download_tree, _ACCEPTED), download.read())
            self._followed_by = download.followed_by

    async def _without_input(self, opened: file_relay_pb2.FileRelayOpen, caller: Caller) -> None:
        """Carry out an operation whose first frame is its only input."""
        response = file_relay_pb2.FileRelayResponse()
        match opened.WhichOneof("operation"):
            case "download":
                download = self._transfer = DownloadSession(self._services, caller, self._outbound)
                await download.run(opened.download, _ACCEPTED)
                self._services.counters.downloads_completed += 1
                return
            case "start_upload":
                response.start_upload.CopyFrom(await self._start_upload(opened.start_upload, caller))
            case "get_upload":
                response.get_upload.CopyFrom(await self._get_upload(opened.get_upload, caller))
            case "list_uploads":
                response.list_uploads.CopyFrom(await self._list_uploads(caller))
            case "abort_upload":
                response.abort_upload.CopyFrom(await self._abort_upload(opened.abort_upload, caller))
            case "write_file":
                written = await write_file(self._services, caller, self._outbound, opened.write_file)
                self._services.counters.uploads_published += not written.replayed
                response.write_file.CopyFrom(written)
            case "stat_file":
                response.stat_file.CopyFrom(await self._stat_file(opened.stat_file, caller))
            case _:
                answer = await directory_operation(self._services, self._outbound, opened)
                if answer is None:
                    raise TransferError(
                        Reason.METHOD_UNSUPPORTED, "open.operation is unknown to this file agent"
                    )
                response = answer
        await self._outbound.put_message(_ACCEPTED)
        await self._answer(response)

    async def _answer(self, response: file_relay_pb2.FileRelayResponse) -> None:
        await self._outbound.put_message(response)
        await self._outbound.flush()

    async def _start_upload(
        self, request: files_pb2.StartUploadRequest, caller: Caller
    ) -> files_pb2.StartUploadResponse:
        interrupt = Interrupt()
        start = partial(
            self._services.admission.start,
            upload_request(request.metadata, started=True),
            recorded(request.metadata),
            source_digest(request),
            caller,
            interrupt,
        )
        status = await self._outbound.while_working(self._services.disk.run(start, interrupt=interrupt))
        return files_pb2.StartUploadResponse(upload=status)

    async def _get_upload(
        self, request: files_pb2.GetUploadRequest, caller: Caller
    ) -> files_pb2.GetUploadResponse:
        interrupt = Interrupt()
        ask = partial(
            self._services.uploads.status,
            caller,
            upload_key(request),
            digest=request.include_digest,
            interrupt=interrupt,
        )
        status = await self._outbound.while_working(self._services.disk.run(ask, interrupt=interrupt))
        return files_pb2.GetUploadResponse(upload=status)

    async def _list_uploads(self, caller: Caller) -> files_pb2.ListUploadsResponse:
        uploads, occupied = await self._services.disk.run(
            partial(self._services.uploads.list_unfinished, caller)
        )
        return files_pb2.ListUploadsResponse(uploads=uploads, staged_bytes=occupied)

    async def _abort_upload(
        self, request: files_pb2.AbortUploadRequest, caller: Caller
    ) -> files_pb2.AbortUploadResponse:
        if not request.upload_id:
            raise invalid("upload_id", "is empty")
        while True:
            status = await self._services.disk.run(
                partial(self._services.uploads.abort, caller, request.upload_id)
            )
            if not isinstance(status, Verifying):
                return files_pb2.AbortUploadResponse(upload=status)
            await self._outbound.while_working(settled(self._services, status.upload))

    async def _stat_file(
        self, request: files_pb2.StatFileRequest, caller: Caller
    ) -> files_pb2.StatFileResponse:
        interrupt = Interrupt()
        look = partial(
            stat_file, self._services.root, self._services.fs, request, caller.limits.digests, interrupt
        )
        info = await self._outbound.while_working(self._services.disk.run(look, interrupt=interrupt))
        return files_pb2.StatFileResponse(file=info)

    async def _watched(
        self, operation: Coroutine[object, object, None], reading: Coroutine[object, object, None]
    ) -> None:
        """Carry out an operation while its input is read, and stop it if the reader fails."""
        async with TaskScope() as scope:
            working = scope.start(operation, "file-agent-operation")
            watching = scope.start(reading, "file-agent-watch")
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done() and watching.exception() is None:
                await asyncio.wait({working})
        if working.cancelled():
            watching.result()
        working.result()

    async def _watch(self, opened: file_relay_pb2.FileRelayOpen) -> None:
        """Read the frames that a peer may send during an operation.

        The end of its bytes has no meaning (FRM-14), except for a removal and a copy.

        Raises:
            CancelledByPeer: the caller left.
            TransferError: the peer broke the protocol.
        """
        while True:
            frame = await self._inbound.frame(patient=True)
            if frame is None:
                if opened.WhichOneof("operation") in _END_WITH_THE_RELAY:
                    raise CancelledByPeer
                return
            # The next operation may begin as soon as this one's last frame is sent.
            if opened.keep_relay and is_open(frame):
                self._followed_by = frame
                return
            match parse_input(frame):
                case InputEnd(cancelled=True):
                    raise CancelledByPeer
                case InputEnd():
                    continue
                case Misplaced(field=field, description=description):
                    raise TransferError(Reason.INVALID_REQUEST, f"{field}: {description}")
                case _:
                    raise TransferError(Reason.INVALID_REQUEST, "upload: this operation has no messages")
