"""Memory does not grow with the file or with a slow peer (must hold 2).

The short form moves 256 MiB, which is far more than all buffers on the way;
the full form, marked `long`, moves 2 GiB and has the receiver of 1 MiB/s.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from pathlib import Path

import pytest
from conditions import PATIENCE_SECONDS, until
from dev_command import DevStack, dev_stack
from openshell_files import AsyncFilesClient, OidcAuth
from resident_memory import MIB, ResidentMemory, bytes_read

LIMIT = 64 * MIB
SHORT_MIB = 256

#: What gRPC holds of a download that stands still (ARCHITECTURE.md): 32 MiB to the caller, 4 MiB in the relay,
#: and as much that agent, gateway and caller have in hand.
WINDOWS = 40 * MIB
LONG_MIB = 2048


@pytest.fixture
def quiet_stack() -> Generator[DevStack, None, None]:
    """A stack of the test's own: what another test left in its memory would look like idle."""
    with dev_stack() as running:
        yield running


@pytest.fixture
async def client(quiet_stack: DevStack) -> AsyncIterator[AsyncFilesClient]:
    async with AsyncFilesClient(quiet_stack.endpoint, auth=OidcAuth(quiet_stack.token)) as connected:
        files = connected.sandbox("demo")
        # Idle is the state of a process that has imported what it needs.
        await files.write_bytes("warm", b"warm")
        await files.read_bytes("warm")
        yield connected


def _memory(stack: DevStack) -> ResidentMemory:
    return ResidentMemory({"gateway": stack.gateway_pid, "supervisor": stack.supervisor_pids[0]})


def _write(path: Path, mebibytes: int) -> None:
    """Write content without holes that cannot be compressed."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(mebibytes):
            file.write(number.to_bytes(8, "big") + block[8:])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _up_and_down(stack: DevStack, client: AsyncFilesClient, directory: Path, mebibytes: int) -> None:
    source, target = directory / "source", directory / "target"
    await asyncio.to_thread(_write, source, mebibytes)
    memory = _memory(stack)
    files = client.sandbox("demo")
    try:
        up = await files.upload_path(source, "large", digest="sha256")
        memory.assert_within(LIMIT)
        down = await files.download_path("large", target, digest="sha256")
        memory.assert_within(LIMIT)
        digest = await asyncio.to_thread(_sha256, target)
        assert up.digest == down.digest == f"sha256:{digest}"
        assert digest == await asyncio.to_thread(_sha256, source)
    finally:
        for path in (source, target, stack.sandboxes[0].directory / "large"):
            path.unlink(missing_ok=True)


async def test_a_large_file(quiet_stack: DevStack, client: AsyncFilesClient, tmp_path: Path) -> None:
    """Up and down, identical; gateway and supervisor stay within 64 MiB above idle."""
    await _up_and_down(quiet_stack, client, tmp_path, SHORT_MIB)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_two_gib(quiet_stack: DevStack, client: AsyncFilesClient, tmp_path: Path) -> None:
    """Must hold 2, with the size that it names."""
    await _up_and_down(quiet_stack, client, tmp_path, LONG_MIB)


def _socket_buffers() -> int:
    """Return how much the kernel holds of one connection at most: half of a receive buffer is for its own use."""
    receive, send = (
        int(Path(f"/proc/sys/net/ipv4/tcp_{kind}").read_text("ascii").split()[2]) for kind in ("rmem", "wmem")
    )
    return receive // 2 + send


async def test_a_receiver_that_stands_still(quiet_stack: DevStack, client: AsyncFilesClient) -> None:
    """Backpressure reaches the disk: the supervisor stops reading the file, and nothing piles up."""
    large = quiet_stack.sandboxes[0].directory / "large"
    await asyncio.to_thread(_write, large, SHORT_MIB)
    memory = _memory(quiet_stack)
    supervisor = quiet_stack.supervisor_pids[0]
    before = bytes_read(supervisor)
    received, stalled_at = 0, None
    digest = hashlib.sha256()
    try:
        async with aclosing(client.sandbox("demo").iter_download("large")) as pieces:
            async for piece in pieces:
                received += len(piece)
                digest.update(piece)
                if stalled_at is None and received > 4 * MIB:
                    await _until_stable(supervisor)
                    stalled_at = bytes_read(supervisor) - before
        memory.assert_within(LIMIT)
        assert stalled_at is not None
        # What is under way: a few buffers and windows, not the file.
        limit = WINDOWS + 2 * _socket_buffers()
        assert stalled_at < limit < SHORT_MIB * MIB, f"the supervisor had read {stalled_at / MIB:.0f} MiB"
        assert received == SHORT_MIB * MIB
        assert digest.hexdigest() == await asyncio.to_thread(_sha256, large)
    finally:
        large.unlink()


async def test_a_sender_that_outruns_the_disk(quiet_stack: DevStack, client: AsyncFilesClient) -> None:
    """The other way: a source without end is read no faster than the sandbox takes it."""
    memory = _memory(quiet_stack)
    block = os.urandom(MIB)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(SHORT_MIB):
            yield block

    result = await client.sandbox("demo").upload(source(), "streamed")
    try:
        assert result.size == SHORT_MIB * MIB
        memory.assert_within(LIMIT)
    finally:
        (quiet_stack.sandboxes[0].directory / "streamed").unlink()


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_receiver_of_one_mebibyte_per_second(quiet_stack: DevStack, client: AsyncFilesClient) -> None:
    """Must hold 2: also with a receiver that reads 1 MiB/s, for four minutes."""
    large = quiet_stack.sandboxes[0].directory / "large"
    await asyncio.to_thread(_write, large, LONG_MIB)
    memory = _memory(quiet_stack)
    loop = asyncio.get_running_loop()
    started, received = loop.time(), 0
    try:
        async with aclosing(client.sandbox("demo").iter_download("large")) as pieces:
            async for piece in pieces:
                received += len(piece)
                await asyncio.sleep(max(0.0, started + received / MIB - loop.time()))
                if received > 240 * MIB:
                    break
        memory.assert_within(LIMIT)
    finally:
        large.unlink()


async def _until_stable(pid: int) -> None:
    """Wait until a process has read nothing for a while."""
    last = -1
    loop = asyncio.get_running_loop()
    clock = loop.time()

    def stable() -> bool:
        nonlocal last, clock
        now = bytes_read(pid)
        if now // MIB != last:
            last, clock = now // MIB, loop.time()
        return loop.time() - clock > 0.5

    await until(stable, "the sender is blocked", patience=PATIENCE_SECONDS)
