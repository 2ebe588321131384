"""Numbers of the kernel that no message or journal can hold as they are: times, sizes, inode numbers."""

from __future__ import annotations

import math
import os
import stat as stat_module
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    StrictFileSystem,
    abort_upload,
    get,
    get_upload,
    put,
    start_upload,
    stat,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core import wire_numbers
from openshell_supervisor_sim.agent.filesystem.file_info import describe, version

INT64 = 1 << 63
SECOND = 10**9
YEAR_10000 = 253_402_300_800 * SECOND
YEAR_1 = -62_135_596_800 * SECOND

#: Nanoseconds since 1970 on both sides of every edge.
TIMES = [
    0,
    -1,
    999_999_999,
    -INT64,
    -INT64 - 1,
    INT64 - 1,
    INT64,
    YEAR_1,
    YEAR_1 - 1,
    YEAR_10000 - 1,
    YEAR_10000,
    (INT64 - 1) * SECOND + 999_999_999,
    -INT64 * SECOND,
]


class OddFileSystem(StrictFileSystem):
    """Says what is wanted of every regular file."""

    def __init__(self, **odd: int) -> None:
        super().__init__()
        self.odd = odd

    def fstat(self, fd: int) -> os.stat_result:
        return self._odd(os.fstat(fd))

    def lstat(self, name: bytes, dir_fd: int) -> os.stat_result | None:
        found = FileSystem.lstat(self, name, dir_fd)
        return None if found is None else self._odd(found)

    def _odd(self, found: os.stat_result) -> os.stat_result:
        return odd_stat(found, **self.odd) if stat_module.S_ISREG(found.st_mode) else found


def odd_stat(found: os.stat_result, **odd: int) -> os.stat_result:
    """Return a description with other numbers."""

    def number(name: str) -> int:
        return odd[name] if name in odd else int(getattr(found, name))

    names = ("st_mode", "st_ino", "st_dev", "st_nlink", "st_uid", "st_gid", "st_size")
    times = ("st_atime", "st_mtime", "st_ctime")
    extra: dict[str, float] = {f"{name}_ns": number(f"{name}_ns") for name in times}
    extra |= {name: number(f"{name}_ns") / SECOND for name in times}
    extra["st_blocks"] = number("st_blocks")
    return os.stat_result([*map(number, names), 0, 0, 0], extra)


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * SECOND + time.nanos


@pytest.mark.parametrize("field", ["st_mtime_ns", "st_ctime_ns"])
@pytest.mark.parametrize("time", TIMES)
async def test_any_time_of_a_file(sandbox: Sandbox, field: str, time: int) -> None:
    """UPL-50, DWN-1: uploaded, described and downloaded, with the nearest time that a message holds."""
    sandbox.fs = OddFileSystem(**{field: time})
    agent = sandbox.agent()
    await agent.start()
    try:
        answer = await put(agent, "/a", b"content", request_id="r")
        assert (await get_upload(agent, request_id="r")).state == files_pb2.UPLOAD_STATE_PUBLISHED
        assert (await put(agent, "/a", b"content", request_id="r")).replayed
        looked = await stat(agent, "/a", include_digest=True)
        got = await get(agent, "/a", if_version=looked.version)
        assert got.content == b"content"
        assert len({answer.file.version, looked.version, got.header.file.version}) == 1
        if field == "st_mtime_ns":
            expected = min(max(time, YEAR_1), YEAR_10000 - 1)
            assert _nanoseconds(looked.modified_time) == expected
    finally:
        await agent.aclose()


@pytest.mark.parametrize(
    "odd",
    [
        {"st_ino": (1 << 64) - 1, "st_dev": (1 << 64) - 1},
        {"st_ino": 1 << 63},
        {"st_blocks": 1 << 62},
        {"st_blocks": -1},
    ],
    ids=str,
)
async def test_any_number_of_a_file(sandbox: Sandbox, odd: dict[str, int]) -> None:
    """UPL-42, RSM-3: also in the journal, and a start-up compares inode numbers of 64 bits."""
    sandbox.fs = OddFileSystem(**odd)
    agent = sandbox.agent()
    await agent.start()
    try:
        await put(agent, "/a", b"content", request_id="r")
        assert (await stat(agent, "/a")).size_bytes == 7
        assert (await get(agent, "/a")).content == b"content"
    finally:
        await agent.aclose()
    again = sandbox.agent()
    await again.start()
    try:
        assert (await get_upload(again, request_id="r")).state == files_pb2.UPLOAD_STATE_PUBLISHED
    finally:
        await again.aclose()


def test_a_version_is_of_all_numbers(tmp_path: Path) -> None:
    """CND-2: whatever numbers differ, the versions differ, also beyond 64 bits of nanoseconds."""
    tmp_path.joinpath("f").write_bytes(b"")
    found = tmp_path.joinpath("f").stat()
    kinds: list[dict[str, int]] = [{"st_mtime_ns": time} for time in TIMES]
    kinds += [{"st_ctime_ns": time} for time in TIMES]
    kinds += [{"st_mtime_ns": INT64 * 2}, {"st_ino": 1 << 63}, {"st_dev": 1 << 63}, {"st_size": INT64 - 1}]
    assert len({version(odd_stat(found, **kind)) for kind in kinds}) == len(kinds)
    assert describe(odd_stat(found, st_size=-1), "/f").size_bytes == 0


@pytest.fixture
def roomy(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox on a file system that keeps every time, where the machine has one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None, prefix="sandbox-") as root:
        sandbox.root = Path(root)
        sandbox.settings = replace(sandbox.settings, root=sandbox.root)
        yield sandbox


@pytest.mark.parametrize("seconds", [-INT64, -1, 1 << 40, INT64 - 1])
async def test_real_files_of_any_time(roomy: Sandbox, seconds: int) -> None:
    """DWN-1, UPL-50: what a command did with `touch`; the upload replaces such a file."""
    agent = roomy.agent()
    await agent.start()
    try:
        path = roomy.root / "a"
        path.write_bytes(b"old")
        os.utime(path, ns=(0, seconds * SECOND))
        looked = await stat(agent, "/a")
        assert (await get(agent, "/a", if_version=looked.version)).content == b"old"
        condition = files_pb2.UploadCondition(version=looked.version)
        await put(agent, "/a", b"new", condition=condition)
        assert path.read_bytes() == b"new"
    finally:
        await agent.aclose()


def _timestamp(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=seconds, nanos=nanos)


@pytest.mark.parametrize(
    "time",
    [
        _timestamp(YEAR_10000 // SECOND),
        _timestamp(YEAR_1 // SECOND - 1),
        _timestamp(INT64 - 1),
        _timestamp(-INT64),
        _timestamp(0, -1),
        _timestamp(0, SECOND),
        _timestamp(0, -(1 << 31)),
    ],
    ids=lambda time: f"{time.seconds}:{time.nanos}",
)
async def test_times_that_are_none(agent: FileAgent, sandbox: Sandbox, time: Timestamp) -> None:
    """UPL-49: refused with the field, and nothing is staged."""
    for operation in (
        put(agent, "/a", b"x", modified_time=time),
        start_upload(agent, "/a", modified_time=time),
    ):
        with pytest.raises(Refused) as refused:
            await operation
        assert refused.value.reason is Reason.INVALID_REQUEST
        assert refused.value.fields == ["metadata.modified_time"]
    assert not list(sandbox.root.iterdir())


class ShortTimes(StrictFileSystem):
    """A file system whose times end in 2106, as many do."""

    def set_modified(self, fd: int, modified_ns: int | None) -> None:
        kept = None if modified_ns is None else min(max(modified_ns, 0), (1 << 32) * SECOND)
        FileSystem.set_modified(self, fd, kept)


@pytest.mark.parametrize("fields", [{}, {"request_id": "r"}], ids=["transient", "named"])
async def test_times_that_the_file_system_does_not_keep(sandbox: Sandbox, fields: dict[str, Any]) -> None:
    """UPL-49, RSM-9: refused before anything is staged; a file that is there already keeps its own time."""
    sandbox.fs = ShortTimes()
    agent = sandbox.agent()
    await agent.start()
    try:
        there = await put(agent, "/there", b"content", modified_time=_timestamp(1_000_000_000))
        before = (sandbox.root / "there").stat().st_mtime_ns
        for seconds in (-10, 1 << 33):
            wanted = _timestamp(seconds)
            with pytest.raises(Refused) as refused:
                await put(agent, "/a", b"x", modified_time=wanted, **fields)
            assert refused.value.fields == ["metadata.modified_time"]
            with pytest.raises(Refused) as refused:
                await start_upload(agent, "/there", digest=there.file.digest, modified_time=wanted, **fields)
            assert refused.value.fields == ["metadata.modified_time"]
        assert [path.name for path in sandbox.root.iterdir()] == ["there"]
        assert (sandbox.root / "there").stat().st_mtime_ns == before
        assert agent.statistics().unfinished_uploads == 0
        kept = await put(agent, "/a", b"x", modified_time=_timestamp((1 << 32) - 1), **fields)
        assert kept.file.modified_time.seconds == (1 << 32) - 1
        (sandbox.root / "a").unlink()
        resumable = await start_upload(agent, "/a", modified_time=_timestamp(1 << 31))
        await abort_upload(agent, resumable.upload_id)
    finally:
        await agent.aclose()


async def test_a_time_that_cannot_be_tried(sandbox: Sandbox) -> None:
    """UPL-49: a file system that knows no times at all says so, and nothing is left."""
    agent = sandbox.agent()
    await agent.start()
    try:
        for code, reason in (
            (22, Reason.INVALID_REQUEST),
            (75, Reason.INVALID_REQUEST),
            (5, Reason.IO_ERROR),
        ):
            sandbox.fs.fail("set_modified", code)
            with pytest.raises(Refused) as refused:
                await put(agent, "/a", b"x", modified_time=_timestamp(-1))
            assert refused.value.reason is reason
        assert not list(sandbox.root.iterdir())
    finally:
        sandbox.fs.fail("set_modified")
        await agent.aclose()


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e30, -1e30, math.inf, -math.inf, math.nan])
def test_clocks_and_settings(seconds: float) -> None:
    """RSM-8: whatever a clock or a setting says, the message can be made."""
    time, duration = Timestamp(), Duration()
    wire_numbers.set_clock_time(time, seconds)
    wire_numbers.set_duration(duration, abs(seconds))
    time.ToNanoseconds()
    duration.ToNanoseconds()
