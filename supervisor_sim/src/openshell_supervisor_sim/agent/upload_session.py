"""One UploadFile: from the stream through the rules to the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.requests import UploadRequest, upload_request
from openshell_supervisor_sim.agent.core.upload import (
    Action,
    Publish,
    Refuse,
    Replay,
    Skip,
    Stage,
    StageHole,
    StreamLost,
    UploadCore,
    UploadTerms,
)
from openshell_supervisor_sim.agent.disk import BoundedQueue, end_tasks
from openshell_supervisor_sim.agent.file_info import Interrupt
from openshell_supervisor_sim.agent.live_upload import LiveUpload
from openshell_supervisor_sim.agent.services import Services
from openshell_supervisor_sim.agent.streams import Inbound, Outbound, parse_input
from openshell_supervisor_sim.agent.upload_attempt import UploadAttempt
from openshell_supervisor_sim.agent.upload_status import Caller, Published, Verifying

_log = logging.getLogger(__name__)


class UploadSession:
    """Receives a file.

    One task reads frames and applies the rules; another has the disk carry
    out what they decide. Between them wait at most `pipeline_bytes`.

    Args:
        services: of the agent.
        caller: who uploads.
        inbound: frames of the gateway.
        outbound: frames for it.
    """

    def __init__(self, services: Services, caller: Caller, inbound: Inbound, outbound: Outbound) -> None:
        self._services = services
        self._caller = caller
        self._inbound = inbound
        self._outbound = outbound
        self._queue: BoundedQueue[Action] = BoundedQueue(services.settings.pipeline_bytes)
        self._loop = asyncio.get_running_loop()

    @property
    def buffered(self) -> int:
        """Bytes that wait for the disk."""
        return self._queue.buffered

    async def run(
        self, metadata: files_pb2.UploadFileMetadata, accepted: file_relay_pb2.FileRelayResponse
    ) -> files_pb2.UploadFileResponse:
        """Carry the upload out; answer `accepted` as soon as it is admitted.

        Raises:
            TransferError: nothing was published.
            ConnectionError: the peer is gone.
        """
        request = upload_request(metadata)
        attached = await self._attach(request, metadata.SerializeToString())
        if isinstance(attached, Published):
            await self._accept(accepted)
            return await self._replay(self._core(request, attached), attached)
        try:
            await self._accept(accepted)
            return await self._receive(self._core(request, attached), attached)
        finally:
            if not attached.ended:
                attached.interrupt.set()
                await self._services.disk.run(attached.end)

    async def _accept(self, accepted: file_relay_pb2.FileRelayResponse) -> None:
        await self._outbound.put_message(accepted)
        await self._outbound.flush()

    async def _attach(self, request: UploadRequest, metadata: bytes) -> UploadAttempt | Published:
        interrupt = Interrupt()
        attach = partial(
            self._services.admission.attach, request, metadata, self._caller, self._on_displaced, interrupt
        )
        while True:
            attached = await self._outbound.while_working(
                self._services.disk.run(attach, interrupt=interrupt, discard=_end)
            )
            if not isinstance(attached, Verifying):
                return attached
            await self._outbound.while_working(settled(self._services, attached.upload))

    def _on_displaced(self, error: TransferError) -> None:
        """End the stream also if it is silent; called from any thread."""
        self._loop.call_soon_threadsafe(self._queue.put_last, Refuse(error, keep=True))

    def _core(self, request: UploadRequest, attached: UploadAttempt | Published) -> UploadCore:
        limits = self._caller.limits
        published, staged = None, 0
        if isinstance(attached, Published):
            published = attached.size_bytes, attached.digest.value
        else:
            staged = attached.resumed_from
        return UploadCore(
            UploadTerms(
                declared_size=request.size_bytes,
                explicit_finish=request.explicit_finish,
                resumable=request.resumable,
                staged=staged,
                max_chunk_bytes=limits.max_chunk_bytes,
                max_file_bytes=limits.max_file_bytes,
                published=published,
                digest_algorithm=request.digest_algorithm,
            )
        )

    async def _replay(self, core: UploadCore, published: Published) -> files_pb2.UploadFileResponse:
        """Wait for the finish of what was published before (RSM-6)."""
        while True:
            action, _ = await self._next(core)
            if isinstance(action, Refuse):
                raise action.error
            if isinstance(action, Replay):
                published.result.replayed = True
                return published.result

    async def _receive(self, core: UploadCore, attempt: UploadAttempt) -> files_pb2.UploadFileResponse:
        reader = asyncio.create_task(self._read(core), name="file-agent-upload-reader")
        reader.add_done_callback(self._reader_ended)
        try:
            while True:
                work = partial(_carry_out, attempt, await self._queue.take())
                response = await self._outbound.while_working(
                    self._services.disk.run(work, interrupt=attempt.interrupt)
                )
                if response is not None:
                    return response
        finally:
            await end_tasks(reader)

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """Wake the other task up if the reader died of a bug."""
        if reader.cancelled() or (bug := reader.exception()) is None:
            return
        _log.error("reading an upload failed by a bug", exc_info=bug)
        error = TransferError(Reason.INTERNAL, "the file agent has a bug; see its log")
        self._queue.put_last(Refuse(error, keep=True))

    async def _read(self, core: UploadCore) -> None:
        """Turn frames into actions until the outcome is decided."""
        while True:
            try:
                action, size = await self._next(core)
            except TransferError as error:
                action, size = Refuse(error, keep=True), 0
            match action:
                case Stage() | StageHole():
                    await self._queue.put(action, size)
                case Skip():
                    continue
                case Publish() | Replay() | Refuse():
                    self._queue.put_last(action)
                    return

    async def _next(self, core: UploadCore) -> tuple[Action, int]:
        frame = await self._inbound.frame()
        if frame is None:
            return core.receive(StreamLost()), 0
        event = parse_input(frame)
        return core.receive(event), len(frame) if isinstance(event, Chunk) else 0


def _carry_out(attempt: UploadAttempt, actions: Sequence[Action]) -> files_pb2.UploadFileResponse | None:
    """Do what the rules decided, in a disk thread; return the answer if it was the end."""
    attempt.stage([action for action in actions if isinstance(action, Stage | StageHole)])
    for action in actions:
        if isinstance(action, Refuse):
            attempt.refuse(action.error, keep=action.keep)
            raise action.error
        if isinstance(action, Publish):
            response = attempt.publish(action)
            attempt.end()
            return response
    return None


def _end(attached: UploadAttempt | Published | Verifying) -> None:
    if isinstance(attached, UploadAttempt):
        attached.end()


async def settled(services: Services, upload: LiveUpload) -> None:
    """Wait until a finish that is being carried out is over."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    waiting = partial(upload.when_settled, lambda: loop.call_soon_threadsafe(over.set))
    if await services.disk.run(waiting):
        await over.wait()
