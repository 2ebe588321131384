"""ListDirectory (DIR-3 to DIR-9, DIR-28): order, pages, entries that vanish or cannot be read, hidden places."""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from agent.agent_harness import Sandbox, start_upload, stat, until
from agent.directory_calls import listed, names, page
from agent.refusals import refusal
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES, MAX_PAGE_SIZE, PAGE_BYTES
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent


async def test_entries_of_every_kind(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-3: each entry is described as StatFile describes it, and a link is not followed."""
    (sandbox.root / "d").mkdir(mode=0o750)
    (sandbox.root / "file").write_bytes(b"content")
    (sandbox.root / "link").symlink_to("file")
    os.mkfifo(sandbox.root / "pipe")
    entries = await listed(agent)
    assert names(entries) == ["d", "file", "link", "pipe"]
    for entry in entries:
        told = await stat(agent, "/" + os.fsdecode(entry.name), leaf_link=files_pb2.LEAF_LINK_POLICY_NOFOLLOW)
        assert (entry.type, entry.size_bytes, entry.mode, entry.version) == (
            told.type,
            told.size_bytes,
            told.mode,
            told.version,
        )
        assert entry.modified_time == told.modified_time
        assert (entry.allocated_bytes, entry.link_target) == (told.allocated_bytes, told.link_target)
        assert not entry.reason
    answer = await page(agent)
    assert answer.directory == await stat(agent, "/")


async def test_the_order_is_that_of_the_bytes(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-4: also of names that are not UTF-8; in a recursive listing a directory comes before its content."""
    for name in (b"b", b"B", b"a.b", b"\xff", "\u00e9".encode(), b"a\nb"):
        (sandbox.root / os.fsdecode(name)).touch()
    (sandbox.root / "a").mkdir()
    (sandbox.root / "a" / "z").touch()
    flat = [b"B", b"a", b"a\nb", b"a.b", b"b", "\u00e9".encode(), b"\xff"]
    assert [entry.name for entry in await listed(agent)] == flat
    flat.insert(2, b"a/z")
    assert [entry.name for entry in await listed(agent, recursive=True)] == flat


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("recursive", [False, True])
async def test_pages_give_each_entry_once(
    agent: FileAgent, sandbox: Sandbox, size: int, *, recursive: bool
) -> None:
    """DIR-4."""
    for directory in ("a", "a/b", "a/b/c", "d", "d/e"):
        (sandbox.root / directory).mkdir()
        for name in ("x", "y"):
            (sandbox.root / directory / name).touch()
    (sandbox.root / "f").touch()
    whole = names(await listed(agent, recursive=recursive))
    expected = sorted(
        (str(path.relative_to(sandbox.root)) for path in sandbox.root.rglob("*")),
        key=lambda name: name.split("/"),
    )
    assert whole == (expected if recursive else ["a", "d", "f"])
    assert names(await listed(agent, recursive=recursive, page_size=size)) == whole


async def test_the_sizes_of_pages(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-28: the default, the limit, and the limit of a message."""
    top = sandbox.root / "many"
    top.mkdir()
    for number in range(MAX_PAGE_SIZE + 5):
        (top / f"{number:05}").touch()
    assert len((await page(agent, "/many")).entries) == 1000
    assert len((await page(agent, "/many", page_size=2_000_000_000)).entries) == MAX_PAGE_SIZE
    long = sandbox.root / "long"
    long.mkdir()
    for number in range(400):
        (long / f"{number:03}").symlink_to("x" * 4000)
    answer = await page(agent, "/long", page_size=MAX_PAGE_SIZE)
    assert 200 < len(answer.entries) < 400
    assert file_relay_pb2.FileRelayResponse(list_directory=answer).ByteSize() <= MAX_MESSAGE_BYTES
    assert len(await listed(agent, "/long", page_size=MAX_PAGE_SIZE)) == 400


@pytest.mark.parametrize("recursive", [False, True])
async def test_a_directory_that_changes_between_pages(
    agent: FileAgent, sandbox: Sandbox, *, recursive: bool
) -> None:
    """DIR-4: the next page goes on behind the last name, whether that is still there or not."""
    for name in "bdfh":
        (sandbox.root / name).touch()
    first = await page(agent, page_size=2, recursive=recursive)
    assert names(first.entries) == ["b", "d"]
    for name in "acez":
        (sandbox.root / name).touch()
    for name in "bdf":
        (sandbox.root / name).unlink()
    second = await page(agent, page_size=10, page_token=first.next_page_token, recursive=recursive)
    assert names(second.entries) == ["e", "h", "z"]


async def test_a_directory_of_the_token_that_is_gone(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-4: a recursive listing goes on behind a directory that vanished, or is a link by now."""
    (sandbox.root / "a/b").mkdir(parents=True)
    (sandbox.root / "a/b/x").touch()
    (sandbox.root / "c").touch()
    answer = await page(agent, page_size=3, recursive=True)
    assert names(answer.entries) == ["a", "a/b", "a/b/x"]
    (sandbox.root / "a").rename(sandbox.root.parent / "away")
    (sandbox.root / "a").symlink_to("../away")
    answer = await page(agent, recursive=True, page_token=answer.next_page_token)
    assert names(answer.entries) == ["c"]


@pytest.mark.parametrize(
    ("token", "recursive"),
    [
        (b"..", True),
        (b"a/../b", True),
        (b"/a", True),
        (b"a//b", True),
        (b"a/", True),
        (b"a\0", True),
        (b"a/b", False),
        (b"x" * 256, True),
        (b"a/" * 2047 + b"ab", True),
    ],
)
async def test_tokens_that_no_answer_has(agent: FileAgent, token: bytes, *, recursive: bool) -> None:
    """DIR-4."""
    refused = await refusal(page(agent, page_token=token, recursive=recursive))
    assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["page_token"])


async def test_an_entry_that_vanishes_is_left_out(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-6."""
    for name in "abc":
        (sandbox.root / name).touch()
    real = FileSystem.lstat

    def lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
        if name == b"b":
            (sandbox.root / "b").unlink(missing_ok=True)
        return real(sandbox.fs, name, dir_fd)

    sandbox.fs.lstat = lstat  # type: ignore[method-assign]
    assert names(await listed(agent)) == ["a", "c"]


async def test_what_cannot_be_read_has_a_reason(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-7: an unreadable directory, and an entry whose status cannot be read, are never silently empty."""
    for name in ("a", "b"):
        (sandbox.root / name).mkdir()
        (sandbox.root / name / "x").touch()
    real = FileSystem.open

    def opened(name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
        if name == b"a":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(sandbox.fs, name, flags, dir_fd=dir_fd, mode=mode)

    sandbox.fs.open = opened  # type: ignore[method-assign]
    entries = await listed(agent, recursive=True)
    assert [(os.fsdecode(entry.name), entry.reason) for entry in entries] == [
        ("a", "ACCESS_DENIED"),
        ("b", ""),
        ("b/x", ""),
    ]
    del sandbox.fs.open
    sandbox.fs.fail("lstat", errno.EIO, None)
    entries = await listed(agent)
    assert [(os.fsdecode(entry.name), entry.reason) for entry in entries] == [("a", "IO_ERROR"), ("b", "")]


async def test_hidden_places(sandbox: Sandbox) -> None:
    """DIR-8: the supervisor's files, covered directories and staging files are not listed, at any depth."""
    for name in ("state", "usr/bin", "home/keys", "there"):
        (sandbox.root / name).mkdir(parents=True)
    (sandbox.root / "home/keys/token").write_text("secret")
    (sandbox.root / "home/keys/token.0123456789abcdef").touch()
    os.link(sandbox.root / "home/keys/token", sandbox.root / "there/second")
    (sandbox.root / "home/keys/shown").touch()
    sandbox.settings = replace(
        sandbox.settings,
        state_dir=sandbox.root / "state",
        private=[sandbox.root / "home/keys/token"],
        covered=["usr"],
    )
    agent = sandbox.agent()
    await agent.start()
    try:
        await start_upload(agent, "/there/file", 5)
        assert sandbox.leftovers()
        assert names(await listed(agent)) == ["home", "there"]
        whole = ["home", "home/keys", "home/keys/shown", "there"]
        assert names(await listed(agent, recursive=True)) == whole
        assert names(await listed(agent, recursive=True, page_size=1)) == whole
        assert names(await listed(agent, "/home/keys")) == ["shown"]
        for path in ("/state", "/usr", "/usr/bin"):
            assert (await refusal(page(agent, path))).reason is Reason.PATH_FORBIDDEN
    finally:
        await agent.aclose()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none", Reason.FILE_NOT_FOUND),
        ("/none/x", Reason.PARENT_NOT_FOUND),
        ("/file", Reason.NOT_A_DIRECTORY),
        ("/file/", Reason.NOT_A_DIRECTORY),
        ("/file/x", Reason.NOT_A_DIRECTORY),
        ("/dangling", Reason.FILE_NOT_FOUND),
        ("/../d", Reason.INVALID_PATH),
        ("", Reason.INVALID_PATH),
        ("/d\0", Reason.INVALID_PATH),
    ],
)
async def test_refused_paths(either: FileAgent, sandbox: Sandbox, path: str, reason: Reason) -> None:
    """DIR-2: as in StatFile."""
    (sandbox.root / "file").touch()
    (sandbox.root / "dangling").symlink_to("nowhere")
    assert (await refusal(page(either, path))).reason is reason


async def test_named_directories(both: Sandbox) -> None:
    """DIR-2: the root, the working directory, a slash at the end, a link to a directory, a name that is not UTF-8."""
    both.settings = replace(both.settings, workdir="/home")
    (both.root / "home").mkdir()
    (both.root / "home/x").touch()
    (both.root / "link").symlink_to("home")
    os.mkdir(os.fsencode(both.root) + b"/\xff")
    (both.root / os.fsdecode(b"\xff") / "y").touch()
    agent = both.agent()
    await agent.start()
    try:
        for path in (".", "./", "/home", "/home/", "/link", "/link/", "/home/."):
            assert names(await listed(agent, path)) == ["x"], path
        assert names(await listed(agent, b"/\xff")) == ["y"]
        assert names(await listed(agent, "/")) == ["home", "link", os.fsdecode(b"\xff")]
    finally:
        await agent.aclose()


async def test_a_path_that_is_too_long_to_name_its_content(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-7: a directory whose content no path can name has a reason; the listing ends."""
    fd = os.open(sandbox.root, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=fd)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    entries = await listed(agent, recursive=True, page_size=3)
    assert len(entries) == 20
    assert [entry.reason for entry in entries[-2:]] == ["", "INVALID_PATH"]


async def test_a_directory_that_is_moved_while_it_is_listed(
    agent: FileAgent, sandbox: Sandbox, tmp_path: Path
) -> None:
    """DIR-9: the way back must be the way there, else the walk starts again behind the last entry."""
    (sandbox.root / "a/b").mkdir(parents=True)
    (sandbox.root / "a/b/x").touch()
    (sandbox.root / "z").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    real = FileSystem.lstat

    def lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
        if name == b"x" and (sandbox.root / "a/b").exists():
            (sandbox.root / "a/b").rename(outside / "b")
        return real(sandbox.fs, name, dir_fd)

    sandbox.fs.lstat = lstat  # type: ignore[method-assign]
    assert names(await listed(agent, recursive=True)) == ["a", "a/b", "a/b/x", "z"]


async def test_directories_that_are_moved_all_the_time(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-9: a listing ends."""
    (sandbox.root / "a/b").mkdir(parents=True)
    moved = [sandbox.root / "a/b", sandbox.root / "b"]
    real = FileSystem.open

    def opened(name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
        if name == b".." and dir_fd is not None and os.readlink(f"/proc/self/fd/{dir_fd}").endswith("/b"):
            moved[0].rename(moved[1])
            fd = real(sandbox.fs, name, flags, dir_fd=dir_fd, mode=mode)
            moved[1].rename(moved[0])
            return fd
        return real(sandbox.fs, name, flags, dir_fd=dir_fd, mode=mode)

    sandbox.fs.open = opened  # type: ignore[method-assign]
    assert (await refusal(listed(agent, recursive=True))).reason is Reason.FILE_CHANGED


async def test_a_link_behind_the_look(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-9: a directory that becomes a link between its description and the step into it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    victim = sandbox.root / "victim"
    victim.mkdir()
    real = FileSystem.lstat

    def lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
        status = real(sandbox.fs, name, dir_fd)
        if name == b"victim" and not victim.is_symlink():
            victim.rmdir()
            victim.symlink_to(outside)
        return status

    sandbox.fs.lstat = lstat  # type: ignore[method-assign]
    assert names(await listed(agent, recursive=True)) == ["victim"]


async def test_a_link_in_a_loop_never_leads_out(agent: FileAgent, sandbox: Sandbox, tmp_path: Path) -> None:
    """DIR-9: a directory that is swapped for a link out of the root, all the time."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    victim, link = sandbox.root / "victim", sandbox.root / "link"
    victim.mkdir()
    (victim / "inside").touch()
    link.symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            for first, second in ((victim, link), (link, victim)):
                os.rename(first, sandbox.root / "spare")
                os.rename(second, first)
                os.rename(sandbox.root / "spare", second)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(300):
            assert not [name for name in names(await listed(agent, recursive=True)) if "secret" in name]
    finally:
        over.set()
        swapping.join()


async def test_large_directories_are_read_once(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-5: the pages of a large directory do not read it again, unless it changed."""
    top = sandbox.root / "many"
    top.mkdir()
    for number in range(3000):
        (top / f"{number:05}").touch()
    sandbox.fs.fail("names")
    # A directory that changed a moment ago is not kept in the cache.
    await until(lambda: time.time() - top.stat().st_ctime > 0.2)
    assert len(await listed(agent, "/many", page_size=100)) == 3000
    assert sandbox.fs.calls["names"] == 1
    (top / "more").touch()
    assert len(await listed(agent, "/many", page_size=1000)) == 3001
    assert sandbox.fs.calls["names"] > 1


async def test_an_entry_of_the_protocol_fits_a_page() -> None:
    """DIR-28: the largest entry is smaller than what a page leaves of a message."""
    entry = directories_pb2.DirectoryEntry(
        name=b"x" * 4095, link_target=b"x" * 4095, version="x" * 32, reason="x" * 40, size_bytes=1 << 63
    )
    assert PAGE_BYTES + entry.ByteSize() < MAX_MESSAGE_BYTES
