"""The journal stays within its bounds, whatever calls bring (RSM-23)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    Sandbox,
    abort_upload,
    call,
    data_message,
    finish_message,
    framed,
    get_upload,
    metadata,
    opened,
    peer_of,
    start_upload,
)
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.requests import upload_request
from openshell_supervisor_sim.agent.store.journal import Journal

RECEIVING, VERIFYING = files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING


NEW = b"new content"


def unknown_field(count: int) -> bytes:
    """A field that no message has, of so many bytes."""
    size = count
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return b"\xfa\xff\x07" + bytes([*length, size]) + bytes(count)


def state_bytes(sandbox: Sandbox) -> int:
    return sum(path.stat().st_size for path in sandbox.settings.state_dir.iterdir())


async def test_unknown_fields_are_not_kept(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-23: whatever comes with the metadata, the journal keeps what a later start needs."""
    huge = files_pb2.UploadFileMetadata.FromString(
        metadata("/file", 3, request_id="r").SerializeToString() + unknown_field(MIB - 1000)
    )
    for number in range(20):
        huge.request_id = f"r{number}"
        request = files_pb2.StartUploadRequest(metadata=huge)
        upload = (await call(agent, start_upload=request)).start_upload.upload
        if number % 2:
            await abort_upload(agent, upload.upload_id)
    async with peer_of(agent) as peer:
        huge.request_id = "streamed"
        await peer.send(opened(upload=huge))
        await peer.accepted()
        await peer.data(0, b"abc")
        await peer.finish(b"abc")
        await peer.answer()
    assert state_bytes(sandbox) < MIB


SHAPES: list[Callable[[int], dict[str, Any]]] = [
    lambda number: {"path": f"/{number}", "request_id": str(number)},
    lambda number: {"path": "/" + "x" * 200, "request_id": f"{number:0128d}"},
    lambda number: {"path": f"/{'d' * 100}/{number}", "request_id": f"p{number}", "parents": 2},
]


async def many_calls(sandbox: Sandbox, count: int) -> None:
    # The unfinished uploads of all principals together leave slots for others.
    sandbox.settings = replace(sandbox.settings, max_journal_bytes=MIB, max_uploads_per_principal=40)
    agent = sandbox.agent()
    await agent.start()
    try:
        most = 0
        for number in range(count):
            fields = SHAPES[number % 3](number)
            path = fields.pop("path")
            if number % 2:
                upload = await start_upload(agent, path, 3, principal=f"p{number % 5}", **fields)
                if number % 4 == 1:
                    await abort_upload(agent, upload.upload_id, principal=f"p{number % 5}")
            else:
                async with peer_of(agent) as peer:
                    ends = file_relay_pb2.FileRelayRequest(input_end=file_relay_pb2.FileRelayInputEnd())
                    messages = [
                        file_relay_pb2.FileRelayRequest(upload=one)
                        for one in (data_message(0, b"abc"), finish_message(b"abc"))
                    ]
                    first = opened("bob", upload=metadata(path, 3, durability=1, **fields))
                    await peer.send_bytes(b"".join(map(framed, [first, *messages, ends])))
                    await peer.answer()
            if number % 50 == 0:
                most = max(most, state_bytes(sandbox))
        assert max(most, state_bytes(sandbox)) < MIB + 5 * MIB
    finally:
        await agent.aclose()
    assert state_bytes(sandbox) < MIB + MIB // 4


async def test_many_calls_leave_the_journal_below_its_bound(sandbox: Sandbox) -> None:
    """RSM-23: of any shape; the unfinished ones among them stay within their slots."""
    await many_calls(sandbox, 400)


@pytest.mark.long
async def test_ten_thousand_calls_leave_the_journal_below_its_bound(sandbox: Sandbox) -> None:
    """RSM-23"""
    await many_calls(sandbox, 10_000)


async def test_rows_of_an_earlier_agent_do_not_stop_the_start(sandbox: Sandbox) -> None:
    """RSM-3: unfinished uploads whose metadata has a megabyte of unknown fields; they go on, and lose it."""
    (sandbox.root / "file").write_bytes(b"old")
    Journal(sandbox.settings.state_dir).close()
    kept = metadata("/file", len(NEW))
    bloated = kept.SerializeToString() + unknown_field(MIB)
    names = ["upload_id", "request_id", "principal", "fingerprint", "metadata", "parent", "name", "staging"]
    db = sqlite3.connect(sandbox.settings.state_dir / "uploads.sqlite3", isolation_level=None)
    for number in range(3):
        staging = f".openshell-upload-{number}"
        (sandbox.root / staging).write_bytes(b"ab")
        fingerprint = upload_request(kept, started=True).fingerprint
        texts = (f"u{number}", f"r{number}", "alice")
        blobs = (fingerprint, bloated, b"/", b"file", staging.encode())
        numbers = (1, int(RECEIVING), 1.0, sandbox.now[0], 1e9, 0, 0, 0, b"", "", b"", 1)
        marks = ", ".join("?" * (len(texts) + len(blobs) + len(numbers)))
        assert len(names) == len(texts) + len(blobs)
        db.execute(f"INSERT INTO uploads VALUES ({marks})", (*texts, *blobs, *numbers))
    db.close()
    agent = sandbox.agent()
    await agent.start()
    try:
        for number in range(3):
            assert (await get_upload(agent, request_id=f"r{number}")).staged_bytes == 2
        await agent.sweep()
        assert state_bytes(sandbox) < 5 * MIB
    finally:
        await agent.aclose()
    assert state_bytes(sandbox) < MIB // 4
