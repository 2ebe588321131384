"""Every system call of an upload fails once, with everything that it can fail with.

Whatever fails, and in whatever step: the call ends, the error that is shown is the one that was first, the
destination is the old file or the new one, what the agent says is what is on the disk, the slot is free, and
the upload can be gone on with or begun anew.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    abort_upload,
    get_upload,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
)
from agent.failing_calls import FailingFileSystem, Failure, failing_journal
from digest_values import OTHER, digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

OLD, NEW = b"old content", b"new"
PUBLISHED, RECEIVING = files_pb2.UPLOAD_STATE_PUBLISHED, files_pb2.UPLOAD_STATE_RECEIVING
VERIFYING = files_pb2.UPLOAD_STATE_VERIFYING

#: One for each class of the table in errno_reasons, and one that is in none.
FEW = [errno.EIO, errno.ENOSPC, errno.EACCES]
ALL = [
    *FEW,
    errno.EDQUOT,
    errno.EROFS,
    errno.EMFILE,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.EEXIST,
    errno.EFBIG,
    errno.EINVAL,
    errno.EPERM,
    errno.ESTALE,
    errno.ENOTEMPTY,
]

#: Reasons that say more about a failed call than its errno does.
TELLING = {Reason.UPLOAD_UNKNOWN, Reason.PARENT_NOT_FOUND, Reason.FILE_EXISTS}


@dataclass(frozen=True)
class Scenario:
    """Something a caller does, and whether a destination was there before."""

    work: Callable[[FileAgent], Awaitable[object]]
    old: bool = True
    path: str = "file"
    named: bool = True
    #: How it ends if nothing fails.
    reason: Reason | None = None


async def small(agent: FileAgent) -> None:
    await put(agent, "/file", NEW)


async def named(agent: FileAgent) -> None:
    await put(agent, "/file", NEW, request_id="r")


async def if_absent(agent: FileAgent) -> None:
    await put(agent, "/file", NEW, request_id="r", condition=files_pb2.UploadCondition(absent=Empty()))


async def if_digest(agent: FileAgent) -> None:
    condition = files_pb2.UploadCondition(digest=digest_of(OLD))
    await put(agent, "/file", NEW, request_id="r", condition=condition)


async def with_parents(agent: FileAgent) -> None:
    await put(agent, "/a/b/file", NEW, request_id="r", parents=files_pb2.PARENT_POLICY_CREATE)


async def in_two_streams(agent: FileAgent) -> None:
    upload = await start_upload(agent, "/file", len(NEW), request_id="r")
    names: dict[str, Any] = {"upload_id": upload.upload_id, "request_id": "r"}
    if not upload.staged_bytes:
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/file", len(NEW), epoch=upload.epoch, **names)))
            await peer.accepted()
            await peer.data(0, NEW[:1])
            peer.to_agent.end()
            error = await peer.error()
            if error.reason is not Reason.UPLOAD_INCOMPLETE:
                raise error
    again = await start_upload(agent, "/file", len(NEW), **names)
    await put(agent, "/file", NEW, skip=again.staged_bytes, epoch=again.epoch, **names)


async def refused(agent: FileAgent) -> None:
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", len(NEW), request_id="r")))
        await peer.accepted()
        await peer.data(0, NEW)
        await peer.finish(size=len(NEW), digest=OTHER)
        await peer.answer()


async def wrong_chunk(agent: FileAgent) -> None:
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", len(NEW))))
        await peer.accepted()
        await peer.data(0, NEW, crc=1)
        await peer.answer()


async def given_up(agent: FileAgent) -> None:
    upload = await start_upload(agent, "/file", len(NEW), request_id="r")
    await abort_upload(agent, upload.upload_id)
    raise Refused(file_relay_pb2.FileRelayError(reason=Reason.UPLOAD_ABORTED.name))


SCENARIOS = {
    "small": Scenario(small, named=False),
    "small and new": Scenario(small, old=False, named=False),
    "named": Scenario(named),
    "if absent": Scenario(if_absent, old=False),
    "if digest": Scenario(if_digest),
    "with parents": Scenario(with_parents, old=False, path="a/b/file"),
    "in two streams": Scenario(in_two_streams),
    "refused": Scenario(refused, reason=Reason.DIGEST_MISMATCH),
    "wrong chunk": Scenario(wrong_chunk, named=False, reason=Reason.CHUNK_CHECKSUM),
    "given up": Scenario(given_up, reason=Reason.UPLOAD_ABORTED),
}


class Stage:
    """A sandbox whose agents are started one after the other, each on an empty root."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.failure = Failure()
        self._number = 0

    @asynccontextmanager
    async def agent(self, scenario: Scenario, fs: FailingFileSystem) -> AsyncGenerator[FileAgent]:
        self._number += 1
        root = self.sandbox.root / str(self._number)
        root.mkdir()
        if scenario.old:
            (root / scenario.path).write_bytes(OLD)
        settings = replace(
            self.sandbox.settings,
            root=root,
            state_dir=self.sandbox.settings.state_dir / str(self._number),
            disk_threads=2,
        )
        agent = FileAgent(settings, filesystem=fs, clock=lambda: self.sandbox.now[0])
        self.root = root
        await agent.start()
        try:
            yield agent
        finally:
            self.failure.disarm()
            await agent.aclose()

    def content(self, scenario: Scenario) -> bytes | None:
        path = self.root / scenario.path
        return path.read_bytes() if path.exists() else None

    def leftovers(self) -> list[str]:
        return [path.name for path in self.root.rglob(".openshell-upload-*")]

    async def calls(self, scenario: Scenario) -> list[str]:
        """Return the calls that it makes if nothing fails."""
        async with self.agent(scenario, FailingFileSystem(self.failure, 0)) as agent:
            self.failure.arm()
            await outcome(scenario.work(agent))
            return self.failure.seen

    async def judge(self, scenario: Scenario, agent: FileAgent, error: Refused | None) -> None:
        """See that what the agent says is what is on the disk, and that nothing is stuck."""
        self.failure.disarm()
        before = OLD if scenario.old else None
        content = self.content(scenario)
        assert content == (NEW if error is None and scenario.reason is None else before)
        if error is not None:
            assert error.reason is not Reason.INTERNAL, error
        await agent.sweep()
        statistics = agent.statistics()
        if not scenario.named:
            assert (statistics.unfinished_uploads, statistics.staged_bytes) == (0, 0)
            assert not self.leftovers()
            return
        status = await get_upload(agent, request_id="r")
        assert status.state != VERIFYING
        assert (status.state == PUBLISHED) is (content == NEW)
        assert statistics.unfinished_uploads == (status.state == RECEIVING)
        assert len(self.leftovers()) == (status.state == RECEIVING)
        if status.state != RECEIVING:
            assert statistics.staged_bytes == 0
        elif scenario.reason is None:
            await scenario.work(agent)
            assert self.content(scenario) == NEW
            assert not self.leftovers()


async def outcome(work: Awaitable[object]) -> Refused | None:
    try:
        await work
    except Refused as error:
        return error
    return None


@pytest.fixture
def stage(sandbox: Sandbox) -> Stage:
    return Stage(sandbox)


async def sweep(stage: Stage, scenario: Scenario, codes: list[int], *, sticky: bool, every: int = 1) -> None:
    """Fail each call with each error, or with one in `every` of them, by turns."""
    calls = await stage.calls(scenario)
    for code in codes:
        for at in range(len(calls)):
            if (at + codes.index(code)) % every:
                continue
            case = f"{errno.errorcode[code]} at {at}, {calls[at]} of {calls}"
            async with stage.agent(scenario, FailingFileSystem(stage.failure, code)) as agent:
                stage.failure.arm(at, sticky=sticky)
                error = await outcome(scenario.work(agent))
                try:
                    assert (
                        error is None
                        or error.reason in {scenario.reason, *TELLING}
                        or (error.metadata.get("errno") == errno.errorcode[code])
                    ), f"{error}, which is not what failed"
                    await stage.judge(scenario, agent, error)
                except (AssertionError, Refused) as wrong:
                    raise AssertionError(f"{error}, {wrong}: {case}") from wrong


every_scenario = pytest.mark.parametrize("name", SCENARIOS)


@every_scenario
async def test_a_call_that_fails(stage: Stage, name: str) -> None:
    """UPL-8, RSM-7, RSM-8, RSM-10: once, and not again."""
    await sweep(stage, SCENARIOS[name], FEW, sticky=False, every=len(FEW))


@every_scenario
async def test_a_call_that_fails_from_then_on(stage: Stage, name: str) -> None:
    """UPL-8, RSM-7, RSM-8, RSM-10: as on a file system that became read-only, or a directory that lost its permission."""
    await sweep(stage, SCENARIOS[name], [errno.EACCES, errno.EIO], sticky=True, every=2)


@pytest.mark.long
@every_scenario
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
async def test_every_call_with_every_error(stage: Stage, name: str, sticky: bool) -> None:  # noqa: FBT001
    """UPL-8, RSM-7, RSM-8, RSM-10"""
    await sweep(stage, SCENARIOS[name], ALL, sticky=sticky)


@every_scenario
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("reason", [Reason.DISK_FULL, Reason.IO_ERROR])
async def test_a_journal_that_fails(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sticky: bool,  # noqa: FBT001
    reason: Reason,
) -> None:
    """RSM-3, RSM-7: what cannot be recorded is not begun; what was done is not denied."""
    scenario = SCENARIOS[name]
    journal = Failure()
    monkeypatch.setattr("openshell_supervisor_sim.agent.file_agent.Journal", failing_journal(journal, reason))
    async with stage.agent(scenario, FailingFileSystem(stage.failure, 0)) as agent:
        journal.arm()
        await outcome(scenario.work(agent))
        calls = journal.seen
    for at in range(len(calls)):
        async with stage.agent(scenario, FailingFileSystem(stage.failure, 0)) as agent:
            journal.arm(at, sticky=sticky)
            error = await outcome(scenario.work(agent))
            journal.disarm()
            try:
                assert error is None or error.reason in {scenario.reason, reason, *TELLING}
                await stage.judge(scenario, agent, error)
            except (AssertionError, Refused) as wrong:
                raise AssertionError(f"{at}, {calls[at]} of {calls}: {wrong}") from wrong


@every_scenario
async def test_a_call_that_fails_and_has_its_effect(stage: Stage, name: str) -> None:
    """UPL-8, RSM-7: published is published, whatever the rename answered."""
    scenario = SCENARIOS[name]
    calls = await stage.calls(scenario)
    for at, call in enumerate(calls):
        if call not in {"rename", "rename_noreplace", "link_descriptor", "unlink", "fsync", "fdatasync"}:
            continue
        fs = FailingFileSystem(stage.failure, errno.EIO, performed=True)
        async with stage.agent(scenario, fs) as agent:
            stage.failure.arm(at)
            error = await outcome(scenario.work(agent))
            try:
                await stage.judge(scenario, agent, error)
            except (AssertionError, Refused) as wrong:
                raise AssertionError(f"{at}, {call} of {calls}: {wrong}") from wrong
