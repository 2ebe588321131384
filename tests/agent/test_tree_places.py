"""Where trees are received and sent: paths, guarded places, and what a killed or failing agent leaves (TRE-17, TRE-18, TRE-49, TRE-57)."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import Sandbox, until
from agent.directory_calls import manifest, small_tree
from agent.tree_calls import download, send_tree, tree_of, upload
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import STAGING_PREFIX
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.store.journal import Journal

CREATE = files_pb2.PARENT_POLICY_CREATE
TOP = trees_pb2.TreeEntry(type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o755)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree of the caller."""
    top = tmp_path / "source"
    small_tree(top)
    return top


def entries_of(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("", {}, Reason.INVALID_PATH),
        ("a/../b", {}, Reason.INVALID_PATH),
        ("/", {}, Reason.PATH_FORBIDDEN),
        (".", {}, Reason.PATH_FORBIDDEN),
        ("/missing/tree", {}, Reason.PARENT_NOT_FOUND),
        ("/file", {}, Reason.NOT_A_DIRECTORY),
        ("/file/tree", {"parents": CREATE}, Reason.NOT_A_DIRECTORY),
        ("/file/tree", {"parents": CREATE, "dry_run": True}, Reason.NOT_A_DIRECTORY),
        ("/link", {}, Reason.LEAF_IS_LINK),
        ("/dangling", {}, Reason.LEAF_IS_LINK),
        ("/directory", {"atomic": True}, Reason.FILE_EXISTS),
        ("/.openshell-upload-x", {}, Reason.PATH_FORBIDDEN),
        ("/state", {}, Reason.PATH_FORBIDDEN),
        ("/state/tree", {}, Reason.PATH_FORBIDDEN),
        ("/state/new/tree", {"parents": CREATE}, Reason.PATH_FORBIDDEN),
        ("/covered", {}, Reason.PATH_FORBIDDEN),
    ],
)
async def test_refused_destinations(
    sandbox: Sandbox, path: str, fields: dict[str, Any], reason: Reason
) -> None:
    """TRE-12, TRE-17, TRE-18, PTH-7, PTH-8, PTH-20: before an entry is taken, and nothing is made."""
    for name in ("directory", "covered"):
        (sandbox.root / name).mkdir()
    (sandbox.root / "file").touch()
    (sandbox.root / "link").symlink_to("directory")
    (sandbox.root / "dangling").symlink_to("nowhere")
    sandbox.settings = replace(sandbox.settings, state_dir=sandbox.root / "state", covered=["covered"])
    agent = sandbox.agent()
    await agent.start()
    try:
        before = entries_of(sandbox.root)
        async with tree_of(agent, "upload_tree", path, **fields) as tree:
            assert (await tree.error()).reason is reason
        assert entries_of(sandbox.root) == before
    finally:
        await agent.aclose()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", Reason.INVALID_PATH),
        ("/missing", Reason.FILE_NOT_FOUND),
        ("/missing/tree", Reason.PARENT_NOT_FOUND),
        ("/file", Reason.NOT_A_DIRECTORY),
        ("/to file", Reason.NOT_A_DIRECTORY),
        ("/dangling", Reason.FILE_NOT_FOUND),
        ("/state", Reason.PATH_FORBIDDEN),
        ("/to state", Reason.PATH_FORBIDDEN),
        ("/covered/below", Reason.PATH_FORBIDDEN),
    ],
)
async def test_refused_origins(sandbox: Sandbox, path: str, reason: Reason) -> None:
    """TRE-17, PTH-7, PTH-8."""
    (sandbox.root / "covered/below").mkdir(parents=True)
    (sandbox.root / "file").touch()
    for link, target in (("to file", "file"), ("dangling", "nowhere"), ("to state", "state")):
        (sandbox.root / link).symlink_to(target)
    sandbox.settings = replace(sandbox.settings, state_dir=sandbox.root / "state", covered=["covered"])
    agent = sandbox.agent()
    await agent.start()
    try:
        async with tree_of(agent, "download_tree", path) as tree:
            assert (await tree.error()).reason is reason
    finally:
        await agent.aclose()


async def test_a_pattern_that_cannot_be_read(agent: FileAgent, sandbox: Sandbox) -> None:
    """TRE-29: before an entry is announced, and nothing stays open."""
    (sandbox.root / "tree").mkdir()
    for field in ("exclude", "include"):
        fields: dict[str, Any] = {field: ["ok", "!"]}
        async with tree_of(agent, "download_tree", **fields) as tree:
            refused = await tree.error()
        assert refused.reason is Reason.INVALID_REQUEST
        assert field in refused.fields[0]
        assert tree.told == []


@pytest.mark.parametrize(
    ("given", "real"),
    [
        ("/sub/tree", b"/sub/tree"),
        ("sub/tree/", b"/sub/tree"),
        ("./sub/./tree", b"/sub/tree"),
        ("/to sub/tree", b"/sub/tree"),
        (b"/sub/caf\xe9", b"/sub/caf\xe9"),
    ],
)
async def test_paths(either: FileAgent, both: Sandbox, source: Path, given: str | bytes, real: bytes) -> None:
    """TRE-3, TRE-17, PTH-24: the resolved path is told as it is, up and down."""
    (both.root / "sub").mkdir()
    (both.root / "to sub").symlink_to("/sub")
    async with tree_of(either, "upload_tree", given) as tree:
        await send_tree(tree, source)
        assert tree.told[0].started.path == real
        assert tree.told[-1].result.directory.path == real.decode("utf-8", "replace")
    there = Path(os.fsdecode(os.fsencode(both.root) + real))
    assert manifest(there) == manifest(source)
    (both.root / "to tree").symlink_to(there)
    (both.root / "to tree").unlink()
    (both.root / "to tree").symlink_to(os.fsdecode(real))
    async with tree_of(either, "download_tree", "/to tree") as tree:
        assert (await tree.started()).path == real


@pytest.mark.parametrize("path", ["/", "."])
async def test_the_whole_sandbox_can_be_sent(
    sandbox: Sandbox, source: Path, tmp_path: Path, path: str
) -> None:
    """TRE-25: guarded places are announced with their reason, and the rest arrives."""
    sandbox.settings = replace(
        sandbox.settings, state_dir=sandbox.root / "state", private=[sandbox.root / "token"]
    )
    (sandbox.root / "token").write_text("secret")
    os.link(sandbox.root / "token", sandbox.root / "another name")
    os.rename(source, sandbox.root / "tree")
    agent = sandbox.agent()
    await agent.start()
    try:
        async with tree_of(agent, "download_tree", path) as tree:
            await tree.started()
            announced = (await tree.next()).manifest.entries
        await download(agent, tmp_path / "down", path)
    finally:
        await agent.aclose()
    reasons = {entry.path: entry.reason for entry in announced if entry.reason}
    assert reasons == dict.fromkeys((b"token", b"another name", b"state"), "PATH_FORBIDDEN")
    assert sorted(os.listdir(tmp_path / "down")) == ["tree"]
    assert manifest(tmp_path / "down/tree") == manifest(sandbox.root / "tree")


async def test_guarded_places_are_not_written(sandbox: Sandbox, tmp_path: Path) -> None:
    """TRE-49, TRE-50, PTH-7: nor deleted, whatever the tree has in their place."""
    sandbox.settings = replace(
        sandbox.settings, state_dir=sandbox.root / "top/state", private=[sandbox.root / "top/token"]
    )
    (sandbox.root / "top").mkdir()
    (sandbox.root / "top/token").write_text("secret")
    (sandbox.root / "top/other").write_text("x")
    agent = sandbox.agent()
    await agent.start()
    try:
        kept = entries_of(sandbox.root / "top/state")
        tree = tmp_path / "source"
        (tree / "state").mkdir(parents=True)
        for name in ("token", "token.0123456789abcdef", "state/uploads.sqlite3", "fine"):
            (tree / name).write_text("theirs")
        _, replies = await upload(agent, tree, "/top", delete_others=True)
        problems = {one.reason for reply in replies for one in reply.problems}
        assert problems == {"PATH_FORBIDDEN", "PARENT_NOT_FOUND"}
        (tmp_path / "empty").mkdir()
        await upload(agent, tmp_path / "empty", "/top", delete_others=True)
        assert entries_of(sandbox.root / "top/state") == kept
    finally:
        await agent.aclose()
    assert (sandbox.root / "top/token").read_text() == "secret"
    assert sorted(os.listdir(sandbox.root / "top")) == ["state", "token"]


async def test_parents(agent: FileAgent, sandbox: Sandbox, source: Path) -> None:
    """TRE-18, TRE-11: a dry run tells the same and makes none of them."""
    dry, replies = await upload(agent, source, "/a/b/tree", parents=CREATE, dry_run=True)
    assert entries_of(sandbox.root) == []
    assert dry.created
    assert dry.directory.path == "/a/b/tree"
    would = [number for reply in replies for number in reply.changed]
    result, replies = await upload(agent, source, "/a/b/tree", parents=CREATE)
    assert result.created
    assert result.durability == files_pb2.DURABILITY_FSYNC
    assert sorted(number for reply in replies for number in reply.changed) == sorted(would)
    assert manifest(sandbox.root / "a/b/tree") == manifest(source)


@pytest.mark.parametrize("missing", ["tree", "b/tree", "a/b/c/tree"])
async def test_the_path_of_a_dry_run(agent: FileAgent, sandbox: Sandbox, missing: str) -> None:
    """TRE-3, TRE-11: is the one that would be, over links."""
    (sandbox.root / "real").mkdir()
    (sandbox.root / "link").symlink_to("real")
    async with tree_of(agent, "upload_tree", f"/link/{missing}", parents=CREATE, dry_run=True) as tree:
        assert (await tree.started()).path == f"/real/{missing}".encode()
    assert entries_of(sandbox.root / "real") == []


@pytest.mark.parametrize("atomic", [False, True])
async def test_the_next_start_removes_what_a_killed_agent_staged(
    sandbox: Sandbox, restarted: list[FileAgent], monkeypatch: pytest.MonkeyPatch, *, atomic: bool
) -> None:
    """TRE-57, RSM-3: the note is in the journal before the directory is there."""
    noted = set[bytes]()
    add_name, mkdir = Journal.add_name, sandbox.fs.mkdir

    def add(journal: Journal, parent: bytes, name: bytes) -> None:
        add_name(journal, parent, name)
        noted.add(name)

    def note_first(name: bytes, dir_fd: int, mode: int = 0o777) -> None:
        assert name in noted or not name.startswith(STAGING_PREFIX)
        mkdir(name, dir_fd, mode)

    monkeypatch.setattr(Journal, "add_name", add)
    sandbox.fs.mkdir = note_first  # type: ignore[method-assign]
    async with tree_of(restarted[0], "upload_tree", atomic=atomic) as tree:
        await tree.started()
        entries = [TOP]
        entries += [
            trees_pb2.TreeEntry(path=b"sub", type=files_pb2.FILE_TYPE_DIRECTORY, mode=0),
            trees_pb2.TreeEntry(path=b"sub/file", type=files_pb2.FILE_TYPE_REGULAR, size_bytes=9, mode=0),
        ]
        await tree.say(manifest=trees_pb2.TreeManifest(entries=entries))
        part = trees_pb2.TreePart(entry=2, data=b"half")
        await tree.say(content=trees_pb2.TreeContent(parts=[part]))
        await until(lambda: sandbox.leftovers() != [])
        # As if it were killed: nothing is removed, and the journal is as it is.
        for name in ("unlink", "remove_file", "remove_directory"):
            sandbox.fs.fail(name, errno.EIO)
        await restarted[0].aclose()
    assert sandbox.leftovers() != []
    for name in ("unlink", "remove_file", "remove_directory"):
        sandbox.fs.fail(name)
    successor = sandbox.agent()
    restarted.append(successor)
    await successor.start()
    await until(lambda: _nothing_is_staged(sandbox))


def _nothing_is_staged(sandbox: Sandbox) -> bool:
    try:
        return sandbox.leftovers() == []
    except FileNotFoundError:  # a directory was removed while it was searched
        return False


@pytest.mark.parametrize("code", [errno.EIO, errno.EBUSY])
async def test_what_cannot_be_removed_is_removed_later(agent: FileAgent, sandbox: Sandbox, code: int) -> None:
    """TRE-54: by the sweeper; the caller hears of what ended its call."""
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=trees_pb2.TreeManifest(entries=[TOP]))
        await until(lambda: sandbox.leftovers() != [])
        sandbox.fs.fail("remove_directory", code)
        await tree.peer.input_end()
        assert (await tree.error()).reason is Reason.UPLOAD_INCOMPLETE
    assert sandbox.leftovers() != []
    sandbox.fs.fail("remove_directory")
    await agent.sweep()
    assert sandbox.leftovers() == []


async def test_no_staging_without_a_note(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRE-57: if the journal cannot be written, nothing is made that nobody would remove."""

    def fail(_journal: Journal, _parent: bytes, _name: bytes) -> None:
        raise TransferError(Reason.DISK_FULL, "no room for the journal")

    monkeypatch.setattr(Journal, "add_name", fail)
    async with tree_of(agent, "upload_tree") as tree:
        await tree.started()
        await tree.say(manifest=trees_pb2.TreeManifest(entries=[TOP]))
        assert (await tree.error()).reason is Reason.DISK_FULL
    assert sandbox.leftovers() == []
