"""What an upload promises while it lives, and what a start-up makes of it: the cases that once went wrong."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    UNKNOWN,
    Refused,
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
    put,
    start_upload,
    until,
)
from digest_values import OTHER, digest_of
from openshell_files_protocol.chunks import Chunk
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.requests import upload_request
from openshell_supervisor_sim.agent.core.upload import Finish, Publish, Refuse, UploadCore, UploadTerms
from openshell_supervisor_sim.agent.core.upload_life import (
    OF_THE_HOLDER,
    TRANSITIONS,
    Event,
    State,
    UploadLife,
)
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord

RECEIVING, VERIFYING = files_pb2.UPLOAD_STATE_RECEIVING, files_pb2.UPLOAD_STATE_VERIFYING
PUBLISHED = files_pb2.UPLOAD_STATE_PUBLISHED
NEW = b"new content"


@pytest.mark.parametrize("of_holder", [True, False])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_an_end_is_an_end(state: State, event: Event, *, of_holder: bool) -> None:
    """RSM-7: nothing leads out of PUBLISHED, ABORTED, EXPIRED or LOST, and an event without a rule changes nothing."""
    life = UploadLife(state)
    taken = life.take(event, of_holder=of_holder)
    assert taken is ((state, event) in TRANSITIONS and (of_holder or event not in OF_THE_HOLDER))
    assert life.state is (TRANSITIONS[state, event] if taken else state)
    if not state.unfinished:
        assert not taken


# What was flushed


async def test_a_flush_counts_for_its_content_only(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-4: a stream that restarts the upload while another one's bytes are flushed; they are gone, and not durable."""
    flushing, go_on = threading.Event(), threading.Event()
    real = sandbox.fs.fdatasync

    def slow(fd: int) -> None:
        real(fd)
        flushing.set()
        go_on.wait()

    sandbox.fs.__dict__["fdatasync"] = slow
    async with peer_of(agent) as first, peer_of(agent) as second:
        await first.send(opened(upload=metadata("/file", 2000, request_id="r")))
        await first.data(0, bytes(1000))
        first.to_agent.end()
        await until(flushing.is_set)
        await second.send(opened(upload=metadata("/file", 2000, request_id="r")))
        await second.accepted()
        go_on.set()
        await first.error()
        status = await get_upload(agent, request_id="r")
        assert (status.staged_bytes, status.durable_bytes) == (0, 0)
        await second.data(0, bytes(500))
        second.to_agent.end()
        await second.error()
    status = await get_upload(agent, request_id="r")
    assert (status.staged_bytes, status.durable_bytes) == (500, 500)


@pytest.mark.parametrize("plan", [[0], [1], [2]], ids=["first directory", "second", "the destination's own"])
async def test_a_directory_on_the_way_that_cannot_be_flushed(
    agent: FileAgent, sandbox: Sandbox, plan: list[int]
) -> None:
    """UPL-40: FSYNC is said only if each directory that was made is flushed, now or at the finish."""
    real, failed = sandbox.fs.fsync, list[int]()

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        depth = path.removeprefix(str(sandbox.root)).count("/") if os.path.isdir(path) else -1
        if depth == plan[0]:
            failed.append(depth)
            raise OSError(5, "it was told to fail")
        real(fd)

    sandbox.fs.__dict__["fsync"] = fsync
    answer = await put(agent, "/a/b/file", NEW, parents=files_pb2.PARENT_POLICY_CREATE)
    assert failed
    assert answer.durability == files_pb2.DURABILITY_RENAME
    assert (sandbox.root / "a/b/file").read_bytes() == NEW
    del sandbox.fs.__dict__["fsync"]
    again = await put(agent, "/a/b/file", NEW, parents=files_pb2.PARENT_POLICY_CREATE)
    assert again.durability == files_pb2.DURABILITY_FSYNC


# Locks


async def test_no_lock_is_held_while_a_destination_is_hashed(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-1, CND-2: of many StartUploads of one id, each reads, one begins, and others are not kept waiting."""
    (sandbox.root / "file").write_bytes(b"old")
    reading, go_on = threading.Semaphore(0), threading.Event()
    real = sandbox.fs.pread

    def slow(fd: int, size: int, offset: int) -> bytes:
        reading.release()
        go_on.wait()
        return real(fd, size, offset)

    sandbox.fs.__dict__["pread"] = slow
    digest = digest_of(NEW)
    starts = [
        asyncio.create_task(start_upload(agent, "/file", 3, request_id="r", digest=digest)) for _ in range(3)
    ]
    for _ in starts:
        await until(lambda: reading.acquire(blocking=False))
    go_on.set()
    ids = {status.upload_id for status in await asyncio.gather(*starts)}
    assert len(ids) == 1
    assert len(sandbox.leftovers()) == 1


# Sizes


@pytest.mark.parametrize(("size", "allowed"), [(9, True), (10, True), (11, False)])
async def test_the_largest_file(sandbox: Sandbox, size: int, allowed: bool) -> None:  # noqa: FBT001
    """UPL-27: `max_file_bytes` is allowed, one byte more is not, declared or not."""
    sandbox.settings = replace(sandbox.settings, max_file_bytes=10)
    agent = sandbox.agent()
    await agent.start()
    try:
        for declared in (size, 0):
            work = put(agent, f"/{declared}", bytes(size), declared=declared, chunk_bytes=3)
            if allowed:
                assert (await work).bytes_written == size
            else:
                with pytest.raises(Refused) as refused:
                    await work
                assert refused.value.reason is Reason.FILE_TOO_LARGE
    finally:
        await agent.aclose()


@pytest.mark.parametrize(("size", "allowed"), [(10, True), (11, False)])
def test_the_largest_file_in_the_rules(size: int, allowed: bool) -> None:  # noqa: FBT001
    """UPL-27"""
    core = UploadCore(
        UploadTerms(
            declared_size=None,
            explicit_finish=True,
            resumable=False,
            staged=0,
            max_chunk_bytes=64,
            max_file_bytes=10,
        )
    )
    action = core.receive(Chunk(0, bytes(size), 0, 0))
    assert isinstance(action, Refuse) is not allowed
    if allowed:
        assert isinstance(core.receive(Finish(size, OTHER.algorithm, OTHER.value)), Publish)


# The journal, from outside


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


async def test_a_version_that_is_none(agent: FileAgent) -> None:
    """CND-2: nothing that is compared is longer than what this server gives out."""
    condition = files_pb2.UploadCondition(version="x" * 129)
    with pytest.raises(Refused) as refused:
        await start_upload(agent, "/file", condition=condition, request_id="r")
    assert refused.value.fields == ["metadata.condition.version"]


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


# Starts


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


async def test_nobody_finds_anothers_upload(agent: FileAgent) -> None:
    """RSM-2: unfinished or published, by either id, however it is asked for."""
    await start_upload(agent, "/live", 3, request_id="live")
    await put(agent, "/ended", NEW, request_id="ended")
    for name in ("live", "ended"):
        mine = await get_upload(agent, request_id=name)
        assert mine.state in {RECEIVING, PUBLISHED}
        theirs = [
            await get_upload(agent, request_id=name, principal="bob"),
            await get_upload(agent, mine.upload_id, principal="bob"),
        ]
        assert [status.state for status in theirs] == [UNKNOWN, UNKNOWN]
        for asked in (
            abort_upload(agent, mine.upload_id, principal="bob"),
            put(agent, f"/{name}", NEW, upload_id=mine.upload_id, epoch=1, principal="bob"),
        ):
            with pytest.raises(Refused) as refused:
                await asked
            assert refused.value.reason is Reason.UPLOAD_UNKNOWN
        own = await start_upload(agent, f"/bob-{name}", 3, request_id=name, principal="bob")
        assert own.upload_id != mine.upload_id
