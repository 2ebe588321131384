"""Hostile paths, with openat2 and without (PTH-1 to PTH-6)."""

from __future__ import annotations

import os
import socket
import stat as stat_module
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    EROFS,
    Refused,
    Sandbox,
    get,
    metadata,
    opened,
    peer_of,
    put,
    start_upload,
    stat,
)
from agent.refusals import refusal
from digest_values import digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.core.remote_path import absolute_components
from vector_cases import Access, Entry, Name, Paths, Tree, named, read

FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW
REPLACE = files_pb2.LEAF_LINK_POLICY_REPLACE
CREATE = files_pb2.PARENT_POLICY_CREATE


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


async def test_read_only(agent: FileAgent, sandbox: Sandbox) -> None:
    sandbox.fs.fail("open", EROFS)
    error = await refusal(put(agent, "/file", b"x"))
    assert error.reason is Reason.READ_ONLY_FILE_SYSTEM
    assert error.metadata == {"errno": "EROFS"}
