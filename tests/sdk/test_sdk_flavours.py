"""Both flavours are one: same methods, same signatures, and one written from the other."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from conditions import until
from fake_file_gateway import FakeFile, FakeGateway, FakeUpload, Stall
from openshell_files import (
    NO_RETRY,
    AsyncFilesClient,
    AsyncSandboxFiles,
    FilesClient,
    Progress,
    SandboxFiles,
    UploadResult,
)
from openshell_files.errors import ErrorFacts, FilesError, IntegrityError, UploadUnknown
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Retry
from sdk_flavours import big_content

SDK = Path(__file__).parents[2] / "sdk"


def test_blocking_client_is_what_the_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, SDK / "unasync.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_core_knows_no_world() -> None:
    """The rules decide without gRPC, an event loop, files or a clock."""
    forbidden = {"grpc", "asyncio", "os", "time", "threading", "httpx", "aiofiles", "pathlib", "socket"}
    for module in (SDK / "src/openshell_files/_core").glob("*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
        }
        assert not imported & forbidden, module.name


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


@pytest.mark.parametrize(
    ("one", "other"), [(FilesClient, AsyncFilesClient), (SandboxFiles, AsyncSandboxFiles)]
)
def test_same_methods(one: type, other: type) -> None:
    blocking, asynchronous = public(one), public(other)
    asynchronous = {name.replace("aclose", "close"): value for name, value in asynchronous.items()}
    assert blocking.keys() == asynchronous.keys()
    for name, signature in blocking.items():
        twin = asynchronous[name]
        assert list(signature.parameters) == list(twin.parameters), name
        for parameter, twin_parameter in zip(
            signature.parameters.values(), twin.parameters.values(), strict=True
        ):
            assert parameter.kind == twin_parameter.kind, name
            assert parameter.default == twin_parameter.default, (name, parameter)


@pytest.mark.parametrize("first", ["openshell", "openshell_files"])
def test_beside_the_official_sdk(first: str) -> None:
    """DESIGN 2.4: both in one process, in either order, with both protocols usable."""
    second = {"openshell": "openshell_files", "openshell_files": "openshell"}[first]
    program = (
        f"import {first}, {second}\n"
        "from openshell._proto import openshell_pb2\n"
        "from openshell_files_protocol.pb.openshell.v1 import files_pb2\n"
        "import openshell_files._core.requests, openshell_files._sync.rpc\n"
        "files_pb2.UploadFileMetadata(sandbox='x').SerializeToString()\n"
        "openshell_pb2.HealthRequest().SerializeToString()\n"
        "import sys\n"
        "assert 'openshell_files_protocol.pb.openshell.v1.openshell_pb2' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_async_stream(gateway: FakeGateway) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(big_content()), 77_777):
            await asyncio.sleep(0)
            yield big_content()[start : start + 77_777]

    async with AsyncFilesClient(gateway.address) as client:
        await client.sandbox("demo").upload(pieces(), "x")
    assert gateway.files["x"].content == big_content()


async def test_async_sink(gateway: FakeGateway) -> None:
    gateway.files["x"] = FakeFile(big_content())
    got = bytearray()

    async def sink(data: bytes) -> None:
        await asyncio.sleep(0)
        got.extend(data)

    async with AsyncFilesClient(gateway.address) as client:
        await client.sandbox("demo").download("x", sink)
    assert got == big_content()


async def test_loop_stays_free(gateway: FakeGateway, big: Path, tmp_path: Path) -> None:
    """Neither disk nor digest blocks the event loop."""
    detector = BlockBuster()
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        await files.write_bytes("warm", b"up")
        detector.activate()
        try:
            await files.upload_path(big, "big")
            await files.download_path("big", tmp_path / "out")
        finally:
            detector.deactivate()
    await asyncio.to_thread(same_content, tmp_path / "out", big)


def same_content(one: Path, other: Path) -> None:
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_cancellation_leaves_nothing(gateway: FakeGateway, direction: str) -> None:
    """RSM-37: a cancelled upload without a caller that can resume it is freed; no task is left."""
    gateway.files["x"] = FakeFile(big_content())
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        moving = asyncio.Event()

        def report(progress: Progress) -> None:
            if progress.transferred:
                moving.set()

        async def transfer() -> None:
            if direction == "up":
                await files.upload(endless(), "big", progress=report)
            else:
                await files.download("x", stuck, progress=report)

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield bytes(MAX_CHUNK_BYTES)
                await asyncio.sleep(0.01)

        async def stuck(_data: bytes) -> None:
            moving.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(transfer())
        await moving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # Closing the client waits until the upload is freed.
    # gRPC's own tasks take a moment to notice; ours would never go.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 10)
    if direction == "up":
        assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_ABORTED, "no caller can resume it"
        assert "big" not in gateway.files


async def test_cancelled_download_to_a_file(gateway: FakeGateway, tmp_path: Path) -> None:
    gateway.files["x"] = FakeFile(big_content())
    async with AsyncFilesClient(gateway.address) as client:
        task: asyncio.Task[Any]

        def cancel(_progress: Progress) -> None:
            task.cancel()

        task = asyncio.create_task(
            client.sandbox("demo").download_path("x", tmp_path / "out", progress=cancel)
        )
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


def test_left_early(gateway: FakeGateway) -> None:
    """A generator that is not used up takes its call and its thread with it."""
    gateway.files["x"] = FakeFile(big_content())
    with FilesClient(gateway.address) as client:
        pieces = client.sandbox("demo").iter_download("x")
        assert next(pieces)
        assert receivers() == 1
        pieces.close()
        assert receivers() == 0


def receivers() -> int:
    return sum(thread.name == "openshell-files-receive" for thread in threading.enumerate())


def test_client_serves_threads(gateway: FakeGateway, big: Path) -> None:
    failures: list[BaseException] = []
    with FilesClient(gateway.address) as client:
        files = client.sandbox("demo")

        def work(number: int) -> None:
            try:
                files.upload_path(big, f"big-{number}")
                assert files.read_bytes(f"big-{number}") == big.read_bytes()
            except BaseException as error:  # noqa: BLE001 - shown below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_closed_client_says_so(gateway: FakeGateway) -> None:
    client = FilesClient(gateway.address)
    files = client.sandbox("demo")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        files.stat("x")


@pytest.mark.parametrize("flavour", ["sync", "async"])
async def test_read_ahead_is_bounded(gateway: FakeGateway, flavour: str) -> None:
    """A slow server stops the source: what is ahead of it is a few chunks, not the file."""
    gateway.keep_messages = False
    produced = 0
    gate = threading.Event()

    def wait(_number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        gate.wait(30)

    gateway.on_upload_message = wait

    def pieces() -> Iterator[bytes]:
        nonlocal produced
        for _ in range(200):
            produced += 1
            yield bytes(MAX_CHUNK_BYTES)

    async def upload() -> UploadResult:
        if flavour == "async":
            async with AsyncFilesClient(gateway.address, idle_timeout=60) as client:
                return await client.sandbox("demo").upload(pieces(), "x")
        with FilesClient(gateway.address, idle_timeout=60) as client:
            return await asyncio.to_thread(client.sandbox("demo").upload, pieces(), "x")

    task = asyncio.create_task(upload())
    last = -1
    while last != produced or not produced:
        last = produced
        await asyncio.sleep(0.5)
    assert produced < 40, "HTTP/2's window and the read-ahead, and no more"
    gate.set()
    result = await task
    assert result.size == 200 * MAX_CHUNK_BYTES


@pytest.mark.parametrize("kind", [ValueError, IntegrityError])
async def test_failing_source_is_its_own_error(gateway: FakeGateway, kind: type[Exception]) -> None:
    """What the caller's stream raises is raised, and never taken for the connection's failure."""
    failure = (
        kind("mine") if kind is ValueError else IntegrityError("mine", ErrorFacts("X", retry=Retry.AGAIN))
    )

    async def pieces() -> AsyncIterator[bytes]:
        yield big_content()
        raise failure

    async with AsyncFilesClient(gateway.address) as client:
        with pytest.raises(kind, match="mine") as caught:
            await client.sandbox("demo").upload(pieces(), "x")
    assert caught.value is failure
    assert gateway.uploads["upload-1"].state == files_pb2.UPLOAD_STATE_ABORTED
    assert gateway.streams(methods.UPLOAD_FILE) == 1


async def test_copy_between_sandboxes(gateway: FakeGateway) -> None:
    """One sandbox's download is another's upload, without a file in between."""
    gateway.files["x"] = FakeFile(big_content())
    async with AsyncFilesClient(gateway.address) as client:
        await client.sandbox("two").upload(client.sandbox("one").iter_download("x"), "y")
    with FilesClient(gateway.address) as blocking:
        blocking.sandbox("two").upload(blocking.sandbox("one").iter_download("x"), "z")
    assert gateway.files["y"].content == gateway.files["z"].content == big_content()


async def test_closing_under_a_transfer(gateway: FakeGateway) -> None:
    """The transfer fails with an error of its own; its task is not cancelled."""
    gateway.failures[methods.UPLOAD_FILE].append(Stall())
    client = AsyncFilesClient(gateway.address, retry=NO_RETRY)
    task = asyncio.create_task(client.sandbox("demo").upload(big_content(), "x"))
    await until(lambda: gateway.streams(methods.UPLOAD_FILE), "the stream has arrived")
    await client.aclose()
    with pytest.raises((FilesError, RuntimeError)):
        await task


def test_listing_and_aborting(gateway: FakeGateway) -> None:
    with FilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        assert files.uploads() == []
        request = files_pb2.StartUploadRequest(
            metadata=files_pb2.UploadFileMetadata(remote_path="x", size_bytes=7, request_id="r")
        )
        gateway.uploads["upload-9"] = FakeUpload("upload-9", request.metadata, staged=bytearray(b"abc"))
        (found,) = files.uploads()
        assert (found.upload_id, found.staged, found.size, found.path) == ("upload-9", 3, 7, "x")
        assert files.upload_status("upload-9").state == "receiving"
        assert files.abort_upload("upload-9").state == "aborted"
        for ask in (files.upload_status, files.abort_upload):
            with pytest.raises(UploadUnknown) as caught:
                ask("other")
            assert caught.value.reason == "UPLOAD_UNKNOWN"
    assert len(gateway.method_calls(methods.ABORT_UPLOAD)) == 2
