"""Rows of the journal as an earlier agent, or a damaged disk, may have left them (RSM-3, RSM-7)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Sandbox,
    get_upload,
    metadata,
    put,
)
from digest_values import digest_of
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent.core.requests import upload_request
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord

RECEIVING, VERIFYING = files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING


PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED


NEW = b"new content"


def row(sandbox: Sandbox, **changes: Any) -> None:
    """Write a row as an earlier agent may have left it."""
    request = metadata("/file", len(NEW))
    record = UploadRecord(
        upload_id="u",
        request_id="r",
        principal="alice",
        fingerprint=upload_request(request, started=True).fingerprint,
        metadata=request.SerializeToString(),
        parent=b"/",
        name=b"file",
        staging=b".openshell-upload-u",
        epoch=1,
        state=VERIFYING,
        created=1.0,
        updated=sandbox.now[0],
        expiry=1e9,
        inode=(sandbox.root / "file").stat().st_ino,
        finish_size=len(NEW),
        finish_digest=digest_of(NEW).value,
    )
    journal = Journal(sandbox.settings.state_dir)
    journal.write(replace(record, **changes), durable=True)
    journal.close()


@pytest.mark.parametrize(
    ("content", "time", "changes", "state"),
    [
        (NEW, 0, {}, PUBLISHED),
        (NEW, 9, {}, PUBLISHED),
        (b"NEW CONTENT", 9, {}, UNKNOWN),
        (NEW, 0, {"inode": 1}, UNKNOWN),
        (NEW, 0, {"inode": 0}, UNKNOWN),
        (NEW + b"!", 0, {}, UNKNOWN),
        (NEW, 0, {"state": RECEIVING}, UNKNOWN),
    ],
    ids=[
        "as it was published",
        "touched since",
        "another file of the same number and size",
        "another number",
        "no intent",
        "another size",
        "no finish was taken",
    ],
)
async def test_what_counts_as_renamed(
    sandbox: Sandbox, content: bytes, time: int, changes: dict[str, Any], state: int
) -> None:
    """RSM-7, CRS-7: an inode's number is not enough, and without a finish nothing is."""
    path = sandbox.root / "file"
    path.write_bytes(content)
    os.utime(path, (sandbox.now[0] + time, sandbox.now[0] + time))
    row(sandbox, **changes)
    agent = sandbox.agent()
    await agent.start()
    try:
        status = await get_upload(agent, request_id="r")
        assert status.state == state
        assert (status.result.bytes_written == len(NEW)) is (state == PUBLISHED)
    finally:
        await agent.aclose()


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": b"\xff\xff\xff"},
        {"metadata": files_pb2.UploadFileMetadata(remote_path="/file", is_archive=True).SerializeToString()},
        {"metadata": b"\x12\x05/file\x90\x01\x4d"},
    ],
    ids=["no message", "archive", "link policy"],
)
async def test_a_row_that_makes_no_sense_is_set_aside(
    sandbox: Sandbox, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """RSM-13: the agent starts, serves the other uploads, and frees what the row held."""
    (sandbox.root / "file").write_bytes(b"old")
    (sandbox.root / ".openshell-upload-good").write_bytes(b"ab")
    (sandbox.root / ".openshell-upload-u").write_bytes(b"abc")
    row(
        sandbox,
        upload_id="good",
        request_id="good",
        staging=b".openshell-upload-good",
        state=RECEIVING,
        inode=0,
    )
    row(sandbox, state=RECEIVING, inode=0, **changes)
    agent = sandbox.agent()
    await agent.start()
    try:
        assert (await get_upload(agent, request_id="good")).staged_bytes == 2
        assert (await get_upload(agent, request_id="r")).state == UNKNOWN
        await put(agent, "/file", NEW, request_id="r")
    finally:
        await agent.aclose()
    assert "set aside" in caplog.text
    agent = sandbox.agent()
    await agent.start()
    await agent.aclose()
    assert sandbox.leftovers() == [".openshell-upload-good"]
