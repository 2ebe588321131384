"""A file system that is really full, or really mounted read-only."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from conditions import PATIENCE_SECONDS, until
from dev_command import command
from kill_client import content_of
from openshell_files import NO_RETRY, AsyncFilesClient, AsyncSandboxFiles, OidcAuth, RetryPolicy
from openshell_files.errors import DiskFull, ReadOnlyFileSystem, ResourceExhausted, unfinished_upload
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol import methods
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import reason_of

DISK = 6 * MIB
OLD = b"the file that was there"
CONTENT = content_of("too much", 10 * MIB)


@dataclass(frozen=True)
class Disk:
    """A small file system, `/disk` in the sandbox."""

    directory: Path
    sandbox: AsyncSandboxFiles
    stack: DevelopmentStack

    def fill(self, but: int) -> None:
        """Take all the space that is free but so many bytes."""
        free = os.statvfs(self.directory)
        (self.directory / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - but))

    def remount(self, option: str) -> None:
        _mount("-o", f"remount,{option}", str(self.directory))

    def hidden(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if name.startswith(".")]


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")


def _unmount(directory: Path) -> None:
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@asynccontextmanager
async def small_disk(root: Path, retry: RetryPolicy = NO_RETRY) -> AsyncGenerator[Disk, None]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    async with DevelopmentStack(StackSettings(root=root)) as stack:
        directory = Path(stack.sandboxes[0].root) / "disk"
        directory.mkdir()
        _mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(directory))
        try:
            (directory / "file").write_bytes(OLD)
            async with AsyncFilesClient(
                stack.endpoint, auth=OidcAuth(stack.describe().token), retry=retry
            ) as client:
                yield Disk(directory, client.sandbox("demo"), stack)
        finally:
            _unmount(directory)


@pytest.mark.parametrize("retry", [NO_RETRY, RetryPolicy(attempts=3)], ids=["once", "again"])
async def test_full_midway(tmp_path: Path, retry: RetryPolicy) -> None:
    """UPL-8, RSM-35: nothing is published, and the disk is free again when the caller has its answer."""
    async with small_disk(tmp_path, retry) as disk:
        for _ in range(3):
            with pytest.raises(DiskFull) as caught:
                await disk.sandbox.upload(CONTENT, "/disk/file")
            assert isinstance(caught.value, ResourceExhausted)
            assert caught.value.reason == "DISK_FULL"
            assert (disk.directory / "file").read_bytes() == OLD
            assert await disk.sandbox.uploads() == []
            assert disk.hidden() == []
        small = CONTENT[: DISK // 2]
        await disk.sandbox.upload(small, "/disk/small")
        assert (disk.directory / "small").read_bytes() == small
        disk.remount(f"size={4 * DISK}")
        await disk.sandbox.upload(CONTENT, "/disk/file")
        assert (disk.directory / "file").read_bytes() == CONTENT


async def by_bytes(disk: Disk, _: Path) -> None:
    with pytest.raises(DiskFull):
        await disk.sandbox.upload(CONTENT, "/disk/file")


async def by_stream(disk: Disk, _: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(CONTENT), MIB):
            yield CONTENT[start : start + MIB]

    with pytest.raises(DiskFull):
        await disk.sandbox.upload(pieces(), "/disk/file")


async def in_one_message(disk: Disk, _: Path) -> None:
    await disk.sandbox.write_bytes("/disk/known", b"the gateway says what it takes in one message")
    disk.fill(but=64 * KIB)
    with pytest.raises(DiskFull):
        await disk.sandbox.write_bytes("/disk/file", CONTENT[: 200 * KIB])


class Held(io.BytesIO):
    """A file object that gives some content, and more when it is let go."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.flowing = False
        self.let_go = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 3 * MIB:
            self.flowing = True
            self.let_go.wait(PATIENCE_SECONDS)
        return super().read(size)


async def resumed(disk: Disk, _: Path) -> None:
    source = Held(CONTENT)
    sending = asyncio.create_task(disk.sandbox.upload(source, "/disk/file", progress=lambda _: None))
    await until(lambda: source.flowing and disk.hidden(), "content flows")
    sending.cancel()
    source.let_go.set()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await sending
    left = unfinished_upload(cancelled.value)
    assert left is not None
    assert [upload.upload_id for upload in await disk.sandbox.uploads()] == [left.upload_id]
    with pytest.raises(DiskFull):
        await disk.sandbox.upload(CONTENT, "/disk/file", upload_id=left.upload_id)


async def of_the_rfc(disk: Disk, _: Path) -> None:
    def messages() -> Iterator[files_pb2.UploadFileRequest]:
        yield files_pb2.UploadFileRequest(
            metadata=files_pb2.UploadFileMetadata(
                sandbox_id=disk.stack.sandboxes[0].id, remote_path="/disk/file", size_bytes=len(CONTENT)
            )
        )
        for start in range(0, len(CONTENT), 64 * KIB):
            yield files_pb2.UploadFileRequest(chunk=CONTENT[start : start + 64 * KIB])

    token = disk.stack.describe().token

    def send() -> None:
        # Blocking: the asynchronous flavour of gRPC hides an answer that comes before everything was sent.
        with grpc.insecure_channel(disk.stack.endpoint) as channel:
            call: Any = channel.stream_unary(
                methods.UPLOAD_FILE,
                request_serializer=files_pb2.UploadFileRequest.SerializeToString,
                response_deserializer=files_pb2.UploadFileResponse.FromString,
            )
            call(messages(), metadata=(("authorization", f"Bearer {token}"),))

    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(send)
    assert reason_of(cast("grpc.aio.AioRpcError", caught.value)) == "DISK_FULL"


async def by_the_command(disk: Disk, local: Path) -> None:
    source = local / "source"
    source.write_bytes(CONTENT)
    process = await asyncio.create_subprocess_exec(
        command("openshell-files"), "upload", "demo", str(source), "/disk/file", "--json", "--attempts", "3",
        env=os.environ | {
            "OPENSHELL_FILES_ENDPOINT": disk.stack.endpoint,
            "OPENSHELL_FILES_TOKEN": disk.stack.describe().token,
            "XDG_STATE_HOME": str(local / "state"),
        },
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert json.loads(said)["error"]["reason"] == "DISK_FULL"


WAYS: dict[str, Callable[[Disk, Path], Awaitable[None]]] = {
    "bytes": by_bytes,
    "stream": by_stream,
    "one message": in_one_message,
    "resumed": resumed,
    "RFC": of_the_rfc,
    "command": by_the_command,
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_that_fills_the_disk_frees_it(tmp_path: Path, way: str) -> None:
    """RSM-35: it is free again when the call has failed, and takes what fits."""
    async with small_disk(tmp_path) as disk:
        for _ in range(2):
            await WAYS[way](disk, tmp_path)
            assert disk.hidden() == []
            assert await disk.sandbox.uploads() == []
            assert (disk.directory / "file").read_bytes() == OLD
            (disk.directory / "filler").unlink(missing_ok=True)
        fits = CONTENT[: DISK - MIB]
        await disk.sandbox.upload(fits, "/disk/fits")
        assert (disk.directory / "fits").read_bytes() == fits


async def test_read_only(tmp_path: Path) -> None:
    """UPL-13: refused before anything is sent, with the reason; reading still works."""
    async with small_disk(tmp_path, RetryPolicy()) as disk:
        disk.remount("ro")
        for content in (b"small", CONTENT):
            with pytest.raises(ReadOnlyFileSystem) as caught:
                await disk.sandbox.upload(content, "/disk/file")
            assert caught.value.reason == "READ_ONLY_FILE_SYSTEM"
        assert await disk.sandbox.read_bytes("/disk/file") == OLD
        disk.remount("rw")
        await disk.sandbox.upload(b"small", "/disk/file")
        assert (disk.directory / "file").read_bytes() == b"small"
        assert disk.hidden() == []
