"""What the log says of a call is true, however the call ends."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import grpc
import pytest
import structlog
from conditions import until
from digest_values import OTHER
from gateway_harness import SANDBOX, FakeRelay, GatewayHarness, running_gateway
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.core.content_count import ContentCount
from openshell_files_gateway.relay.batch import MessageBatch
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.relay.supervisor_methods import SupervisorMethods
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import encode_chunk, encode_hole, encode_plain
from openshell_files_protocol.framing import encode_relay_data, frame_segments
from openshell_files_protocol.pb.openshell.v1 import (
    exec_pb2,
    exec_relay_pb2,
    file_relay_pb2,
    files_pb2,
)
from stack_client import reason_of

#: Nobody waits so long: what is not noticed at once fails the test.
PATIENT = LimitSettings(idle_timeout=3600)

Logs = list[Any]


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway(limits=PATIENT) as running:
        yield running


def lines(logs: Logs, method: str) -> Logs:
    return [line for line in logs if line["event"] == "call ended" and line.get("method", method) == method]


async def ended(logs: Logs) -> dict[str, Any]:
    """Return the line of the first caller's call that ended."""

    def found() -> Logs:
        return [line for line in logs if line["event"] == "call ended" and "user" in line]

    await until(found, "the call ended")
    return dict(found()[0])


class Caller:
    """One call on a connection of its own, broken off in one of several ways."""

    def __init__(self, harness: GatewayHarness) -> None:
        self.harness = harness
        self.channel: Any = harness.channel()
        self.call: Any = None

    async def stat(self, **options: Any) -> None:
        request = files_pb2.StatFileRequest(sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="/f")
        self.call = self.channel.unary_unary(methods.STAT_FILE)(
            request.SerializeToString(), metadata=self.harness.user(), **options
        )

    async def upload(self, *, explicit: bool = True, **options: Any) -> None:
        self.call = self.channel.stream_unary(methods.UPLOAD_FILE)(metadata=self.harness.user(), **options)
        metadata = files_pb2.UploadFileMetadata(
            sandbox_id=SANDBOX, remote_path="/f", explicit_finish=explicit, size_bytes=1000
        )
        await self.call.write(files_pb2.UploadFileRequest(metadata=metadata).SerializeToString())
        await self.call.write(b"".join(encode_plain(bytes(1000))))

    async def rfc_upload(self, **options: Any) -> None:
        await self.upload(explicit=False, **options)

    async def download(self, **options: Any) -> None:
        request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f")
        self.call = self.channel.unary_stream(methods.DOWNLOAD_FILE)(
            request.SerializeToString(), metadata=self.harness.user(), **options
        )

    async def command(self, **options: Any) -> None:
        request = exec_pb2.ExecSandboxRequest(sandbox="demo", command=["yes"])
        self.call = self.channel.unary_stream(methods.EXEC_SANDBOX)(
            request.SerializeToString(), metadata=self.harness.user(), **options
        )


async def silent(_: FakeRelay) -> None:
    await asyncio.Event().wait()


async def pour(relay: FakeRelay, message: bytes) -> None:
    """Send as much as the gateway takes: the call is always writing when it is broken off."""
    frames = list(encode_relay_data(frame_segments([message] * 20)))
    with suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
        while not relay.call.done():
            for frame in frames:
                await relay.call._cython_call.send_serialized_message(frame)


async def content(relay: FakeRelay) -> None:
    chunk = files_pb2.DownloadFileResponse(chunk=bytes(4000))
    await pour(relay, file_relay_pb2.FileRelayResponse(download=chunk).SerializeToString())


async def output(relay: FakeRelay) -> None:
    event = exec_pb2.ExecSandboxEvent(stdout=exec_pb2.ExecSandboxStdout(data=bytes(4000)))
    await pour(relay, exec_relay_pb2.ExecRelayResponse(event=event).SerializeToString())


CALLS: dict[str, tuple[Callable[..., Awaitable[None]], Callable[[FakeRelay], Coroutine[Any, Any, None]]]] = {
    "StatFile": (Caller.stat, silent),
    "UploadFile": (Caller.upload, silent),
    "UploadFile of the RFC": (Caller.rfc_upload, silent),
    "DownloadFile": (Caller.download, content),
    "DownloadFile that says nothing": (Caller.download, silent),
    "ExecSandbox": (Caller.command, output),
}
WAYS = ("cancel", "deadline", "connection")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", CALLS)
async def test_a_caller_that_goes_away_is_no_bug(harness: GatewayHarness, kind: str, way: str) -> None:
    """Logged as CANCELLED with its peer, at the level of any call; nothing is logged as an error."""
    begin, answer = CALLS[kind]
    supervisor = harness.supervisor()
    await supervisor.connect(commands=exec_relay_pb2.ExecCapability(protocol_version=1))
    with structlog.testing.capture_logs() as logs:
        caller = Caller(harness)
        await begin(caller, timeout=1.0 if way == "deadline" else None)
        relay = await supervisor.take_relay()
        answering = asyncio.create_task(answer(relay))
        try:
            if answer is not silent:
                await caller.call.read()
            if way == "cancel":
                caller.call.cancel()
            elif way == "connection":
                await caller.channel.close()
            line = await ended(logs)
        finally:
            answering.cancel()
            await asyncio.wait({answering})
    assert line["outcome"] == "CANCELLED"
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["log_level"] == "info"
    assert not [line for line in logs if line["log_level"] in {"error", "critical"}]
    if kind.startswith("UploadFile"):
        assert line["content_bytes"] == 1000


@pytest.mark.parametrize("turns", range(8))
async def test_a_refusal_that_nobody_hears(harness: GatewayHarness, turns: int) -> None:
    """The caller goes away as the agent refuses: one line, which is no error, whichever comes first."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    refusal = file_relay_pb2.FileRelayResponse(
        error=file_relay_pb2.FileRelayError(reason="FILE_NOT_FOUND", message="none", code=5)
    )
    with structlog.testing.capture_logs() as logs:
        caller = Caller(harness)
        await caller.stat()
        relay = await supervisor.take_relay()
        await relay.answer(refusal)
        for _ in range(turns):
            await asyncio.sleep(0)
        caller.call.cancel()
        line = await ended(logs)
    assert line["outcome"] in {"CANCELLED", "FILE_NOT_FOUND"}
    assert not [line for line in logs if line["log_level"] == "error"]


MESSAGES = {
    "plain": (b"".join(encode_plain(bytes(1000))), 1000, 0),
    "checked": (b"".join(encode_chunk(1 << 40, bytes(1000), 1)), 1000, 0),
    "a hole": (encode_hole(5, 1 << 40), 1 << 40, 1 << 40),
    "nothing": (b"".join(encode_plain(b"")), 0, 0),
    "oddly encoded": (b"".join([*encode_plain(b"x"), *encode_plain(bytes(1000))]), 1000, 0),
    "with a field of the future": (b"".join(encode_plain(bytes(1000))) + b"\x78\x01", 1000, 0),
    "no message": (b"\xff\xff", 0, 0),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_counts_as_content(kind: str) -> None:
    """Bytes of the file, with its holes; no headers, no checksums."""
    message, content_bytes, hole_bytes = MESSAGES[kind]
    for message_type in (files_pb2.UploadFileRequest, files_pb2.DownloadFileResponse):
        count = ContentCount(message_type)
        assert count.add(message) == content_bytes - hole_bytes
        count.add(memoryview(message))
        assert (count.content_bytes, count.hole_bytes) == (2 * content_bytes, 2 * hole_bytes)
        assert ("hole_bytes" in count.facts()) == bool(hole_bytes)


async def test_finishes_and_trailers_are_no_content(harness: GatewayHarness) -> None:
    """A file of 1000 bytes is logged with 1000 in each direction, in one message or in several."""
    supervisor = harness.supervisor()
    await supervisor.connect()
    data = files_pb2.FileChunk(data=bytes(1000), crc32c=1)
    finish = files_pb2.UploadFinish(size_bytes=1000, digest=OTHER)
    answer = file_relay_pb2.FileRelayResponse(upload=files_pb2.UploadFileResponse(bytes_written=1000))

    async def upload(*messages: files_pb2.UploadFileRequest) -> None:
        channel: Any = harness.channel()
        call = channel.stream_unary(methods.UPLOAD_FILE)(
            iter([message.SerializeToString() for message in messages]), metadata=harness.user()
        )
        relay = await supervisor.take_relay()
        while (frame := await relay.next_frame()) is not None and frame.WhichOneof("frame") != "input_end":
            pass
        await relay.answer(answer)
        await call

    async def write(request: files_pb2.WriteFileRequest) -> None:
        channel: Any = harness.channel()
        writing = channel.unary_unary(methods.WRITE_FILE)(
            request.SerializeToString(), metadata=harness.user()
        )
        relay = await supervisor.take_relay()
        await relay.next_frame()
        written = files_pb2.WriteFileResponse(file=files_pb2.FileInfo(size_bytes=1000))
        await relay.answer(file_relay_pb2.FileRelayResponse(write_file=written))
        await writing

    metadata = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
    with structlog.testing.capture_logs() as logs:
        await upload(
            files_pb2.UploadFileRequest(metadata=metadata),
            files_pb2.UploadFileRequest(data=data),
            files_pb2.UploadFileRequest(finish=finish),
        )
        await write(files_pb2.WriteFileRequest(metadata=metadata, content=bytes(1000)))
        caller = Caller(harness)
        await caller.download()
        relay = await supervisor.take_relay()
        header = files_pb2.DownloadFileHeader(size_bytes=1000)
        for response in (
            files_pb2.DownloadFileResponse(header=header),
            files_pb2.DownloadFileResponse(data=data),
            files_pb2.DownloadFileResponse(trailer=files_pb2.DownloadTrailer(end_offset=1000)),
        ):
            await relay.answer(file_relay_pb2.FileRelayResponse(download=response))
        end = file_relay_pb2.FileRelayDownloadEnd(bytes_sent=1000)
        await relay.answer(file_relay_pb2.FileRelayResponse(download_end=end))
        while isinstance(await caller.call.read(), bytes):
            pass
        await until(lambda: len([line for line in logs if "content_bytes" in line]) == 3, "all calls ended")
    assert [line["content_bytes"] for line in logs if "content_bytes" in line] == [1000, 1000, 1000]


#: Where a bug is put: a helper of an upload's call, or the call itself.
BUGS = {
    "the reader": (ContentCount, "add"),
    "what passes on": (FileRelay, "forward"),
    "what takes from the queue": (MessageBatch, "take"),
    "what fills the queue": (MessageBatch, "put"),
}


@pytest.mark.parametrize("bug", BUGS)
async def test_a_helper_that_fails_ends_its_call(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    """INTERNAL at once, and the traceback is in the log."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError("a bug in a helper")

    owner, name = BUGS[bug]
    monkeypatch.setattr(owner, name, broken)
    supervisor = harness.supervisor()
    await supervisor.connect()
    with structlog.testing.capture_logs() as logs:
        caller = Caller(harness)
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await caller.upload()
        with suppress(grpc.aio.AioRpcError):
            # One that fails before the relay is there ends the call before.
            async with asyncio.timeout(1):
                await supervisor.take_relay()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.call
        assert reason_of(refused.value) == "INTERNAL"
        line = await ended(logs)
    assert line["outcome"] == "INTERNAL"
    told = [line for line in logs if line.get("exc_info")]
    assert [line["event"] for line in told] == ["call failed unexpectedly"]


@pytest.mark.parametrize("part", ["_write", "_read"])
async def test_a_helper_of_a_session_that_fails_ends_it(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A session without one of its halves would look alive until its silence is noticed."""

    async def broken(*_: object) -> None:
        raise ValueError("a bug in a helper")

    monkeypatch.setattr(SupervisorMethods, part, broken)
    supervisor = harness.supervisor()

    async def session() -> None:
        await supervisor.connect()
        await supervisor.hear()

    with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as refused:
        await session()
    assert reason_of(refused.value) == "INTERNAL"
    assert [line["event"] for line in logs if line.get("exc_info")] == ["call failed unexpectedly"]
