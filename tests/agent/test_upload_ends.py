"""How uploads end: finish, abort, expiry, and what is said of them afterwards (RSM-6 to RSM-8, RSM-21, RSM-22, RSM-31, RSM-34)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Refused,
    Sandbox,
    abort_upload,
    call,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    until,
)
from agent.resuming import going_on, reason_of, restart
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING


VERIFYING = files_pb2.UPLOAD_STATE_VERIFYING


PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED


ABORTED = files_pb2.UPLOAD_STATE_ABORTED


EXPIRED = files_pb2.UPLOAD_STATE_EXPIRED


async def test_finish_is_idempotent(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-6, RSM-21: by either name, with or without the content, and after a restart."""
    status = await start_upload(restarted[0], "/file", 3, request_id="r")
    first = await put(
        restarted[0], "/file", b"abc", request_id="r", upload_id=status.upload_id, epoch=status.epoch
    )
    assert not first.replayed
    first.replayed = True
    for again_after in ("nothing", "restart"):
        agent = restarted[-1] if again_after == "nothing" else await restart(restarted, sandbox)
        status = await get_upload(agent, status.upload_id)
        assert status.state == PUBLISHED
        again = await put(agent, "/file", b"abc", request_id="r")
        assert again == first
        only_finish = await put(agent, "/file", b"abc", skip=3, upload_id=status.upload_id, epoch=1)
        assert only_finish == first
        started = await start_upload(agent, "/file", 3, request_id="r")
        assert started.state == PUBLISHED
        assert await reason_of(put(agent, "/file", b"abd", request_id="r")) is Reason.FINISH_CONFLICT
    assert restarted[-1].statistics().uploads_published == 0


async def test_tombstones_are_forgotten(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-22: after their time, not before."""
    await put(agent, "/file", b"abc", request_id="r")
    sandbox.now[0] += sandbox.settings.tombstone_seconds - 1
    await agent.sweep()
    assert (await get_upload(agent, request_id="r")).state == PUBLISHED
    sandbox.now[0] += 2
    await agent.sweep()
    assert (await get_upload(agent, request_id="r")).state == UNKNOWN


async def test_verifying_is_said(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-7: while the finish is carried out; who goes on waits for it and gets its answer."""
    gate = threading.Event()
    reached = threading.Event()

    def pause() -> None:
        reached.set()
        gate.wait()

    sandbox.on_trace["upload.flushed"] = pause
    async with peer_of(agent) as peer, peer_of(agent) as second:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.chunk(b"abc")
        await peer.finish(b"abc")
        await until(reached.is_set)
        status = await get_upload(agent, request_id="r")
        assert status.state == VERIFYING
        assert (await start_upload(agent, "/file", request_id="r")).state == VERIFYING
        assert (await start_upload(agent, "/file", upload_id=status.upload_id)).epoch == 1
        aborting = asyncio.create_task(abort_upload(agent, status.upload_id))
        await second.send(opened(upload=going_on(status)))
        await second.finish(b"abc")
        gate.set()
        assert not (await peer.answer()).upload.replayed
        assert (await second.answer()).upload.replayed
        assert (await aborting).state == PUBLISHED


async def test_abort(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-34: frees what was staged and ends a stream; it can be repeated."""
    status = await start_upload(agent, "/file", request_id="r")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        aborted = await abort_upload(agent, status.upload_id)
        assert (aborted.state, aborted.staged_bytes, aborted.durable_bytes) == (ABORTED, 0, 0)
        assert (await peer.error()).reason is Reason.UPLOAD_ABORTED
    again = await abort_upload(agent, status.upload_id)
    assert (again.state, again.staged_bytes) == (ABORTED, 0)
    assert not sandbox.leftovers()
    assert agent.statistics().staged_bytes == 0
    assert (await get_upload(agent, request_id="r")).state == ABORTED
    assert await reason_of(put(agent, "/file", b"", request_id="r")) is Reason.UPLOAD_ABORTED
    assert await reason_of(start_upload(agent, "/file", request_id="r")) is Reason.UPLOAD_ABORTED
    assert await reason_of(abort_upload(agent, "nonsense")) is Reason.UPLOAD_UNKNOWN


@pytest.mark.parametrize("attached", [True, False])
async def test_expiry(agent: FileAgent, sandbox: Sandbox, attached: bool) -> None:  # noqa: FBT001
    """RSM-8: counted from the last byte."""
    status = await start_upload(agent, "/file", request_id="r")
    expiry = sandbox.settings.upload_expiry
    async with peer_of(agent) as peer:
        sandbox.now[0] += expiry - 1
        await peer.send(opened(upload=going_on(status)))
        await peer.data(0, b"abc")
        await until(lambda: "upload.chunk_staged" in sandbox.traced)
        if not attached:
            await peer.vanish()
        sandbox.now[0] += expiry - 1
        assert await agent.sweep() == 0
        assert (await get_upload(agent, request_id="r")).state == RECEIVING
        sandbox.now[0] += 2
        assert await agent.sweep() == 1
        if attached:
            assert (await peer.error()).reason is Reason.UPLOAD_EXPIRED
    assert (await get_upload(agent, request_id="r")).state == EXPIRED
    assert await reason_of(put(agent, "/file", b"", request_id="r")) is Reason.UPLOAD_EXPIRED
    assert not sandbox.leftovers()
    assert agent.statistics().staged_bytes == 0


async def test_list(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-31: the caller's own, oldest first."""
    for name in ("one", "two"):
        sandbox.now[0] += 1
        status = await start_upload(agent, f"/{name}", request_id=name)
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=going_on(status, f"/{name}")))
            await peer.data(0, b"abc")
            peer.to_agent.end()
            await peer.error()
    await put(agent, "/three", b"", request_id="three")
    listed = (await call(agent, list_uploads=files_pb2.ListUploadsRequest())).list_uploads
    assert [upload.path for upload in listed.uploads] == ["/one", "/two"]
    assert listed.staged_bytes == 6


@pytest.mark.parametrize("request_", [{}, {"upload_id": "a", "request_id": "b"}])
async def test_get_upload_needs_one_name(agent: FileAgent, request_: dict[str, Any]) -> None:
    assert (
        await reason_of(call(agent, get_upload=files_pb2.GetUploadRequest(**request_)))
        is Reason.INVALID_REQUEST
    )


async def test_abort_needs_a_name(agent: FileAgent) -> None:
    """RSM-2: nothing is not a name that could match somebody's upload."""
    await start_upload(agent, "/file")
    assert await reason_of(abort_upload(agent, "")) is Reason.INVALID_REQUEST


async def test_asking_all_the_time(agent: FileAgent) -> None:
    """RSM-7, RSM-19: from RECEIVING over VERIFYING to PUBLISHED, never UNKNOWN, never without the result."""
    for round_ in range(20):
        status = await start_upload(agent, "/file", request_id=str(round_))
        states: list[int] = []
        publishing = asyncio.create_task(
            put(agent, "/file", b"x", declared=0, upload_id=status.upload_id, epoch=1)
        )
        while not states or states[-1] != PUBLISHED:
            answer = await get_upload(agent, status.upload_id)
            states.append(answer.state)
            assert (answer.state == PUBLISHED) is (answer.result.bytes_written == 1)
        await publishing
        assert states == sorted(states)
        assert set(states) <= {RECEIVING, VERIFYING, PUBLISHED}


async def test_finishing_twice_at_the_same_time(agent: FileAgent) -> None:
    """RSM-5, RSM-6: one publishes; the others are superseded or get its answer.

    The last to attach may find the byte of the one before it staged, and both
    end without publishing; then the upload is still there to be finished.
    """
    for round_ in range(20):
        status = await start_upload(agent, "/file", request_id=str(round_))
        ids: dict[str, Any] = {"declared": 0, "upload_id": status.upload_id, "epoch": 1}
        outcomes = await asyncio.gather(
            *(put(agent, "/file", b"x", request_id=str(round_), **ids) for _ in range(4)),
            return_exceptions=True,
        )
        answers = [outcome for outcome in outcomes if isinstance(outcome, files_pb2.UploadFileResponse)]
        published = sum(not answer.replayed for answer in answers)
        upload = await get_upload(agent, status.upload_id)
        if not published:
            assert upload.state == files_pb2.UPLOAD_STATE_RECEIVING
            ids["skip"] = upload.staged_bytes
            last = await put(agent, "/file", b"x", request_id=str(round_), **ids)
            published += not last.replayed
            upload = await get_upload(agent, status.upload_id)
        assert published == 1
        assert upload.state == files_pb2.UPLOAD_STATE_PUBLISHED
        reasons = {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)}
        # A stream that took over after the byte was staged is told where to go on.
        assert reasons <= {Reason.SUPERSEDED, Reason.OFFSET_MISMATCH}
