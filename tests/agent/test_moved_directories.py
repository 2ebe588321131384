"""Directories that commands move while uploads wait in them: no staging file is forgotten."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Refused,
    Sandbox,
    abort_upload,
    data_message,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
)
from agent.agent_harness import Request as RelayRequest
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent import FileAgent

CONTENT = b"x" * 10_000


async def _waiting(agent: FileAgent, path: str) -> files_pb2.UploadStatus:
    """Stage content of an upload, and leave it."""
    started = await start_upload(agent, path, len(CONTENT) * 2)
    async with peer_of(agent) as peer:
        await peer.send(
            opened(upload=metadata(path, len(CONTENT) * 2, upload_id=started.upload_id, epoch=started.epoch))
        )
        await peer.accepted()
        await peer.send(RelayRequest(upload=data_message(0, CONTENT)))
        await peer.input_end()
        await peer.error()
    return started


async def _abort(agent: FileAgent, _: Sandbox, started: files_pb2.UploadStatus) -> None:
    assert (await abort_upload(agent, started.upload_id)).state == files_pb2.UPLOAD_STATE_ABORTED


async def _expire(agent: FileAgent, sandbox: Sandbox, _: files_pb2.UploadStatus) -> None:
    sandbox.now[0] += sandbox.settings.upload_expiry + 1
    assert await agent.sweep() == 1


async def _going_on(agent: FileAgent, sandbox: Sandbox, started: files_pb2.UploadStatus) -> None:
    """Find that the staging file is not there, in a directory of the same name."""
    (sandbox.root / "d").mkdir()
    with pytest.raises(Refused) as refused:
        await put(
            agent, "/d/f", CONTENT * 2, skip=len(CONTENT), upload_id=started.upload_id, epoch=started.epoch
        )
    assert refused.value.reason.name == "UPLOAD_UNKNOWN"
    (sandbox.root / "d").rmdir()


End = Callable[[FileAgent, Sandbox, files_pb2.UploadStatus], Awaitable[None]]
ENDS: dict[str, End] = {"abort": _abort, "expiry": _expire, "going on": _going_on}


@pytest.mark.parametrize("end", ENDS)
async def test_a_directory_that_is_moved(agent: FileAgent, sandbox: Sandbox, end: str) -> None:
    """RSM-34: what was staged is freed at once, wherever the directory is now."""
    (sandbox.root / "d").mkdir()
    started = await _waiting(agent, "/d/f")
    (sandbox.root / "d").rename(sandbox.root / "elsewhere")
    assert (await get_upload(agent, started.upload_id)).staged_bytes == len(CONTENT)
    assert agent.statistics().unfinished_uploads == 1
    await ENDS[end](agent, sandbox, started)
    assert sandbox.leftovers() == []
    (sandbox.root / "elsewhere").rename(sandbox.root / "d")
    assert sandbox.leftovers() == []
    assert agent.statistics().staged_bytes == 0


@pytest.mark.parametrize("end", ["abort", "expiry"])
async def test_a_directory_that_is_moved_while_no_agent_runs(sandbox: Sandbox, end: str) -> None:
    """RSM-3, RSM-34: its staging file is removed once the directory is back, also after further starts."""
    first = sandbox.agent()
    await first.start()
    (sandbox.root / "d").mkdir()
    started = await _waiting(first, "/d/f")
    await first.aclose()
    (sandbox.root / "d").rename(sandbox.root / "elsewhere")
    for _ in range(2):
        between = sandbox.agent()
        await between.start()
        assert (await get_upload(between, started.upload_id)).state == UNKNOWN
        await between.aclose()
    (sandbox.root / "elsewhere").rename(sandbox.root / "d")
    last = sandbox.agent()
    await last.start()
    try:
        if end == "expiry":
            await last.sweep()
        assert sandbox.leftovers() == []
    finally:
        await last.aclose()


async def test_a_race_of_moves(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-34: aborts while the directory goes to and fro leave nothing."""
    there, away = sandbox.root / "d", sandbox.root / "elsewhere"
    there.mkdir()
    for _ in range(20):
        uploads = [await start_upload(agent, "/d/f", 10) for _ in range(3)]
        there.rename(away)
        await abort_upload(agent, uploads[0].upload_id)
        there.mkdir()
        await abort_upload(agent, uploads[1].upload_id)
        there.rmdir()
        away.rename(there)
        await abort_upload(agent, uploads[2].upload_id)
    assert sandbox.leftovers() == []


async def test_a_directory_that_is_removed(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-10: with its staging file; nothing is left to be tried again."""
    (sandbox.root / "d").mkdir()
    started = await start_upload(agent, "/d/f", 10)
    for path in (sandbox.root / "d").iterdir():
        path.unlink()
    (sandbox.root / "d").rmdir()
    await abort_upload(agent, started.upload_id)
    assert await agent.sweep() == 0
