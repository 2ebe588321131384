"""Digests of staged bytes that change, or outlive their agent (RSM-15, DIG-7)."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import UNKNOWN as UNKNOWN_STATE
from agent.agent_harness import (
    Refused,
    Sandbox,
    get_upload,
    opened,
    peer_of,
    put,
)
from agent.resuming import restart
from agent.sparse_uploads import (
    CONTENT,
    DATA,
    DATA_AT,
    SIZE,
    finish,
    finish_staged,
    going_on,
    send_content,
    start,
    write_at,
)
from bit_flipper import flip_in_file
from digest_values import BLAKE3, digest_of
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.store.journal import Journal


async def staged(agent: FileAgent, sandbox: Sandbox) -> tuple[files_pb2.UploadStatus, Path]:
    """Stage everything and lose the stream."""
    status = await start(agent)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await send_content(peer)
        peer.to_agent.end()
        assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    (name,) = sandbox.leftovers()
    return status, sandbox.root / name


async def test_going_on_after_a_restart(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3, RSM-15, DIG-4: the prefix has the upload's digest, and only its content is read for it."""
    status = await start(restarted[0])
    prefix = DATA_AT + 1000
    async with peer_of(restarted[0]) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.data(0, b"", hole=DATA_AT)
        await peer.data(DATA_AT, DATA[:1000])
        peer.to_agent.end()
        await peer.error()
    agent = await restart(restarted, sandbox)
    status = await start(agent, upload_id=status.upload_id)
    assert (status.digest_algorithm, status.staged_bytes) == (BLAKE3, prefix)
    assert status.staged_digest == digest_of(CONTENT[:prefix], BLAKE3)
    assert sandbox.fs.calls["pread"] == 1
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await send_content(peer, prefix)
        await peer.upload_message(finish(CONTENT))
        answer = (await peer.answer()).upload
    assert answer.resumed_from == prefix
    assert answer.file.digest == digest_of(CONTENT, BLAKE3)
    assert (sandbox.root / "file").read_bytes() == CONTENT
    agent = await restart(restarted, sandbox)
    status = await get_upload(agent, status.upload_id)
    assert (status.digest_algorithm, status.staged_digest) == (BLAKE3, digest_of(CONTENT, BLAKE3))


def write_into_the_hole(path: Path) -> None:
    write_at(path, 5 * MIB, b"x")


def write_before_content(path: Path) -> None:
    write_at(path, DATA_AT - 1, b"x")


def punch_content_out(path: Path) -> None:
    os.truncate(path, DATA_AT + 10)
    os.truncate(path, SIZE)


def punch_everything_out(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, SIZE)


def flip_a_bit(path: Path) -> None:
    flip_in_file(path, DATA_AT + 77)


def move_content(path: Path) -> None:
    """The same bytes at another place."""
    punch_everything_out(path)
    write_at(path, DATA_AT + MIB, DATA)


@pytest.mark.parametrize(
    "meddle",
    [
        write_into_the_hole,
        write_before_content,
        punch_content_out,
        punch_everything_out,
        flip_a_bit,
        move_content,
    ],
    ids=lambda meddle: meddle.__name__,
)
async def test_a_change_behind_our_back(agent: FileAgent, sandbox: Sandbox, meddle: Any) -> None:
    """UPL-37: every change of the content is found before anything is published."""
    status, path = await staged(agent, sandbox)
    meddle(path)
    with pytest.raises(Refused) as refused:
        await finish_staged(agent, status)
    assert refused.value.reason is Reason.DIGEST_MISMATCH
    assert not os.listdir(sandbox.root)


async def test_zeros_behind_our_back(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-37: it is the content that counts; zeros in the place of a hole are none."""
    status, path = await staged(agent, sandbox)
    write_at(path, 4 * MIB, bytes(MIB))
    write_at(path, DATA_AT - 5000, bytes(5000))
    answer = await finish_staged(agent, status)
    assert answer.file.digest == digest_of(CONTENT, BLAKE3)


async def test_the_journal_of_an_older_agent(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3: its rows hold messages of an earlier protocol, so its uploads are forgotten, and what they staged."""
    await put(restarted[0], "/old", b"old", request_id="o")
    await staged(restarted[0], sandbox)
    await restarted[0].aclose()
    with sqlite3.connect(sandbox.settings.state_dir / "uploads.sqlite3") as database:
        database.execute("PRAGMA user_version = 3")
    database.close()
    agent = await restart(restarted, sandbox)
    assert (await get_upload(agent, request_id="o")).state == UNKNOWN_STATE
    assert sandbox.leftovers() == []
    answer = await put(agent, "/old", b"new", request_id="o")
    assert not answer.replayed


def test_the_journal_of_a_newer_agent(tmp_path: Path) -> None:
    """RSM-14: an agent that does not know it all touches nothing."""
    path = tmp_path / "uploads.sqlite3"
    Journal(tmp_path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RuntimeError, match="newer agent"):
        Journal(tmp_path)
