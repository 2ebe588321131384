"""SIGTERM ends every process within its stated limit, whatever stands still at that moment.

A state is entered for real, with processes, and each process that the state
concerns is told to end in a scene of its own. Afterwards nothing half-written
is at a destination, and what was staged is freed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from conditions import until
from digest_values import OTHER
from openshell_files_gateway.dev.identity_provider import DevelopmentIdentityProvider
from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c, encode_chunk, encode_hole
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, file_options_pb2, files_pb2
from proxies import free_port
from stopping_scene import (
    FEW_SECONDS,
    SANDBOX,
    STOP_SECONDS,
    Caller,
    Scene,
    caller,
    fill,
    first_message,
    stopping_scene,
    unchanged,
    waiting_bytes,
    written,
)

CHUNK_BYTES = MIB - 4096
CONTENT = b"x" * CHUNK_BYTES
HOLE_BYTES = 1 << 40
#: Connections with as many calls as each may have (docs/operations.md).
SILENT_CONNECTIONS, SILENT_CALLS = 8, 125
#: What the CLI takes at most to clean up after a signal, and to say so.
CLI_SECONDS = 10.0 + 2

#: How many bytes an HTTP/2 client says first: the preface, and SETTINGS without any.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@pytest.fixture(scope="module")
def provider() -> Generator[DevelopmentIdentityProvider]:
    with DevelopmentIdentityProvider(audience="stopping") as running:
        yield running


def _chunk(offset: int, data: bytes = CONTENT) -> bytes:
    return b"".join(encode_chunk(offset, data, crc32c(data)))


async def _upload_of_one_chunk(scene: Scene, user: Caller) -> Any:
    """Begin an upload and wait until a chunk of it is staged, in a file without a name."""
    before = written(scene.processes["supervisor"].pid)
    call = user.upload()
    await call.write(first_message("f"))
    await call.write(_chunk(0))
    await until(
        lambda: written(scene.processes["supervisor"].pid) - before >= CHUNK_BYTES, "a chunk is staged"
    )
    return call


@asynccontextmanager
async def unread_download(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    (scene.directory / "big").write_bytes(os.urandom(64 * MIB))
    request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="big", checked=True)
    call = user.stream(methods.DOWNLOAD_FILE, request.SerializeToString())
    assert await call.read()
    await scene.stands_still("gateway", "supervisor")
    yield


@asynccontextmanager
async def hung_supervisor_in_a_download(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    async with unread_download(scene, user):
        scene.processes["supervisor"].send_signal(signal.SIGSTOP)
        yield


@asynccontextmanager
async def unread_output(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    request = exec_pb2.ExecSandboxRequest(sandbox="demo", command=["sh", "-c", "trap '' TERM HUP; exec yes"])
    call = user.stream(methods.EXEC_SANDBOX, request.SerializeToString())
    assert await call.read()
    await scene.stands_still("gateway", "supervisor")
    yield


@asynccontextmanager
async def silent_command(_: Scene, user: Caller) -> AsyncGenerator[None]:
    request = exec_pb2.ExecSandboxRequest(
        sandbox="demo", command=["sh", "-c", "trap '' TERM HUP; echo; while :; do sleep 1; done"]
    )
    call = user.stream(methods.EXEC_SANDBOX, request.SerializeToString())
    assert await call.read()
    yield


@asynccontextmanager
async def paused_producer(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    call = await _upload_of_one_chunk(scene, user)
    await call.write(
        files_pb2.UploadFileRequest(waiting=file_options_pb2.UploadWaiting()).SerializeToString()
    )
    yield


@asynccontextmanager
async def hung_supervisor_in_an_upload(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    call = await _upload_of_one_chunk(scene, user)
    scene.processes["supervisor"].send_signal(signal.SIGSTOP)

    sent: list[int] = []

    async def send() -> None:
        for number in range(1, 64):
            await call.write(_chunk(number * CHUNK_BYTES))
            sent.append(number)

    sending = asyncio.create_task(send())
    try:
        await unchanged(lambda: len(sent), "nothing more is taken")
        assert not sending.done()
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@asynccontextmanager
async def verifying_a_hole(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    call = user.upload()
    await call.write(
        first_message("f", request_id="hole", accepted_digests=[files_pb2.DIGEST_ALGORITHM_SHA256])
    )
    await call.write(encode_hole(0, HOLE_BYTES))
    finish = files_pb2.UploadFinish(size_bytes=HOLE_BYTES, digest=OTHER)
    await call.write(files_pb2.UploadFileRequest(finish=finish).SerializeToString())
    await call.done_writing()
    busy = psutil.Process(scene.processes["supervisor"].pid).cpu_times().user + 1
    await until(
        lambda: psutil.Process(scene.processes["supervisor"].pid).cpu_times().user >= busy, "it hashes"
    )
    yield


@asynccontextmanager
async def refused_finish(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    call = await _upload_of_one_chunk(scene, user)
    finish = files_pb2.UploadFinish(size_bytes=CHUNK_BYTES, digest=OTHER)
    await call.write(files_pb2.UploadFileRequest(finish=finish).SerializeToString())
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.DATA_LOSS
    yield


@asynccontextmanager
async def silent_calls(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    del user
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(caller(scene)) for _ in range(SILENT_CONNECTIONS)]
        calls = [one.upload() for one in callers for _ in range(SILENT_CALLS)]
        # Those for which there is no room are refused; the others stay silent.
        answered = [asyncio.create_task(call.code()) for call in calls]
        await until(lambda: sum(task.done() for task in answered) >= len(calls) - 256, "most are refused")
        yield
        await asyncio.gather(*answered)


@asynccontextmanager
async def silent_connections(scene: Scene, user: Caller) -> AsyncGenerator[None]:
    """One that says nothing, one that says half a preface, and one that is HTTP/2 and then says nothing."""
    del user
    host, _, port = scene.endpoint.partition(":")
    with ExitStack() as stack:
        connections: list[socket.socket] = []
        for said in (b"", PREFACE[:10], PREFACE):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            connection.sendall(said)
            connections.append(connection)
        # The last one is answered, so the gateway has taken them all.
        assert connections[-1].recv(9)
        yield


@asynccontextmanager
async def watched_health(_: Scene, user: Caller) -> AsyncGenerator[None]:
    call = user.stream("/grpc.health.v1.Health/Watch", b"")
    assert await call.read() is not grpc.aio.EOF
    yield


#: State → what is told to end there. A process that hangs cannot be told.
STATES: dict[str, tuple[Callable[[Scene, Caller], AbstractAsyncContextManager[None]], tuple[str, ...]]] = {
    "a download that nobody reads": (unread_download, ("gateway", "supervisor")),
    "a command whose output nobody reads": (unread_output, ("gateway", "supervisor")),
    "a command that says nothing and ignores signals": (silent_command, ("gateway", "supervisor")),
    "an upload whose producer pauses": (paused_producer, ("gateway", "supervisor")),
    "an upload that is verified for hours": (verifying_a_hole, ("gateway", "supervisor")),
    "a finish that was refused": (refused_finish, ("gateway", "supervisor")),
    "a supervisor that hangs in an upload": (hung_supervisor_in_an_upload, ("gateway",)),
    "a supervisor that hangs in a download": (hung_supervisor_in_a_download, ("gateway",)),
    "a thousand silent calls": (silent_calls, ("gateway",)),
    "silent connections": (silent_connections, ("gateway",)),
    "health that is watched": (watched_health, ("gateway",)),
}
#: Left to `make test-long`: each has a neighbour that stays.
LONG = {
    ("a command that says nothing and ignores signals", "gateway"),
    ("a command that says nothing and ignores signals", "supervisor"),
    ("an upload that is verified for hours", "gateway"),
    ("a finish that was refused", "gateway"),
}
CELLS = [
    pytest.param(state, name, marks=[pytest.mark.long] if (state, name) in LONG else [])
    for state, (_, names) in STATES.items()
    for name in names
]


@pytest.mark.parametrize(("state", "name"), CELLS)
async def test_sigterm_during(
    tmp_path: Path, provider: DevelopmentIdentityProvider, state: str, name: str
) -> None:
    """RLY-21: gateway and supervisor end with 0 within their timeout; the other one ends afterwards, too."""
    enter, _ = STATES[state]
    async with stopping_scene(tmp_path, provider) as scene, caller(scene) as user:
        async with enter(scene, user):
            await scene.ends(name, 0, STOP_SECONDS + FEW_SECONDS)
        supervisor = scene.processes["supervisor"]
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGCONT)
        assert not (scene.directory / "f").exists()
        # Nobody can go on with an upload that has no name; who has one finds what is staged.
        named = state == "an upload that is verified for hours"
        if not named:
            await until(lambda: not scene.staged(), lambda: f"what was staged is freed: {scene.staged()}")
        for other, process in scene.processes.items():
            if process.poll() is None:
                await scene.ends(other, 0, STOP_SECONDS + FEW_SECONDS)
        assert not (scene.directory / "f").exists()


@pytest.mark.parametrize("name", ["gateway", "supervisor"])
async def test_sigterm_while_nobody_reads_its_errors(
    tmp_path: Path, provider: DevelopmentIdentityProvider, name: str
) -> None:
    """A pipe that is full to the last byte, and then calls that are logged."""
    reading, writing = os.pipe()
    others = [one for one in ("gateway",) if one != name]
    try:
        async with stopping_scene(tmp_path, provider, starts=others) as scene:
            options: dict[str, Any] = {"stderr": writing}
            if name == "gateway":
                scene.start_gateway(**options)
                scene.start_supervisor()
                await scene.connected()
            else:
                scene.start_supervisor(**options)
            async with caller(scene) as user:
                stat = files_pb2.StatFileRequest(
                    sandbox=files_pb2.SandboxRef(id=SANDBOX), remote_path="/"
                ).SerializeToString()
                await user.ask(methods.STAT_FILE, stat)
                fill(writing)
                for _ in range(10):
                    await user.ask(methods.STAT_FILE, stat)
                await scene.ends(name, 0, STOP_SECONDS + FEW_SECONDS)
    finally:
        os.close(reading)
        os.close(writing)


async def test_sigterm_for_a_supervisor_that_finds_no_gateway(
    tmp_path: Path, provider: DevelopmentIdentityProvider
) -> None:
    async with stopping_scene(tmp_path, provider, starts=()) as scene:
        scene.start_supervisor(endpoint=f"127.0.0.1:{free_port()}")
        await until(lambda: "session failed" in scene.log("supervisor"), "it has tried")
        await scene.ends("supervisor", 0, STOP_SECONDS + FEW_SECONDS)


async def test_sigterm_for_a_supervisor_whose_gateway_says_nothing(
    tmp_path: Path, provider: DevelopmentIdentityProvider
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        async with stopping_scene(tmp_path, provider, starts=()) as scene:
            scene.start_supervisor(endpoint=f"127.0.0.1:{silent.getsockname()[1]}")
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                await scene.ends("supervisor", 0, STOP_SECONDS + FEW_SECONDS)


async def test_sigterm_while_the_issuer_says_nothing(
    tmp_path: Path, provider: DevelopmentIdentityProvider
) -> None:
    """A call that waits for the issuer's keys, and the fetching of them."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        issuer = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with stopping_scene(tmp_path, provider, starts=["gateway"], issuer=issuer) as scene:
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                await scene.ends("gateway", 0, STOP_SECONDS + FEW_SECONDS)


async def _waits_for_stdin(scene: Scene) -> None:
    process = scene.cli("upload", "demo", "-", "f", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    await until(lambda: waiting_bytes(process.stdin) == 0, "the first byte is taken")


async def _waits_for_a_supervisor(scene: Scene) -> None:
    scene.processes["supervisor"].kill()
    scene.processes["supervisor"].wait()
    scene.cli("stat", "demo", "big")
    await _has_connected(scene)


async def _waits_for_stdout(scene: Scene) -> None:
    process = scene.cli("download", "demo", "big", "-", stdout=subprocess.PIPE)
    await until(lambda: waiting_bytes(process.stdout) >= 65536, "the pipe is full")


async def _waits_for_a_hung_gateway(scene: Scene) -> None:
    scene.processes["gateway"].send_signal(signal.SIGSTOP)
    scene.cli("download", "demo", "big", "here")
    await _has_connected(scene)


async def _hashes_a_hole(scene: Scene) -> None:
    with (scene.home / "hole").open("wb") as file:
        file.truncate(HOLE_BYTES)
    process = scene.cli("upload", "demo", "hole", "f", "--digest", "sha256")
    hole = str(scene.home / "hole")
    await until(
        lambda: any(os.path.realpath(one) == hole for one in Path(f"/proc/{process.pid}/fd").iterdir()),
        "it has opened the file",
    )


async def _has_connected(scene: Scene) -> None:
    """Wait until the CLI has a connection to the gateway."""
    port = int(scene.endpoint.rpartition(":")[2])
    process = psutil.Process(scene.processes["cli"].pid)
    await until(
        lambda: any(getattr(one.raddr, "port", 0) == port for one in process.net_connections("tcp")),
        "it is connected",
    )


CLI_STATES = {
    "standard input that says nothing": _waits_for_stdin,
    "a supervisor that is away": _waits_for_a_supervisor,
    "standard output that nobody reads": _waits_for_stdout,
    "a gateway that hangs": _waits_for_a_hung_gateway,
    "a digest that takes hours": _hashes_a_hole,
}


@pytest.mark.parametrize("state", CLI_STATES)
async def test_sigterm_for_the_cli(tmp_path: Path, provider: DevelopmentIdentityProvider, state: str) -> None:
    """143, one line, and nothing half-written on either side."""
    async with stopping_scene(tmp_path, provider) as scene:
        (scene.directory / "big").write_bytes(os.urandom(16 * MIB))
        await CLI_STATES[state](scene)
        await scene.ends("cli", 143, CLI_SECONDS)
        said = scene.log("cli")
        assert said.count("\n") == 1, said
        assert "terminated" in said
        assert not (scene.directory / "f").exists()
        if "--resume" not in said:
            # What the command says that it goes on with stays (RSM-10).
            await until(lambda: not scene.staged(), lambda: f"what was staged is freed: {scene.staged()}")
        assert [one for one in os.listdir(tmp_path) if "here" in one or one.endswith(".part")] == []
