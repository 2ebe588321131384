"""The file methods: find the sandbox, take a slot, open a relay, forward the messages.

The gateway decodes a caller's first message and the agent's control frames. It
forwards content unparsed (FRM-4); the agent in the sandbox interprets it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from google.protobuf.message import Message
from openshell_files_process.agent_secret import SecretError, load_secret
from openshell_files_protocol.durations import duration_of
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import MAX_WRITE_BYTES, MIN_CHUNK_BYTES, PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.concurrency.stream_end import ended_for_good
from openshell_files_gateway.concurrency.tasks import Helpers, cancel, ends_within, with_helpers
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.core.content_count import ContentCount
from openshell_files_gateway.files.options.lanes import LaneTable
from openshell_files_gateway.files.options.waiting import with_bounded_pauses
from openshell_files_gateway.files.upload_input import UploadInput, UploadStreams
from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.core.relay_states import RelayState
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.relay.pool import RelayPool
from openshell_files_gateway.relay.targets import file_agent_of
from openshell_files_gateway.sandboxes.directory import AgentPort, Sandbox, SandboxDirectory
from openshell_files_gateway.server.calls import Call, Implementation, parse_request
from openshell_files_gateway.server.first_message import FirstMessages
from openshell_files_gateway.server.turn_queue import TurnQueue

log = structlog.get_logger("openshell_files_gateway.files")

#: Timeout of the handshake with an agent behind a port.
_HANDSHAKE_SECONDS: Final = 5.0

#: Timeout for the last write, since the answer may overtake the end of the caller's stream.
_LAST_WRITE_SECONDS: Final = 0.005

#: Reasons after which the agent reads no more frames: it ended, or broke the protocol.
_AGENT_IS_DONE: Final = frozenset(
    {Reason.AGENT_PROTOCOL_ERROR, Reason.FILES_UNSUPPORTED, Reason.INTERNAL, Reason.RELAY_LOST}
)

#: Timeout for telling the agent of a cancellation, before the relay closes.
_CANCEL_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Operation:
    """One operation on a relay, with its idle timeout and the values of its first frame."""

    relay: FileRelay
    activity: Activity
    max_chunk_bytes: int
    transfer_id: str
    principal: str
    #: The agent may have heard of it.
    opened: bool = False


class FileMethods:
    """Implements the file methods of the service.

    Args:
        directory: finds sandboxes, and hides those of other callers (AUT-5).
        relays: pool of relays to the file agents.
        transfers: limits the operations that run at once.
        first_messages: reads the first messages of uploads.
        lanes: finds the streams of an upload (option `lanes`).
        limits: limits that the gateway sends to agents, which enforce them.
    """

    def __init__(
        self,
        directory: SandboxDirectory,
        relays: RelayPool,
        transfers: TurnQueue,
        first_messages: FirstMessages,
        lanes: LaneTable,
        limits: LimitSettings,
    ) -> None:
        self._directory = directory
        self._relays = relays
        self._transfers = transfers
        self._first_messages = first_messages
        self._lanes = lanes
        self._limits = limits

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {
            "UploadFile": self.upload_file,
            "DownloadFile": self.download_file,
            "StartUpload": self.start_upload,
            "GetUpload": self.get_upload,
            "ListUploads": self.list_uploads,
            "AbortUpload": self.abort_upload,
            "StatFile": self.stat_file,
            "WriteFile": self.write_file,
        }

    async def upload_file(self, _: object, call: Call) -> bytes:
        """UploadFile (UPL-1 ff.): forward the caller's messages until the agent sends a result."""
        first = await self._first_message(call)
        if first.WhichOneof("payload") == "lane":
            sandbox = self._sandbox_of_rfc_message(first.lane, call)
            await self._lanes.carry(first.lane, sandbox.id, call)
            return files_pb2.UploadFileResponse().SerializeToString()
        metadata = first.metadata
        sandbox = self._sandbox_of_rfc_message(metadata, call)
        call.facts |= {"path": metadata.remote_path, "declared_bytes": metadata.size_bytes}
        response = await self._upload(metadata, sandbox, call)
        call.facts["published_bytes"] = response.bytes_written
        return response.SerializeToString()

    async def _upload(
        self, metadata: files_pb2.UploadFileMetadata, sandbox: Sandbox, call: Call
    ) -> files_pb2.UploadFileResponse:
        """Take a slot, open a relay, and forward the upload's messages."""
        opening = self._lanes.streams_of(metadata, sandbox.id, call)
        send = partial(call.context.send_initial_metadata, ())
        confirm_end = None if metadata.explicit_finish else partial(ended_for_good, send)
        # Lanes and read-ahead take memory, so only transfers with a slot have them.
        async with self._transfers.taken(sandbox.id, call.user.key):
            with opening as streams:
                content = UploadInput(
                    with_bounded_pauses(streams.read, self._limits.max_pause),
                    metadata.size_bytes,
                    self._limits.max_chunk_bytes,
                    confirm_end,
                )

                async def carried(helpers: Helpers) -> files_pb2.UploadFileResponse:
                    helpers.start(content.read_on(), "upload-read")
                    async with self._relayed(sandbox, call) as operation:
                        await self._open(operation, upload=metadata)
                        return await self._run_upload(operation, content, streams, helpers)

                try:
                    return await with_helpers(carried)
                finally:
                    call.facts |= content.count.facts()

    async def write_file(self, data: bytes, call: Call) -> bytes:
        """WriteFile (UPL-16)."""
        request: files_pb2.WriteFileRequest = parse_request(files_pb2.WriteFileRequest, data)
        sandbox = self._sandbox_of_rfc_message(request.metadata, call)
        call.facts |= {"path": request.metadata.remote_path, "content_bytes": len(request.content)}
        if len(request.content) > MAX_WRITE_BYTES:
            raise invalid(
                "content", f"has {len(request.content)} bytes, WriteFile takes at most {MAX_WRITE_BYTES}"
            )
        answer: files_pb2.WriteFileResponse = await self.ask(sandbox, call, "write_file", write_file=request)
        call.facts["published_bytes"] = answer.file.size_bytes
        return answer.SerializeToString()

    async def download_file(self, data: bytes, call: Call) -> None:
        """DownloadFile (DWN-1 ff.): forward the agent's messages until it sends the end."""
        request: files_pb2.DownloadFileRequest = parse_request(files_pb2.DownloadFileRequest, data)
        sandbox = self._sandbox_of_rfc_message(request, call)
        call.facts["path"] = request.remote_path
        if request.max_chunk_bytes:
            # A caller must not be able to choose pieces so small that they count as the supervisor's flood (RLY-25).
            request.max_chunk_bytes = max(request.max_chunk_bytes, MIN_CHUNK_BYTES)
        count = ContentCount(files_pb2.DownloadFileResponse)
        try:
            async with self._operation(sandbox, call) as operation:
                await self._open(operation, download=request)
                await operation.activity.watched(self._run_download(operation, call, count))
        finally:
            call.facts |= count.facts()

    async def start_upload(self, data: bytes, call: Call) -> bytes:
        """StartUpload (RSM-1, RSM-5, RSM-9)."""
        request: files_pb2.StartUploadRequest = parse_request(files_pb2.StartUploadRequest, data)
        sandbox = self._sandbox_of_rfc_message(request.metadata, call)
        call.facts |= {"path": request.metadata.remote_path, "declared_bytes": request.metadata.size_bytes}
        return await self._unary(sandbox, call, "start_upload", start_upload=request)

    async def get_upload(self, data: bytes, call: Call) -> bytes:
        """GetUpload (RSM-7)."""
        request: files_pb2.GetUploadRequest = parse_request(files_pb2.GetUploadRequest, data)
        sandbox = self.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "get_upload", get_upload=request)

    async def list_uploads(self, data: bytes, call: Call) -> bytes:
        """ListUploads (RSM-31)."""
        request: files_pb2.ListUploadsRequest = parse_request(files_pb2.ListUploadsRequest, data)
        sandbox = self.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "list_uploads", list_uploads=request)

    async def abort_upload(self, data: bytes, call: Call) -> bytes:
        """AbortUpload (RSM-34)."""
        request: files_pb2.AbortUploadRequest = parse_request(files_pb2.AbortUploadRequest, data)
        sandbox = self.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "abort_upload", abort_upload=request)

    async def stat_file(self, data: bytes, call: Call) -> bytes:
        """StatFile."""
        request: files_pb2.StatFileRequest = parse_request(files_pb2.StatFileRequest, data)
        call.facts["path"] = request.remote_path
        sandbox = self.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "stat_file", stat_file=request)

    async def _first_message(self, call: Call) -> files_pb2.UploadFileRequest:
        """Read the first message of an upload, metadata or lane (UPL-4)."""
        data = await self._first_messages.read(call)
        request: files_pb2.UploadFileRequest = parse_request(files_pb2.UploadFileRequest, data)
        if request.WhichOneof("payload") not in {"metadata", "lane"}:
            raise invalid("metadata", "must be the first message")
        return request

    def _sandbox_of_rfc_message(
        self,
        message: files_pb2.UploadFileMetadata | files_pb2.DownloadFileRequest | file_options_pb2.UploadLane,
        call: Call,
    ) -> Sandbox:
        return self._resolve(call, message.sandbox_id, message.sandbox, message.workspace)

    def sandbox_of(self, ref: files_pb2.SandboxRef, call: Call) -> Sandbox:
        """Find the sandbox that a request names (AUT-5).

        Raises:
            TransferError: SANDBOX_NOT_FOUND or SANDBOX_NOT_READY.
        """
        return self._resolve(call, ref.id, ref.name, ref.workspace)

    def _resolve(self, call: Call, sandbox_id: str, name: str, workspace: str) -> Sandbox:
        sandbox = self._directory.resolve(call.user, sandbox_id=sandbox_id, name=name, workspace=workspace)
        call.facts["sandbox_id"] = sandbox.id
        return sandbox

    @asynccontextmanager
    async def _operation(self, sandbox: Sandbox, call: Call) -> AsyncGenerator[_Operation, None]:
        """Hold a slot and a relay for an operation, within the context."""
        async with (
            self._transfers.taken(sandbox.id, call.user.key),
            self._relayed(sandbox, call) as operation,
        ):
            yield operation

    @asynccontextmanager
    async def _relayed(self, sandbox: Sandbox, call: Call) -> AsyncGenerator[_Operation, None]:
        """Hold a relay for an operation that has a slot, within the context."""
        target = file_agent_of(sandbox, call.transfer_id)
        activity = Activity(self._limits.idle_timeout)
        # An agent behind a port authenticates once for each relay, so its relays are not reused (FRM-8).
        reuse = sandbox.agent is None
        async with self._relays.use(sandbox.id, target, activity.touch, reuse=reuse) as relay:
            if sandbox.agent is not None:
                await self._authenticate(relay, sandbox.agent)
            files = relay.session.files
            offered = files.max_chunk_bytes if files is not None else 0
            operation = _Operation(
                relay,
                activity,
                min(offered or self._limits.max_chunk_bytes, self._limits.max_chunk_bytes),
                call.transfer_id,
                call.user.key,
            )
            try:
                yield operation
            except BaseException as ended:
                await _tell_cancelled(operation, ended)
                raise
            finally:
                # The log line of the RelayStream call has the id of the relay's first transfer only.
                call.facts["channel_id"] = relay.channel.channel_id

    async def _authenticate(self, relay: FileRelay, agent: AgentPort) -> None:
        """Run the handshake with an agent behind a port (FRM-8)."""
        try:
            secret = await asyncio.to_thread(load_secret, agent.secret_file)
        except SecretError as error:
            log.error("agent secret cannot be used", reason=str(error))  # noqa: TRY400 - no traceback needed
            raise TransferError(
                Reason.AGENT_UNAUTHENTICATED, "the gateway has no secret for the agent"
            ) from error
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await relay.authenticate(secret)
        except TimeoutError:
            raise TransferError(
                Reason.FILES_UNSUPPORTED, f"no file agent answers on port {agent.port} of the sandbox"
            ) from None

    async def _open(self, operation: _Operation, **request: Any) -> None:  # noqa: ANN401 - one field of a oneof
        """Send the agent the operation's first frame."""
        opened = file_relay_pb2.FileRelayOpen(
            protocol_version=PROTOCOL_VERSION,
            transfer_id=operation.transfer_id,
            principal=operation.principal,
            max_chunk_bytes=operation.max_chunk_bytes,
            keep_relay=operation.relay.reusable,
            digests=self._limits.digest_numbers,
            limits=file_relay_pb2.FileRelayLimits(
                max_file_bytes=self._limits.max_file_bytes,
                idle_timeout=duration_of(self._limits.idle_timeout),
                upload_expiry=duration_of(self._limits.upload_expiry),
                max_uploads_per_sandbox=self._limits.max_uploads_per_sandbox,
                max_uploads_per_principal=self._limits.max_uploads_per_principal,
            ),
            **request,
        )
        # This write blocks while the supervisor reads nothing.
        await operation.activity.watched(operation.relay.open(opened))
        operation.opened = True

    async def _unary(self, sandbox: Sandbox, call: Call, answer: str, **request: Any) -> bytes:  # noqa: ANN401
        """Run an operation with one answer, and return it serialized."""
        answered: Message = await self.ask(sandbox, call, answer, **request)
        return answered.SerializeToString()

    async def ask(self, sandbox: Sandbox, call: Call, answer: str, **request: Any) -> Any:  # noqa: ANN401 - by `answer`
        """Run an operation with one answer, and return it.

        Args:
            sandbox: that has the agent.
            call: of the caller.
            answer: field of the answer's frame.
            **request: field of the first frame, and the request.

        Raises:
            TransferError: of the gateway, or of the agent.
        """
        async with self._operation(sandbox, call) as operation:
            await self._open(operation, **request)
            frame = await operation.activity.watched(operation.relay.next_frame())
            return operation.relay.last(frame, answer)

    async def _run_upload(
        self, operation: _Operation, content: UploadInput, streams: UploadStreams, helpers: Helpers
    ) -> files_pb2.UploadFileResponse:
        """Forward the upload's messages until the agent answers (UPL-13)."""
        operation.relay.input_over = False
        forwarding = helpers.start(content.forward(operation.relay, operation.activity), "upload-forward")
        try:
            frame = await operation.activity.watched(streams.unless_broken(operation.relay.next_frame()))
            response: files_pb2.UploadFileResponse = operation.relay.last(frame, "upload")
            if operation.relay.reusable:
                operation.relay.input_over = await ends_within(forwarding, _LAST_WRITE_SECONDS)
        finally:
            await cancel(forwarding)
        return response

    async def _run_download(self, operation: _Operation, call: Call, count: ContentCount) -> None:
        """Forward the agent's messages, without read-ahead, since the relay's window holds the next ones already."""
        while isinstance(frame := await operation.relay.next_frame(), memoryview):
            operation.activity.touch()
            await call.write(bytes(frame))
            operation.activity.touch()
            count.add(frame)
        operation.relay.last(frame, "download_end")


async def _tell_cancelled(operation: _Operation, ended: BaseException) -> None:
    """Tell the agent that its answer is not needed (FRM-31), if it has not answered and the relay still works."""
    over = isinstance(ended, TransferError) and ended.reason in _AGENT_IS_DONE
    if operation.opened and not over and operation.relay.life.state is RelayState.IN_USE:
        with suppress(TransferError, TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await operation.relay.cancel_input()
