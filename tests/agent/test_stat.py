"""StatFile: files, directories, `/`, `.` and links; and what an upload may replace."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    StrictFileSystem,
    abort_upload,
    get,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    stat,
)
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW
REPLACE = files_pb2.LEAF_LINK_POLICY_REPLACE
NOFOLLOW = files_pb2.LEAF_LINK_POLICY_NOFOLLOW
DIRECTORY, REGULAR, LINK = (
    files_pb2.FILE_TYPE_DIRECTORY,
    files_pb2.FILE_TYPE_REGULAR,
    files_pb2.FILE_TYPE_SYMLINK,
)


@pytest.fixture
async def furnished(both: Sandbox) -> AsyncIterator[FileAgent]:
    """An agent with each of the resolvers, on a root with a bit of everything."""
    root = both.root
    (root / "home/dir").mkdir(parents=True)
    (root / "home/file").write_bytes(b"content")
    for name, target in {
        "to-file": "file",
        "to-dir": "dir",
        "to-root": "/",
        "to-up": "..",
        "to-nothing": "no/thing",
        "to-link": "to-file",
        "loop": "loop",
    }.items():
        (root / "home" / name).symlink_to(target)
    os.symlink(b"\xff\xfe", os.fsencode(root / "home/to-bytes"))
    both.settings = replace(both.settings, workdir="/home")
    agent = both.agent()
    await agent.start()
    yield agent
    await agent.aclose()


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("to-file", b"file"),
        ("to-dir", b"dir"),
        ("to-root", b"/"),
        ("to-nothing", b"no/thing"),
        ("loop", b"loop"),
        ("to-bytes", b"\xff\xfe"),
    ],
)
async def test_links(furnished: FileAgent, both: Sandbox, path: str, target: bytes) -> None:
    """PTH-9: described themselves with their target, refused, or followed, as the caller says."""
    found = await stat(furnished, path, leaf_link=NOFOLLOW)
    assert (found.path, found.type, found.link_target) == (f"/home/{path}", LINK, target)
    assert found.size_bytes == len(target)
    assert found.version
    for policy in (0, files_pb2.LEAF_LINK_POLICY_REFUSE):
        with pytest.raises(Refused) as refused:
            await stat(furnished, path, leaf_link=policy)
        assert refused.value.reason is Reason.LEAF_IS_LINK
    assert (both.root / "home" / path).is_symlink()


async def test_describing_a_link_is_only_for_stat(furnished: FileAgent) -> None:
    """PTH-9"""
    for operation in (
        get(furnished, "to-file", leaf_link=NOFOLLOW),
        put(furnished, "to-file", b"x", leaf_link=NOFOLLOW),
        start_upload(furnished, "to-file", leaf_link=NOFOLLOW),
    ):
        with pytest.raises(Refused) as refused:
            await operation
        assert refused.value.reason is Reason.INVALID_REQUEST
        assert refused.value.fields[0].endswith("leaf_link")


class NotOurs(StrictFileSystem):
    """A sandbox in which another user owns every file."""

    def may_write(self, name: bytes, dir_fd: int) -> bool:
        assert FileSystem.lstat(self, name, dir_fd) is not None
        return False


@pytest.mark.parametrize("fields", [{}, {"request_id": "r"}], ids=["transient", "named"])
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o000, 0o555])
async def test_a_read_only_file(
    agent: FileAgent, sandbox: Sandbox, mode: int, fields: dict[str, Any]
) -> None:
    """UPL-17, UPL-45: replaced as by `mv`, unless the caller asks that it stays; root's rights are no reason."""
    path = sandbox.root / "f"
    path.write_bytes(b"old")
    path.chmod(mode)
    with pytest.raises(Refused) as refused:
        await put(agent, "/f", b"new", keep_read_only=True, **fields)
    assert refused.value.reason is Reason.ACCESS_DENIED
    assert refused.value.metadata["mode"] == f"{mode:04o}"
    with pytest.raises(Refused):
        await start_upload(agent, "/f", keep_read_only=True)
    assert sandbox.leftovers() == []
    await put(agent, "/f", b"new")
    assert path.stat().st_mode & 0o777 == mode
    path.chmod(0o644)
    assert path.read_bytes() == b"new"
    await put(agent, "/f", b"newer", keep_read_only=True)
    await put(agent, "/other", b"new", keep_read_only=True)


async def test_a_file_that_another_user_may_write(sandbox: Sandbox) -> None:
    """UPL-45: the kernel is asked, not only the mode; also for what becomes read-only meanwhile."""
    (sandbox.root / "f").write_bytes(b"old")
    sandbox.fs = NotOurs()
    agent = sandbox.agent()
    await agent.start()
    try:
        with pytest.raises(Refused) as refused:
            await put(agent, "/f", b"new", keep_read_only=True)
        assert refused.value.reason is Reason.ACCESS_DENIED
    finally:
        await agent.aclose()
    assert (sandbox.root / "f").read_bytes() == b"old"


async def test_a_file_that_becomes_read_only(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-45: looked at again immediately before publishing."""
    (sandbox.root / "f").write_bytes(b"old")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/f", 3, keep_read_only=True)))
        await peer.accepted()
        await peer.data(0, b"new")
        (sandbox.root / "f").chmod(0o444)
        await peer.finish(b"new")
        assert (await peer.error()).reason is Reason.ACCESS_DENIED
    assert (sandbox.root / "f").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("remote_path", {"path": "/g"}),
        ("size_bytes", {"size": 4}),
        ("mode", {"mode": 0o600}),
        ("condition", {"condition": files_pb2.UploadCondition(absent=Empty())}),
        ("modified_time", {"modified_time": Timestamp(seconds=1_000_000_000)}),
        ("parents", {"parents": files_pb2.PARENT_POLICY_CREATE}),
        ("leaf_link", {"leaf_link": REPLACE}),
        ("durability", {"durability": files_pb2.DURABILITY_RENAME}),
        ("accepted_digests", {"accepted_digests": [files_pb2.DIGEST_ALGORITHM_BLAKE3]}),
        ("keep_read_only", {"keep_read_only": True}),
    ],
)
@pytest.mark.parametrize("ended", [False, True], ids=["unfinished", "ended"])
async def test_the_field_that_differs(
    agent: FileAgent,
    field: str,
    changed: dict[str, Any],
    ended: bool,  # noqa: FBT001 - a case
) -> None:
    """RSM-11: UPLOAD_CONFLICT names it."""
    started = await start_upload(agent, "/f", 3, request_id="r")
    if ended:
        await abort_upload(agent, started.upload_id)
    fields: dict[str, Any] = {"path": "/f", "size": 3, "request_id": "r"} | changed
    with pytest.raises(Refused) as refused:
        await start_upload(agent, fields.pop("path"), fields.pop("size"), **fields)
    assert refused.value.reason is Reason.UPLOAD_CONFLICT
    assert refused.value.metadata["fields"] == f"metadata.{field}"
    assert refused.value.message.startswith(f"metadata.{field}: ")


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("what", ["file", "directory"])
async def test_what_a_command_removed_before_the_finish(
    agent: FileAgent,
    sandbox: Sandbox,
    what: str,
    exclusive: bool,  # noqa: FBT001 - a case
) -> None:
    """CRS-6, PTH-16: nobody is told to create a directory that is there."""
    directory = sandbox.root / "d"
    directory.mkdir()
    condition = files_pb2.UploadCondition(absent=Empty()) if exclusive else None
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/d/f", 3, request_id="r", condition=condition)))
        await peer.accepted()
        await peer.data(0, b"new")
        removed: list[str] = []

        def remove() -> None:
            if not removed:
                removed.extend(path.name for path in directory.iterdir())
                for name in removed:
                    (directory / name).unlink()
                if what == "directory":
                    directory.rmdir()

        sandbox.on_trace["upload.flushed"] = remove
        await peer.finish(b"new")
        error = await peer.error()
    assert removed
    assert error.reason is (Reason.UPLOAD_UNKNOWN if what == "file" else Reason.PARENT_NOT_FOUND)
