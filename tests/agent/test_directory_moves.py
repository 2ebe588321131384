"""MovePath (DIR-20 to DIR-22)."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import Any

import pytest
from agent.agent_harness import Refused, Sandbox, abort_upload, start_upload, stat
from agent.directory_calls import FILE, NEVER, manifest, move, small_tree
from agent.refusals import refusal
from digest_values import digest_of
from google.protobuf.empty_pb2 import Empty
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

Condition = files_pb2.UploadCondition
CREATE = files_pb2.PARENT_POLICY_CREATE


async def test_entries_of_every_kind(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-20: files, links themselves, special files and directories with their content."""
    (sandbox.root / "to").mkdir()
    (sandbox.root / "file").write_bytes(b"content")
    (sandbox.root / "link").symlink_to("file")
    os.mkfifo(sandbox.root / "pipe")
    small_tree(sandbox.root / "d")
    before = manifest(sandbox.root)
    for name in ("file", "link", "pipe", "d"):
        answer = await move(either, f"/{name}", f"/to/{name}")
        assert (answer.file.path, answer.replaced) == (f"/to/{name}", False)
    told = await stat(either, "/to/file")
    assert (await move(either, "/to/file", "/to/file2")).file.size_bytes == told.size_bytes
    await move(either, "/to/file2", "/to/file")
    moved = manifest(sandbox.root)
    assert {name.removeprefix("to/") for name in moved} == {*before, "to"} - {"d"} | {"d"}
    for name, facts in before.items():
        if name != "to":
            kept = moved[f"to/{name}"]
            assert kept[:4] == facts[:4]


async def test_a_slash_at_the_end(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-20: of the source means a directory, and the destination is the entry itself."""
    (sandbox.root / "d").mkdir()
    (sandbox.root / "file").touch()
    assert (await refusal(move(agent, "/file/", "/x"))).reason is Reason.NOT_A_DIRECTORY
    assert (await refusal(move(agent, "/d", "/x/"))).reason is Reason.INVALID_PATH
    await move(agent, "/d/", "/x")
    assert (sandbox.root / "x").is_dir()


async def test_never_replaces(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-21: by default nothing is replaced, not even an empty directory."""
    for name in ("a", "b"):
        (sandbox.root / name).write_text(name)
    (sandbox.root / "d").mkdir()
    (sandbox.root / "e").mkdir()
    (sandbox.root / "link").symlink_to("nowhere")
    for source, destination in (("/a", "/b"), ("/a", "/d"), ("/d", "/e"), ("/d", "/b"), ("/a", "/link")):
        for fields in ({}, {"replace": NEVER}, {"replace": FILE, "condition": Condition(absent=Empty())}):
            refused = await refusal(move(agent, source, destination, **fields))
            assert refused.reason is Reason.FILE_EXISTS, (source, destination)
    assert (sandbox.root / "b").read_text() == "b"


@pytest.mark.parametrize(
    "fields", [{}, {"replace": FILE, "condition": Condition(absent=Empty())}], ids=["never", "absent"]
)
async def test_the_kernel_enforces_that_nothing_is_replaced(
    agent: FileAgent, sandbox: Sandbox, fields: dict[str, Any]
) -> None:
    """DIR-21: a program makes the destination behind the last look."""
    (sandbox.root / "a").touch()
    real = sandbox.fs.move_noreplace

    def raced(source_dir: int, source: bytes, destination_dir: int, destination: bytes) -> None:
        (sandbox.root / "to").write_text("a program's")
        real(source_dir, source, destination_dir, destination)

    sandbox.fs.move_noreplace = raced  # type: ignore[method-assign]
    assert (await refusal(move(agent, "/a", "/to", **fields))).reason is Reason.FILE_EXISTS
    assert (sandbox.root / "to").read_text() == "a program's"
    assert (sandbox.root / "a").exists()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
async def test_a_file_system_without_that_rename(agent: FileAgent, sandbox: Sandbox, code: int) -> None:
    """DIR-21: a file is linked, and a directory renamed after a look."""
    (sandbox.root / "a").write_text("a")
    (sandbox.root / "b").touch()
    (sandbox.root / "link").symlink_to("a")
    (sandbox.root / "d").mkdir()
    sandbox.fs.fail("move_noreplace", code)
    await move(agent, "/a", "/a2")
    await move(agent, "/link", "/link2")
    await move(agent, "/d", "/d2")
    assert sorted(path.name for path in sandbox.root.iterdir()) == ["a2", "b", "d2", "link2"]
    assert os.readlink(sandbox.root / "link2") == "a"


async def test_replacing(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-21: a file or link replaces a file or link, and a directory an empty directory."""
    for name in ("a", "b", "c"):
        (sandbox.root / name).write_text(name)
    (sandbox.root / "link").symlink_to("c")
    (sandbox.root / "d").mkdir()
    (sandbox.root / "d/x").touch()
    (sandbox.root / "empty").mkdir()
    assert (await move(agent, "/a", "/b", replace=FILE)).replaced
    assert (sandbox.root / "b").read_text() == "a"
    assert (await move(agent, "/b", "/link", replace=FILE)).replaced
    assert not (sandbox.root / "link").is_symlink()
    assert (sandbox.root / "c").read_text() == "c"
    assert (await move(agent, "/d", "/empty", replace=FILE)).replaced
    assert (sandbox.root / "empty/x").exists()
    assert not (await move(agent, "/link", "/new", replace=FILE)).replaced


async def test_what_is_not_replaced(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-21: a directory with entries, a directory by a file, a file by a directory, a special file."""
    (sandbox.root / "file").touch()
    (sandbox.root / "d").mkdir()
    (sandbox.root / "full").mkdir()
    (sandbox.root / "full/x").touch()
    os.mkfifo(sandbox.root / "pipe")
    for source, destination, reason in (
        ("/d", "/full", Reason.DIRECTORY_NOT_EMPTY),
        ("/file", "/d", Reason.IS_A_DIRECTORY),
        ("/d", "/file", Reason.NOT_A_DIRECTORY),
        ("/file", "/pipe", Reason.NOT_A_REGULAR_FILE),
    ):
        assert (await refusal(move(agent, source, destination, replace=FILE))).reason is reason
    assert (sandbox.root / "full/x").exists()


async def test_conditions(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-21: on the destination, as for uploads; and on the source."""
    (sandbox.root / "b").write_bytes(b"old")
    version = (await stat(agent, "/b")).version
    for condition in (
        Condition(version="another"),
        Condition(digest=digest_of(b"another", files_pb2.DIGEST_ALGORITHM_SHA256)),
    ):
        (sandbox.root / "a").write_bytes(b"new")
        refused = await refusal(move(agent, "/a", "/b", replace=FILE, condition=condition))
        assert refused.reason is Reason.CONDITION_FAILED
    assert (
        await refusal(move(agent, "/a", "/c", replace=FILE, condition=Condition(present=Empty())))
    ).reason is (Reason.CONDITION_FAILED)
    refused = await refusal(move(agent, "/a", "/b", condition=Condition(present=Empty())))
    assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["condition"])
    refused = await refusal(move(agent, "/a", "/b", replace=FILE, condition=Condition()))
    assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["condition"])
    refused = await refusal(move(agent, "/a", "/c", source_version="another"))
    assert refused.reason is Reason.CONDITION_FAILED
    told = (await stat(agent, "/a")).version
    await move(agent, "/a", "/b", replace=FILE, condition=Condition(version=version), source_version=told)
    assert (sandbox.root / "b").read_bytes() == b"new"


async def test_into_itself(either: FileAgent, sandbox: Sandbox) -> None:
    """DIR-22: also over a link, and to its own name."""
    (sandbox.root / "d/sub").mkdir(parents=True)
    (sandbox.root / "link").symlink_to("d/sub")
    for destination in ("/d/new", "/d/sub/new", "/link/new", "/d"):
        refused = await refusal(move(either, "/d", destination, replace=FILE))
        assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, ["destination"]), destination
    (sandbox.root / "dd").mkdir()
    await move(either, "/d", "/dd/d")
    assert (sandbox.root / "dd/d/sub").is_dir()


async def test_two_names_of_one_file(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-21: the kernel's rename leaves both; a move leaves the destination."""
    (sandbox.root / "a").write_text("x")
    os.link(sandbox.root / "a", sandbox.root / "b")
    assert (await refusal(move(agent, "/a", "/a", replace=FILE))).fields == ["destination"]
    assert (await move(agent, "/a", "/b", replace=FILE)).replaced
    assert [path.name for path in sandbox.root.iterdir()] == ["b"]


async def test_one_file_under_two_spellings(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-22: where a file system ignores case, the source is never removed as a second name."""
    (sandbox.root / "a").write_text("x")
    real = sandbox.fs.lstat

    def lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
        return real(name.lower(), dir_fd)

    sandbox.fs.lstat = lstat  # type: ignore[method-assign]
    refused = await refusal(move(agent, "/a", "/A", replace=FILE))
    assert refused.fields == ["destination"]
    assert (sandbox.root / "a").read_text() == "x"


async def test_another_file_system(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-27: has its own reason, which names the remedy."""
    (sandbox.root / "a").touch()
    for call in ("move_noreplace", "move"):
        sandbox.fs.fail(call, errno.EXDEV)
    for fields in ({}, {"replace": FILE}):
        refused = await refusal(move(agent, "/a", "/b", **fields))
        assert refused.reason is Reason.OTHER_FILE_SYSTEM
        assert "copy it, then remove the source" in refused.message
    assert (sandbox.root / "a").exists()


async def test_missing_parents(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-20."""
    (sandbox.root / "a").touch()
    assert (await refusal(move(agent, "/a", "/x/y/a"))).reason is Reason.PARENT_NOT_FOUND
    await move(agent, "/a", "/x/y/a", parents=CREATE)
    assert (sandbox.root / "x/y/a").exists()


@pytest.mark.parametrize(
    ("source", "destination", "reason"),
    [
        ("/none", "/x", Reason.FILE_NOT_FOUND),
        ("/none/x", "/x", Reason.PARENT_NOT_FOUND),
        ("/", "/x", Reason.PATH_FORBIDDEN),
        (".", "/x", Reason.PATH_FORBIDDEN),
        ("/home", "/x", Reason.PATH_FORBIDDEN),
        ("/a", "/", Reason.INVALID_PATH),
        ("", "/x", Reason.INVALID_PATH),
        ("/a", "", Reason.INVALID_PATH),
        ("/a", "/../x", Reason.INVALID_PATH),
        ("/a", "/.openshell-upload-x", Reason.PATH_FORBIDDEN),
        ("/state", "/x", Reason.PATH_FORBIDDEN),
        ("/keys", "/x", Reason.PATH_FORBIDDEN),
        ("/keys/token", "/x", Reason.PATH_FORBIDDEN),
        ("/a", "/keys/token", Reason.PATH_FORBIDDEN),
        ("/a", "/keys/token.0123456789abcdef", Reason.PATH_FORBIDDEN),
        ("/a", "/state/x", Reason.PATH_FORBIDDEN),
        ("/a", "/usr/x", Reason.PATH_FORBIDDEN),
        ("/usr", "/x", Reason.PATH_FORBIDDEN),
        ("/d", "/usr", Reason.PATH_FORBIDDEN),
        ("/d", "/home/me", Reason.PATH_FORBIDDEN),
    ],
)
async def test_refused_paths(sandbox: Sandbox, source: str, destination: str, reason: Reason) -> None:
    """DIR-2, DIR-11."""
    for name in ("home/me", "state", "keys", "usr", "d"):
        (sandbox.root / name).mkdir(parents=True)
    for name in ("a", "keys/token"):
        (sandbox.root / name).touch()
    sandbox.settings = replace(
        sandbox.settings,
        workdir="/home/me",
        state_dir=sandbox.root / "state",
        private=[sandbox.root / "keys/token"],
        covered=["usr"],
    )
    agent = sandbox.agent()
    await agent.start()
    before = sorted(sandbox.root.rglob("*"))
    try:
        assert (await refusal(move(agent, source, destination, replace=FILE))).reason is reason
        assert sorted(sandbox.root.rglob("*")) == before
    finally:
        await agent.aclose()


async def test_an_upload_into_a_moved_directory_is_found(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIR-20: its staging file moves with the directory."""
    (sandbox.root / "d").mkdir()
    started = await start_upload(agent, "/d/file", 5)
    await move(agent, "/d", "/e")
    assert [path.split("/")[0] for path in sandbox.leftovers()] == ["e"]
    assert (await abort_upload(agent, started.upload_id)).state == files_pb2.UPLOAD_STATE_ABORTED
    assert not sandbox.leftovers()


async def test_policies_that_are_not_known(agent: FileAgent) -> None:
    """DIR-21."""
    for field in ("replace", "parents"):
        refused = await refusal(move(agent, "/a", "/b", **{field: 9}))
        assert (refused.reason, refused.fields) == (Reason.INVALID_REQUEST, [field])


@pytest.mark.parametrize("call", ["move_noreplace", "fstat", "lstat", "open"])
async def test_calls_that_fail(agent: FileAgent, sandbox: Sandbox, call: str) -> None:
    """DIR-20: a move that fails leaves both names as they were."""
    (sandbox.root / "a").write_text("x")
    reasons = set[Reason]()
    for number in range(12):
        sandbox.fs.fail(call, *[None] * number, errno.EIO, None)
        try:
            await move(agent, "/a", "/b")
        except Refused as refused:
            reasons.add(refused.reason)
            assert [path.name for path in sandbox.root.iterdir()] == ["a"]
        else:
            assert [path.name for path in sandbox.root.iterdir()] == ["b"]
            (sandbox.root / "b").rename(sandbox.root / "a")
    assert reasons == {Reason.IO_ERROR}
