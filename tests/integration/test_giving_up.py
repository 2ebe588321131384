"""What nobody can go on with is gone soon after its call, through all processes (RSM-37, must hold 2)."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
from conditions import PATIENCE_SECONDS, block_until, until
from dev_command import DevSandbox, DevStack, command
from far_client import everything_is_far
from openshell_files import AsyncFilesClient, AsyncSandboxFiles, FilesClient, OidcAuth, Progress, SandboxFiles
from openshell_files.errors import DeadlineExceeded
from openshell_files_protocol.limits import KIB, STAGING_PREFIX

#: All sorts together end so many uploads.
CANCELLED = 200
#: After the last call, in seconds, on a machine that does nothing else.
SOON = 1.0

PIECE = bytes(256 * KIB)
#: How names of staging files begin.
STAGING = STAGING_PREFIX.decode()

#: Pieces of an upload that is long enough for everything to happen within.
PIECES = 16


class Held(io.RawIOBase):
    """A file object that can be read again; it gives some pieces, and more when it is let go."""

    def __init__(self) -> None:
        self.flowing = threading.Event()
        self.let_go = threading.Event()
        self._at = 0
        self._size = 4 * PIECES * len(PIECE)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset if whence == 0 else self._size + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        if self._at >= PIECES * len(PIECE):
            self.flowing.set()
            self.let_go.wait(PATIENCE_SECONDS)
        count = min(size, self._size - self._at)
        self._at += count
        return bytes(count)


def stream(last: Callable[[], object]) -> Iterator[bytes]:
    """Give some pieces, and then do something."""
    for _ in range(PIECES):
        yield PIECE
    last()


def raising(error: BaseException) -> Callable[[], object]:
    def end() -> None:
        raise error

    return end


async def held_stream(flowing: asyncio.Event) -> AsyncIterator[bytes]:
    """Give some pieces, and then nothing for ever."""
    for _ in range(PIECES):
        yield PIECE
    flowing.set()
    await asyncio.Event().wait()


def at_half(progress: Progress) -> None:
    """A caller's own callback that has had enough."""
    if progress.transferred >= PIECES * len(PIECE) // 2:
        raise LookupError("enough")


def at_once(_: Progress) -> None:
    raise LookupError("enough")


# Each sort ends one upload of the blocking flavour. It says which, for a name of its own.


def sync_callback(files: SandboxFiles, name: str) -> None:
    with pytest.raises(LookupError):
        files.upload(2 * PIECES * PIECE, name, progress=at_half)


def sync_callback_of_a_small_file(files: SandboxFiles, name: str) -> None:
    with pytest.raises(LookupError):
        files.upload(b"small", name, progress=at_once)


def sync_value_error(files: SandboxFiles, name: str) -> None:
    with pytest.raises(ValueError, match="its own"):
        files.upload(stream(raising(ValueError("its own"))), name)


def sync_keyboard_interrupt(files: SandboxFiles, name: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        files.upload(stream(raising(KeyboardInterrupt())), name)


def sync_system_exit(files: SandboxFiles, name: str) -> None:
    with pytest.raises(SystemExit):
        files.upload(stream(raising(SystemExit(3))), name)


def endless() -> Iterator[bytes]:
    while True:
        yield PIECE[:KIB]


def sync_timeout(files: SandboxFiles, name: str) -> None:
    """Nothing interrupts a generator that blocks, so this one does not."""
    with pytest.raises(DeadlineExceeded):
        files.upload(endless(), name, timeout=0.3)


SYNC = [
    sync_callback,
    sync_callback_of_a_small_file,
    sync_value_error,
    sync_keyboard_interrupt,
    sync_system_exit,
    sync_timeout,
]


async def async_cancel(files: AsyncSandboxFiles, name: str) -> None:
    source = Held()
    task = asyncio.create_task(files.upload(source, name))
    await until(source.flowing.is_set, "content flows")
    task.cancel()
    source.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def async_cancel_of_a_stream(files: AsyncSandboxFiles, name: str) -> None:
    flowing = asyncio.Event()
    task = asyncio.create_task(files.upload(held_stream(flowing), name, progress=lambda _: None))
    await flowing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def async_wait_for(files: AsyncSandboxFiles, name: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(files.upload(held_stream(asyncio.Event()), name), 0.3)


async def async_timeout(files: AsyncSandboxFiles, name: str) -> None:
    with pytest.raises(DeadlineExceeded):
        await files.upload(held_stream(asyncio.Event()), name, timeout=0.3)


async def async_callback(files: AsyncSandboxFiles, name: str) -> None:
    with pytest.raises(LookupError):
        await files.upload(2 * PIECES * PIECE, name, progress=at_half)


async def async_value_error(files: AsyncSandboxFiles, name: str) -> None:
    with pytest.raises(ValueError, match="its own"):
        await files.upload(stream(raising(ValueError("its own"))), name)


async def async_small(files: AsyncSandboxFiles, name: str) -> None:
    """Cancelled at every point of a small file's way; most of them are in the first message."""
    for turns in range(0, 40, 8):
        task = asyncio.create_task(files.write_bytes(f"{name}-{turns}", b"small"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


ASYNC: list[Callable[[AsyncSandboxFiles, str], Awaitable[None]]] = [
    async_cancel,
    async_cancel_of_a_stream,
    async_wait_for,
    async_timeout,
    async_callback,
    async_value_error,
    async_small,
]


def staged(sandbox: DevSandbox) -> list[str]:
    """Return what uploads have left in the sandbox's directory."""
    return [name for name in os.listdir(sandbox.directory) if name.startswith(STAGING)]


def free_after(files: SandboxFiles, sandbox: DevSandbox) -> float:
    """Wait until nothing is left of any upload, and return how long that took."""
    began = time.monotonic()
    block_until(
        lambda: not files.uploads() and not staged(sandbox),
        lambda: f"nothing is left of {files.uploads()}, {staged(sandbox)}",
    )
    return time.monotonic() - began


@pytest.fixture
def sandbox(stack: DevStack) -> DevSandbox:
    return stack.sandboxes[3]


@pytest.fixture(params=["one stream", "several"])
def lanes(request: pytest.FixtureRequest) -> Iterator[None]:
    with ExitStack() as far:
        if request.param == "several":
            far.enter_context(everything_is_far())
        yield


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("sort", SYNC)
def test_the_blocking_flavour_leaves_nothing(
    stack: DevStack, sandbox: DevSandbox, sort: Callable[[SandboxFiles, str], None]
) -> None:
    with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        files = client.sandbox(sandbox.name)
        for number in range(3):
            sort(files, f"x-{number}")
        print(f"free again after {free_after(files, sandbox):.2f} s")


@pytest.mark.usefixtures("lanes")
@pytest.mark.parametrize("sort", ASYNC)
async def test_the_asynchronous_flavour_leaves_nothing(
    stack: DevStack, sandbox: DevSandbox, sort: Callable[[AsyncSandboxFiles, str], Awaitable[None]]
) -> None:
    async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        files = client.sandbox(sandbox.name)
        for number in range(3):
            await sort(files, f"x-{number}")
        with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as other:
            seconds = await asyncio.to_thread(free_after, other.sandbox(sandbox.name), sandbox)
        print(f"free again after {seconds:.2f} s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_reads_a_stream_leaves_nothing(
    stack: DevStack, sandbox: DevSandbox, number: signal.Signals
) -> None:
    """Ctrl-C: what came from standard input cannot be sent again."""
    process = subprocess.Popen(
        [command("openshell-files"), "upload", sandbox.name, "-", "x", "-q"],
        env=stack.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(PIECES * PIECE)
    process.stdin.flush()
    block_until(lambda: staged(sandbox), "content flows")
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number
    assert b"--resume" not in said
    with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        print(f"free again after {free_after(client.sandbox(sandbox.name), sandbox):.2f} s")


async def ended(stack: DevStack, sandbox: DevSandbox, count: int) -> float:
    """End uploads of every sort, several at a time, and return how long it takes until nothing is left."""
    left = iter(range(count))

    async def one_after_the_other(files: AsyncSandboxFiles, blocking: SandboxFiles) -> None:
        for number in left:
            sort = number % (len(SYNC) + len(ASYNC))
            if sort < len(ASYNC):
                await ASYNC[sort](files, f"x-{number}")
            else:
                await asyncio.to_thread(SYNC[sort - len(ASYNC)], blocking, f"x-{number}")

    with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        blocking = client.sandbox(sandbox.name)
        async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as other:
            files = other.sandbox(sandbox.name)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(8):
                    tasks.create_task(one_after_the_other(files, blocking))
            seconds = await asyncio.to_thread(free_after, blocking, sandbox)
            # No place of a transfer is taken either: as many as one caller may have go on at once.
            async with asyncio.TaskGroup() as tasks:
                for number in range(24):
                    tasks.create_task(files.write_bytes(f"after-{number}", PIECE))
    print(f"{count} ended uploads: nothing is left {seconds:.2f} s after the last")
    return seconds


async def test_two_hundred_of_every_sort(stack: DevStack, sandbox: DevSandbox) -> None:
    await ended(stack, sandbox, CANCELLED)


@pytest.mark.long
async def test_within_a_second(stack: DevStack, sandbox: DevSandbox) -> None:
    """The strict form, for a machine that does nothing else."""
    assert await ended(stack, sandbox, CANCELLED) <= SOON
