"""An agent that is killed, at every point of an upload (UPL-8, RSM-3, RSM-7)."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import Refused, Sandbox, get_upload, put, start_upload
from agent.mortal_agent import MortalAgent
from google.protobuf.timestamp_pb2 import Timestamp
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent, TracePoint

OLD, NEW = b"old content, longer than the new", b"new content"
#: When the rename has happened.
AFTER = {TracePoint.UPLOAD_RENAMED, TracePoint.UPLOAD_BEFORE_REPLY}
POINTS = [point for point in TracePoint if point.startswith("upload.")]


async def killed(sandbox: Sandbox, point: str, request_id: str) -> None:
    """Run an upload in a process that dies at the point."""
    (sandbox.root / "file").write_bytes(OLD)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("killed_agent.py")),
        str(sandbox.root),
        str(sandbox.settings.state_dir),
        point,
        request_id,
    )
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("point", POINTS)
async def test_an_upload_that_can_be_found_again(sandbox: Sandbox, point: TracePoint) -> None:
    """UPL-8, RSM-3, RSM-7, CRS-2, CRS-3, CRS-4, CRS-5, CRS-6, CRS-7, CRS-8: old or new, whole; the state tells
    which; the retry ends well."""
    await killed(sandbox, point, "r")
    published = (sandbox.root / "file").read_bytes() == NEW
    assert published is (point in AFTER)
    assert published or (sandbox.root / "file").read_bytes() == OLD
    agent = FileAgent(sandbox.settings)
    await agent.start()
    try:
        status = await get_upload(agent, request_id="r", digest=True)
        if published:
            assert status.state == files_pb2.UPLOAD_STATE_PUBLISHED
            assert status.result.bytes_written == len(NEW)
            assert status.result.durability == files_pb2.DURABILITY_FSYNC
            answer = await put(agent, "/file", NEW, request_id="r")
            assert answer.replayed
            assert answer.file == status.result.file
        else:
            assert status.state == files_pb2.UPLOAD_STATE_RECEIVING
            staged = status.staged_bytes
            assert staged == {"admitted": 0, "first_chunk_staged": 4, "chunk_staged": 4}.get(
                point.partition(".")[2], len(NEW)
            )
            answer = await put(
                agent,
                "/file",
                NEW,
                skip=staged,
                upload_id=status.upload_id,
                epoch=status.epoch,
                request_id="r",
            )
            assert answer.resumed_from == staged
        assert (sandbox.root / "file").read_bytes() == NEW
        assert not sandbox.leftovers()
        assert agent.statistics().staged_bytes == 0
    finally:
        await agent.aclose()


@pytest.mark.parametrize("point", POINTS)
async def test_any_other_upload_leaves_nothing(sandbox: Sandbox, point: TracePoint) -> None:
    """UPL-8, RSM-36: nothing but the old file or the new one, without a start-up too."""
    await killed(sandbox, point, "")
    assert (sandbox.root / "file").read_bytes() == (NEW if point in AFTER else OLD)
    assert not sandbox.leftovers()


async def test_the_answer_to_start_upload_is_lost(sandbox: Sandbox, tmp_path: Path) -> None:
    """CRS-1: the upload is found by its request_id, and StartUpload again gives the same one."""
    mortal = MortalAgent(tmp_path, sandbox.settings, lambda: sandbox.now[0])
    await mortal.start()
    try:
        mortal.die_at(TracePoint.UPLOAD_ADMITTED)
        await start_upload(mortal.agent, "/file", 3, request_id="r")
        assert mortal.killed.is_set()
        assert len(sandbox.leftovers()) == 1
        await mortal.close()
        await mortal.start()
        found = await get_upload(mortal.agent, request_id="r")
        assert (found.state, found.staged_bytes) == (files_pb2.UPLOAD_STATE_RECEIVING, 0)
        again = await start_upload(mortal.agent, "/file", 3, request_id="r")
        assert (again.upload_id, again.epoch) == (found.upload_id, found.epoch)
        await put(mortal.agent, "/file", b"new", upload_id=again.upload_id, epoch=again.epoch)
        assert not sandbox.leftovers()
    finally:
        await mortal.close()


async def test_the_time_of_the_file_is_not_the_time_of_the_last_byte(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """RSM-8: killed when the staging file has the old time that the file is to have, the upload does not expire early."""
    mortal = MortalAgent(tmp_path, sandbox.settings, lambda: sandbox.now[0])
    await mortal.start()
    try:
        fields: dict[str, Any] = {"modified_time": Timestamp(seconds=1)}
        upload = await start_upload(mortal.agent, "/file", 3, request_id="r", **fields)
        sandbox.now[0] += 0.9 * sandbox.settings.upload_expiry
        mortal.die_at(TracePoint.UPLOAD_FLUSHED)
        with pytest.raises((Refused, ConnectionError)):
            await put(mortal.agent, "/file", b"new", upload_id=upload.upload_id, epoch=upload.epoch, **fields)
        assert mortal.killed.is_set()
        await mortal.close()
        await mortal.start()
        sandbox.now[0] += 0.2 * sandbox.settings.upload_expiry
        assert await mortal.agent.sweep() == 0
        assert (await get_upload(mortal.agent, request_id="r")).staged_bytes == 3
    finally:
        await mortal.close()
