"""An agent and its model, side by side: each operation is done to both, and what they answer is compared."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from agent.agent_harness import (
    UNKNOWN,
    Peer,
    Refused,
    call,
    get_upload,
    metadata,
    opened,
)
from agent.agent_model import World
from agent.model_values import (
    EXPIRY,
    MAX_FILE,
    MAX_OWN,
    MAX_STAGED,
    MAX_UPLOADS,
    TOMBSTONE,
    Condition,
    Refusal,
    Stream,
    Upload,
    Wish,
)
from agent.mortal_agent import MortalAgent
from conditions import block_until
from digest_values import digest_of
from openshell_files_disk.filesystem.handles import process_umask
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import AgentSettings
from openshell_supervisor_sim.agent.filesystem.file_info import version
from openshell_supervisor_sim.agent.upload.staged_content import occupied_bytes

T = TypeVar("T")
R = TypeVar("R")

#: CLOCK_REALTIME_COARSE of Linux, which gives files their times.
FILE_CLOCK = 5

PRINCIPALS = ["alice", "alice", "alice", "bob"]
PATHS = ["/a", "/b", "/d/c"]


class AgentComparison:
    """An agent and its model, and what it takes to do the same to both."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sandbox-"))
        self.root = self.directory / "sandbox-root"
        (self.root / "d").mkdir(parents=True)
        self.world = World(self._version, self._occupies, process_umask(), now=1_800_000_000)
        self.streams: dict[Stream, Peer] = {}
        self.steps = 0
        self.runner = asyncio.Runner()
        self.run(self._begin())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def _begin(self) -> None:
        agent = AgentSettings(
            root=self.root,
            state_dir=self.directory / "sandbox-state",
            max_file_bytes=MAX_FILE,
            max_staged_bytes=MAX_STAGED,
            max_uploads=MAX_UPLOADS,
            max_uploads_per_principal=MAX_OWN,
            upload_expiry=EXPIRY,
            tombstone_seconds=TOMBSTONE,
            sweep_interval=10_000,
            disk_threads=2,
        )
        self.mortal = MortalAgent(self.directory, agent, lambda: self.world.now)
        await self.mortal.start()

    def close(self) -> None:
        try:
            self.run(self._vanish())
            self.run(self.mortal.close())
        finally:
            self.runner.close()
            shutil.rmtree(self.directory)

    # -- what the model asks the disk

    def _on_disk(self, path: str) -> Path:
        return self.root / path[1:]

    def _version(self, path: str) -> str:
        return version(self._on_disk(path).lstat())

    def _staging(self, upload: Upload) -> Path:
        return self._on_disk(upload.wish.path).with_name(f".openshell-upload-{upload.upload_id}")

    def _occupies(self, upload: Upload) -> int:
        return occupied_bytes(self._staging(upload).lstat())

    # -- comparing

    async def _agree(self, predict: Callable[[], T], real: Awaitable[R]) -> tuple[T, R] | None:
        """Do it in the model and to the agent; None if both refuse for the same reason."""
        predicted, reason = self._predicted(predict)
        outcome: tuple[R] | Reason
        try:
            outcome = (await real,)
        except Refused as refused:
            outcome = refused.reason
        await self._displaced()
        if predicted is None or not isinstance(outcome, tuple):
            assert outcome is reason, (outcome, reason)
            return None
        return predicted, outcome[0]

    def _predicted(self, predict: Callable[[], T]) -> tuple[T | None, Reason | None]:
        try:
            return predict(), None
        except Refusal as refusal:
            return None, refusal.reason

    async def _displaced(self) -> None:
        """RSM-8, RSM-18, RSM-34: streams that lost their upload are told, also if they are silent."""
        told, self.world.displaced = self.world.displaced, []
        for stream, reason in told:
            assert (await self.streams.pop(stream).error()).reason is reason

    async def _vanish(self) -> None:
        """Break every stream."""
        while self.streams:
            await self.streams.popitem()[1].vanish()

    def _check_answer(self, answer: files_pb2.UploadFileResponse, upload: Upload, *, replayed: bool) -> None:
        """UPL-9, UPL-12, RSM-6."""
        assert answer.bytes_written == answer.file.size_bytes == len(upload.result)
        self._check_digest(answer.file.digest, upload, upload.result)
        assert answer.file.path == upload.wish.path
        assert answer.replayed is replayed
        assert answer.upload_id == upload.upload_id
        assert answer.already_identical is upload.identical
        assert answer.durability == files_pb2.DURABILITY_FSYNC

    def _check_digest(self, said: files_pb2.Digest, upload: Upload, content: bytes) -> None:
        """DIG-4, DIG-9: the upload's digest, or none."""
        algorithm = upload.algorithm
        assert said == (files_pb2.Digest() if algorithm is None else digest_of(content, algorithm))

    def _check_status(self, status: files_pb2.UploadStatus, upload: Upload, *, digest: bool) -> None:
        """RSM-7."""
        assert files_pb2.UploadState.Name(status.state) == f"UPLOAD_STATE_{upload.state}"
        assert (status.upload_id, status.request_id) == (upload.upload_id, upload.wish.request_id)
        assert (status.epoch, status.path) == (upload.epoch, upload.wish.path)
        assert status.failure_reason == upload.failure
        assert status.digest_algorithm == upload.algorithm
        if upload.state == "RECEIVING":
            assert status.staged_bytes == len(upload.staged)
            assert status.durable_bytes <= status.staged_bytes
            assert status.size_bytes == (upload.wish.declared or 0)
            if digest:
                self._check_digest(status.staged_digest, upload, upload.staged)
        elif upload.state == "PUBLISHED":
            self._check_answer(status.result, upload, replayed=False)

    async def _learn(self, upload: Upload) -> None:
        """Find out the id of an upload that was admitted without an answer (CRS-1)."""
        if upload.named and not upload.upload_id:
            wish = upload.wish
            if wish.request_id:
                found = await get_upload(
                    self.mortal.agent, principal=wish.principal, request_id=wish.request_id
                )
                upload.upload_id = found.upload_id
            else:
                known = {other.upload_id for other in self.world.uploads}
                [upload.upload_id] = {one.upload_id for one in await self._list(wish.principal)} - known
            assert upload.upload_id

    async def _list(self, principal: str) -> list[files_pb2.UploadStatus]:
        response = await call(self.mortal.agent, principal, list_uploads=files_pb2.ListUploadsRequest())
        listed = response.list_uploads
        mine = [upload for upload in self.world.unfinished if upload.wish.principal == principal]
        assert listed.staged_bytes == sum(upload.occupied for upload in mine)
        return list(listed.uploads)

    # -- what rules need

    def _filled(self, wish: Wish, *, fresh: bool) -> Wish:
        """Give a condition the value of what is at the path, or another one."""
        entry, condition = self.world.files.get(wish.path), wish.condition
        if condition is None or condition.kind in {"absent", "present"}:
            return wish
        stale = entry is None or not fresh
        digest = digest_of(b"stale" if entry is None or stale else entry.content, wish.accepted[-1])
        current = "0" if stale else self._version(wish.path)
        filled = (
            Condition("digest", digest)
            if condition.kind == "digest"
            else Condition("version", version=current)
        )
        return replace(wish, condition=filled)

    def _known(self, number: int) -> Upload:
        """Choose an upload; half of the time one that is not finished."""
        uploads = (number % 2 and self.world.unfinished) or self.world.uploads
        return uploads[number // 2 % len(uploads)]

    def _open(self, which: int) -> tuple[Stream, Peer]:
        return list(self.streams.items())[which % len(self.streams)]

    def _message(self, wish: Wish, upload_id: str = "", epoch: int = 0) -> files_pb2.UploadFileMetadata:
        message = metadata(
            wish.path,
            wish.size,
            explicit=wish.explicit,
            mode=wish.mode,
            request_id="" if upload_id else wish.request_id,
            upload_id=upload_id,
            epoch=epoch,
            accepted_digests=wish.digests,
        )
        match wish.condition:
            case None:
                pass
            case Condition("absent"):
                message.condition.absent.SetInParent()
            case Condition("present"):
                message.condition.present.SetInParent()
            case Condition("digest", files_pb2.Digest() as digest):
                message.condition.digest.CopyFrom(digest)
            case Condition(_, _, current):
                message.condition.version = current
        return message

    async def _attach(self, wish: Wish, upload_id: str = "", epoch: int = 0) -> tuple[Stream, Peer] | None:
        peer = Peer(self.mortal.agent)
        await peer.send(opened(wish.principal, upload=self._message(wish, upload_id, epoch)))
        agreed = await self._agree(lambda: self.world.attach(wish, upload_id, epoch), peer.accepted())
        if agreed is None:
            return None
        self.streams[agreed[0]] = peer
        await self._learn(agreed[0].upload)
        return agreed[0], peer

    async def _chunk(
        self,
        stream: Stream,
        data: bytes,
        *,
        offset: int | None = None,
        hole: int = 0,
        crc_ok: bool = True,
    ) -> bool:
        """Send a chunk and wait until it is staged or refused; tell whether the stream goes on."""
        peer = self.streams[stream]
        _, reason = self._predicted(
            lambda: self.world.chunk(stream, data, offset=offset, hole=hole, crc_ok=crc_ok)
        )
        self.mortal.staged.clear()
        if offset is None:
            await peer.chunk(data)
        else:
            await peer.data(offset, data, crc=None if crc_ok else 1, hole=hole)
        if reason is not None:
            del self.streams[stream]
            assert (await peer.error()).reason is reason
        elif not stream.replay and (data or hole):
            await self._first(self.mortal.staged, peer)
            assert self.mortal.staged.is_set(), await peer.error()
        return reason is None

    async def _first(self, event: asyncio.Event, peer: Peer) -> None:
        """Wait for an event, or for the end of the agent's stream."""
        waiting = asyncio.create_task(event.wait())
        await asyncio.wait({waiting, peer.task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.wait({waiting})

    async def _finish(self, stream: Stream, size: int, digest: files_pb2.Digest) -> None:
        peer = self.streams.pop(stream)
        finish = files_pb2.UploadFinish(size_bytes=size, digest=digest)
        await peer.upload_message(files_pb2.UploadFileRequest(finish=finish))
        await self._ended(stream, peer, lambda: self.world.finish(stream, size, digest))

    async def _end(self, stream: Stream, how: str) -> None:
        peer = self.streams.pop(stream)
        if how == "break":
            self._predicted(lambda: self.world.end(stream, clean=False))
            await peer.vanish()
            return
        if how == "eof":
            peer.to_agent.end()
        else:
            await peer.input_end(cancelled=how == "cancel")
        await self._ended(stream, peer, lambda: self.world.end(stream, clean=how == "end"))

    async def _ended(self, stream: Stream, peer: Peer, predict: Callable[[], Upload]) -> None:
        agreed = await self._agree(predict, peer.answer())
        if agreed is not None:
            self._check_answer(agreed[1].upload, agreed[0], replayed=stream.replay)

    @contextmanager
    def _time_passes(self) -> Generator[None]:
        """Make the next step later than the last one, by the agent's clock and by the file system's.

        Without it chance decides, and a run cannot be repeated: of two uploads of the same age the random name
        tells which expires, and two contents that are written within one tick may have the same version.
        """
        before = time.clock_gettime_ns(FILE_CLOCK)
        yield
        block_until(lambda: time.clock_gettime_ns(FILE_CLOCK) > before, "the clock ticks")
        self.world.now += 1

    # -- what holds always

    def _check_files(self) -> None:
        """UPL-8: what is there is whole; UPL-10; nothing staged is left that no upload has."""
        for path in PATHS:
            entry, target = self.world.files.get(path), self._on_disk(path)
            assert os.path.lexists(target) is (entry is not None)
            if entry is not None and entry.kind == "file":
                assert target.read_bytes() == entry.content
                assert target.stat().st_mode & 0o7777 == entry.mode
        staged = {
            self._staging(upload): upload.disk for upload in self.world.unfinished if upload.disk is not None
        }
        found = {path: path.read_bytes() for path in self.root.rglob(".openshell-upload-*")}
        others = [path for path in found if path not in staged]
        # Where the file system has no files without a name, a stream of its own has a named one too.
        assert len(others) in {0, len(self.world.transients)}
        assert {path: found[path] for path in found if path not in others} == staged

    async def _check_uploads(self) -> None:
        """RSM-2, RSM-7, RSM-31, RSM-32: GetUpload, ListUploads and the sums."""
        agent, digest = self.mortal.agent, self.steps % 2 == 0
        for upload in list(self.world.uploads):
            wish = upload.wish
            if digest:
                self._predicted(partial(self.world.read, upload))
                await self._displaced()
            by_id = await get_upload(agent, upload.upload_id, principal=wish.principal, digest=digest)
            if upload not in self.world.uploads:
                assert by_id.state == UNKNOWN
                continue
            self._check_status(by_id, upload, digest=digest)
            if wish.request_id and self.steps % 3 == 0:
                by_request = await get_upload(agent, principal=wish.principal, request_id=wish.request_id)
                self._check_status(by_request, upload, digest=False)
        unknown = [(principal, upload_id) for principal, upload_id in self.world.forgotten[-2:]]
        unknown += [("carol", upload.upload_id) for upload in self.world.uploads[:1]]
        for principal, upload_id in unknown:
            status = await get_upload(agent, upload_id, principal=principal)
            assert status.state == UNKNOWN
        for principal in set(PRINCIPALS):
            mine = {one.upload_id for one in self.world.unfinished if one.wish.principal == principal}
            assert {status.upload_id for status in await self._list(principal)} == mine
        statistics = agent.statistics()
        assert statistics.unfinished_uploads == len(self.world.unfinished)
        assert statistics.staged_bytes == self.world.staged_bytes
        assert statistics.active_uploads == len(self.streams)
