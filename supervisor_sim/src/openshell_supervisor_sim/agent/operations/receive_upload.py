"""One UploadFile: reads frames, applies the rules, has the disk carry them out, answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.concurrency import DiskShare
from openshell_supervisor_sim.agent.core.limits import Limits
from openshell_supervisor_sim.agent.core.requests import UploadRequest, recorded, upload_request
from openshell_supervisor_sim.agent.core.upload import (
    Action,
    InputEnd,
    Publish,
    Refuse,
    Replay,
    Skip,
    Stage,
    StageAction,
    StageHole,
    StreamLost,
    UploadCore,
    UploadTerms,
)
from openshell_supervisor_sim.agent.filesystem.file_info import Interrupt, Interrupted
from openshell_supervisor_sim.agent.operations.attempts import Attempt
from openshell_supervisor_sim.agent.operations.disk_queue import DiskQueue
from openshell_supervisor_sim.agent.operations.services import Services
from openshell_supervisor_sim.agent.streams import Inbound, Outbound, parse_input
from openshell_supervisor_sim.agent.upload.attempt import UploadAttempt
from openshell_supervisor_sim.agent.upload.live_upload import LiveUpload
from openshell_supervisor_sim.agent.upload.status import Caller, Published, Verifying

_log = logging.getLogger(__name__)

#: How long a disk thread works for one upload before another one gets a turn.
_TURN_SECONDS: Final = 0.25
#: Least turns in an idle timeout: the agent can send `working` (FRM-7) only between two turns.
_TURNS_PER_TIMEOUT: Final = 16
#: How long a disk thread waits for the next chunk.
_LINGER_SECONDS: Final = 0.02

#: Plain chunks are joined up to this many bytes before they are hashed and written, since each
#: write costs the same system calls.
_JOIN_BYTES: Final = MIB

#: How long the disk may work on earlier content after a refusal. Only hashing a hole takes longer.
_PATIENCE_SECONDS: Final = 1.0

#: A file up to this size has often arrived when it is admitted. Then `accepted` waits up to this
#: long, and goes out together with the answer.
_SMALL_BYTES: Final = 64 * KIB
_TOGETHER_SECONDS: Final = 0.005


class UploadSession:
    """Receives the content of one upload.

    One task reads frames and applies the rules; another one has the disk carry out their actions.
    At most `pipeline_bytes` wait between them.

    Args:
        services: of the agent.
        caller: of the operation.
        inbound: frames of the gateway.
        outbound: frames for the gateway.
    """

    def __init__(self, services: Services, caller: Caller, inbound: Inbound, outbound: Outbound) -> None:
        self._services = services
        self._caller = caller
        self._inbound = inbound
        self._outbound = outbound
        self._queue: DiskQueue[Action] = DiskQueue(services.settings.pipeline_bytes)
        self._loop = asyncio.get_running_loop()
        #: The refusal that interrupts the disk.
        self._refused: Refuse | None = None

    @property
    def buffered(self) -> int:
        """Bytes that wait for the disk."""
        return self._queue.buffered

    async def run(
        self, metadata: files_pb2.UploadFileMetadata, accepted: file_relay_pb2.FileRelayResponse
    ) -> files_pb2.UploadFileResponse:
        """Carry the upload out; send `accepted` as soon as it is admitted.

        Raises:
            TransferError: nothing was published.
            ConnectionError: the peer is gone.
        """
        request = upload_request(metadata)
        kept = recorded(metadata)
        attached = await self._attach(request, kept)
        if isinstance(attached, Published):
            await self._outbound.put_message(accepted)
            await self._outbound.flush()
            return await self._replay(upload_core(request, attached, self._caller.limits), attached)
        return await self.receive_into(request, attached, accepted)

    async def receive_into(
        self, request: UploadRequest, attached: Attempt, accepted: file_relay_pb2.FileRelayResponse
    ) -> files_pb2.UploadFileResponse:
        """Receive the stream's content into an attempt, which ends with this call; see `run`."""
        try:
            await self._outbound.put_message(accepted)
            small = request.size_bytes is not None and request.size_bytes <= _SMALL_BYTES
            core = upload_core(request, attached, self._caller.limits)
            return await self._receive(core, attached, small=small)
        finally:
            if not attached.ended:
                attached.interrupt.set()
                await self._services.disk.run(attached.end)

    async def _send_accepted(self, reader: asyncio.Task[None], *, small: bool) -> None:
        """Send `accepted`, or leave it to the write of the answer if that follows at once."""
        if small:
            await asyncio.wait({reader}, timeout=_TOGETHER_SECONDS)
        if not reader.done():
            await self._outbound.flush()

    async def _attach(self, request: UploadRequest, metadata: bytes) -> UploadAttempt | Published:
        interrupt = Interrupt()
        attach = partial(
            self._services.attachment.attach, request, metadata, self._caller, self._on_displaced, interrupt
        )
        while True:
            attached = await self._outbound.while_working(
                self._services.disk.run(attach, interrupt=interrupt, discard=end_attached)
            )
            if not isinstance(attached, Verifying):
                return attached
            await self._outbound.while_working(settled(self._services, attached.upload))

    def _on_displaced(self, error: TransferError) -> None:
        """End the stream, even if its caller sends nothing; any thread may call."""
        self._loop.call_soon_threadsafe(self._queue.put_last, Refuse(error, keep=True))

    async def _replay(self, core: UploadCore, published: Published) -> files_pb2.UploadFileResponse:
        """Wait for the finish of an upload that was published before (RSM-6)."""
        while True:
            _, _, last, _ = await self._next(core)
            if last is not None:
                return replayed(last, published)

    async def _receive(
        self, core: UploadCore, attempt: Attempt, *, small: bool
    ) -> files_pb2.UploadFileResponse:
        async with TaskScope() as scope:
            reader = scope.start(self._read(core, attempt), "file-agent-upload-reader")
            reader.add_done_callback(self._reader_ended)
            scope.start(
                self._listen_for_cancellation(core, reader, attempt), "file-agent-upload-cancellation"
            )
            # Content may have arrived already; it is read and written while this is sent.
            accepting = scope.start(self._send_accepted(reader, small=small), "file-agent-upload-accepted")
            try:
                return await self._stage(attempt, accepting)
            except Interrupted:
                if self._refused is None:
                    raise
                error, keep = self._refused.error, self._refused.keep
                await self._services.disk.run(partial(attempt.refuse, error, keep=keep))
                raise error from None
            except TransferError:
                # The error goes out on the same stream, so `accepted` must not be cut off.
                with suppress(TransferError, ConnectionError):
                    await accepting
                raise

    async def _stage(self, attempt: Attempt, accepting: asyncio.Task[None]) -> files_pb2.UploadFileResponse:
        """Have the disk carry out the reader's actions until the upload is published."""
        turn = min(_TURN_SECONDS, self._caller.limits.idle_timeout / _TURNS_PER_TIMEOUT)
        work = partial(_carry_out_queued, attempt, self._queue, self._services.disk, turn)
        while True:
            await self._queue.arrived()
            response = await self._outbound.while_working(
                self._services.disk.run(work, interrupt=attempt.interrupt)
            )
            if response is not None:
                await accepting
                return response

    async def _listen_for_cancellation(
        self, core: UploadCore, reader: asyncio.Task[None], attempt: Attempt
    ) -> None:
        """Read on after an end that publishes (UPL-2): the caller may still cancel (FRM-17)."""
        await asyncio.wait({reader})
        if core.explicit_finish:
            return
        # Other frames have no meaning any more, and neither has the end of the relay (FRM-14).
        with suppress(TransferError):
            while (frame := await self._inbound.frame(patient=True)) is not None:
                match parse_input(frame):
                    case InputEnd(cancelled=True):
                        attempt.withdraw()
                        return
                    case _:
                        continue

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """End the stream if a bug ended the reader."""
        if reader.cancelled() or (bug := reader.exception()) is None:
            return
        _log.error("reading an upload failed by a bug", exc_info=bug)
        error = TransferError(Reason.INTERNAL, "the file agent has a bug; see its log")
        self._queue.put_last(Refuse(error, keep=True))

    async def _read(self, core: UploadCore, attempt: Attempt) -> None:
        """Turn frames into actions until the outcome is decided.

        Frames that came together go to the disk together: to wake a thread for every chunk of 64
        KiB would cost more than the write.
        """
        while True:
            actions, size, last, behind = await self._next(core)
            if actions:
                await self._queue.put(actions, size)
            if last is not None:
                if not core.explicit_finish and _cancelled(behind):
                    # It arrived together with the end, so it is known before anything is published (UPL-34).
                    attempt.withdraw()
                self._queue.put_last(last)
                if isinstance(last, Refuse):
                    # Earlier content is still staged, unless the disk hashes a hole for minutes.
                    await asyncio.sleep(_PATIENCE_SECONDS)
                    self._refused = last
                    attempt.interrupt.set()
                return

    async def _next(self, core: UploadCore) -> tuple[list[Action], int, Action | None, Sequence[memoryview]]:
        """Return the actions that stage content, their bytes, and what decides the outcome with the frames behind it."""
        try:
            frames = await self._inbound.frames()
        except TransferError as error:
            return [], 0, Refuse(error, keep=True), ()
        if not frames:
            return [], 0, core.receive(StreamLost()), ()
        return _decided(core, frames)


def upload_core(request: UploadRequest, attached: Attempt | Published, limits: Limits) -> UploadCore:
    """Return the rules of an upload's stream."""
    published, staged = None, 0
    if isinstance(attached, Published):
        published = attached.size_bytes, attached.digest
        algorithm = attached.digest.algorithm if attached.digest is not None else None
    else:
        staged, algorithm = attached.resumed_from, attached.algorithm
    return UploadCore(
        UploadTerms(
            declared_size=request.size_bytes,
            explicit_finish=request.explicit_finish,
            resumable=request.resumable,
            staged=staged,
            max_chunk_bytes=limits.max_chunk_bytes,
            max_file_bytes=limits.max_file_bytes,
            published=published,
            algorithm=algorithm,
        )
    )


def _decided(
    core: UploadCore, frames: Sequence[memoryview]
) -> tuple[list[Action], int, Action | None, Sequence[memoryview]]:
    """Return the actions of frames that stage content, their bytes, and what decides the outcome with the frames behind it."""
    actions, size = list[Action](), 0
    try:
        for position, frame in enumerate(frames):
            match action := core.receive(parse_input(frame)):
                case Stage() | StageHole():
                    actions.append(action)
                    size += len(frame)
                case Publish() | Replay() | Refuse():
                    return actions, size, action, frames[position + 1 :]
                case Skip():
                    pass
    except TransferError as error:
        return actions, size, Refuse(error, keep=True), ()
    return actions, size, None, ()


def _cancelled(frames: Sequence[memoryview]) -> bool:
    """Return whether the caller's cancellation is among frames behind the end of its stream (FRM-17)."""
    with suppress(TransferError):
        return any(parse_input(frame) == InputEnd(cancelled=True) for frame in frames)
    return False


def replayed(last: Action | None, published: Published) -> files_pb2.UploadFileResponse:
    """Return the answer of an upload that was published before, unless the rules refuse its repetition (RSM-6, RSM-21)."""
    if isinstance(last, Refuse):
        raise last.error
    published.result.replayed = True
    return published.result


def _carry_out_queued(
    attempt: Attempt, queue: DiskQueue[Action], threads: DiskShare, seconds: float
) -> files_pb2.UploadFileResponse | None:
    """Carry out actions in a disk thread while they come; return the answer once the upload is published."""
    turn_ends = time.monotonic() + seconds
    while actions := queue.take(_linger(threads, turn_ends)):
        response = carry_out(attempt, actions)
        if response is not None or time.monotonic() >= turn_ends:
            return response
    return None


def _linger(threads: DiskShare, turn_ends: float) -> float:
    return 0.0 if threads.crowded else min(_LINGER_SECONDS, turn_ends - time.monotonic())


def carry_out(attempt: Attempt, actions: Sequence[Action]) -> files_pb2.UploadFileResponse | None:
    """Carry out actions of the rules; return the answer if they publish the upload."""
    attempt.stage(list(_joined(actions)))
    for action in actions:
        if isinstance(action, Refuse):
            attempt.refuse(action.error, keep=action.keep)
            raise action.error
        if isinstance(action, Publish):
            response = attempt.publish(action)
            attempt.end()
            return response
    return None


def _joined(actions: Sequence[Action]) -> Iterator[StageAction]:
    """Yield the actions that stage content, with consecutive plain chunks joined."""
    plain: list[Stage] = []
    size = 0
    for action in actions:
        joins = isinstance(action, Stage) and action.crc32c is None
        if plain and (not joins or size >= _JOIN_BYTES):
            yield _join(plain)
            plain, size = [], 0
        if isinstance(action, Stage) and joins:
            plain.append(action)
            size += len(action.data)
        elif isinstance(action, Stage | StageHole):
            yield action
    if plain:
        yield _join(plain)


def _join(plain: Sequence[Stage]) -> Stage:
    if len(plain) == 1:
        return plain[0]
    return Stage(plain[0].offset, b"".join([chunk.data for chunk in plain]), None)


def end_attached(attached: UploadAttempt | Published | Verifying) -> None:
    """End the attempt if `attached` is one."""
    if isinstance(attached, UploadAttempt):
        attached.end()


async def settled(services: Services, upload: LiveUpload) -> None:
    """Wait until no finish of the upload is being carried out."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    waiting = partial(upload.when_settled, lambda: loop.call_soon_threadsafe(over.set))
    if await services.disk.run(waiting):
        await over.wait()
