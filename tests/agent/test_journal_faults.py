"""A journal that fails while an upload goes its way: what the caller is told, and what is found later (RSM-7)."""

from __future__ import annotations

from typing import Any

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Sandbox,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
)
from agent.refusals import refusal
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.store.journal import Journal, JournalError

RECEIVING = files_pb2.UPLOAD_STATE_RECEIVING


class BrokenJournal(Journal):
    """Fails to write when told to."""

    broken_from: int | None = None
    broken_names = False
    writes = 0

    def drop_name(self, *args: Any, **kwargs: Any) -> None:
        if self.broken_names:
            raise JournalError(Reason.DISK_FULL, "the agent's journal of uploads: disk full")
        super().drop_name(*args, **kwargs)

    def write(self, *args: Any, **kwargs: Any) -> None:
        self.writes += 1
        if self.broken_from is not None and self.writes >= self.broken_from:
            raise JournalError(Reason.DISK_FULL, "the agent's journal of uploads: disk full")
        super().write(*args, **kwargs)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> type[BrokenJournal]:
    monkeypatch.setattr("openshell_supervisor_sim.agent.file_agent.Journal", BrokenJournal)
    monkeypatch.setattr(BrokenJournal, "broken_from", None)
    return BrokenJournal


@pytest.mark.parametrize(("at", "state"), [(1, UNKNOWN), (2, RECEIVING)])
async def test_a_journal_that_cannot_be_written(
    journal: type[BrokenJournal], sandbox: Sandbox, at: int, state: int
) -> None:
    """RSM-3: what cannot be recorded is not begun: not the upload, not the rename."""
    agent = sandbox.agent()
    await agent.start()
    try:
        journal.broken_from = at
        error = await refusal(put(agent, "/file", b"abc", request_id="r"))
        assert error.reason is Reason.DISK_FULL
        assert not (sandbox.root / "file").exists()
        journal.broken_from = None
        assert (await get_upload(agent, request_id="r")).state == state
        await put(agent, "/file", b"abc", request_id="r", declared=3)
        assert (sandbox.root / "file").read_bytes() == b"abc"
    finally:
        await agent.aclose()


async def test_a_name_that_cannot_be_dropped(journal: type[BrokenJournal], sandbox: Sandbox) -> None:
    """UPL-8: published is published."""
    agent = sandbox.agent()
    await agent.start()
    try:
        (sandbox.root / "file").write_bytes(b"old")
        journal.broken_names = True
        await put(agent, "/file", b"abc")
        assert (sandbox.root / "file").read_bytes() == b"abc"
    finally:
        journal.broken_names = False
        await agent.aclose()
    await agent.aclose()


async def test_progress_that_cannot_be_recorded(journal: type[BrokenJournal], sandbox: Sandbox) -> None:
    """RSM-3: the stream ends as it would have; the file tells how far it is."""
    agent = sandbox.agent()
    await agent.start()
    try:
        journal.broken_from = 2
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", request_id="r")))
            await peer.chunk(b"abc")
            peer.to_agent.end()
            assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
        assert (await get_upload(agent, request_id="r")).staged_bytes == 3
    finally:
        await agent.aclose()


async def test_a_result_that_cannot_be_recorded(
    journal: type[BrokenJournal], sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """RSM-6, RSM-7: the file is published and that is the answer, now, later and after a restart."""
    agent = sandbox.agent()
    await agent.start()
    try:
        journal.broken_from = 3
        answer = await put(agent, "/file", b"abc", request_id="r")
        assert "is not in the journal" in caplog.text
        status = await get_upload(agent, request_id="r")
        assert status.state == files_pb2.UPLOAD_STATE_PUBLISHED
        assert status.result == answer
        assert (await put(agent, "/file", b"abc", request_id="r")).replayed
        assert (await start_upload(agent, "/file", 3, request_id="r")).result == answer
    finally:
        await agent.aclose()
    journal.broken_from = None
    agent = sandbox.agent()
    await agent.start()
    try:
        status = await get_upload(agent, request_id="r")
        assert status.state == files_pb2.UPLOAD_STATE_PUBLISHED
        assert status.result.file.digest == answer.file.digest
        assert (await put(agent, "/file", b"abc", request_id="r")).replayed
    finally:
        await agent.aclose()
