"""A program of the sandbox changes the staging file while it is published: the answer's digest is of what was."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from agent.agent_harness import Refused, Sandbox, get_upload, put
from digest_values import digest_of
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

CONTENT: Final = b"what the caller sent"
OTHER: Final = b"what the sandbox put"
assert len(CONTENT) == len(OTHER)

Meddle = Callable[[str], None]


def write(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, OTHER, 0)
    finally:
        os.close(descriptor)


def write_and_set_the_time_back(path: str) -> None:
    before = os.stat(path)
    while os.stat(path).st_ctime_ns == before.st_ctime_ns:
        # As long as the kernel's clock stands, nobody could tell.
        write(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_to_memory(path: str) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = OTHER


def append(path: str) -> None:
    with open(path, "ab") as file:
        file.write(OTHER)


def shorten(path: str) -> None:
    os.truncate(path, 1)


def touch(path: str) -> None:
    os.utime(path)


def set_mode(path: str) -> None:
    os.chmod(path, 0o604)


def write_the_same(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(CONTENT)


#: What each does to the content, as the finish answers it.
DAMAGES: Final = {
    write: Reason.DIGEST_MISMATCH,
    write_and_set_the_time_back: Reason.DIGEST_MISMATCH,
    write_to_memory: Reason.DIGEST_MISMATCH,
    append: Reason.SIZE_MISMATCH,
    shorten: Reason.SIZE_MISMATCH,
}
HARMLESS: Final = [touch, set_mode, write_the_same]


def named(value: Any) -> str | None:
    return value.__name__ if callable(value) else None


class Meddler:
    """Does something to the staging file at one moment of its publishing, once."""

    def __init__(self, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sandbox = sandbox
        self._patch = monkeypatch
        self._fds: list[int] = []
        self.done = 0
        self._note_descriptors()

    def _note_descriptors(self) -> None:
        flush = self._sandbox.fs.fsync

        def noted(fd: int) -> None:
            self._fds.append(fd)
            flush(fd)

        self._patch.setattr(self._sandbox.fs, "fsync", noted)

    def _once(self, meddle: Meddle) -> None:
        if not self.done:
            self.done += 1
            # The first that is flushed is the staging file; its descriptor leads there also without a name.
            meddle(f"/proc/self/fd/{self._fds[0]}")

    def after_the_flush(self, meddle: Meddle) -> None:
        self._sandbox.on_trace["upload.flushed"] = lambda: self._once(meddle)

    def after_the_verification(self, meddle: Meddle) -> None:
        self._around("pread", meddle, after=True)

    def before_the_rename(self, meddle: Meddle) -> None:
        for call in ("rename", "link_descriptor"):
            self._around(call, meddle, after=False)

    def after_the_rename(self, meddle: Meddle) -> None:
        for call in ("rename", "link_descriptor"):
            self._around(call, meddle, after=True)

    def _around(self, call: str, meddle: Meddle, *, after: bool) -> None:
        carry_out = getattr(self._sandbox.fs, call)

        def meddled(*arguments: Any) -> Any:
            if not after:
                self._once(meddle)
            answer = carry_out(*arguments)
            if after:
                self._once(meddle)
            return answer

        self._patch.setattr(self._sandbox.fs, call, meddled)


@pytest.fixture
def meddler(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Meddler:
    return Meddler(sandbox, monkeypatch)


@pytest.fixture(params=["named", "nameless"])
def how(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what makes the staging file one with a name, or without."""
    return {"request_id": "r"} if request.param == "named" else {}


def is_of(path: Path, info: files_pb2.FileInfo) -> bool:
    return info.digest == digest_of(path.read_bytes())


@pytest.mark.parametrize(
    ("moment", "meddle", "reason"),
    [
        (moment, meddle, reason)
        for moment in (Meddler.after_the_flush, Meddler.after_the_verification)
        for meddle, reason in DAMAGES.items()
        # A file system in memory gives no new time to what is written to memory.
        if meddle is not write_to_memory or moment is Meddler.after_the_flush
    ],
    ids=named,
)
async def test_a_change_before_the_rename(
    agent: FileAgent,
    sandbox: Sandbox,
    meddler: Meddler,
    how: dict[str, Any],
    moment: Callable[[Meddler, Meddle], None],
    meddle: Meddle,
    reason: Reason,
) -> None:
    """UPL-37, UPL-8: nothing is published, and the old file stays."""
    (sandbox.root / "file").write_bytes(b"old")
    moment(meddler, meddle)
    with pytest.raises(Refused) as refused:
        await put(agent, "/file", CONTENT, **how)
    assert meddler.done
    assert refused.value.reason is reason
    assert (sandbox.root / "file").read_bytes() == b"old"
    assert not sandbox.leftovers()


@pytest.mark.parametrize("moment", [Meddler.after_the_flush, Meddler.after_the_verification], ids=named)
@pytest.mark.parametrize("meddle", HARMLESS, ids=named)
async def test_a_change_that_leaves_the_content(
    agent: FileAgent,
    sandbox: Sandbox,
    meddler: Meddler,
    how: dict[str, Any],
    moment: Callable[[Meddler, Meddle], None],
    meddle: Meddle,
) -> None:
    """UPL-38, UPL-9, UPL-10, UPL-48: what counts is the content; mode and time are those that were asked for."""
    moment(meddler, meddle)
    answer = await put(agent, "/file", CONTENT, mode=0o640, **how)
    assert meddler.done
    assert is_of(sandbox.root / "file", answer.file)
    if moment is Meddler.after_the_verification:
        assert answer.file.mode == 0o640
    assert answer.durability == files_pb2.DURABILITY_FSYNC


@pytest.mark.parametrize("moment", [Meddler.before_the_rename, Meddler.after_the_rename], ids=named)
@pytest.mark.parametrize("meddle", [write, append, shorten], ids=named)
async def test_a_change_in_the_moment_of_the_rename(
    agent: FileAgent,
    sandbox: Sandbox,
    meddler: Meddler,
    how: dict[str, Any],
    moment: Callable[[Meddler, Meddle], None],
    meddle: Meddle,
) -> None:
    """UPL-43: it is published, and the answer claims no digest of it, now or later."""
    moment(meddler, meddle)
    answer = await put(agent, "/file", CONTENT, **how)
    assert meddler.done
    assert (sandbox.root / "file").read_bytes() != CONTENT
    assert answer.file.path == "/file"
    assert not answer.file.HasField("digest")
    if how:
        status = await get_upload(agent, request_id="r")
        assert status.state == files_pb2.UPLOAD_STATE_PUBLISHED
        assert not status.result.file.HasField("digest")


@pytest.mark.parametrize("moment", [Meddler.after_the_verification, Meddler.before_the_rename], ids=named)
async def test_another_file_in_the_place_of_the_staging_file(
    agent: FileAgent, sandbox: Sandbox, meddler: Meddler, moment: Callable[[Meddler, Meddle], None]
) -> None:
    """UPL-37, UPL-43: it is refused, or no digest is claimed of it."""

    def swap(_path: str) -> None:
        (name,) = sandbox.leftovers()
        (sandbox.root / "mine").write_bytes(OTHER)
        (sandbox.root / "mine").rename(sandbox.root / name)

    moment(meddler, swap)
    if moment is Meddler.after_the_verification:
        with pytest.raises(Refused) as refused:
            await put(agent, "/file", CONTENT, request_id="r")
        assert refused.value.reason is Reason.UPLOAD_UNKNOWN
        assert not (sandbox.root / "file").exists()
    else:
        answer = await put(agent, "/file", CONTENT, request_id="r")
        assert not answer.file.HasField("digest")
    assert meddler.done


async def test_a_file_that_is_touched_all_the_time(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UPL-39: the agent gives up, and frees what was staged."""
    read = sandbox.fs.pread

    def touched(fd: int, size: int, offset: int) -> bytes:
        data = read(fd, size, offset)
        os.utime(fd)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(sandbox.fs, "pread", touched)
        with pytest.raises(Refused) as refused:
            await put(agent, "/file", CONTENT, request_id="r")
    assert refused.value.reason is Reason.CONDITION_FAILED
    assert not (sandbox.root / "file").exists()
    assert not sandbox.leftovers()


async def test_a_version_in_the_answer_is_of_what_was_published(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-42: not of what a program made of it while the directory was flushed."""
    sandbox.on_trace["upload.renamed"] = lambda: write(str(sandbox.root / "file"))
    answer = await put(agent, "/file", CONTENT)
    assert answer.file.HasField("digest")
    with pytest.raises(Refused) as refused:
        await put(agent, "/file", CONTENT, condition=files_pb2.UploadCondition(version=answer.file.version))
    assert refused.value.reason is Reason.CONDITION_FAILED


def test_a_time_that_no_later_write_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UPL-38: it lies before what the kernel's clock says, which stands still for a while, and not far before."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    now = time.time_ns()

    def standing(_clock: int) -> int:
        return now

    monkeypatch.setattr(time, "clock_gettime_ns", standing)
    fd = os.open(path, os.O_RDWR)
    try:
        FileSystem().set_modified(fd, None)
        assert now - 1_000_000 < os.fstat(fd).st_mtime_ns < now
    finally:
        os.close(fd)


def test_a_write_is_seen_however_soon_it_comes(tmp_path: Path) -> None:
    """UPL-38: with the kernel's own clock."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR)
    try:
        for _ in range(100):
            FileSystem().set_modified(fd, None)
            before = os.fstat(fd)
            os.pwrite(fd, OTHER, 0)
            assert os.fstat(fd).st_mtime_ns > before.st_mtime_ns
    finally:
        os.close(fd)
