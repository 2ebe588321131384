"""An in-memory peer for the file agent, and small words for what it says."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from digest_values import digest_of, finish_of
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.framing import FrameDecoder
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_files_protocol.varint import encode_varint
from openshell_supervisor_sim.agent import AgentSettings, FileAgent

Request = file_relay_pb2.FileRelayRequest
Response = file_relay_pb2.FileRelayResponse


class Pipe:
    """One direction: bounded, so a sender feels a slow receiver."""

    def __init__(self, limit: int = 4 * 1024 * 1024) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._limit = limit
        self._over = False
        self._broken = False
        #: A sender waits for room.
        self.waiting = False
        self._changed = asyncio.Event()

    @property
    def size(self) -> int:
        return self._size

    async def put(self, data: bytes) -> None:
        while self._size and self._size + len(data) > self._limit and not self._broken:
            self._changed.clear()
            self.waiting = True
            await self._changed.wait()
        self.waiting = False
        if self._broken:
            raise ConnectionResetError("the peer is gone")
        self._parts.append(data)
        self._size += len(data)
        self._changed.set()

    async def get(self) -> bytes:
        while not self._parts:
            if self._over or self._broken:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = self._parts.popleft()
        self._size -= len(data)
        self._changed.set()
        return data

    def end(self) -> None:
        self._over = True
        self._changed.set()

    def break_(self) -> None:
        self._broken = True
        self._changed.set()


@dataclass
class AgentStream:
    """The agent's end."""

    incoming: Pipe
    outgoing: Pipe

    async def receive(self) -> bytes | memoryview:
        return await self.incoming.get()

    async def send(self, *segments: bytes | memoryview) -> None:
        try:
            await self.outgoing.put(b"".join(segments))
        except asyncio.CancelledError:
            # As with a relay, whose call a cancelled write cancels.
            self.outgoing.break_()
            self.incoming.break_()
            raise


#: What `get_upload` gives for an upload that the agent refuses to know. An agent never answers it.
UNKNOWN: Final = files_pb2.UPLOAD_STATE_UNSPECIFIED


class Refused(Exception):  # noqa: N818 - what the agent answered, not a fault of the test
    """The agent's last frame was an error."""

    def __init__(self, error: file_relay_pb2.FileRelayError) -> None:
        super().__init__(f"{error.reason}: {error.message}")
        self.reason = Reason[error.reason]
        self.metadata = dict(error.metadata)
        self.fields = [violation.field for violation in error.field_violations]
        self.message = error.message


class Peer:
    """The gateway's end of a stream, and the task that serves it."""

    def __init__(self, agent: FileAgent, limit: int = 4 * 1024 * 1024) -> None:
        self.to_agent = Pipe(limit)
        self.from_agent = Pipe(limit)
        self._decoder = FrameDecoder()
        self._frames: deque[Response] = deque()
        self.task = asyncio.create_task(agent.serve(AgentStream(self.to_agent, self.from_agent)))

    async def send_bytes(self, data: bytes) -> None:
        await self.to_agent.put(data)

    async def send(self, message: Request) -> None:
        await self.send_bytes(framed(message))

    async def upload_message(self, message: files_pb2.UploadFileRequest) -> None:
        await self.send(Request(upload=message))

    async def data(self, offset: int, data: bytes, *, crc: int | None = None, hole: int = 0) -> None:
        await self.upload_message(data_message(offset, data, crc=crc, hole=hole))

    async def chunk(self, data: bytes) -> None:
        await self.upload_message(files_pb2.UploadFileRequest(chunk=data))

    async def finish(
        self, content: bytes | None = None, *, size: int = 0, digest: files_pb2.Digest | None = None
    ) -> None:
        await self.upload_message(finish_message(content, size=size, digest=digest))

    async def input_end(self, *, cancelled: bool = False) -> None:
        await self.send(Request(input_end=file_relay_pb2.FileRelayInputEnd(cancelled=cancelled)))

    async def next(self) -> Response | None:
        """Return the agent's next frame; None at the end of its stream."""
        while not self._frames:
            frames = await self._read()
            if not frames:
                return None
            self._frames.extend(frames)
        return self._frames.popleft()

    async def next_write(self) -> list[Response]:
        """Return what the agent sent in one piece; nothing may be left of the piece before."""
        assert not self._frames
        return await self._read()

    async def _read(self) -> list[Response]:
        getting = asyncio.ensure_future(self.from_agent.get())
        await asyncio.wait({getting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done():
            self.from_agent.end()
        return [Response.FromString(bytes(frame)) for frame in self._decoder.feed(await getting)]

    async def accepted(self) -> None:
        """Wait for `accepted`; an error instead is raised."""
        frame = await self._checked()
        assert frame.WhichOneof("frame") == "accepted", frame

    async def answer(self) -> Response:
        """Return the last frame; an error is raised."""
        while True:
            frame = await self._checked()
            if frame.WhichOneof("frame") not in {"accepted", "working"}:
                await self.over()
                return frame

    async def last_frame(self) -> Response:
        """Return the last frame of an operation, also an error; the stream may go on."""
        while True:
            frame = await self.next()
            assert frame is not None, "the stream ended without a last frame"
            if frame.WhichOneof("frame") not in {"accepted", "working", "download"}:
                return frame

    async def error(self) -> Refused:
        """Return the error that ends the stream."""
        try:
            frame = await self.answer()
        except Refused as refused:
            return refused
        raise AssertionError(f"no error, but {frame}")

    async def _checked(self) -> Response:
        frame = await self.next()
        assert frame is not None, "the stream ended without a last frame"
        if frame.WhichOneof("frame") == "error":
            await self.over()
            raise Refused(frame.error)
        return frame

    async def over(self) -> None:
        """Check that the agent says nothing more and returned."""
        await self.task
        assert await self.next() is None

    async def vanish(self) -> None:
        """Break both directions and wait for the agent to let go."""
        self.to_agent.break_()
        self.from_agent.break_()
        await self.task


def framed(message: Request) -> bytes:
    payload = message.SerializeToString()
    return encode_varint(len(payload)) + payload


def data_message(
    offset: int, data: bytes, *, crc: int | None = None, hole: int = 0
) -> files_pb2.UploadFileRequest:
    return files_pb2.UploadFileRequest(
        data=files_pb2.FileChunk(
            offset=offset, data=data, crc32c=crc32c(data) if crc is None else crc, hole_bytes=hole
        )
    )


def finish_message(
    content: bytes | None = None, *, size: int = 0, digest: files_pb2.Digest | None = None
) -> files_pb2.UploadFileRequest:
    if content is not None:
        return files_pb2.UploadFileRequest(finish=finish_of(content))
    return files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish(size_bytes=size, digest=digest))


def opened(principal: str = "alice", **operation: Any) -> Request:
    """Make the first frame."""
    extra = {
        key: operation.pop(key)
        for key in ("protocol_version", "max_chunk_bytes", "limits", "keep_relay", "digests")
        if key in operation
    }
    extra.setdefault("protocol_version", PROTOCOL_VERSION)
    return Request(
        open=file_relay_pb2.FileRelayOpen(transfer_id="t", principal=principal, **extra, **operation)
    )


def metadata(
    path: str, size: int = 0, *, explicit: bool = True, **fields: Any
) -> files_pb2.UploadFileMetadata:
    return files_pb2.UploadFileMetadata(
        sandbox_id="s", remote_path=path, size_bytes=size, explicit_finish=explicit, **fields
    )


def pieces(content: bytes, size: int = MAX_CHUNK_BYTES) -> Iterable[tuple[int, bytes]]:
    for start in range(0, len(content), size):
        yield start, content[start : start + size]


@asynccontextmanager
async def peer_of(agent: FileAgent, limit: int = 4 * 1024 * 1024) -> AsyncGenerator[Peer]:
    """Give a stream; whatever the test left open is broken at the end."""
    peer = Peer(agent, limit)
    try:
        yield peer
    finally:
        peer.to_agent.break_()
        peer.from_agent.break_()
        await asyncio.wait({peer.task})


async def call(agent: FileAgent, principal: str = "alice", **operation: Any) -> Response:
    """Carry out an operation that needs no input; an error is raised."""
    async with peer_of(agent) as peer:
        await peer.send(opened(principal, **operation))
        await peer.input_end()
        return await peer.answer()


async def put(
    agent: FileAgent,
    path: str,
    content: bytes,
    *,
    chunk_bytes: int = MAX_CHUNK_BYTES,
    principal: str = "alice",
    skip: int = 0,
    declared: int | None = None,
    **fields: Any,
) -> files_pb2.UploadFileResponse:
    """Upload with checked chunks and an explicit finish."""
    async with peer_of(agent) as peer:
        size = len(content) if declared is None else declared
        await peer.send(opened(principal, upload=metadata(path, size, **fields)))
        await peer.accepted()
        for offset, piece in pieces(content[skip:], chunk_bytes):
            await peer.data(skip + offset, piece)
        await peer.finish(content)
        return (await peer.answer()).upload


async def start_upload(
    agent: FileAgent,
    path: str,
    size: int = 0,
    *,
    principal: str = "alice",
    digest: files_pb2.Digest | None = None,
    **fields: Any,
) -> files_pb2.UploadStatus:
    request = files_pb2.StartUploadRequest(metadata=metadata(path, size, **fields), digest=digest)
    return (await call(agent, principal, start_upload=request)).start_upload.upload


async def get_upload(
    agent: FileAgent,
    upload_id: str = "",
    *,
    principal: str = "alice",
    request_id: str = "",
    digest: bool = False,
) -> files_pb2.UploadStatus:
    """Ask for an upload; one that the agent does not know comes as a status with state UNKNOWN."""
    request = files_pb2.GetUploadRequest(upload_id=upload_id, request_id=request_id, include_digest=digest)
    try:
        status = (await call(agent, principal, get_upload=request)).get_upload.upload
    except Refused as refused:
        if refused.reason is not Reason.UPLOAD_UNKNOWN:
            raise
        return files_pb2.UploadStatus(state=UNKNOWN)
    assert status.state != UNKNOWN
    return status


async def abort_upload(agent: FileAgent, upload_id: str, principal: str = "alice") -> files_pb2.UploadStatus:
    request = files_pb2.AbortUploadRequest(upload_id=upload_id)
    return (await call(agent, principal, abort_upload=request)).abort_upload.upload


async def stat(agent: FileAgent, path: str, **fields: Any) -> files_pb2.FileInfo:
    request = files_pb2.StatFileRequest(remote_path=path, **fields)
    return (await call(agent, stat_file=request)).stat_file.file


@dataclass
class Download:
    """What a download brought."""

    header: files_pb2.DownloadFileHeader = field(default_factory=files_pb2.DownloadFileHeader)
    content: bytes = b""
    holes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    sizes: list[int] = field(default_factory=list[int])
    trailer: files_pb2.DownloadTrailer | None = None
    end: file_relay_pb2.FileRelayDownloadEnd = field(default_factory=file_relay_pb2.FileRelayDownloadEnd)


async def get(
    agent: FileAgent,
    path: str,
    *,
    checked: bool = True,
    open_: dict[str, Any] | None = None,
    **fields: Any,
) -> Download:
    """Download, checking order, offsets, CRCs and the digest."""
    request = files_pb2.DownloadFileRequest(remote_path=path, checked=checked, **fields)
    async with peer_of(agent) as peer:
        await peer.send(opened(download=request, **(open_ or {})))
        await peer.input_end()
        return await receive_download(peer, checked=checked)


async def receive_download(peer: Peer, *, checked: bool = True) -> Download:
    got = Download()
    content = bytearray()
    await peer.accepted()
    first = await checked_next(peer)
    assert first.WhichOneof("payload") == "header"
    got.header = first.header
    while True:
        frame = await peer.next()
        assert frame is not None
        kind = frame.WhichOneof("frame")
        if kind == "error":
            raise Refused(frame.error)
        if kind == "download_end":
            got.end = frame.download_end
            break
        assert got.trailer is None
        message = frame.download
        match message.WhichOneof("payload"):
            case "chunk":
                assert not checked
                content += message.chunk
                got.sizes.append(len(message.chunk))
            case "data":
                chunk = message.data
                assert checked
                assert chunk.offset == got.header.start_offset + len(content)
                if chunk.hole_bytes:
                    got.holes.append((chunk.offset, chunk.hole_bytes))
                    content += bytes(chunk.hole_bytes)
                else:
                    assert crc32c(chunk.data) == chunk.crc32c
                    content += chunk.data
                    got.sizes.append(len(chunk.data))
            case "trailer":
                got.trailer = message.trailer
            case other:
                raise AssertionError(f"unexpected {other}")
    await peer.over()
    got.content = bytes(content)
    if checked:
        assert got.trailer is not None
        assert got.trailer.digest == digest_of(got.content, got.header.digest_algorithm)
        assert got.trailer.end_offset == got.header.start_offset + len(content)
    assert got.end.bytes_sent == len(content)
    return got


async def checked_next(peer: Peer) -> files_pb2.DownloadFileResponse:
    frame = await peer.next()
    assert frame is not None
    if frame.WhichOneof("frame") == "error":
        raise Refused(frame.error)
    return frame.download


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's timeout ends a wait that is in vain."""
    while not condition():  # noqa: ASYNC110 - the condition is the agent's, which sets no event
        await asyncio.sleep(0.001)


class StrictFileSystem(FileSystem):
    """System calls that must not be made on an event loop, and can be made to fail.

    `faults` maps a method's name to errnos by call: the first call fails with
    the first entry, and so on; None lets a call through. The last entry stays.
    """

    def __init__(self) -> None:
        self.faults: dict[str, Sequence[int | None]] = {}
        self.calls: dict[str, int] = {}
        self.short_writes = False

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or name == "fail" or not callable(value):
            return value

        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                raise AssertionError(f"{name} was called on the event loop")
            count = self.calls.get(name, 0)
            self.calls[name] = count + 1
            plan = self.faults.get(name)
            if plan:
                code = plan[min(count, len(plan) - 1)]
                if code is not None:
                    raise OSError(code, os.strerror(code))
            if name == "pwrite" and self.short_writes:
                fd, data, offset = args
                return value(fd, memoryview(data)[: max(1, len(data) // 3)], offset)
            return value(*args, **kwargs)

        return checked

    def fail(self, name: str, *plan: int | None) -> None:
        """Make the next calls of a method fail; without a plan they work again."""
        self.faults[name] = plan
        self.calls[name] = 0


@dataclass
class Sandbox:
    """A root, a state directory and the agents on them."""

    root: Path
    settings: AgentSettings
    fs: StrictFileSystem
    now: list[float]
    traced: list[str]
    on_trace: dict[str, Callable[[], object]]

    def agent(self, **kwargs: Any) -> FileAgent:
        return FileAgent(
            self.settings, trace=self._trace, filesystem=self.fs, clock=lambda: self.now[0], **kwargs
        )

    def _trace(self, point: str) -> None:
        self.traced.append(point)
        hook = self.on_trace.get(point)
        if hook is not None:
            hook()

    def leftovers(self) -> list[str]:
        """Staging files anywhere under the root, as paths from there."""
        return [str(path.relative_to(self.root)) for path in self.root.rglob(".openshell-upload-*")]


ENOSPC, EIO, EROFS, EACCES, EDQUOT = errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT
