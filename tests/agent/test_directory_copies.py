"""CopyPath (DIR-23 to DIR-26): files and trees, whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat as modes
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from agent.agent_harness import Refused, Sandbox, opened, peer_of, start_upload, stat, until
from agent.directory_calls import FILE, copy, leave, listed, manifest, names, remove, small_tree
from agent.failing_calls import FailingFileSystem, Failure
from agent.refusals import refusal
from digest_values import digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent, TracePoint
from openshell_supervisor_sim.agent.directories import tree_copy
from openshell_supervisor_sim.agent.directories.file_copy import CopiedBytes, FileCopy

Condition = files_pb2.UploadCondition
CREATE = files_pb2.PARENT_POLICY_CREATE
FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW
NOFOLLOW = files_pb2.LEAF_LINK_POLICY_NOFOLLOW

#: How content may be copied, as the system calls that fail.
WAYS = {
    "as this file system can": (),
    "in the kernel": ("clone",),
    "by reading and writing": ("clone", "copy_range"),
}


@pytest.mark.parametrize("failing", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("size", [0, 1, 4096, 20_000_001])
async def test_a_file(either: FileAgent, sandbox: Sandbox, size: int, failing: Sequence[str]) -> None:
    """DIR-25: content, mode and time, by each of the ways; counts of what was copied and shared."""
    for call in failing:
        sandbox.fs.fail(call, errno.EOPNOTSUPP)
    content = os.urandom(size)
    (sandbox.root / "a").write_bytes(content)
    (sandbox.root / "a").chmod(0o4640)
    os.utime(sandbox.root / "a", ns=(1_500_000_000_000_000_001, 1_500_000_000_123_456_789))
    answer = await copy(either, "/a", "/b")
    copied = (sandbox.root / "b").stat()
    assert (sandbox.root / "b").read_bytes() == content
    assert (modes.S_IMODE(copied.st_mode), copied.st_mtime_ns) == (0o640, 1_500_000_000_123_456_789)
    assert copied.st_ino != (sandbox.root / "a").stat().st_ino
    assert (answer.copied_entries, answer.copied_bytes, answer.replaced) == (1, size, False)
    assert answer.shared_bytes in ({0} if failing else {0, size})
    assert answer.durability == files_pb2.DURABILITY_FSYNC
    assert answer.file == await stat(either, "/b")
    assert not sandbox.leftovers()


@pytest.mark.parametrize("failing", WAYS.values(), ids=WAYS)
async def test_holes_stay_holes(agent: FileAgent, sandbox: Sandbox, failing: Sequence[str]) -> None:
    """DIR-25: also one at the end; copied_bytes counts none of them."""
    for call in failing:
        sandbox.fs.fail(call, errno.EOPNOTSUPP)
    _sparse(sandbox.root / "a")
    answer = await copy(agent, "/a", "/b")
    copied = (sandbox.root / "b").stat()
    assert copied.st_size == 1 << 31
    assert copied.st_blocks * 512 < 1 << 20
    assert answer.copied_bytes < 1 << 20
    _require_sparse(sandbox.root / "b")


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x" * 65536)
        file.seek(1 << 30)
        file.write(b"y" * 65536)
        file.truncate(1 << 31)


def _require_sparse(path: Path) -> None:
    with path.open("rb") as file:
        assert file.read(65537) == b"x" * 65536 + b"\0"
        file.seek((1 << 30) - 1)
        assert file.read(65538) == b"\0" + b"y" * 65536 + b"\0"


async def test_content_that_is_shared(sandbox: Sandbox) -> None:
    """DIR-25: where the file system clones, shared_bytes tells it."""

    class Cloning(FileSystem):
        def clone(self, source: int, destination: int) -> None:
            os.pwrite(destination, os.pread(source, 1 << 20, 0), 0)

    (sandbox.root / "a").write_bytes(b"x" * 5000)
    source = os.open(sandbox.root / "a", os.O_RDONLY)
    destination = os.open(sandbox.root / "b", os.O_RDWR | os.O_CREAT)
    counts = CopiedBytes()
    try:
        for _ in FileCopy(Cloning(), source, destination, counts, "/a").steps():
            pass
    finally:
        os.close(source)
        os.close(destination)
    assert counts == CopiedBytes(5000, 5000)
    assert (sandbox.root / "b").read_bytes() == b"x" * 5000


async def test_a_file_system_that_answers_nothing(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-25: a kernel that copies 0 bytes instead of failing is read from."""
    sandbox.fs.fail("clone", errno.EOPNOTSUPP)
    sandbox.fs.copy_range = lambda *_: 0  # type: ignore[method-assign]
    (sandbox.root / "a").write_bytes(b"content")
    sandbox.fs.short_writes = True
    await copy(agent, "/a", "/b")
    assert (sandbox.root / "b").read_bytes() == b"content"


async def test_a_tree(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-24: modes, times, links and hard links within it are kept; nothing else changes."""
    small_tree(sandbox.root / "d")
    before = manifest(sandbox.root / "d")
    answer = await copy(either, "/d/", "/e", recursive=True)
    assert manifest(sandbox.root / "e") == before
    assert manifest(sandbox.root / "d") == before
    made, source = (sandbox.root / "e").stat(), (sandbox.root / "d").stat()
    assert (made.st_mode, made.st_mtime_ns) == (source.st_mode, source.st_mtime_ns)
    assert answer.copied_entries == len(before) + 1
    assert answer.copied_bytes == 3_000_000 + len("content") + len("#!/bin/sh\n")
    assert answer.file == await stat(either, "/e")
    assert (sandbox.root / "e/file").stat().st_ino != (sandbox.root / "d/file").stat().st_ino
    assert not sandbox.leftovers()


async def test_hard_links_out_of_the_tree(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-24: a file with a name elsewhere is a file of its own in the copy."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").write_text("x")
    os.link(sandbox.root / "d/x", sandbox.root / "other")
    await copy(agent, "/d", "/e", recursive=True)
    assert (sandbox.root / "e/x").stat().st_nlink == 1


async def test_a_directory_needs_recursive(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-24: and its destination must not exist."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "e").mkdir()
    (sandbox.root / "f").touch()
    assert (await refusal(copy(agent, "/d", "/x"))).reason is Reason.IS_A_DIRECTORY
    for fields in ({}, {"replace": FILE}):
        refused = await refusal(copy(agent, "/d", "/e", recursive=True, **fields))
        assert refused.reason is Reason.FILE_EXISTS
        assert (await refusal(copy(agent, "/d", "/f", recursive=True, **fields))).reason in {
            Reason.FILE_EXISTS,
            Reason.NOT_A_DIRECTORY,
        }


async def test_links_as_the_source(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-26: refused, followed or copied themselves."""
    (sandbox.root / "file").write_bytes(b"x")
    (sandbox.root / "link").symlink_to("file")
    (sandbox.root / "dangling").symlink_to("nowhere")
    os.utime(sandbox.root / "dangling", ns=(1, 1_500_000_000_123_456_789), follow_symlinks=False)
    assert (await refusal(copy(agent, "/link", "/x"))).reason is Reason.LEAF_IS_LINK
    await copy(agent, "/link", "/a", leaf_link=FOLLOW)
    assert (sandbox.root / "a").read_bytes() == b"x"
    assert not (sandbox.root / "a").is_symlink()
    answer = await copy(agent, "/dangling", "/b", leaf_link=NOFOLLOW)
    assert (answer.copied_entries, answer.file.type) == (1, files_pb2.FILE_TYPE_SYMLINK)
    assert os.readlink(sandbox.root / "b") == "nowhere"
    assert (sandbox.root / "b").lstat().st_mtime_ns == 1_500_000_000_123_456_789
    assert (await refusal(copy(agent, "/dangling", "/b", leaf_link=NOFOLLOW))).reason is Reason.FILE_EXISTS
    assert (await copy(agent, "/link", "/b", leaf_link=NOFOLLOW, replace=FILE)).replaced
    assert os.readlink(sandbox.root / "b") == "file"
    refused = await refusal(copy(agent, "/link", "/x", leaf_link=files_pb2.LEAF_LINK_POLICY_REPLACE))
    assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["leaf_link"])
    assert not sandbox.leftovers()


async def test_special_files(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-30: are refused with their path, also inside a tree, and nothing is published."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "d/a").touch()
    os.mkfifo(sandbox.root / "d/sub/pipe")
    refused = await refusal(copy(agent, "/d", "/e", recursive=True))
    assert (refused.reason, refused.metadata["path"]) == (Reason.NOT_A_REGULAR_FILE, "/d/sub/pipe")
    assert (await refusal(copy(agent, "/d/sub/pipe", "/e"))).reason is Reason.NOT_A_REGULAR_FILE
    assert [path.name for path in sandbox.root.iterdir()] == ["d"]


async def test_replacing(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-23: never by default; a file or link with REPLACE_POLICY_FILE; conditions as for uploads."""
    (sandbox.root / "a").write_bytes(b"new")
    (sandbox.root / "b").write_bytes(b"old")
    (sandbox.root / "link").symlink_to("b")
    (sandbox.root / "d").mkdir()
    old = digest_of(b"old", files_pb2.DIGEST_ALGORITHM_SHA256)
    new = digest_of(b"new", files_pb2.DIGEST_ALGORITHM_SHA256)
    assert (await refusal(copy(agent, "/a", "/b"))).reason is Reason.FILE_EXISTS
    refused = await refusal(copy(agent, "/a", "/b", replace=FILE, condition=Condition(absent=Empty())))
    assert refused.reason is Reason.FILE_EXISTS
    refused = await refusal(copy(agent, "/a", "/b", replace=FILE, condition=Condition(digest=new)))
    assert refused.reason is Reason.CONDITION_FAILED
    assert (await refusal(copy(agent, "/a", "/d", replace=FILE))).reason is Reason.IS_A_DIRECTORY
    assert (await refusal(copy(agent, "/a", "/a", replace=FILE))).fields == ["destination"]
    assert (sandbox.root / "b").read_bytes() == b"old"
    assert (await copy(agent, "/a", "/b", replace=FILE, condition=Condition(digest=old))).replaced
    assert (sandbox.root / "b").read_bytes() == b"new"
    assert (await copy(agent, "/a", "/link", replace=FILE)).replaced
    assert not (sandbox.root / "link").is_symlink()


async def test_versions_of_the_source(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-23."""
    (sandbox.root / "a").touch()
    (sandbox.root / "d").mkdir()
    for path in ("/a", "/d"):
        refused = await refusal(copy(agent, path, "/x", recursive=True, source_version="another"))
        assert refused.reason is Reason.CONDITION_FAILED
        version = (await stat(agent, path)).version
        await copy(agent, path, path + "2", recursive=True, source_version=version)


async def test_into_itself(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-22."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "link").symlink_to("d")
    for destination in ("/d/new", "/d/sub/new", "/link/new"):
        refused = await refusal(copy(either, "/d", destination, recursive=True))
        assert refused.fields == ["destination"]
    assert not sandbox.leftovers()


async def test_durability_and_parents(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-23."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").touch()
    (sandbox.root / "a").touch()
    assert (await refusal(copy(agent, "/a", "/p/q/a"))).reason is Reason.PARENT_NOT_FOUND
    for source in ("/a", "/d"):
        answer = await copy(agent, source, f"/p/q{source}", parents=CREATE, recursive=True)
        assert answer.durability == files_pb2.DURABILITY_FSYNC
        answer = await copy(
            agent, source, f"{source}3", recursive=True, durability=files_pb2.DURABILITY_RENAME
        )
        assert answer.durability == files_pb2.DURABILITY_RENAME
    sandbox.fs.fail("sync_file_system", errno.ENOSYS)
    assert (await copy(agent, "/d", "/d4", recursive=True)).durability == files_pb2.DURABILITY_RENAME
    sandbox.fs.fail("sync_file_system", errno.EIO)
    assert (await refusal(copy(agent, "/d", "/d5", recursive=True))).reason is Reason.IO_ERROR
    assert not (sandbox.root / "d5").exists()


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("/none", "/x", Reason.FILE_NOT_FOUND),
        ("/", "/x", Reason.PATH_FORBIDDEN),
        ("/a/", "/x", Reason.NOT_A_DIRECTORY),
        ("/a", "/x/", Reason.INVALID_PATH),
        ("", "/x", Reason.INVALID_PATH),
        ("/.openshell-upload-x", "/x", Reason.PATH_FORBIDDEN),
        ("/a", "/.openshell-upload-x", Reason.PATH_FORBIDDEN),
        ("/state", "/x", Reason.PATH_FORBIDDEN),
        ("/state/uploads.sqlite3", "/x", Reason.PATH_FORBIDDEN),
        ("/keys", "/x", Reason.PATH_FORBIDDEN),
        ("/keys/token", "/x", Reason.PATH_FORBIDDEN),
        ("/second", "/x", Reason.PATH_FORBIDDEN),
        ("/d", "/x", Reason.PATH_FORBIDDEN),
        ("/a", "/keys/token", Reason.PATH_FORBIDDEN),
        ("/usr/sh", "/x", Reason.PATH_FORBIDDEN),
        ("/a", "/usr/x", Reason.PATH_FORBIDDEN),
    ],
)
async def test_refused_paths(sandbox: Sandbox, source: str, destination: str, reason: Reason) -> None:
    """DIR-2, DIR-11: also a tree with a second name of the token in it."""
    for name in ("state", "keys", "usr", "d/sub"):
        (sandbox.root / name).mkdir(parents=True)
    for name in ("a", "keys/token", "usr/sh"):
        (sandbox.root / name).touch()
    os.link(sandbox.root / "keys/token", sandbox.root / "second")
    os.link(sandbox.root / "keys/token", sandbox.root / "d/sub/third")
    sandbox.settings = replace(
        sandbox.settings,
        state_dir=sandbox.root / "state",
        private=[sandbox.root / "keys/token"],
        covered=["usr"],
    )
    agent = sandbox.agent()
    await agent.start()
    before = sorted(sandbox.root.rglob("*"))
    try:
        refused = await refusal(copy(agent, source, destination, recursive=True, replace=FILE))
        assert refused.reason is reason
        assert sorted(sandbox.root.rglob("*")) == before
    finally:
        await agent.aclose()


async def test_the_working_directory_may_be_copied(sandbox: Sandbox) -> None:
    """DIR-11: since it stays."""
    (sandbox.root / "home").mkdir()
    (sandbox.root / "home/x").touch()
    sandbox.settings = replace(sandbox.settings, workdir="/home")
    agent = sandbox.agent()
    await agent.start()
    try:
        await copy(agent, ".", "/backup", recursive=True)
        assert (sandbox.root / "backup/x").exists()
    finally:
        await agent.aclose()


async def test_staging_files_are_not_copied(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-24."""
    (sandbox.root / "d").mkdir()
    await start_upload(agent, "/d/file", 5)
    assert (await copy(agent, "/d", "/e", recursive=True)).copied_entries == 1
    assert not list((sandbox.root / "e").iterdir())


@pytest.mark.parametrize("recursive", [False, True], ids=["file", "tree"])
async def test_a_source_that_changes(agent: FileAgent, sandbox: Sandbox, *, recursive: bool) -> None:
    """DIR-25: a file that changes while it is copied ends the copy, and nothing is published."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").write_bytes(b"x" * 5000)
    sandbox.fs.fail("clone", errno.EOPNOTSUPP)
    real = sandbox.fs.copy_range

    def copy_range(source: int, destination: int, offset: int, size: int) -> int:
        with open(sandbox.root / "d/x", "ab") as file:
            file.write(b"more")
        return real(source, destination, offset, size)

    sandbox.fs.copy_range = copy_range  # type: ignore[method-assign]
    source = "/d" if recursive else "/d/x"
    refused = await refusal(copy(agent, source, "/e", recursive=recursive))
    assert (refused.reason, refused.metadata["path"]) == (Reason.FILE_CHANGED, "/d/x")
    assert [path.name for path in sandbox.root.iterdir()] == ["d"]


async def test_a_source_that_is_moved(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-24: a directory that moves while it is copied never leads the copy elsewhere."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "d/sub/x").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()

    def move() -> None:
        if (sandbox.root / "d/sub").exists():
            (sandbox.root / "d/sub").rename(outside / "sub")

    sandbox.on_trace[TracePoint.ENTRY_COPIED] = move
    assert (await refusal(copy(agent, "/d", "/e", recursive=True))).reason is Reason.FILE_CHANGED
    assert [path.name for path in sandbox.root.iterdir()] == ["d"]


def _make(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_bytes(b"content")
        case "link":
            path.symlink_to("elsewhere")
        case "directory":
            path.mkdir()
        case _:
            assert kind == "nothing"


@pytest.mark.parametrize(
    ("looked_at", "found"),
    [
        (looked_at, found)
        for looked_at in ("file", "link", "directory")
        for found in ("file", "link", "directory", "nothing")
        if looked_at != found
    ],
)
async def test_an_entry_of_another_type(
    agent: FileAgent, sandbox: Sandbox, looked_at: str, found: str
) -> None:
    """DIR-32: an entry that is replaced after it was looked at ends the copy; one that vanishes is left out."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/other").touch()
    entry = sandbox.root / "d/x"
    _make(entry, looked_at)
    real = sandbox.fs.lstat

    def lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
        status = real(name, dir_fd)
        if name == b"x" and entry.parent.exists():
            entry.rename(sandbox.root / "away")
            _make(entry, found)
            sandbox.fs.lstat = real  # type: ignore[method-assign]
        return status

    sandbox.fs.lstat = lstat  # type: ignore[method-assign]
    if found == "nothing":
        assert (await copy(agent, "/d", "/e", recursive=True)).copied_entries == 2
        assert names(await listed(agent, "/e", recursive=True)) == ["other"]
    else:
        refused = await refusal(copy(agent, "/d", "/e", recursive=True))
        assert (refused.reason, refused.metadata["path"]) == (Reason.FILE_CHANGED, "/d/x")
        assert not (sandbox.root / "e").exists()


async def test_a_link_in_a_loop_never_leads_out(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-24: a directory of the source that is swapped for a link out of the root, all the time."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    (sandbox.root / "d/victim").mkdir(parents=True)
    (sandbox.root / "link").symlink_to(outside)
    over = threading.Event()
    reasons = set[Reason]()

    def swap() -> None:
        victim, link, spare = (sandbox.root / name for name in ("d/victim", "link", "spare"))
        while not over.is_set():
            for first, second in ((victim, link), (link, victim)):
                os.rename(first, spare)
                os.rename(second, first)
                os.rename(spare, second)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for number in range(100):
            try:
                await copy(agent, "/d", f"/copy{number}", recursive=True)
            except Refused as refused:
                reasons.add(refused.reason)
            else:
                assert "victim/secret" not in names(await listed(agent, f"/copy{number}", recursive=True))
    finally:
        over.set()
        swapping.join()
    assert reasons <= {Reason.FILE_CHANGED}
    assert not sandbox.leftovers()


async def test_a_tree_that_is_too_deep(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DIR-24: is refused, and what was staged is removed."""
    monkeypatch.setattr(tree_copy, "MOST_LEVELS", 5)
    (sandbox.root / "1/2/3/4/5").mkdir(parents=True)
    await copy(agent, "/1", "/a", recursive=True)
    (sandbox.root / "1/2/3/4/5/6").mkdir()
    refused = await refusal(copy(agent, "/1", "/b", recursive=True))
    assert (refused.reason, refused.metadata["path"]) == (Reason.INVALID_PATH, "/1/2/3/4/5/6")
    assert sorted(path.name for path in sandbox.root.iterdir()) == ["1", "a"]


async def test_a_mount_point_in_the_source(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-12."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    real = sandbox.fs.mount_of
    sandbox.fs.mount_of = (  # type: ignore[method-assign]
        lambda fd: 999_999 if os.readlink(f"/proc/self/fd/{fd}").endswith("/sub") else real(fd)
    )
    refused = await refusal(copy(agent, "/d", "/e", recursive=True))
    assert (refused.reason, refused.metadata["path"]) == (Reason.MOUNT_POINT, "/d/sub")
    assert not sandbox.leftovers()


@pytest.mark.parametrize("leaves", ["cancelled", "relay ends"])
@pytest.mark.parametrize("point", [TracePoint.ENTRY_COPIED, TracePoint.COPY_STAGED])
async def test_a_caller_that_leaves(
    agent: FileAgent, sandbox: Sandbox, point: TracePoint, leaves: str
) -> None:
    """DIR-23: ends the copy at the next step, and what was staged is removed."""
    (sandbox.root / "d").mkdir()
    for number in range(50):
        (sandbox.root / f"d/{number}").touch()
    reached, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        reached.set()
        go_on.wait(20)

    sandbox.on_trace[point] = stop
    async with peer_of(agent) as peer:
        request = directories_pb2.CopyPathRequest(source=b"/d", destination=b"/e", recursive=True)
        await peer.send(opened(copy_path=request))
        await until(reached.is_set)
        assert sandbox.leftovers()
        await leave(peer, leaves)
        go_on.set()
        await peer.task
    # Behind the last step nothing looks for the cancellation any more.
    assert (sandbox.root / "e").exists() is (point is TracePoint.COPY_STAGED)
    assert not sandbox.leftovers()


async def test_a_full_disk(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-23: nothing is published, and nothing staged is left."""
    small_tree(sandbox.root / "d")
    sandbox.fs.fail("clone", errno.EOPNOTSUPP)
    sandbox.fs.fail("copy_range", None, errno.ENOSPC)
    for source in ("/d", "/d/sub/deeper/large"):
        sandbox.fs.fail("copy_range", None if source == "/d" else errno.ENOSPC, errno.ENOSPC)
        refused = await refusal(copy(agent, source, "/e", recursive=True))
        assert refused.reason is Reason.DISK_FULL
        assert [path.name for path in sandbox.root.iterdir()] == ["d"]


@pytest.mark.parametrize("kind", ["file", "link", "tree"])
async def test_each_call_that_fails(sandbox: Sandbox, kind: str) -> None:
    """DIR-23: whichever system call fails, the destination is absent or whole, and the next sweep leaves no staging."""
    failure = Failure()
    fs = FailingFileSystem(failure, errno.EIO)
    sandbox.fs = fs
    agent = sandbox.agent()
    await agent.start()
    small_tree(sandbox.root / "tree")
    (sandbox.root / "file").write_bytes(b"content")
    (sandbox.root / "link").symlink_to("file")
    before = manifest(sandbox.root)
    try:
        for at in range(2000):
            failure.arm(at)
            outcome = "copied"
            try:
                await copy(agent, f"/{kind}", "/to", recursive=True, leaf_link=NOFOLLOW)
            except Refused as refused:
                outcome = refused.reason.name
            reached = bool(failure.failed)
            failure.disarm()
            await agent.sweep()
            assert not sandbox.leftovers(), (failure.failed, outcome)
            if outcome == "copied":
                await remove(agent, "/to", recursive=True)
            now = manifest(sandbox.root)
            assert now == before, (failure.failed, outcome)
            assert outcome not in {"INTERNAL", "AGENT_PROTOCOL_ERROR"}, failure.failed
            if not reached:
                break
        else:
            raise AssertionError("no end of the calls")
        assert outcome == "copied"
    finally:
        failure.disarm()
        await agent.aclose()


@pytest.mark.parametrize("point", [TracePoint.ENTRY_COPIED, TracePoint.COPY_STAGED])
async def test_a_killed_agent_leaves_nothing(sandbox: Sandbox, point: TracePoint) -> None:
    """DIR-29: the next start removes what was staged, also a tree of directories that may not be written."""
    small_tree(sandbox.root / "d")
    before = manifest(sandbox.root)
    agent = sandbox.agent()
    await agent.start()
    dead = threading.Event()
    journal = sandbox.root.parent / "journal-at-the-kill"

    def die() -> None:
        # The successor reads the journal of this moment: what the dying agent writes later is lost.
        if not dead.is_set():
            shutil.copytree(sandbox.settings.state_dir, journal)
        # As a kill: from here on no system call of this agent has an effect.
        for name in ("unlink", "remove_file", "remove_directory", "move_noreplace", "move", "mkdir", "open"):
            sandbox.fs.fail(name, errno.EIO)
        dead.set()

    sandbox.on_trace[point] = die
    await refusal(copy(agent, "/d", "/e", recursive=True))
    assert dead.is_set()
    assert sandbox.leftovers()
    await agent.aclose()
    sandbox.on_trace.clear()
    for name in list(sandbox.fs.faults):
        sandbox.fs.fail(name)
    real = sandbox.fs.remove_file

    def remove_file(name: bytes, dir_fd: int) -> None:
        # As for an agent that is not root.
        if not os.fstat(dir_fd).st_mode & modes.S_IWUSR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        real(name, dir_fd)

    sandbox.fs.remove_file = remove_file  # type: ignore[method-assign]
    sandbox.settings = replace(sandbox.settings, state_dir=journal)
    successor = sandbox.agent()
    await successor.start()
    try:
        for _ in range(20):
            await successor.sweep()
            if not list(sandbox.root.glob(".openshell-upload-*")):
                break
        assert manifest(sandbox.root) == before
    finally:
        await successor.aclose()
