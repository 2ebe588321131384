"""A client holds back what its gateway would refuse (RLY-24)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_file_gateway import FakeFile, FakeGateway, FakeUpload
from openshell_files import AsyncFilesClient, FilesClient, RetryPolicy
from openshell_files._async.deadline import Deadline
from openshell_files._async.gate import DEFAULT_LIMIT, Gate
from openshell_files.errors import DeadlineExceeded, ResourceExhausted
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect, big_content

NEVER = Deadline(None)


async def entered(gate: Gate, count: int, *, paced: bool = False) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.create_task(gate.enter(NEVER, paced=paced)) for _ in range(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def done(tasks: list[asyncio.Task[bool]]) -> int:
    return sum(task.done() for task in tasks)


async def stop(tasks: list[asyncio.Task[bool]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_default_and_what_the_gateway_says() -> None:
    """RLY-24."""
    gate = Gate()
    tasks = await entered(gate, 100)
    assert done(tasks) == DEFAULT_LIMIT
    gate.heard(0)
    await entered(gate, 0)
    assert done(tasks) == DEFAULT_LIMIT, "0 says nothing"
    gate.heard(40)
    await entered(gate, 0)
    assert done(tasks) == 40
    gate.heard(3)
    for running in range(40, 3, -1):
        gate.leave(paced=False)
        assert gate.running == running - 1
    await entered(gate, 0)
    assert done(tasks) == 40
    gate.leave(paced=False)
    await entered(gate, 0)
    assert done(tasks) == 41, "in their order, one for one"
    assert [task.done() for task in tasks] == [True] * 41 + [False] * 59
    await stop(tasks)


async def test_who_gives_up_waiting_takes_no_place() -> None:
    gate = Gate()
    gate.heard(1)
    first, second, third = await entered(gate, 3)
    second.cancel()
    await entered(gate, 0)
    assert (first.done(), second.cancelled(), third.done()) == (True, True, False)
    with pytest.raises(DeadlineExceeded):
        await gate.enter(Deadline(0.05), paced=False)
    gate.leave(paced=False)
    assert await third
    gate.leave(paced=False)
    assert gate.running == 0


async def test_transfers_that_wait_for_each_other_do_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paced transfers never take the last place, and do not wait for ever."""
    monkeypatch.setattr("openshell_files._async.gate._PATIENCE_SECONDS", 0.05)
    gate = Gate()
    gate.heard(2)
    assert done(await entered(gate, 2, paced=True)) == 2
    assert await asyncio.wait_for(gate.enter(NEVER, paced=False), 5)
    assert await asyncio.wait_for(gate.enter(NEVER, paced=True), 5)
    waiting = await entered(gate, 1)
    assert not done(waiting)
    await stop(waiting)


class Crowd:
    """Counts the streams that run at a time in the fake gateway."""

    def __init__(self, gateway: FakeGateway, limit: int) -> None:
        self.refused = self._now = 0
        self._limit, self._lock = limit, threading.Lock()
        gateway.max_concurrent_transfers = limit
        gateway.on_upload_message = self._hook

    def _hook(self, _number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.HasField("finish"):
            with self._lock:
                self._now -= 1
        elif request.data.offset == 0:
            with self._lock:
                if self._now >= self._limit:
                    self.refused += 1
                    raise TransferError(Reason.TOO_MANY_TRANSFERS, "too many", retry_delay=0.01)
                self._now += 1
            time.sleep(0.002)


async def test_a_thousand_writes_of_one_client_all_succeed(gateway: FakeGateway) -> None:
    crowd = Crowd(gateway, 8)
    gateway.keep_messages = False
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        # Nobody has asked how many may run: some are refused, which makes the client ask.
        await asyncio.gather(*(files.write_bytes(f"f{number}", b"12") for number in range(1000)))
        await files.write_bytes("large", big_content())
        crowd.refused = 0
        await asyncio.gather(*(files.write_bytes(f"g{number}", b"12") for number in range(100)))
    assert len(gateway.files) == 1101
    assert crowd.refused == 0


def test_a_thousand_writes_of_many_threads(gateway: FakeGateway) -> None:
    crowd = Crowd(gateway, 8)
    gateway.keep_messages = False
    with FilesClient(gateway.address) as client, ThreadPoolExecutor(50) as threads:
        files = client.sandbox("demo")

        def write(number: int) -> None:
            files.write_bytes(f"f{number}", b"12")

        list(threads.map(write, range(300)))
        files.write_bytes("large", big_content())
        crowd.refused = 0
        list(threads.map(write, range(300, 400)))
    assert len(gateway.files) == 401
    assert crowd.refused == 0


async def test_copies_between_files_do_not_stand_still(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each upload's source is a download of the same client, more of them than may run."""
    monkeypatch.setattr("openshell_files._async.gate._PATIENCE_SECONDS", 0.1)
    gateway.max_concurrent_transfers = 2
    gateway.files["x"] = FakeFile(big_content())
    async with AsyncFilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        await files.stat("x")

        async def copied(number: int) -> None:
            pieces: AsyncIterator[bytes] = files.iter_download("x")
            await files.upload(pieces, f"y{number}")

        await asyncio.wait_for(asyncio.gather(*(copied(number) for number in range(6))), 50)
    assert all(gateway.files[f"y{number}"].content == big_content() for number in range(6))


def test_a_call_inside_a_progress_callback(gateway: FakeGateway) -> None:
    """It takes no place: the transfer that reports has one and waits for it."""
    gateway.max_concurrent_transfers = 1
    gateway.files["y"] = FakeFile(b"1")
    with FilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        files.write_bytes("x", b"1")

        def look(_progress: object) -> None:
            files.stat("y")

        files.upload(big_content(), "x", progress=look)


def test_a_gateway_without_a_place_is_asked_again(gateway: FakeGateway, connect: Connect) -> None:
    """As it says, and within the budget of an outage."""
    crowded = TransferError(Reason.TOO_MANY_TRANSFERS, "wait", retry_delay=0.001)
    policy = RetryPolicy(attempts=3, initial_delay=0, outage_attempts=12)
    sandbox = connect(retry=policy)
    sandbox.write_bytes("first", b"1")
    gateway.failures[methods.START_UPLOAD].extend([crowded] * 11)
    sandbox.write_bytes("x", big_content())
    gateway.failures[methods.START_UPLOAD].extend([crowded] * 12)
    with pytest.raises(ResourceExhausted):
        sandbox.write_bytes("x", big_content())
