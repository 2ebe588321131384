"""Many transfers at once: none mixed up, none starved (must hold 7)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from dev_command import DevSandbox, DevStack
from kill_client import content_of
from openshell_files import AsyncFilesClient, OidcAuth
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from stack_client import StackClient, stack_client

TRANSFERS = 32
#: Sizes differ, so that ends and beginnings of transfers overlap.
SIZES = [200_000, 1_500_000, 3_000_001, 6_000_000]


@pytest.fixture
async def clients(stack: DevStack) -> AsyncGenerator[list[StackClient], None]:
    """Four connections, as four callers have."""
    async with (
        stack_client(stack.endpoint, stack.token) as one,
        stack_client(stack.endpoint, stack.token) as two,
        stack_client(stack.endpoint, stack.token) as three,
        stack_client(stack.endpoint, stack.token) as four,
    ):
        yield [one, two, three, four]


def _content(number: int) -> bytes:
    """Return the content of a transfer: 32 KiB pieces that each say whose they are."""
    size = SIZES[number % len(SIZES)] + number
    piece = f"transfer {number:02} ".encode() * 2048
    whole = b"".join(
        piece[: 32 * 1024 - 8] + index.to_bytes(8, "big") for index in range(size // (32 * 1024) + 1)
    )
    return whole[:size]


async def test_thirty_two_transfers_at_once(stack: DevStack, clients: list[StackClient]) -> None:
    """Eight per sandbox, up and down mixed, also over the same connection; each brings its own content."""
    contents = [_content(number) for number in range(TRANSFERS)]
    for number in range(1, TRANSFERS, 2):
        _sandbox(stack, number).directory.joinpath(f"many-{number}").write_bytes(contents[number])
    started = time.monotonic()
    ends: dict[int, float] = {}

    async def transfer(number: int) -> None:
        client, sandbox = clients[number // 8], _sandbox(stack, number)
        name, content = f"many-{number}", contents[number]
        if number % 2:
            request = files_pb2.DownloadFileRequest(sandbox_id=sandbox.id, remote_path=name)
            assert (await client.download(request)).content == content, number
        else:
            metadata = files_pb2.UploadFileMetadata(
                sandbox_id=sandbox.id, remote_path=name, size_bytes=len(content)
            )
            answer = await client.upload(metadata, content, chunk_bytes=64 * 1024)
            assert answer.file.path == f"/sandbox/{name}", number
        ends[number] = time.monotonic() - started

    async with asyncio.TaskGroup() as tasks:
        for number in range(TRANSFERS):
            tasks.create_task(transfer(number))
    for number in range(0, TRANSFERS, 2):
        assert _sandbox(stack, number).directory.joinpath(f"many-{number}").read_bytes() == contents[number]
    assert sorted(ends) == list(range(TRANSFERS))
    print(f"{TRANSFERS} transfers ended after {min(ends.values()):.2f} s to {max(ends.values()):.2f} s")


async def test_a_small_transfer_between_large_ones(stack: DevStack, clients: list[StackClient]) -> None:
    """None starved: a small file comes through while large ones keep every connection busy."""
    large = content_of("large", 4_000_000)
    going = asyncio.Event()

    async def keep_busy(number: int) -> int:
        rounds = 0
        while not going.is_set():
            metadata = files_pb2.UploadFileMetadata(
                sandbox_id=_sandbox(stack, number).id, remote_path=f"busy-{number}", size_bytes=len(large)
            )
            await clients[number % 4].upload(metadata, large)
            rounds += 1
        return rounds

    busy = [asyncio.create_task(keep_busy(number)) for number in range(8)]
    try:
        for number in range(8):
            sandbox = _sandbox(stack, number)
            metadata = files_pb2.UploadFileMetadata(
                sandbox_id=sandbox.id, remote_path=f"small-{number}", size_bytes=5
            )
            await clients[number % 4].upload(metadata, b"small")
            request = files_pb2.DownloadFileRequest(sandbox_id=sandbox.id, remote_path=f"small-{number}")
            assert (await clients[number % 4].download(request)).content == b"small"
    finally:
        going.set()
        rounds = await asyncio.gather(*busy)
    assert min(rounds) >= 1


async def test_the_sdk_moves_many(stack: DevStack) -> None:
    """The same through one SDK client: 32 writes and reads at once."""
    async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:

        async def there_and_back(number: int) -> None:
            sandbox = client.sandbox(id=_sandbox(stack, number).id)
            content = content_of(f"sdk {number}", 100_000 * (number % 5) + number)
            await sandbox.write_bytes(f"sdk-{number}", content)
            assert await sandbox.read_bytes(f"sdk-{number}") == content, number

        await asyncio.gather(*(there_and_back(number) for number in range(TRANSFERS)))


def _sandbox(stack: DevStack, number: int) -> DevSandbox:
    return stack.sandboxes[number % 4]
