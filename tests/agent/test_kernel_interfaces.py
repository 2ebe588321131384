"""Files on interfaces of the kernel are not transferred (PTH-5)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    Sandbox,
    get,
    put,
    stat,
)
from agent.refusals import refusal
from digest_values import digest_of
from openshell_files_disk.filesystem.handles import devtmpfs_devices
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW


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
