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
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol.limits import MIB

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


@pytest.mark.parametrize("retry", [NO_RETRY, RetryPolicy(attempts=3)], ids=["once", "again"])
async def test_full_midway(tmp_path: Path, retry: RetryPolicy) -> None:
    """UPL-8, RSM-10: nothing is published, and the disk is free again when the caller has its answer."""
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
