"""Conditions on the destination (CND-1, CND-2)."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Refused,
    Sandbox,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    stat,
)
from agent.refusals import refusal
from digest_values import OTHER, digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from vector_cases import ConditionCase, Conditions, ConditionValue, content_of, digest_message, named, read

OLD = b"old content"


def condition(**fields: Any) -> files_pb2.UploadCondition:
    return files_pb2.UploadCondition(**fields)


def _file(path: Path) -> None:
    path.write_bytes(OLD)


def _directory(path: Path) -> None:
    path.mkdir()


def _link(path: Path) -> None:
    path.symlink_to("dangling")


@pytest.mark.parametrize("make", [_file, _directory, _link])
@pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])
async def test_absent(agent: FileAgent, sandbox: Sandbox, make: Any, names: dict[str, Any]) -> None:
    """CND-1: whatever is there; at the start and, if it came meanwhile, at the end."""
    path = sandbox.root / "file"
    create_only = condition(absent=Empty())
    sandbox.on_trace["upload.flushed"] = lambda: make(path)
    error = await refusal(put(agent, "/file", b"new", condition=create_only, **names))
    assert error.reason is Reason.FILE_EXISTS
    del sandbox.on_trace["upload.flushed"]
    assert (await refusal(put(agent, "/file", b"new", condition=create_only))).reason is Reason.FILE_EXISTS
    assert not path.is_file() or path.read_bytes() == OLD
    assert not sandbox.leftovers()
    await put(agent, "/fresh", b"new", condition=create_only)


@pytest.mark.parametrize("names", [{}, {"request_id": "r"}], ids=["transient", "resumable"])
@pytest.mark.parametrize("missing", [errno.ENOSYS, errno.EINVAL, None])
async def test_the_kernel_enforces_absent(
    agent: FileAgent, sandbox: Sandbox, names: dict[str, Any], missing: int | None
) -> None:
    """CND-4: a file that appears after the last look is not replaced, with and without renameat2."""
    path = sandbox.root / "file"
    real = sandbox.fs.lstat

    def blind(name: bytes, dir_fd: int) -> os.stat_result | None:
        found = real(name, dir_fd)
        if sandbox.traced and sandbox.traced[-1] == "upload.flushed" and name == b"file":
            path.write_bytes(OLD)
        return found

    sandbox.fs.__dict__["lstat"] = blind
    if missing is not None:
        sandbox.fs.fail("rename_noreplace", missing)
    error = await refusal(put(agent, "/file", b"new", condition=condition(absent=Empty()), **names))
    assert error.reason is Reason.FILE_EXISTS
    assert path.read_bytes() == OLD
    assert not sandbox.leftovers()


async def test_create_without_renameat2(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-4: a link and an unlink do the same."""
    sandbox.fs.fail("rename_noreplace", errno.EINVAL)
    await put(agent, "/file", b"new", condition=condition(absent=Empty()), request_id="r")
    assert (sandbox.root / "file").read_bytes() == b"new"
    assert (sandbox.root / "file").stat().st_nlink == 1
    assert not sandbox.leftovers()


async def test_race_for_a_name(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-3: of several that create at the same time exactly one wins, a hundred times."""
    for round_ in range(100):
        names: list[dict[str, Any]] = [{}, {"request_id": f"r{round_}"}, {}]
        outcomes = await asyncio.gather(
            *(
                put(agent, f"/{round_}", bytes([index]), condition=condition(absent=Empty()), **fields)
                for index, fields in enumerate(names)
            ),
            return_exceptions=True,
        )
        winners = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        assert len(winners) == 1
        losers = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(isinstance(loser, Refused) and loser.reason is Reason.FILE_EXISTS for loser in losers)
        assert (sandbox.root / str(round_)).read_bytes() == bytes(winners)
    assert not sandbox.leftovers()


@pytest.mark.parametrize("case", read(Conditions).conditions, ids=named)
async def test_vectors(agent: FileAgent, sandbox: Sandbox, case: ConditionCase) -> None:
    """CND-1, CND-2, CND-7, DIG-14: a destination that does not change meanwhile; StartUpload says the same (RSM-12)."""
    path = sandbox.root / "file"
    match case.there.kind:
        case "file":
            path.write_bytes(content_of(case.there.content))
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("dangling")
        case "nothing":
            pass
    wanted = await condition_of(case.condition, agent)
    if case.published:
        assert (await start_upload(agent, "/file", condition=wanted, request_id="r")).upload_id
        await put(agent, "/file", b"new", condition=wanted)
        assert path.read_bytes() == b"new"
        return
    for attempt in (
        start_upload(agent, "/file", condition=wanted),
        put(agent, "/file", b"new", condition=wanted),
    ):
        error = await refusal(attempt)
        assert (error.reason.name, error.fields) == (case.reason, [case.field] if case.field else [])
    assert not sandbox.leftovers()


async def condition_of(value: ConditionValue, agent: FileAgent) -> files_pb2.UploadCondition:
    """Return the message that a vector describes."""
    if value.encoded is not None:
        return condition().FromString(bytes.fromhex(value.encoded))
    if value.digest is not None:
        return condition(digest=digest_message(value.digest))
    if value.version is not None:
        current = (await stat(agent, "/file")).version if value.version == "current" else value.version
        return condition(version=current)
    return condition(absent=Empty()) if value.absent else condition(present=Empty())


async def test_digest_and_version(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-2: compare and swap; the loser learns the version that is there."""
    _file(sandbox.root / "file")
    version = (await stat(agent, "/file")).version
    matching = [condition(version=version), condition(digest=digest_of(OLD))]
    other = [condition(version="another"), condition(digest=OTHER)]
    for wanted in other:
        error = await refusal(put(agent, "/file", b"new", condition=wanted))
        assert error.reason is Reason.CONDITION_FAILED
        assert error.metadata == {"version": version}
    for wanted in matching:
        _file(sandbox.root / "file")
        if wanted.version:
            wanted.version = (await stat(agent, "/file")).version
        await put(agent, "/file", b"new", condition=wanted)
        assert (await refusal(put(agent, "/file", b"x", condition=wanted))).reason is Reason.CONDITION_FAILED
    assert (sandbox.root / "file").read_bytes() == b"new"


async def test_compared_again_before_publishing(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-5, RSM-34: a change during the upload is noticed; the refused finish frees."""
    path = sandbox.root / "file"
    for wanted in (condition(digest=digest_of(OLD)), condition(present=Empty())):
        _file(path)
        sandbox.on_trace["upload.flushed"] = path.unlink
        error = await refusal(put(agent, "/file", b"new", condition=wanted, request_id=str(wanted)[:20]))
        assert error.reason is Reason.CONDITION_FAILED
        assert not path.exists()
    assert not sandbox.leftovers()


async def test_concurrent_swaps_have_one_winner(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-6: exact against other callers of the agent."""
    _file(sandbox.root / "file")
    for _ in range(20):
        version = (await stat(agent, "/file")).version
        outcomes = await asyncio.gather(
            *(put(agent, "/file", os.urandom(8), condition=condition(version=version)) for _ in range(4)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, files_pb2.UploadFileResponse) for outcome in outcomes) == 1


async def test_condition_at_start(agent: FileAgent, sandbox: Sandbox) -> None:
    """CND-1, CND-2, RSM-12: refused before any byte, by StartUpload too."""
    _file(sandbox.root / "file")
    error = await refusal(start_upload(agent, "/file", condition=condition(absent=Empty()), request_id="r"))
    assert error.reason is Reason.FILE_EXISTS
    assert (await get_upload(agent, request_id="r")).state == UNKNOWN


async def test_the_destination_became_a_directory(agent: FileAgent, sandbox: Sandbox) -> None:
    """PTH-4: seen at the finish; what was staged is freed."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", request_id="r")))
        await peer.accepted()
        (sandbox.root / "file").mkdir()
        await peer.chunk(b"x")
        await peer.finish(b"x")
        assert (await peer.error()).reason is Reason.IS_A_DIRECTORY
    assert not sandbox.leftovers()
    assert (await get_upload(agent, request_id="r")).failure_reason == "IS_A_DIRECTORY"


async def test_a_destination_that_changes_after_it_was_compared(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CND-5: comparing a digest takes time; what another put there meanwhile is compared, too."""
    path = sandbox.root / "file"
    path.write_bytes(OLD)
    inode = path.stat().st_ino
    close, changed = sandbox.fs.close, list[bool]()

    def change(fd: int) -> None:
        was_read = not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH
        compared = was_read and os.fstat(fd).st_ino == inode and "upload.flushed" in sandbox.traced
        close(fd)
        if compared and not changed:
            changed.append(True)
            path.write_bytes(b"another's")

    monkeypatch.setattr(sandbox.fs, "close", change)
    wanted = condition(digest=digest_of(OLD))
    error = await refusal(put(agent, "/file", b"new", condition=wanted))
    assert changed
    assert error.reason is Reason.CONDITION_FAILED
    assert path.read_bytes() == b"another's"


async def test_a_mode_that_changes_while_the_file_is_flushed(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-46: the mode is that of the file which is replaced, and not of one that was there before."""
    path = sandbox.root / "file"
    path.write_bytes(OLD)
    path.chmod(0o644)
    sandbox.on_trace["upload.flushed"] = lambda: path.chmod(0o600)
    answer = await put(agent, "/file", b"new")
    assert answer.file.mode == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
