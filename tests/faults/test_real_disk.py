"""A file system that is really full, or really mounted read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from kill_client import content_of
from openshell_files import NO_RETRY, AsyncFilesClient, AsyncSandboxFiles, OidcAuth, RetryPolicy
from openshell_files.errors import DiskFull, ReadOnlyFileSystem, ResourceExhausted
from openshell_files.results import UploadState
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIB

DISK = 6 * MIB
OLD = b"the file that was there"
CONTENT = content_of("too much", 10 * MIB)


@dataclass(frozen=True)
class Disk:
    """A small file system, `/disk` in the sandbox."""

    directory: Path
    sandbox: AsyncSandboxFiles

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
                yield Disk(directory, client.sandbox("demo"))
        finally:
            _unmount(directory)


async def test_full_midway(tmp_path: Path) -> None:
    """UPL-8, RSM-10: nothing is published; what found room stays and is gone on with once there is more."""
    async with small_disk(tmp_path) as disk:
        with pytest.raises(DiskFull) as caught:
            await disk.sandbox.upload(CONTENT, "/disk/file")
        assert isinstance(caught.value, ResourceExhausted)
        assert caught.value.reason == "DISK_FULL"
        assert (disk.directory / "file").read_bytes() == OLD
        upload_id = caught.value.upload_id
        (known,) = await disk.sandbox.uploads()
        assert (known.upload_id, known.state) == (upload_id, UploadState.RECEIVING)
        assert DISK - MAX_CHUNK_BYTES < known.staged < DISK

        # Still full: still refused, and nothing is lost.
        with pytest.raises(DiskFull):
            await disk.sandbox.upload(CONTENT, "/disk/file", upload_id=upload_id)
        assert (disk.directory / "file").read_bytes() == OLD

        disk.remount(f"size={4 * DISK}")
        result = await disk.sandbox.upload(CONTENT, "/disk/file", upload_id=upload_id)
        assert result.resumed_from >= known.staged
        assert result.bytes_sent == len(CONTENT) - result.resumed_from
        assert (disk.directory / "file").read_bytes() == CONTENT
        assert disk.hidden() == []


async def test_full_and_given_up(tmp_path: Path) -> None:
    """RSM-10: giving up frees the space, and the next upload finds it."""
    async with small_disk(tmp_path) as disk:
        with pytest.raises(DiskFull) as caught:
            await disk.sandbox.upload(CONTENT, "/disk/file")
        await disk.sandbox.abort_upload(caught.value.upload_id)
        assert disk.hidden() == []
        small = CONTENT[: DISK // 2]
        await disk.sandbox.upload(small, "/disk/file")
        assert (disk.directory / "file").read_bytes() == small


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
