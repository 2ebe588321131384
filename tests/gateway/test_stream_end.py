"""The end of a stream told from a cancellation (UPL-32, UPL-33)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from gateway_harness import SANDBOX, GatewayHarness, running_gateway
from openshell_files_gateway.concurrency import stream_end
from openshell_files_gateway.concurrency.stream_end import ended_for_good, let_reset_come, was_reset
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2

#: What a caller may take between its last byte and its reset (UPL-33), and how far a timer may be off.
PROMISED_SECONDS = 0.02
MARGIN_SECONDS = 0.02


async def written() -> None:
    """A write that gRPC took."""


async def refused() -> None:
    """One that it did not take."""
    raise grpc.aio.InternalError("Failed execute_batch")


async def test_a_stream_that_takes_no_write_was_reset() -> None:
    """UPL-32: found out at once, without a wait."""
    assert await was_reset(refused)
    assert not await was_reset(written)
    assert not await ended_for_good(refused)


async def test_a_bug_in_the_write_is_no_reset() -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await was_reset(broken)


async def test_an_end_is_believed_after_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """UPL-33: a reset within 20 ms is seen, with the same time again for what is on its way."""
    monkeypatch.setattr(stream_end, "_crowded", lambda: False)
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert await ended_for_good(written)
    assert loop.time() - started >= PROMISED_SECONDS + MARGIN_SECONDS


async def test_a_crowded_machine_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """UPL-33: its clients wait for a CPU between the end and the reset."""
    steps = 0
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        nonlocal steps
        steps += 1
        await sleep(0 * seconds)

    monkeypatch.setattr(asyncio, "sleep", counted)
    counts: list[int] = []
    for crowded in (False, True):
        steps = 0
        monkeypatch.setattr(stream_end, "_crowded", lambda crowded=crowded: crowded)
        await let_reset_come()
        counts.append(steps)
    assert counts[1] >= 4 * counts[0]


async def test_a_write_is_never_cut_off() -> None:
    """gRPC has begun it: a second one, with the call's refusal, would be one too many."""
    let_go, over = asyncio.Event(), False

    async def slow() -> None:
        nonlocal over
        await let_go.wait()
        over = True

    asking = asyncio.create_task(was_reset(slow))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.sleep(0)
    assert not asking.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert over


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


@pytest.mark.parametrize("explicit", [False, True], ids=["of the RFC", "with a finish"])
async def test_only_an_end_that_publishes_is_confirmed(
    harness: GatewayHarness, monkeypatch: pytest.MonkeyPatch, *, explicit: bool
) -> None:
    """UPL-32, FRM-6, FRM-16: an end that is none reaches the agent as a cancellation; nobody else waits."""
    asked = 0

    async def never(_: object) -> bool:
        nonlocal asked
        asked += 1
        return False

    monkeypatch.setattr("openshell_files_gateway.files.methods.ended_for_good", never)
    supervisor = harness.supervisor()
    await supervisor.connect()
    channel: Any = harness.channel()
    metadata = files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=explicit)
    call = channel.stream_unary(methods.UPLOAD_FILE)(
        iter([files_pb2.UploadFileRequest(metadata=metadata).SerializeToString()]), metadata=harness.user()
    )
    relay = await supervisor.take_relay()
    frames = [await relay.next_frame(), await relay.next_frame()]
    assert frames[1] is not None
    assert frames[1].input_end.cancelled is not explicit
    assert asked == (0 if explicit else 1)
    await relay.answer(file_relay_pb2.FileRelayResponse(upload=files_pb2.UploadFileResponse()))
    await call
