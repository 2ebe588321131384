"""Hostile paths, with openat2 and without (PTH-1 to PTH-6)."""

from __future__ import annotations

import errno
import os
import socket
import stat as stat_module
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    EACCES,
    EROFS,
    Refused,
    Sandbox,
    StrictFileSystem,
    get,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    stat,
)
from digest_values import digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.remote_path import absolute_components
from openshell_supervisor_sim.agent.filesystem.handles import FileSystem, devtmpfs_devices
from openshell_supervisor_sim.agent.paths.resolve import SandboxRoot
from vector_cases import Access, Entry, Name, Paths, Tree, named, read

FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW
REPLACE = files_pb2.LEAF_LINK_POLICY_REPLACE
CREATE = files_pb2.PARENT_POLICY_CREATE


async def refusal(awaitable: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await awaitable
    return refused.value


@pytest.fixture
async def either(both: Sandbox) -> AsyncIterator[FileAgent]:
    """An agent with each of the resolvers."""
    agent = both.agent()
    await agent.start()
    yield agent
    await agent.aclose()


NAMES = read(Paths).names


@pytest.mark.parametrize("case", NAMES, ids=named)
def test_names(case: Name) -> None:
    """PTH-2, PTH-10, PTH-23, PTH-24: what a path says before the disk is looked at."""
    for expected, directories in ((case.transfer, False), (case.stat, True)):
        if expected is None:
            with pytest.raises(TransferError) as refused:
                absolute_components("".join(case.path), case.workdir, "f", directories=directories)
            assert refused.value.reason is Reason.INVALID_PATH
            assert [violation.field for violation in refused.value.field_violations] == ["f"]
        else:
            names = absolute_components("".join(case.path), case.workdir, "f", directories=directories)
            assert b"/" + b"/".join(names) == expected.encode()


@pytest.mark.parametrize("case", [case for case in NAMES if case.transfer is None], ids=named)
async def test_paths_that_name_no_file(sandbox: Sandbox, case: Name) -> None:
    """PTH-2: refused for every operation that transfers, with the field that is wrong."""
    path = "".join(case.path)
    sandbox.settings = replace(sandbox.settings, workdir=case.workdir)
    agent = sandbox.agent()
    await agent.start()
    try:
        for operation in (
            put(agent, path, b""),
            put(agent, path, b"", parents=CREATE),
            start_upload(agent, path),
        ):
            error = await refusal(operation)
            assert error.reason is Reason.INVALID_PATH
            assert error.fields == ["metadata.remote_path"]
        for reading in (get(agent, path), *([stat(agent, path)] if case.stat is None else [])):
            error = await refusal(reading)
            assert error.reason is Reason.INVALID_PATH
            assert error.fields == ["remote_path"]
    finally:
        await agent.aclose()
    assert not list(sandbox.root.iterdir())


@pytest.mark.parametrize("case", [case for case in NAMES if case.transfer is not None], ids=named)
async def test_odd_names_are_names(both: Sandbox, case: Name) -> None:
    """PTH-1, PTH-2, PTH-10: whatever the kernel takes."""
    both.settings = replace(both.settings, workdir=case.workdir)
    agent = both.agent()
    await agent.start()
    path, expected = "".join(case.path), case.transfer
    assert expected is not None
    try:
        if len(expected) > LONGEST:
            # The kernel takes the path, and the test would not get to the file.
            assert (await refusal(get(agent, path))).reason is Reason.PARENT_NOT_FOUND
            return
        answer = await put(agent, path, b"x", parents=CREATE)
        assert answer.file.path == expected
        assert (both.root / expected[1:]).read_bytes() == b"x"
        assert (await get(agent, expected)).content == b"x"
    finally:
        await agent.aclose()


#: A path that is longer is not reached from this side of the sandbox's root.
LONGEST = 3000


@pytest.mark.parametrize("case", read(Paths).trees, ids=named)
async def test_trees(both: Sandbox, case: Tree) -> None:
    """PTH-3, PTH-4, PTH-6, PTH-9, PTH-13, PTH-14, PTH-16 to PTH-18, PTH-23 to PTH-25: where paths lead, with each
    of the resolvers."""
    for entry in case.entries:
        make(both.root / entry.path[1:], entry)
    both.settings = replace(both.settings, workdir=case.workdir)
    agent = both.agent()
    await agent.start()
    try:
        for access in case.accesses:
            assert await outcome(agent, access) == (access.resolved, access.reason), access
    finally:
        await agent.aclose()


def make(path: Path, entry: Entry) -> None:
    match entry.kind:
        case "directory":
            path.mkdir()
        case "file":
            path.write_bytes(b"x")
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to(entry.target or "")


async def outcome(agent: FileAgent, access: Access) -> tuple[str | None, str | None]:
    """Make a call; where its path led, or the reason."""
    link = files_pb2.LeafLinkPolicy.ValueType(access.leaf_link)
    try:
        match access.method:
            case "upload":
                parents = files_pb2.ParentPolicy.ValueType(access.parents)
                answer = await put(agent, access.path, b"x", leaf_link=link, parents=parents)
                return answer.file.path, None
            case "download":
                got = await get(agent, access.path, leaf_link=link)
                assert got.content == b"x"
                return got.header.file.path, None
            case "stat":
                digest = access.include_digest
                found = await stat(agent, access.path, leaf_link=link, include_digest=digest)
                return found.path, None
    except Refused as refused:
        return None, refused.reason.name


#: Every method that takes a path, as somebody who is not the uploader.
OF_ANOTHER: dict[str, Callable[[FileAgent, str], Awaitable[Any]]] = {
    "upload": lambda agent, path: put(agent, path, b"", principal="bob", leaf_link=FOLLOW),
    "start": lambda agent, path: start_upload(agent, path, principal="bob", leaf_link=FOLLOW),
    "start with digest": lambda agent, path: start_upload(
        agent, path, 6, principal="bob", digest=digest_of(b"secret"), leaf_link=FOLLOW
    ),
    "condition": lambda agent, path: put(
        agent,
        path,
        b"",
        principal="bob",
        condition=files_pb2.UploadCondition(present=Empty()),
        leaf_link=FOLLOW,
    ),
    "download": lambda agent, path: get(agent, path, leaf_link=FOLLOW),
    "unchecked download": lambda agent, path: get(agent, path, checked=False, leaf_link=FOLLOW),
    "stat": lambda agent, path: stat(agent, path, leaf_link=FOLLOW),
    "stat of a directory": lambda agent, path: stat(agent, path + "/", leaf_link=FOLLOW),
    "stat of a link": lambda agent, path: stat(agent, path, leaf_link=files_pb2.LEAF_LINK_POLICY_NOFOLLOW),
    "stat with digest": lambda agent, path: stat(agent, path, include_digest=True, leaf_link=FOLLOW),
}


@pytest.mark.parametrize("way", ["its name", "a link", "nothing there"])
@pytest.mark.parametrize("method", OF_ANOTHER)
async def test_staging_names_are_reserved(either: FileAgent, both: Sandbox, method: str, way: str) -> None:
    """PTH-20, RSM-2: nobody reads, describes or replaces what another one uploads, not through a link either."""
    started = await start_upload(either, "/file", 6, request_id="r")
    async with peer_of(either) as peer:
        fields: dict[str, Any] = {"upload_id": started.upload_id, "epoch": 1, "request_id": "r"}
        await peer.send(opened(upload=metadata("/file", 6, **fields)))
        await peer.accepted()
        await peer.data(0, b"sec")
        await peer.input_end()
        await peer.error()
    (name,) = both.leftovers()
    (both.root / "link").symlink_to(name)
    path = {"its name": f"/{name}", "a link": "/link", "nothing there": "/.openshell-upload-0123"}[way]
    if way == "a link" and method == "stat of a link":
        assert (await stat(either, path, leaf_link=files_pb2.LEAF_LINK_POLICY_NOFOLLOW)).link_target
    else:
        assert (await refusal(OF_ANOTHER[method](either, path))).reason is Reason.PATH_FORBIDDEN
    assert (both.root / name).read_bytes() == b"sec"
    await put(either, "/file", b"secret", skip=3, **fields)
    assert (both.root / "file").read_bytes() == b"secret"


@pytest.mark.parametrize("target", ["/", "/../..", "../../../..", "."])
async def test_no_link_leaves_the_root(either: FileAgent, both: Sandbox, target: str) -> None:
    """PTH-3: whatever the link says, a secret outside is not there."""
    secret = both.root.parent / "secret"
    secret.write_bytes(b"secret")
    (both.root / "out").symlink_to(target)
    (both.root / "named").symlink_to(str(secret))
    assert (await refusal(get(either, "/out/secret"))).reason is Reason.FILE_NOT_FOUND
    inside = str(both.root).lstrip("/")
    assert (await refusal(get(either, f"/out/{inside}/x"))).reason is Reason.PARENT_NOT_FOUND
    assert (await refusal(get(either, "/named", leaf_link=FOLLOW))).reason is Reason.PARENT_NOT_FOUND
    assert (await refusal(get(either, "/named"))).reason is Reason.LEAF_IS_LINK
    await put(either, "/out/secret", b"inside")
    assert secret.read_bytes() == b"secret"
    assert (both.root / "secret").read_bytes() == b"inside"


async def test_what_is_not_a_regular_file(either: FileAgent, both: Sandbox) -> None:
    """PTH-4, PTH-15: a FIFO does not make the agent wait."""
    root = both.root
    (root / "directory").mkdir()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(root, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        for name, reason in [
            ("directory", Reason.IS_A_DIRECTORY),
            ("fifo", Reason.NOT_A_REGULAR_FILE),
            ("socket", Reason.NOT_A_REGULAR_FILE),
        ]:
            assert (await refusal(get(either, name))).reason is reason
            assert (await refusal(put(either, name, b"x"))).reason is reason


async def test_a_device_is_never_opened(either: FileAgent, both: Sandbox) -> None:
    """PTH-15: only looked at; /dev/zero would never end."""
    try:
        os.mknod(both.root / "zero", 0o666 | stat_module.S_IFCHR, os.makedev(1, 5))
    except PermissionError:
        # Not root: the FIFO above takes the same way through the code.
        os.mkfifo(both.root / "zero")
    assert (await refusal(get(either, "zero"))).reason is Reason.NOT_A_REGULAR_FILE
    assert "reopen" not in both.fs.calls


async def test_the_agents_staging_directory_is_the_destinations(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-36: a parent that is swapped for a link after admission does not divert the file."""
    root = sandbox.root
    (root / "real").mkdir()
    (root / "other").mkdir()

    def swap() -> None:
        (root / "real").rename(root / "moved")
        (root / "real").symlink_to("other")

    sandbox.on_trace["upload.flushed"] = swap
    await put(agent, "/real/file", b"x")
    assert (root / "moved" / "file").read_bytes() == b"x"
    assert not list((root / "other").iterdir())


@pytest.fixture
async def whole_machine(both: Sandbox, tmp_path: Path) -> AsyncIterator[FileAgent]:
    """An agent whose root is `/`, as in a sandbox, to see real kernel interfaces."""
    both.settings = replace(both.settings, root=Path("/"), workdir=str(tmp_path))
    agent = both.agent()
    await agent.start()
    yield agent
    await agent.aclose()


@pytest.mark.parametrize(
    "path",
    [
        "/proc/self/status",
        "/proc/mounts",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/x",
        "/proc/self/fd/0",
        "/proc/thread-self/root/etc/hostname",
        "/sys/kernel/notes",
        "/proc/sys/kernel/hostname",
    ],
)
async def test_kernel_interfaces(whole_machine: FileAgent, path: str) -> None:
    """PTH-11, PTH-5: nothing of procfs or sysfs, and no way through its magic links."""
    assert (await refusal(get(whole_machine, path))).reason is Reason.PATH_FORBIDDEN
    assert (await refusal(get(whole_machine, path, leaf_link=FOLLOW))).reason is Reason.PATH_FORBIDDEN
    assert (await refusal(put(whole_machine, path, b"x"))).reason is Reason.PATH_FORBIDDEN
    assert (await refusal(stat(whole_machine, path))).reason is Reason.PATH_FORBIDDEN


FORBIDDEN_ON_A_LEAF: dict[str, Callable[[FileAgent], Awaitable[Any]]] = {
    "download": lambda agent: get(agent, "/file"),
    "unchecked download": lambda agent: get(agent, "/file", checked=False),
    "stat": lambda agent: stat(agent, "/file"),
    "stat with digest": lambda agent: stat(agent, "/file", include_digest=True),
    "stat of a link": lambda agent: stat(agent, "/file", leaf_link=files_pb2.LEAF_LINK_POLICY_NOFOLLOW),
    "condition": lambda agent: put(
        agent, "/file", b"new", condition=files_pb2.UploadCondition(digest=digest_of(b"x"))
    ),
}


@pytest.mark.parametrize("method", FORBIDDEN_ON_A_LEAF)
async def test_a_file_of_a_kernel_interface_in_an_ordinary_directory(
    either: FileAgent, both: Sandbox, method: str
) -> None:
    """PTH-5: a mount can cover a single file; its directory says nothing about it."""
    (both.root / "file").write_bytes(b"x")
    real = both.fs.file_system_type

    def of(fd: int) -> int:
        return 0x9FA0 if os.readlink(f"/proc/self/fd/{fd}").endswith("/file") else real(fd)

    both.fs.__dict__["file_system_type"] = of
    error = await refusal(FORBIDDEN_ON_A_LEAF[method](either))
    assert (error.reason, error.metadata) == (Reason.PATH_FORBIDDEN, {"fs": "procfs"})
    assert (both.root / "file").read_bytes() == b"x"


async def test_links_to_kernel_interfaces(whole_machine: FileAgent, tmp_path: Path) -> None:
    """PTH-11, PTH-5"""
    (tmp_path / "magic").symlink_to("/proc/self/root")
    (tmp_path / "plain").symlink_to("/proc/self/../../etc")
    (tmp_path / "leaf").symlink_to("/proc/self/root/etc/passwd")
    assert (await refusal(get(whole_machine, "magic/etc/passwd"))).reason is Reason.PATH_FORBIDDEN
    assert (await refusal(get(whole_machine, "leaf", leaf_link=FOLLOW))).reason is Reason.PATH_FORBIDDEN
    got = await get(whole_machine, "plain/passwd")
    assert got.header.file.path == "/etc/passwd"
    assert got.content.startswith(b"root:")


async def test_dev_null_and_its_like(whole_machine: FileAgent) -> None:
    """PTH-4, PTH-5: a device is refused by what it is, devtmpfs by where it is."""
    error = await refusal(get(whole_machine, "/dev/null"))
    assert error.reason in {Reason.NOT_A_REGULAR_FILE, Reason.PATH_FORBIDDEN}


def test_devtmpfs_is_found_in_the_mounts() -> None:
    """PTH-5: it answers like tmpfs to everybody else."""
    mounts = [
        "22 28 0:6 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=8k",
        "23 28 0:24 / /run rw - tmpfs tmpfs rw",
        "24 28 8:1 / / rw - ext4 /dev/sda1 rw",
    ]
    assert devtmpfs_devices(mounts) == {os.makedev(0, 6)}


async def test_devtmpfs_is_forbidden(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """PTH-5"""
    device = sandbox.root.stat().st_dev
    monkeypatch.setattr(
        "openshell_supervisor_sim.agent.paths.resolve.devtmpfs_devices", lambda: frozenset({device})
    )
    agent = sandbox.agent()
    await agent.start()
    try:
        assert (await refusal(put(agent, "/file", b"x"))).reason is Reason.PATH_FORBIDDEN
    finally:
        await agent.aclose()


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


async def test_read_only(agent: FileAgent, sandbox: Sandbox) -> None:
    sandbox.fs.fail("open", EROFS)
    error = await refusal(put(agent, "/file", b"x"))
    assert error.reason is Reason.READ_ONLY_FILE_SYSTEM
    assert error.metadata == {"errno": "EROFS"}


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
