"""The file methods: find the sandbox, take a slot, open a relay, forward the messages.

The gateway decodes a caller's first message and the agent's control frames. It
forwards content unparsed (FRM-4); the agent in the sandbox interprets it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from google.protobuf.message import Message
from openshell_files_protocol.errors import invalid
from openshell_files_protocol.limits import MAX_WRITE_BYTES, MIN_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2

from openshell_files_gateway.concurrency.stream_end import ended_for_good
from openshell_files_gateway.concurrency.tasks import Helpers, cancel, ends_within, with_helpers
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.agents import LAST_WRITE_SECONDS, FileAgents, Operation
from openshell_files_gateway.files.core.content_count import ContentCount
from openshell_files_gateway.files.options.lanes import LaneTable
from openshell_files_gateway.files.options.waiting import with_bounded_pauses
from openshell_files_gateway.files.upload_input import UploadInput, UploadStreams
from openshell_files_gateway.sandboxes.directory import Sandbox
from openshell_files_gateway.server.calls import Call, Implementation, parse_request
from openshell_files_gateway.server.first_message import FirstMessages


class FileMethods:
    """Implements the file methods of the service.

    Args:
        agents: starts operations in the file agents.
        first_messages: reads the first messages of uploads.
        lanes: finds the streams of an upload (option `lanes`).
        limits: of chunks and pauses.
    """

    def __init__(
        self,
        agents: FileAgents,
        first_messages: FirstMessages,
        lanes: LaneTable,
        limits: LimitSettings,
    ) -> None:
        self._agents = agents
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
        async with self._agents.slot(sandbox, call):
            with opening as streams:
                content = UploadInput(
                    with_bounded_pauses(streams.read, self._limits.max_pause),
                    metadata.size_bytes,
                    self._limits.max_chunk_bytes,
                    confirm_end,
                )

                async def carried(helpers: Helpers) -> files_pb2.UploadFileResponse:
                    helpers.start(content.read_on(), "upload-read")
                    async with self._agents.relayed(sandbox, call) as operation:
                        await self._agents.open(operation, upload=metadata)
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
        answer: files_pb2.WriteFileResponse = await self._agents.ask(
            sandbox, call, "write_file", write_file=request
        )
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
            async with self._agents.operation(sandbox, call) as operation:
                await self._agents.open(operation, download=request)
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
        sandbox = self._agents.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "get_upload", get_upload=request)

    async def list_uploads(self, data: bytes, call: Call) -> bytes:
        """ListUploads (RSM-31)."""
        request: files_pb2.ListUploadsRequest = parse_request(files_pb2.ListUploadsRequest, data)
        sandbox = self._agents.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "list_uploads", list_uploads=request)

    async def abort_upload(self, data: bytes, call: Call) -> bytes:
        """AbortUpload (RSM-34)."""
        request: files_pb2.AbortUploadRequest = parse_request(files_pb2.AbortUploadRequest, data)
        sandbox = self._agents.sandbox_of(request.sandbox, call)
        return await self._unary(sandbox, call, "abort_upload", abort_upload=request)

    async def stat_file(self, data: bytes, call: Call) -> bytes:
        """StatFile."""
        request: files_pb2.StatFileRequest = parse_request(files_pb2.StatFileRequest, data)
        call.facts["path"] = request.remote_path
        sandbox = self._agents.sandbox_of(request.sandbox, call)
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
        return self._agents.resolve(call, message.sandbox_id, message.sandbox, message.workspace)

    async def _unary(self, sandbox: Sandbox, call: Call, answer: str, **request: Any) -> bytes:  # noqa: ANN401
        """Run an operation with one answer, and return it serialized."""
        answered: Message = await self._agents.ask(sandbox, call, answer, **request)
        return answered.SerializeToString()

    async def _run_upload(
        self, operation: Operation, content: UploadInput, streams: UploadStreams, helpers: Helpers
    ) -> files_pb2.UploadFileResponse:
        """Forward the upload's messages until the agent answers (UPL-13)."""
        operation.relay.input_over = False
        forwarding = helpers.start(content.forward(operation.relay, operation.activity), "upload-forward")
        try:
            frame = await operation.activity.watched(streams.unless_broken(operation.relay.next_frame()))
            response: files_pb2.UploadFileResponse = operation.relay.last(frame, "upload")
            if operation.relay.reusable:
                operation.relay.input_over = await ends_within(forwarding, LAST_WRITE_SECONDS)
        finally:
            await cancel(forwarding)
        return response

    async def _run_download(self, operation: Operation, call: Call, count: ContentCount) -> None:
        """Forward the agent's messages, without read-ahead, since the relay's window holds the next ones already."""
        while isinstance(frame := await operation.relay.next_frame(), memoryview):
            operation.activity.touch()
            await call.write(bytes(frame))
            operation.activity.touch()
            count.add(frame)
        operation.relay.last(frame, "download_end")
