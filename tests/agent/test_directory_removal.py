"""RemovePath (DIR-10 to DIR-13, DIR-17 to DIR-19): what is removed, what is not, and what never leads out of the tree."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import shutil
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from agent.agent_harness import Refused, Sandbox, opened, peer_of, put, start_upload, stat, until
from agent.directory_calls import leave, listed, remove, small_tree
from agent.refusals import refusal
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, file_relay_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent, TracePoint
from openshell_supervisor_sim.agent.directories import removal
from openshell_supervisor_sim.agent.paths.guard import GuardedPlaces
from openshell_supervisor_sim.agent.paths.location import Location


async def test_entries_of_every_kind(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-10: a file, a link itself, a special file, an empty directory."""
    (sandbox.root / "kept").write_bytes(b"x")
    (sandbox.root / "file").touch()
    (sandbox.root / "read-only").touch(mode=0o400)
    (sandbox.root / "link").symlink_to("kept")
    (sandbox.root / "to-directory").symlink_to("/")
    os.mkfifo(sandbox.root / "pipe")
    (sandbox.root / "d").mkdir()
    for path in ("/file", "/read-only", "/link", "/to-directory", "/pipe", "/d"):
        assert await remove(either, path) == 1
    assert [path.name for path in sandbox.root.iterdir()] == ["kept"]


async def test_a_tree(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-10: with a count of its entries; links in it are removed and not followed."""
    small_tree(sandbox.root / "d")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (sandbox.root / "d/out").symlink_to(outside)
    (sandbox.root / "d/sub/up").symlink_to("..")
    entries = sum(1 for _ in (sandbox.root / "d").rglob("*")) + 1
    assert await remove(agent, "/d/", recursive=True) == entries
    assert not list(sandbox.root.iterdir())
    assert (outside / "kept").exists()


async def test_a_directory_with_entries_needs_recursive(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-13."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").touch()
    refused = await refusal(remove(agent, "/d"))
    assert refused.reason is Reason.DIRECTORY_NOT_EMPTY
    assert refused.metadata["path"] == "/d"
    assert (sandbox.root / "d/x").exists()


async def test_a_link_to_a_directory_is_removed_itself(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-10: recursively, too; and with a slash at its end it is refused."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").touch()
    (sandbox.root / "link").symlink_to("d")
    assert (await refusal(remove(agent, "/link/", recursive=True))).reason is Reason.NOT_A_DIRECTORY
    assert await remove(agent, "/link", recursive=True) == 1
    assert (sandbox.root / "d/x").exists()


async def test_paths_that_name_nothing(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-19: an error, or with missing_ok a success that removed nothing."""
    (sandbox.root / "file").touch()
    for path, reason in (
        ("/none", Reason.FILE_NOT_FOUND),
        ("/none/x", Reason.PARENT_NOT_FOUND),
        ("/file/x", Reason.NOT_A_DIRECTORY),
    ):
        assert (await refusal(remove(either, path))).reason is reason
        assert await remove(either, path, missing_ok=True) == 0
        assert await remove(either, path, missing_ok=True, recursive=True) == 0
    assert (sandbox.root / "file").exists()


@pytest.mark.parametrize("missing_ok", [True, False])
async def test_a_directory_that_another_program_removes_meanwhile(
    agent: FileAgent, sandbox: Sandbox, *, missing_ok: bool
) -> None:
    """DIR-19: with missing_ok it is a success, as if it had been gone before."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    real = sandbox.fs.remove_directory

    def remove_late(name: bytes, dir_fd: int) -> None:
        shutil.rmtree(sandbox.root / "d", ignore_errors=True)
        real(name, dir_fd)

    sandbox.fs.remove_directory = remove_late  # type: ignore[method-assign]
    if missing_ok:
        assert await remove(agent, "/d", recursive=True, missing_ok=True) == 0
    else:
        refused = await refusal(remove(agent, "/d", recursive=True))
        assert (refused.reason, refused.metadata["path"]) == (Reason.FILE_NOT_FOUND, "/d")


async def test_versions(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-19: an entry of another version stays."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").touch()
    for path in ("/d/x", "/d"):
        version = (await stat(agent, path)).version
        refused = await refusal(remove(agent, path, if_version="another", recursive=True))
        assert (refused.reason, refused.metadata["version"]) == (Reason.CONDITION_FAILED, version)
    assert await remove(agent, "/d", if_version=(await stat(agent, "/d")).version, recursive=True) == 2
    assert (await refusal(remove(agent, "/d", if_version="x" * 129))).fields == ["if_version"]


@pytest.mark.parametrize("path", ["/", ".", "./", "/home/me", "/home", "/home/"])
async def test_the_root_and_the_working_directory_stay(both: Sandbox, path: str) -> None:
    """DIR-11: the root, the working directory, and every directory above it."""
    (both.root / "home/me").mkdir(parents=True)
    (both.root / "home/me/x").touch()
    both.settings = replace(both.settings, workdir="/home/me")
    agent = both.agent()
    await agent.start()
    try:
        for recursive in (False, True):
            refused = await refusal(remove(agent, path, recursive=recursive, missing_ok=True))
            assert refused.reason is Reason.PATH_FORBIDDEN
        assert (both.root / "home/me/x").exists()
        assert await remove(agent, "x") == 1
    finally:
        await agent.aclose()


async def test_guarded_places_stay(both: Sandbox) -> None:
    """DIR-11: and what is beside them, since a tree with one below it is refused before anything is removed."""
    for name in ("a/state", "b/usr/bin", "b/etc", "c/keys"):
        (both.root / name).mkdir(parents=True)
    for name in ("a/before", "a/z", "b/usr/bin/sh", "b/etc/hosts", "c/keys/token", "c/a"):
        (both.root / name).touch()
    both.settings = replace(
        both.settings,
        state_dir=both.root / "a/state",
        private=[both.root / "c/keys/token"],
        covered=["b/usr", "b/etc/hosts"],
    )
    agent = both.agent()
    await agent.start()
    before = sorted(both.root.rglob("*"))
    try:
        for path in (
            "/a",
            "/a/state",
            "/a/state/uploads.sqlite3",
            "/b",
            "/b/usr",
            "/b/usr/bin",
            "/b/usr/bin/sh",
            "/b/etc",
            "/b/etc/hosts",
            "/c",
            "/c/keys",
            "/c/keys/token",
        ):
            refused = await refusal(remove(agent, path, recursive=True))
            assert refused.reason is Reason.PATH_FORBIDDEN, path
        assert sorted(both.root.rglob("*")) == before
    finally:
        await agent.aclose()


@pytest.mark.parametrize("content", [["bin", "bin/sh"], []], ids=["with content", "empty"])
async def test_a_guarded_place_that_comes_into_the_tree(sandbox: Sandbox, content: list[str]) -> None:
    """DIR-11: a directory that a program moves into the tree meanwhile is recognized."""
    (sandbox.root / "d/a").mkdir(parents=True)
    (sandbox.root / "d/a/x").touch()
    (sandbox.root / "usr").mkdir()
    for name in content:
        (sandbox.root / "usr" / name).mkdir()
    sandbox.settings = replace(sandbox.settings, covered=["usr"])
    moved: list[bool] = []

    def move() -> None:
        if not moved:
            (sandbox.root / "usr").rename(sandbox.root / "d/a/usr")
            moved.append(True)

    sandbox.on_trace[TracePoint.ENTRY_REMOVED] = move
    agent = sandbox.agent()
    await agent.start()
    try:
        refused = await refusal(remove(agent, "/d", recursive=True))
        assert refused.reason is Reason.PATH_FORBIDDEN
        assert refused.metadata["path"].endswith("/usr")
        assert [(sandbox.root / "d/a/usr" / name).exists() for name in content] == [True] * len(content)
        assert (sandbox.root / "d/a/usr").exists()
    finally:
        await agent.aclose()


async def test_staging_files_end_with_their_directory(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-13: they keep a directory from being empty, are not counted, and end with a recursive removal."""
    (sandbox.root / "d").mkdir()
    await start_upload(agent, "/d/file", 5)
    assert await listed(agent, "/d") == []
    refused = await refusal(remove(agent, "/d"))
    assert refused.reason is Reason.DIRECTORY_NOT_EMPTY
    assert "unfinished uploads" in refused.message
    assert (await refusal(remove(agent, "/" + sandbox.leftovers()[0]))).reason is Reason.PATH_FORBIDDEN
    assert await remove(agent, "/d", recursive=True) == 1
    assert not (sandbox.root / "d").exists()


async def test_a_failure_half_way_is_told(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-17: with the path that could not be removed, and the number of entries that were."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    for name in "abc":
        (sandbox.root / "d/sub" / name).touch()
    sandbox.fs.fail("remove_file", None, errno.EACCES)
    refused = await refusal(remove(agent, "/d", recursive=True))
    assert refused.reason is Reason.ACCESS_DENIED
    assert refused.metadata["removed_entries"] == "1"
    left = sorted(path.name for path in (sandbox.root / "d/sub").iterdir())
    assert len(left) == 2
    assert Path(refused.metadata["path"]).parent == Path("/d/sub")
    assert Path(refused.metadata["path"]).name in left
    sandbox.fs.fail("remove_file", None)
    assert await remove(agent, "/d", recursive=True) == 4


async def test_a_directory_that_is_moved_while_it_is_removed(
    agent: FileAgent, sandbox: Sandbox, tmp_path: Path
) -> None:
    """DIR-10: the way back must be the way there: nothing beside the directory's new place is removed."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "d/sub/x").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()

    def move() -> None:
        if (sandbox.root / "d/sub").exists() and not (sandbox.root / "d/sub/x").exists():
            (sandbox.root / "d/sub").rename(elsewhere / "sub")

    sandbox.on_trace[TracePoint.ENTRY_REMOVED] = move
    refused = await refusal(remove(agent, "/d", recursive=True))
    assert refused.reason is Reason.FILE_CHANGED
    assert sorted(path.name for path in elsewhere.iterdir()) == ["kept", "sub"]


@pytest.mark.parametrize("looked_at", ["file", "directory"])
async def test_an_entry_of_another_type(agent: FileAgent, sandbox: Sandbox, looked_at: str) -> None:
    """DIR-31: an entry that is replaced after it was looked at is no mistake of the caller."""
    entry = sandbox.root / "d/x"
    entry.parent.mkdir()
    call = "remove_file" if looked_at == "file" else "remove_directory"
    if looked_at == "file":
        entry.touch()
    else:
        entry.mkdir()
    real = getattr(sandbox.fs, call)

    def remove_replaced(name: bytes, dir_fd: int) -> None:
        if name == b"x":
            entry.rename(sandbox.root / "away")
            if looked_at == "file":
                entry.mkdir()
            else:
                entry.symlink_to("elsewhere")
            setattr(sandbox.fs, call, real)
        real(name, dir_fd)

    setattr(sandbox.fs, call, remove_replaced)
    refused = await refusal(remove(agent, "/d", recursive=True))
    assert (refused.reason, refused.metadata["path"]) == (Reason.FILE_CHANGED, "/d/x")


async def test_a_link_in_a_loop_never_leads_out(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-10: directories that are swapped for links out of the root, all the time."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "kept").touch()
    (outside / "sub/kept").touch()
    over = threading.Event()
    reasons = set[Reason]()

    def swap() -> None:
        victim, spare = sandbox.root / "d/victim", sandbox.root / "spare"
        while not over.is_set():
            # Filled where the walk does not see it, so that no write of this thread follows the link.
            shutil.rmtree(spare, ignore_errors=True)
            (spare / "sub").mkdir(parents=True)
            (spare / "x").touch()
            with suppress(OSError):
                (sandbox.root / "d").mkdir(exist_ok=True)
                victim.unlink()
            with suppress(OSError):
                os.rename(spare, victim)
            with suppress(OSError):
                os.rename(victim, spare)
                os.symlink(outside, victim)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(200):
            try:
                await remove(agent, "/d", recursive=True, missing_ok=True)
            except Refused as refused:
                reasons.add(refused.reason)
    finally:
        over.set()
        swapping.join()
    assert sorted(path.name for path in outside.rglob("*")) == ["kept", "kept", "sub"]
    assert reasons <= {
        Reason.FILE_CHANGED,
        Reason.DIRECTORY_NOT_EMPTY,
        Reason.FILE_NOT_FOUND,
    }


async def test_a_directory_that_gets_new_entries_all_the_time(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-17: the removal gives up."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "d/sub/x").touch()
    sandbox.fs.fail("remove_directory", errno.ENOTEMPTY)
    refused = await refusal(remove(agent, "/d", recursive=True))
    assert refused.reason is Reason.DIRECTORY_NOT_EMPTY
    assert refused.metadata["path"] == "/d/sub"
    assert removal.MOST_TRIES < sandbox.fs.calls["remove_directory"] < 4 * removal.MOST_TRIES


@pytest.mark.parametrize(("mount", "what"), [("d/sub", "the directory"), ("d", "the path itself")])
async def test_mount_points_are_not_crossed(sandbox: Sandbox, mount: str, what: str) -> None:
    """DIR-12: recognized by the id of the mount, since a bind mount has the same device."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "d/sub/kept").touch()
    agent = sandbox.agent()
    await agent.start()
    real = sandbox.fs.mount_of

    def mount_of(fd: int) -> int | None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        return 999_999 if path.startswith(f"{sandbox.root}/{mount}") and mount != "d" else real(fd)

    sandbox.fs.mount_of = mount_of  # type: ignore[method-assign]
    if mount == "d":
        sandbox.fs.fail("remove_directory", errno.EBUSY)
    try:
        refused = await refusal(remove(agent, "/d", recursive=True))
        assert refused.reason is Reason.MOUNT_POINT, what
        assert refused.metadata["path"] == f"/{mount}"
        assert (sandbox.root / "d/sub/kept").exists()
    finally:
        await agent.aclose()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
async def test_a_real_mount_is_not_crossed(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-12: a bind mount of the same file system."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (sandbox.root / "d/sub/mounted").mkdir(parents=True)
    place = sandbox.root / "d/sub/mounted"
    if not await _runs("mount", "--bind", outside, place):
        pytest.skip("this machine does not let root mount")
    try:
        refused = await refusal(remove(agent, "/d", recursive=True))
        assert refused.reason is Reason.MOUNT_POINT
        assert (outside / "kept").exists()
    finally:
        assert await _runs("umount", place)
    assert await remove(agent, "/d", recursive=True) == 3


async def _runs(*command: str | Path) -> bool:
    """Run a command; return whether it succeeded."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait() == 0


#: Name of each directory of a deep tree.
LEVEL = "a-directory-of-a-deep-tree"


@pytest.fixture
def deep(sandbox: Sandbox) -> Iterator[Callable[[Path, int], None]]:
    """Return a function that makes directories below each other; what a failed test left is removed."""

    def make(top: Path, depth: int) -> None:
        fd = os.open(top, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(LEVEL, dir_fd=fd)
            below = os.open(LEVEL, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(os.open("file", os.O_CREAT, dir_fd=fd))
        os.close(fd)

    yield make
    # Python's own removal is recursive, and so is the one of pytest.
    subprocess.run(["rm", "-rf", sandbox.root / "d"], check=True)


async def test_a_deep_tree(agent: FileAgent, sandbox: Sandbox, deep: Callable[[Path, int], None]) -> None:
    """DIR-10: deeper than any path, and than the descriptors of a process."""
    depth = 700
    (sandbox.root / "d").mkdir()
    deep(sandbox.root / "d", depth)
    assert depth * len(LEVEL) > 3 * 4096
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        assert await remove(agent, "/d", recursive=True) == depth + 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_many_directories_in_one(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DIR-10: more than wait at a time, on every level."""
    monkeypatch.setattr(removal, "_MOST_WAITING", 3)
    for first in range(7):
        for second in range(7):
            (sandbox.root / f"d/{first}/{second}").mkdir(parents=True)
            (sandbox.root / f"d/{first}/{second}/x").touch()
    assert await remove(agent, "/d", recursive=True) == 1 + 7 + 49 + 49


@pytest.mark.parametrize("leaves", ["cancelled", "relay ends"])
async def test_a_caller_that_leaves_ends_the_removal(agent: FileAgent, sandbox: Sandbox, leaves: str) -> None:
    """DIR-18: at the next entry."""
    (sandbox.root / "d").mkdir()
    for number in range(200):
        (sandbox.root / f"d/{number}").touch()
    reached, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        reached.set()
        go_on.wait(20)

    sandbox.on_trace[TracePoint.ENTRY_REMOVED] = stop
    async with peer_of(agent) as peer:
        request = directories_pb2.RemovePathRequest(path=b"/d", recursive=True)
        await peer.send(opened(remove_path=request))
        await until(reached.is_set)
        await leave(peer, leaves)
        go_on.set()
        await peer.task
    assert 100 < len(list((sandbox.root / "d").iterdir())) < 200


async def test_a_long_removal_says_that_it_works(sandbox: Sandbox) -> None:
    """FRM-7, DIR-18: for as long as entries are removed, and not only for ten idle timeouts."""
    sandbox.settings = replace(sandbox.settings, idle_timeout=0.02)
    (sandbox.root / "d").mkdir()
    for number in range(60):
        (sandbox.root / f"d/{number}").touch()
    agent = sandbox.agent()
    await agent.start()
    waiting = threading.Event()
    sandbox.on_trace[TracePoint.ENTRY_REMOVED] = lambda: waiting.wait(0.01)
    try:
        async with peer_of(agent) as peer:
            request = directories_pb2.RemovePathRequest(path=b"/d", recursive=True)
            await peer.send(opened(remove_path=request))
            await peer.input_end()
            kinds: list[str | None] = []
            while (frame := await peer.next()) is not None:
                kinds.append(frame.WhichOneof("frame"))
        assert kinds[-2:] == ["accepted", "remove_path"]
        # More than ten idle timeouts' worth of them, at four per timeout.
        assert kinds.count("working") > 45
    finally:
        await agent.aclose()


async def test_other_operations_go_on_meanwhile(sandbox: Sandbox) -> None:
    """DIR-18: with one disk thread for all, a long removal gives others their turn."""
    sandbox.settings = replace(sandbox.settings, disk_threads=1)
    (sandbox.root / "d").mkdir()
    for number in range(50):
        (sandbox.root / f"d/{number}").touch()
    agent = sandbox.agent()
    await agent.start()
    try:
        removing = asyncio.ensure_future(remove(agent, "/d", recursive=True))
        await put(agent, "/other", b"x", principal="bob")
        assert await removing == 51
    finally:
        await agent.aclose()


def test_the_answer_fits() -> None:
    frame = file_relay_pb2.FileRelayResponse(
        remove_path=directories_pb2.RemovePathResponse(removed_entries=1 << 40)
    )
    assert frame.WhichOneof("frame") == "remove_path"


@pytest.mark.parametrize("shape", ["flat", "wide", "deep"])
def test_memory_does_not_grow_with_the_entries(
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    deep: Callable[[Path, int], None],
    shape: str,
) -> None:
    """DIR-10: ten times as many entries take no more memory, but some bytes for each level of depth."""
    monkeypatch.setattr(removal, "_MOST_WAITING", 100)
    peaks = [
        _peak_of_removal(sandbox, deep, shape, count) for count in (200, 6000 if shape == "wide" else 2000)
    ]
    assert peaks[1] < peaks[0] + (300_000 if shape == "deep" else 100_000), peaks


def _peak_of_removal(sandbox: Sandbox, deep: Callable[[Path, int], None], shape: str, count: int) -> int:
    top = sandbox.root / "d"
    top.mkdir()
    if shape == "flat":
        for number in range(count):
            (top / str(number)).touch()
    elif shape == "wide":
        for number in range(count // 2):
            (top / str(number)).mkdir()
            (top / str(number) / "x").touch()
    else:
        deep(top, count)
    fs = FileSystem()
    parent = os.open(sandbox.root, os.O_PATH)
    location = Location(fs, parent, b"/", b"d")
    tree = removal.TreeRemoval(fs, location, GuardedPlaces({}, {}), top.lstat())
    tracemalloc.start()
    try:
        assert sum(1 for _ in tree.steps()) >= count // 2
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        location.close()
