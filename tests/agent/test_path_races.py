"""Paths that change while they are resolved, and kernels that lack openat2 or /proc (PTH-3)."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from agent.agent_harness import (
    EACCES,
    Refused,
    Sandbox,
    StrictFileSystem,
    get,
    put,
)
from agent.refusals import refusal
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (EACCES, Reason.ACCESS_DENIED),
        (errno.EPERM, Reason.ACCESS_DENIED),
        (errno.ENAMETOOLONG, Reason.INVALID_PATH),
        (errno.EIO, Reason.IO_ERROR),
        (errno.EMFILE, Reason.TOO_MANY_TRANSFERS),
    ],
)
async def test_what_resolving_can_answer(
    agent: FileAgent, sandbox: Sandbox, code: int, reason: Reason
) -> None:
    """PTH-6: also as root, who is never refused by the kernel."""
    (sandbox.root / "file").write_bytes(b"x")
    sandbox.fs.fail("openat2", code)
    assert (await refusal(get(agent, "/file"))).reason is reason
    sandbox.fs.fail("openat2", None)
    sandbox.fs.fail("open", code)
    assert (await refusal(get(agent, "/file"))).reason is reason


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
async def test_a_kernel_without_openat2(sandbox: Sandbox, code: int) -> None:
    """PTH-12: or a filter that refuses it: paths are walked."""
    sandbox.fs.fail("openat2", code)
    agent = sandbox.agent()
    await agent.start()
    try:
        (sandbox.root / "d").mkdir()
        (sandbox.root / "link").symlink_to("/d")
        assert (await put(agent, "/link/f", b"x")).file.path == "/d/f"
        assert sandbox.fs.calls["openat2"] == 1
    finally:
        await agent.aclose()


async def test_swapped_links_race(either: FileAgent, both: Sandbox) -> None:
    """PTH-3, PTH-4: a directory and a file that turn into links and back, all the time."""
    root = both.root
    secret = root.parent / "outside"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    (root / "good").mkdir()
    (root / "good" / "file").write_bytes(b"good")
    (root / "d").symlink_to("good")
    stop = threading.Event()

    def swap() -> None:
        targets = [str(secret), "good", "../../outside", f"/proc/self/root{secret}"]
        index = 0
        while not stop.is_set():
            index += 1
            (root / "next").symlink_to(targets[index % len(targets)])
            (root / "next").rename(root / "d")

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: set[str] = set()
    try:
        for _ in range(150):
            try:
                seen.add((await get(either, "/d/file")).content.decode())
            except Refused as refused:
                seen.add(refused.reason.name)
    finally:
        stop.set()
        swapping.join()
    assert "secret" not in seen
    assert seen <= {"good", "FILE_NOT_FOUND", "PARENT_NOT_FOUND", "PATH_FORBIDDEN"}


def test_without_proc_a_leaf_is_compared(tmp_path: Path) -> None:
    """PTH-4: where descriptors cannot be opened again, a swap is noticed."""

    class Swapping(FileSystem):
        def open(self, name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
            fd = super().open(name, flags, dir_fd=dir_fd, mode=mode)
            if name == b"file" and flags & os.O_PATH:
                (tmp_path / "other").rename(tmp_path / "file")
            return fd

    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / "other").write_bytes(b"two")
    root = SandboxRoot(tmp_path, "/", use_openat2=False, fs=Swapping())
    root.directories.has_proc = False
    try:
        with root.locate("/file", "f") as location, pytest.raises(TransferError) as refused:
            root.open_regular(location)
        assert refused.value.reason is Reason.FILE_CHANGED
    finally:
        root.close()


@pytest.mark.parametrize("name", ["sandbox-root-beside", "other"])
async def test_a_directory_that_is_moved_beside_the_root(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """PTH-3: out of the root is out, also where the name there begins as the root's."""
    (sandbox.root / "d").mkdir()
    outside = sandbox.root.with_name(name)
    resolve = sandbox.fs.openat2

    def move(dir_fd: int, path: bytes, flags: int, resolve_flags: int) -> int:
        fd = resolve(dir_fd, path, flags, resolve_flags)
        if path == b"/d" and not outside.exists():
            (sandbox.root / "d").rename(outside)
        return fd

    monkeypatch.setattr(sandbox.fs, "openat2", move)
    with pytest.raises(Refused) as refused:
        await put(agent, "/d/file", b"x")
    assert refused.value.reason is Reason.PARENT_NOT_FOUND
    assert list(outside.iterdir()) == []


class HookedFileSystem(StrictFileSystem):
    """Tells of every descriptor that is opened, and lets a test act before it is."""

    def __init__(self) -> None:
        super().__init__()
        self.highest = 0
        self.on_up: Callable[[], object] | None = None

    def open(self, name: bytes, flags: int, *, dir_fd: int | None = None, mode: int = 0o600) -> int:
        if name == b".." and self.on_up is not None:
            on_up, self.on_up = self.on_up, None
            on_up()
        fd = FileSystem.open(self, name, flags, dir_fd=dir_fd, mode=mode)
        self.highest = max(self.highest, fd)
        return fd


async def test_a_path_holds_few_descriptors(both: Sandbox) -> None:
    """PTH-3: however long links make it; the walk goes up and down 26 000 times."""
    both.fs = fs = HookedFileSystem()
    (both.root / "a").mkdir()
    (both.root / "l0").symlink_to("/")
    for index in range(1, 41):
        (both.root / f"l{index}").symlink_to("a/../" * 650 + f"l{index - 1}")
    agent = both.agent()
    await agent.start()
    try:
        await put(agent, "/f", b"")
        before, fs.highest = fs.highest, 0
        assert (await refusal(put(agent, "/l40/f", b"x"))).reason is Reason.INVALID_PATH
        await put(agent, "/l39/f", b"x")
        assert (both.root / "f").read_bytes() == b"x"
        assert fs.highest <= before + 4
    finally:
        await agent.aclose()


async def test_a_directory_that_is_moved_during_the_walk(sandbox: Sandbox, tmp_path: Path) -> None:
    """PTH-3: `..` leads back to where the walk came from, or nowhere; never out of the root."""
    sandbox.settings = replace(sandbox.settings, use_openat2=False)
    sandbox.fs = fs = HookedFileSystem()
    (sandbox.root / "a/b").mkdir(parents=True)
    (sandbox.root / "back").symlink_to("a/b/..")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    agent = sandbox.agent()
    await agent.start()
    fs.on_up = lambda: (sandbox.root / "a/b").rename(outside / "b")
    try:
        assert (await refusal(get(agent, "/back/secret"))).reason is Reason.PARENT_NOT_FOUND
        assert fs.on_up is None
    finally:
        await agent.aclose()
