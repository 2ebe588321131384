"""MakeDirectory (DIR-14, DIR-15)."""

from __future__ import annotations

import errno
import os
import stat as modes

import pytest
from agent.agent_harness import Sandbox, stat
from agent.directory_calls import make
from agent.refusals import refusal
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

CREATE = files_pb2.PARENT_POLICY_CREATE


async def test_a_directory_is_made(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-14: and described; the default mode is 0777 less the umask."""
    mask = os.umask(0o027)
    try:
        answer = await make(either, "/new")
    finally:
        os.umask(mask)
    assert answer.created
    assert modes.S_IMODE((sandbox.root / "new").stat().st_mode) == 0o750
    assert answer.directory == await stat(either, "/new")
    assert not list((sandbox.root / "new").iterdir())


@pytest.mark.parametrize(
    ("mode", "bits"),
    [(0o777, 0o777), (0o700, 0o700), (0o40755, 0o755), (0o40000, 0), (0o7777, 0o777), (0o1777, 0o777)],
)
async def test_modes(agent: FileAgent, sandbox: Sandbox, mode: int, bits: int) -> None:
    """DIR-15: exactly these bits, whatever the umask is, without set-id and sticky bits."""
    answer = await make(agent, "/new", mode=mode)
    assert (answer.directory.mode, modes.S_IMODE((sandbox.root / "new").stat().st_mode)) == (bits, bits)


@pytest.mark.parametrize("mode", [0o100755, 0o120777, 1 << 16, 0o1000000])
async def test_modes_of_no_directory(agent: FileAgent, sandbox: Sandbox, mode: int) -> None:
    """DIR-15."""
    refused = await refusal(make(agent, "/new", mode=mode))
    assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["mode"])
    assert not (sandbox.root / "new").exists()


async def test_the_groups_bit_of_the_parent_stays(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-15: the kernel gives it to a new directory, and a mode does not take it away."""
    (sandbox.root / "shared").mkdir()
    (sandbox.root / "shared").chmod(0o2755)
    await make(agent, "/shared/new", mode=0o777)
    assert modes.S_IMODE((sandbox.root / "shared/new").stat().st_mode) == 0o2777


async def test_without_proc_the_mode_is_set_too(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-15."""
    sandbox.fs.fail("chmod_entry", errno.ENOENT)
    await make(agent, "/new", mode=0o777)
    assert modes.S_IMODE((sandbox.root / "new").stat().st_mode) == 0o777


async def test_missing_parents(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-14: are refused, or made."""
    assert (await refusal(make(either, "/a/b/c"))).reason is Reason.PARENT_NOT_FOUND
    assert not (sandbox.root / "a").exists()
    assert (await make(either, "/a/b/c/", parents=CREATE)).created
    assert (sandbox.root / "a/b/c").is_dir()


async def test_what_is_there_already(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-14: with exist_ok a directory stays as it is, also behind a link, and anything else is refused."""
    (sandbox.root / "d").mkdir(mode=0o700)
    (sandbox.root / "link").symlink_to("d")
    (sandbox.root / "file").touch()
    (sandbox.root / "dangling").symlink_to("nowhere")
    for path in ("/d", "/d/", "/link", "/file", "/dangling", "/", "."):
        assert (await refusal(make(either, path))).reason is Reason.FILE_EXISTS, path
    for path in ("/d", "/d/", "/link", "/", "."):
        answer = await make(either, path, exist_ok=True, mode=0o777)
        assert not answer.created
        assert answer.directory.type == files_pb2.FILE_TYPE_DIRECTORY
    for path in ("/file", "/dangling"):
        assert (await refusal(make(either, path, exist_ok=True))).reason is Reason.FILE_EXISTS
    assert modes.S_IMODE((sandbox.root / "d").stat().st_mode) == 0o700
    assert not (sandbox.root / "nowhere").exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", Reason.INVALID_PATH),
        ("/a/../b", Reason.INVALID_PATH),
        ("/x\0", Reason.INVALID_PATH),
        ("/" + "x" * 256, Reason.INVALID_PATH),
        ("/file/x", Reason.NOT_A_DIRECTORY),
        ("/.openshell-upload-x", Reason.PATH_FORBIDDEN),
    ],
)
async def test_refused_paths(either: FileAgent, sandbox: Sandbox, path: str, reason: Reason) -> None:
    """DIR-2."""
    (sandbox.root / "file").touch()
    assert (await refusal(make(either, path))).reason is reason


async def test_a_policy_that_is_not_known(agent: FileAgent) -> None:
    """DIR-14."""
    refused = await refusal(make(agent, "/x", parents=9))
    assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["parents"])


async def test_a_name_that_is_not_utf8(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-2."""
    await make(agent, b"/caf\xe9/\xff", parents=CREATE)
    assert (sandbox.root / os.fsdecode(b"caf\xe9/\xff")).is_dir()


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, Reason.DISK_FULL), (errno.EROFS, Reason.READ_ONLY_FILE_SYSTEM)]
)
async def test_a_disk_that_fails(agent: FileAgent, sandbox: Sandbox, code: int, reason: Reason) -> None:
    sandbox.fs.fail("mkdir", code)
    assert (await refusal(make(agent, "/x"))).reason is reason
