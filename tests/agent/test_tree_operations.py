"""UploadTree and DownloadTree in the agent: the frames, their order, and how a stream ends (TRE-2 to TRE-19, FRM-34 to FRM-36)."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import Peer, Refused, Request, Sandbox, metadata, opened, peer_of, until
from agent.directory_calls import leave, manifest, small_tree
from agent.tree_calls import begun, download, receive_tree, send_tree, tree_of, upload
from digest_values import value_of
from openshell_files_protocol.pb.openshell.v1 import (
    file_options_pb2,
    files_pb2,
    trees_pb2,
)
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

BOTH = pytest.mark.parametrize("method", ["upload_tree", "download_tree"])
TOP = trees_pb2.TreeEntry(type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o755)
WAITING = file_options_pb2.UploadWaiting()


def file_entry(path: bytes, size: int = 3, **fields: Any) -> trees_pb2.TreeEntry:
    return trees_pb2.TreeEntry(
        path=path, type=files_pb2.FILE_TYPE_REGULAR, size_bytes=size, mode=0o644, **fields
    )


def a_manifest(*paths: bytes) -> trees_pb2.TreeManifest:
    return trees_pb2.TreeManifest(entries=[TOP, *(file_entry(path) for path in paths)])


def content(entry: int, data: bytes = b"abc") -> trees_pb2.TreeContent:
    part = trees_pb2.TreePart(
        entry=entry, data=data, last=True, digest=value_of(data, files_pb2.DIGEST_ALGORITHM_SHA256)
    )
    return trees_pb2.TreeContent(parts=[part])


@pytest.fixture
async def hasty(sandbox: Sandbox) -> AsyncGenerator[FileAgent]:
    """An agent with a short idle timeout."""
    sandbox.settings = replace(sandbox.settings, idle_timeout=0.3)
    agent = sandbox.agent()
    await agent.start()
    yield agent
    await agent.aclose()


@contextmanager
def standing(
    sandbox: Sandbox, point: str, number: int = 1
) -> Generator[tuple[Callable[[], bool], Callable[[], None]]]:
    """Let the disk thread stand when it reaches a trace point; gives whether it stands, and lets it go on."""
    reached, released, count = threading.Event(), threading.Event(), 0

    def stand() -> None:
        nonlocal count
        count += 1
        if count == number:
            reached.set()
            assert released.wait(60)

    sandbox.on_trace[point] = stand
    try:
        yield reached.is_set, released.set
    finally:
        released.set()
        del sandbox.on_trace[point]


async def test_a_tree_up_and_down(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """TRE-1, TRE-7, TRE-53: what arrives is what was sent, in both directions; the second time nothing is sent."""
    source = tmp_path / "source"
    small_tree(source)
    result, replies = await upload(agent, source)
    assert result.created
    assert result.durability == files_pb2.DURABILITY_FSYNC
    assert result.directory.path == "/tree"
    assert result.directory.type == files_pb2.FILE_TYPE_DIRECTORY
    assert [one for reply in replies for one in reply.problems] == []
    assert manifest(sandbox.root / "tree") == manifest(source)
    again, replies = await upload(agent, source)
    assert not again.created
    assert [one for reply in replies for one in (*reply.needed, *reply.changed)] == []
    await download(agent, tmp_path / "down")
    assert manifest(tmp_path / "down") == manifest(source)
    assert sandbox.leftovers() == []


@pytest.mark.parametrize("durability", [files_pb2.DURABILITY_UNSPECIFIED, files_pb2.DURABILITY_RENAME])
async def test_flushed_or_not(
    agent: FileAgent, sandbox: Sandbox, tmp_path: Path, durability: files_pb2.Durability.ValueType
) -> None:
    """TRE-52: everything is flushed at once, unless the caller does without."""
    small_tree(tmp_path / "source")
    result, _ = await upload(agent, tmp_path / "source", durability=durability)
    flushed = durability != files_pb2.DURABILITY_RENAME
    assert result.durability == (files_pb2.DURABILITY_FSYNC if flushed else files_pb2.DURABILITY_RENAME)
    assert sandbox.fs.calls.get("sync_file_system", 0) == flushed


@pytest.mark.parametrize(
    ("accepted", "digests", "chosen"),
    [
        ((), (), files_pb2.DIGEST_ALGORITHM_SHA256),
        ((2, 1), (), files_pb2.DIGEST_ALGORITHM_BLAKE3),
        ((2, 1), (1,), files_pb2.DIGEST_ALGORITHM_SHA256),
        ((2,), (1,), None),
    ],
)
@BOTH
async def test_the_digest(
    agent: FileAgent,
    sandbox: Sandbox,
    method: str,
    accepted: tuple[int, ...],
    digests: tuple[int, ...],
    chosen: int | None,
) -> None:
    """TRE-3, DIG-2, DIG-12: the first that caller and operators take."""
    (sandbox.root / "tree").mkdir()
    async with tree_of(agent, method, accepted_digests=accepted, digests=digests) as tree:
        if chosen is None:
            assert (await tree.error()).reason is Reason.DIGEST_UNSUPPORTED
        else:
            assert (await tree.started()).digest_algorithm == chosen


@pytest.mark.parametrize(
    ("method", "fields", "named"),
    [
        ("upload_tree", {"parents": 9}, "start.parents"),
        ("upload_tree", {"durability": 9}, "start.durability"),
        ("upload_tree", {"accepted_digests": [1] * 17}, "start.accepted_digests"),
        ("download_tree", {"accepted_digests": [1] * 17}, "start.accepted_digests"),
        ("download_tree", {"exclude": ["x"] * 1025}, "start.exclude"),
        ("download_tree", {"include": ["x"] * 1025}, "start.include"),
        ("download_tree", {"include": ["x" * 4096]}, "start.include"),
        ("download_tree", {"exclude": ["\u00e9" * 2048]}, "start.exclude"),
    ],
)
async def test_fields_of_the_start(
    agent: FileAgent, sandbox: Sandbox, method: str, fields: dict[str, Any], named: str
) -> None:
    """TRE-2, TRE-29: each is checked before anything is touched."""
    async with tree_of(agent, method, **fields) as tree:
        refused = await tree.error()
    assert refused.reason is Reason.INVALID_REQUEST
    assert refused.fields == [named]
    assert list(sandbox.root.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "frame", "named"),
    [
        (
            "upload_tree",
            Request(upload_tree=trees_pb2.UploadTreeRequest(start=trees_pb2.UploadTreeStart())),
            "start",
        ),
        ("upload_tree", Request(upload_tree=trees_pb2.UploadTreeRequest()), "payload"),
        (
            "upload_tree",
            Request(download_tree=trees_pb2.DownloadTreeRequest(reply=trees_pb2.TreeReply())),
            "frame",
        ),
        ("upload_tree", Request(upload=files_pb2.UploadFileRequest(chunk=b"x")), "frame"),
        ("upload_tree", b"\x32\x01\xff", "upload_tree"),
        ("upload_tree", opened(stat_file=files_pb2.StatFileRequest(remote_path="/f")), "open"),
        (
            "download_tree",
            Request(download_tree=trees_pb2.DownloadTreeRequest(start=trees_pb2.DownloadTreeStart())),
            "start",
        ),
        ("download_tree", Request(download_tree=trees_pb2.DownloadTreeRequest()), "payload"),
        ("download_tree", Request(upload_tree=trees_pb2.UploadTreeRequest(end=trees_pb2.TreeEnd())), "frame"),
        ("download_tree", b"\x3a\x01\xff", "download_tree"),
        ("download_tree", opened(stat_file=files_pb2.StatFileRequest(remote_path="/f")), "open"),
    ],
)
@pytest.mark.parametrize("keep", [False, True])
async def test_messages_that_do_not_fit(
    agent: FileAgent, sandbox: Sandbox, method: str, frame: Request | bytes, named: str, *, keep: bool
) -> None:
    """TRE-2, FRM-2, FRM-24: they end the operation, and a kept stream goes on."""
    (sandbox.root / "tree").mkdir()
    (sandbox.root / "tree/file").write_bytes(b"abc")
    async with peer_of(agent) as peer:
        tree = await begun(peer, method, keep=keep)
        await tree.started()
        data = frame if isinstance(frame, bytes) else frame.SerializeToString()
        await peer.send_bytes(bytes([len(data)]) + data)
        refused = await tree.error()
        assert refused.reason is Reason.INVALID_REQUEST
        assert refused.fields == [named]
        if keep:
            await peer.send(opened(stat_file=files_pb2.StatFileRequest(remote_path="/tree/file")))
            assert (await peer.last_frame()).stat_file.file.size_bytes == 3
        await peer.over()
    assert sandbox.leftovers() == []


async def test_nothing_follows_the_end(agent: FileAgent, sandbox: Sandbox) -> None:
    """TRE-2."""
    with standing(sandbox, "tree.ending") as (stands, go_on):
        async with tree_of(agent, "upload_tree") as tree:
            await tree.started()
            await tree.say(manifest=a_manifest())
            await tree.say(end=trees_pb2.TreeEnd(entries=1))
            await until(stands)
            await tree.say(manifest=a_manifest(b"late"))
            await until(lambda: tree.peer.to_agent.size == 0)
            go_on()
            refused = await tree.error()
    assert refused.reason is Reason.INVALID_REQUEST
    assert refused.fields == ["manifest"]


@BOTH
async def test_an_error_in_the_middle_of_a_write(agent: FileAgent, sandbox: Sandbox, method: str) -> None:
    """FRM-3: the write is finished, since the error that ends the operation is sent on the same stream."""
    (sandbox.root / "tree").mkdir()
    async with peer_of(agent, limit=1) as peer:
        tree = await begun(peer, method, keep=True)
        if method == "upload_tree":
            await tree.say(manifest=a_manifest())
        # `started` fills the stream, and what follows it waits.
        await until(lambda: peer.to_agent.size == 0 and peer.from_agent.waiting)
        await peer.send(Request(upload=files_pb2.UploadFileRequest(chunk=b"x")))
        await until(lambda: peer.to_agent.size == 0)
        assert (await tree.error()).reason is Reason.INVALID_REQUEST
        await peer.send(opened(stat_file=files_pb2.StatFileRequest(remote_path="/tree")))
        assert (await peer.last_frame()).stat_file.file.type == files_pb2.FILE_TYPE_DIRECTORY


@pytest.mark.parametrize(
    "violation",
    [
        {"manifest": trees_pb2.TreeManifest(entries=[file_entry(b"../out")])},
        {"content": content(7)},
        {"end": trees_pb2.TreeEnd(entries=9)},
    ],
    ids=["manifest", "content", "end"],
)
async def test_a_sender_that_breaks_the_protocol(
    agent: FileAgent, sandbox: Sandbox, violation: dict[str, Any]
) -> None:
    """TRE-4, TRE-15, TRE-31, TRE-54: what is in place stays, and what is staged goes."""
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=a_manifest(b"a", b"b"))
        await tree.say(content=content(1))
        await until((sandbox.root / "tree/a").exists)
        await tree.say(**violation)
        refused = await tree.error()
        await tree.peer.over()
    assert refused.reason is Reason.INVALID_REQUEST
    assert (sandbox.root / "tree/a").read_bytes() == b"abc"
    assert sandbox.leftovers() == []
    assert sorted(os.listdir(sandbox.root)) == ["tree"]


@pytest.mark.parametrize(
    "reply",
    [
        trees_pb2.TreeReply(decided_entries=99),
        trees_pb2.TreeReply(decided_entries=2, needed=[1, 1]),
        trees_pb2.TreeReply(decided_entries=2, needed=[0]),
        trees_pb2.TreeReply(decided_entries=2, problems=[trees_pb2.TreeProblem(entry=99)]),
    ],
)
async def test_a_receiver_that_breaks_the_protocol(
    agent: FileAgent, sandbox: Sandbox, reply: trees_pb2.TreeReply
) -> None:
    """TRE-6, TRE-30, TRE-31."""
    (sandbox.root / "tree").mkdir()
    (sandbox.root / "tree/file").write_bytes(b"abc")
    async with tree_of(agent, "download_tree") as tree:
        await tree.started()
        await tree.next()
        await tree.say(reply=reply)
        assert (await tree.error()).reason is Reason.INVALID_REQUEST
        await tree.peer.over()


async def test_a_reply_before_the_tree_is_open(agent: FileAgent, sandbox: Sandbox) -> None:
    """TRE-6."""
    (sandbox.root / "tree").mkdir()
    sandbox.fs.faults["file_system_type"] = [None]
    entered, released = threading.Event(), threading.Event()
    locate = sandbox.fs.file_system_type

    def stand(fd: int) -> int:
        entered.set()
        assert released.wait(60)
        return locate(fd)

    sandbox.fs.file_system_type = stand  # type: ignore[method-assign]
    async with tree_of(agent, "download_tree") as tree:
        await until(entered.is_set)
        await tree.say(reply=trees_pb2.TreeReply(decided_entries=1))
        await until(lambda: tree.peer.to_agent.size == 0)
        released.set()
        refused = await tree.error()
    assert refused.reason is Reason.INVALID_REQUEST
    assert refused.fields == ["reply"]


async def test_the_input_of_an_upload_ends_early(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-36, TRE-54."""
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=a_manifest(b"a"))
        await tree.peer.input_end()
        assert (await tree.error()).reason is Reason.UPLOAD_INCOMPLETE
        await tree.peer.over()
    assert sandbox.leftovers() == []


async def test_a_top_directory_that_is_removed_meanwhile(
    agent: FileAgent, sandbox: Sandbox, tmp_path: Path
) -> None:
    """TRE-53: by another program, at the end. That is an error, and no result without a directory."""
    source = tmp_path / "source"
    small_tree(source)
    sandbox.on_trace["tree.published"] = lambda: shutil.rmtree(sandbox.root / "tree")
    with pytest.raises(Refused) as refused:
        await upload(agent, source)
    assert refused.value.reason is Reason.FILE_CHANGED
    del sandbox.on_trace["tree.published"]
    await upload(agent, source)
    assert manifest(sandbox.root / "tree") == manifest(source)


async def test_the_input_of_a_download_ends_early(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-36: nobody will say what is needed."""
    (sandbox.root / "tree").mkdir()
    async with tree_of(agent, "download_tree") as tree:
        await tree.started()
        await tree.next()
        await tree.peer.input_end()
        refused = await tree.error()
    assert refused.reason is Reason.INVALID_REQUEST
    assert refused.fields == ["reply"]


async def test_the_input_ends_when_nothing_is_missing(agent: FileAgent) -> None:
    """FRM-36: a caller may half-close with its last message."""
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=a_manifest())
        await tree.say(end=trees_pb2.TreeEnd(entries=1))
        await tree.peer.input_end()
        while (await tree.next()) is not None:
            pass
        assert tree.told[-1].WhichOneof("payload") == "result"
    async with tree_of(agent, "download_tree") as tree:
        await tree.started()
        await tree.next()
        await tree.say(reply=trees_pb2.TreeReply(decided_entries=1))
        await tree.peer.input_end()
        assert (await tree.next()).end.entries == 1
        assert await tree.next() is None


LEAVES = pytest.mark.parametrize("way", ["cancelled", "end of the relay", "broken relay"])


async def left(peer: Peer, way: str) -> None:
    """Let the caller leave; return when the agent has noticed."""
    if way == "broken relay":
        peer.from_agent.break_()
        peer.to_agent.break_()
        for _ in range(10):
            await asyncio.sleep(0)
    else:
        await leave(peer, way)


@LEAVES
@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(
    ("point", "number", "placed"),
    [
        ("tree.started", 1, 0),
        ("tree.entry_placed", 1, 1),
        ("tree.entry_placed", 5, 5),
        ("tree.ending", 1, 20),
    ],
)
async def test_a_caller_that_leaves_an_upload(
    agent: FileAgent,
    sandbox: Sandbox,
    tmp_path: Path,
    way: str,
    point: str,
    number: int,
    placed: int,
    *,
    atomic: bool,
) -> None:
    """TRE-54, TRE-56, FRM-14, FRM-16: what is in place stays whole; nothing staged is left, and nothing atomic shown."""
    source = tmp_path / "source"
    source.mkdir()
    for one in range(20):
        (source / f"{one:02}").write_bytes(b"content of %d" % one)
    with standing(sandbox, point, number) as (stands, go_on):
        async with tree_of(agent, "upload_tree", atomic=atomic) as tree:
            sending = asyncio.create_task(send_tree(tree, source))
            await until(stands)
            await left(tree.peer, way)
            go_on()
            await tree.peer.task
            sending.cancel()
            with suppress(BaseException):
                await sending
    there = sorted((sandbox.root / "tree").iterdir()) if (sandbox.root / "tree").exists() else []
    assert sandbox.leftovers() == []
    if atomic:
        assert there == []
    else:
        assert len(there) >= placed
        for file in there:
            assert file.read_bytes() == b"content of %d" % int(file.name)


@LEAVES
async def test_a_caller_that_leaves_a_download(agent: FileAgent, sandbox: Sandbox, way: str) -> None:
    """TRE-56, FRM-14, FRM-16: while the agent waits for its replies."""
    (sandbox.root / "tree").mkdir()
    async with tree_of(agent, "download_tree") as tree:
        await tree.started()
        await tree.next()
        await left(tree.peer, way)
        await tree.peer.task


async def test_an_agent_that_stops(agent: FileAgent, sandbox: Sandbox) -> None:
    """TRE-54: nothing staged outlives it."""
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=a_manifest(b"a"))
        await until(lambda: sandbox.leftovers() != [])
        await agent.aclose()
    assert sandbox.leftovers() == []


@BOTH
@pytest.mark.parametrize("waits", [False, True])
async def test_a_caller_that_says_nothing(
    hasty: FileAgent, sandbox: Sandbox, method: str, *, waits: bool
) -> None:
    """TRE-19, WAI-2: the agent waits for the idle timeout; `waiting` restarts it."""
    (sandbox.root / "tree").mkdir()
    loop = asyncio.get_running_loop()
    async with tree_of(hasty, method) as tree:
        await tree.started()
        if method == "download_tree":
            await tree.next()
        began = loop.time()
        if waits:
            for _ in range(6):
                await asyncio.wait({tree.peer.task}, timeout=0.1)
                await tree.say(waiting=WAITING)
        assert (await tree.error()).reason is Reason.TRANSFER_IDLE
        assert loop.time() - began >= (0.8 if waits else 0.25)
        await tree.peer.over()


@BOTH
async def test_long_work_is_told(hasty: FileAgent, sandbox: Sandbox, tmp_path: Path, method: str) -> None:
    """TRE-16: the caller hears of it, so that it may be silent for longer than the idle timeout."""
    source = sandbox.root / "tree" if method == "download_tree" else tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    point = "tree.content_read" if method == "download_tree" else "tree.ending"
    async with tree_of(hasty, method, "/tree" if method == "download_tree" else "/new") as tree:
        with standing(sandbox, point) as (stands, go_on):
            if method == "upload_tree":
                running = asyncio.create_task(send_tree(tree, source))
            else:
                running = asyncio.create_task(receive_tree(tree, tmp_path / "down"))  # type: ignore[arg-type]
            await until(stands)
            # Twice the idle timeout, in which neither side has anything to say.
            await until(lambda: tree.working >= 7)
            go_on()
            await running


async def test_a_slow_reader_keeps_nobody_from_writing(agent: FileAgent) -> None:
    """TRE-5, TRE-58: replies that nobody reads stop the disk work, and not the reading up to its bound."""
    async with peer_of(agent, limit=1 << 14) as peer:
        tree = await begun(peer, "upload_tree")
        await tree.started()
        names = [b"%04d-" % number + bytes(range(65, 90)) * 9 for number in range(1000)]
        await tree.say(manifest=trees_pb2.TreeManifest(entries=[TOP]))
        for name in names:
            entry = trees_pb2.TreeEntry(path=name, reason="ACCESS_DENIED", message="no")
            await tree.say(manifest=trees_pb2.TreeManifest(entries=[entry]))
        await tree.say(end=trees_pb2.TreeEnd(entries=1001))
        while await tree.next() is not None:
            pass
    problems = [one for message in tree.told for one in message.reply.problems]
    assert len(problems) <= 1000


async def test_operations_follow_each_other(agent: FileAgent, tmp_path: Path) -> None:
    """FRM-9, FRM-24: a tree is as any other operation of a kept stream; its caller need not half-close."""
    source = tmp_path / "source"
    small_tree(source)
    async with peer_of(agent) as peer:
        for number in range(3):
            await send_tree(await begun(peer, "upload_tree", f"/{number}", keep=True), source)
            if number:
                await peer.input_end()
            await receive_tree(
                await begun(peer, "download_tree", f"/{number}", keep=True), tmp_path / f"down{number}"
            )
            assert manifest(tmp_path / f"down{number}") == manifest(source)
            await peer.send(opened(stat_file=files_pb2.StatFileRequest(remote_path="/0"), keep_relay=True))
            assert (await peer.last_frame()).stat_file.file.type == files_pb2.FILE_TYPE_DIRECTORY
            failed = await begun(peer, "upload_tree", f"/{number}", keep=True, atomic=True)
            assert (await failed.error()).reason is Reason.FILE_EXISTS
        await peer.send(opened(upload=metadata("/file", 3)))
        await peer.chunk(b"abc")
        await peer.finish(b"abc")
        assert (await peer.answer()).upload.bytes_written == 3


async def test_the_next_operation_may_be_there_already(agent: FileAgent, sandbox: Sandbox) -> None:
    """FRM-24: the gateway has the last frame while the agent still looks for a cancellation."""
    async with peer_of(agent) as peer:
        tree = await begun(peer, "upload_tree", keep=True)
        await tree.started()
        with standing(sandbox, "tree.published") as (stands, go_on):
            await tree.say(manifest=a_manifest())
            await tree.say(end=trees_pb2.TreeEnd(entries=1))
            await until(stands)
            await peer.send(opened(stat_file=files_pb2.StatFileRequest(remote_path="/tree")))
            await until(lambda: peer.to_agent.size == 0)
            go_on()
        while await tree.next() is not None:
            pass
        assert (await peer.answer()).stat_file.file.type == files_pb2.FILE_TYPE_DIRECTORY


async def test_too_many_entries(sandbox: Sandbox) -> None:
    """TRE-36: with what is over the limit nothing is left half way."""
    sandbox.settings = replace(sandbox.settings, max_tree_entries=3, max_file_bytes=3)
    agent = sandbox.agent()
    await agent.start()
    try:
        async with tree_of(agent, "upload_tree") as tree:
            await tree.started()
            await tree.say(manifest=a_manifest(b"a", b"b"))
            await tree.say(manifest=trees_pb2.TreeManifest(entries=[file_entry(b"c")]))
            assert (await tree.error()).reason is Reason.TREE_TOO_LARGE
        async with tree_of(agent, "upload_tree", "/other") as tree:
            await tree.started()
            entries = [TOP, file_entry(b"a", 3), file_entry(b"b", 4)]
            await tree.say(manifest=trees_pb2.TreeManifest(entries=entries))
            reply = (await tree.next()).reply
            assert list(reply.needed) == [1]
            assert [(one.entry, one.reason) for one in reply.problems] == [(2, "FILE_TOO_LARGE")]
        assert sandbox.leftovers() == []
    finally:
        await agent.aclose()


async def test_a_full_disk(agent: FileAgent, sandbox: Sandbox) -> None:
    """TRE-59, TRE-54: the caller hears of it when everything is cleared away."""
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=a_manifest(b"a", b"b"))
        await tree.say(content=content(1))
        await until((sandbox.root / "tree/a").exists)
        sandbox.fs.fail("pwrite", 28)
        await tree.say(content=content(2))
        refused = await tree.error()
        assert sandbox.leftovers() == []
    assert refused.reason is Reason.DISK_FULL
    assert (sandbox.root / "tree/a").read_bytes() == b"abc"
    assert not (sandbox.root / "tree/b").exists()


async def test_statistics(agent: FileAgent, sandbox: Sandbox) -> None:
    """Operations on trees are transfers."""
    (sandbox.root / "tree").mkdir()
    async with tree_of(agent, "upload_tree") as up, tree_of(agent, "download_tree") as down:
        await up.started()
        await down.started()
        assert (agent.statistics().active_uploads, agent.statistics().active_downloads) == (1, 1)
        assert agent.statistics().bytes_buffered >= 0
