"""Places inside the root that are not the callers': every method, and every way that leads there."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from agent.agent_harness import Refused, Sandbox, get, put, start_upload, stat
from digest_values import digest_of
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

FOLLOW = files_pb2.LEAF_LINK_POLICY_FOLLOW
REPLACE = files_pb2.LEAF_LINK_POLICY_REPLACE
CREATE = files_pb2.PARENT_POLICY_CREATE

SECRET = b"the-token"
Method = Callable[[FileAgent, str], Awaitable[object]]


def _there(agent: FileAgent, path: str) -> Awaitable[object]:
    """Ask by the digest of what is guessed to be there."""
    return start_upload(agent, path, digest=digest_of(SECRET), leaf_link=FOLLOW)


METHODS: dict[str, Method] = {
    "download": get,
    "download through a link": lambda agent, path: get(agent, path, leaf_link=FOLLOW),
    "stat": stat,
    "stat with digest": lambda agent, path: stat(agent, path, include_digest=True, leaf_link=FOLLOW),
    "upload": lambda agent, path: put(agent, path, b"mine", leaf_link=FOLLOW),
    "upload that makes parents": lambda agent, path: put(
        agent, path, b"mine", leaf_link=FOLLOW, parents=CREATE
    ),
    "resumable upload": lambda agent, path: put(agent, path, b"mine", request_id="r", leaf_link=FOLLOW),
    "start": lambda agent, path: start_upload(agent, path, leaf_link=FOLLOW),
    "start with digest": _there,
    "condition": lambda agent, path: put(
        agent,
        path,
        b"mine",
        leaf_link=FOLLOW,
        condition=files_pb2.UploadCondition(digest=digest_of(SECRET)),
    ),
}


@dataclass
class Kept:
    """A sandbox whose supervisor keeps its own files inside the root."""

    sandbox: Sandbox
    agent: FileAgent
    root: Path
    before: dict[str, bytes]

    def private(self) -> dict[str, bytes]:
        files = [self.root / "etc/openshell/token", self.root / "run/secret"]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}


@pytest.fixture
async def kept(both: Sandbox) -> AsyncIterator[Kept]:
    root = both.root
    for directory in ("etc/openshell", "run", "home", "var/lib/openshell-files/sub"):
        (root / directory).mkdir(parents=True)
    (root / "etc/openshell/token").write_bytes(SECRET)
    (root / "run/secret").write_bytes(SECRET)
    (root / "etc/openshell/link-to-secret").symlink_to("../../run/secret")
    both.settings = replace(
        both.settings,
        state_dir=root / "var/lib/openshell-files",
        private=[root / "etc/openshell/token", root / "etc/openshell/link-to-secret"],
    )
    agent = both.agent()
    await agent.start()
    (root / "home/to-token").symlink_to("/etc/openshell/token")
    (root / "home/to-directory").symlink_to("../etc/openshell")
    (root / "home/to-state").symlink_to("/var/lib/openshell-files")
    os.link(root / "etc/openshell/token", root / "home/second-name")
    os.link(root / "var/lib/openshell-files/uploads.sqlite3", root / "home/second-journal")
    kept = Kept(both, agent, root, {})
    kept.before = kept.private()
    yield kept
    await agent.aclose()
    assert kept.private() == kept.before
    assert both.leftovers() == []


WAYS = {
    "token": "/etc/openshell/token",
    "its link": "/etc/openshell/link-to-secret",
    "what it links to": "/run/secret",
    "over a link": "/home/to-token",
    "over a directory's link": "/home/to-directory/token",
    "second name": "/home/second-name",
    "journal": "/var/lib/openshell-files/uploads.sqlite3",
    "its log": "/var/lib/openshell-files/uploads.sqlite3-wal",
    "its shared memory": "/var/lib/openshell-files/uploads.sqlite3-shm",
    "second name of the journal": "/home/second-journal",
    "state over a link": "/home/to-state/uploads.sqlite3",
    "something new in the state": "/var/lib/openshell-files/new",
    "below the state": "/var/lib/openshell-files/sub/new",
    "what replaces the token": "/etc/openshell/token.0123456789abcdef",
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
async def test_the_supervisors_own_files(kept: Kept, way: str, method: str) -> None:
    """PTH-7, PTH-19: neither read, nor described, nor compared, nor replaced, however a path leads there."""
    with pytest.raises(Refused) as refused:
        await METHODS[method](kept.agent, WAYS[way])
    link = way == "over a link" and method in {"download", "stat"}
    assert refused.value.reason is (Reason.LEAF_IS_LINK if link else Reason.PATH_FORBIDDEN)
    assert SECRET.decode() not in refused.value.message


async def test_directories_are_not_made_in_the_state(kept: Kept) -> None:
    """PTH-7: making parents makes none there either."""
    for path in ("/var/lib/openshell-files/a/b/f", "/home/to-state/a/f", "/home/to-state/sub/a/f"):
        with pytest.raises(Refused) as refused:
            await put(kept.agent, path, b"", parents=CREATE)
        assert refused.value.reason is Reason.PATH_FORBIDDEN
    state = kept.root / "var/lib/openshell-files"
    assert {path.name for path in state.iterdir() if path.is_dir()} == {"sub"}
    assert not list((state / "sub").iterdir())


async def test_a_token_that_is_replaced(kept: Kept) -> None:
    """PTH-19: the new one, and its place while there is none, are guarded as the first."""
    token = kept.root / "etc/openshell/token"
    token.unlink()
    for method in ("upload", "start", "stat"):
        with pytest.raises(Refused) as refused:
            await METHODS[method](kept.agent, "/etc/openshell/token")
        assert refused.value.reason is Reason.PATH_FORBIDDEN
    token.write_bytes(SECRET)
    os.link(token, kept.root / "home/newer")
    with pytest.raises(Refused) as refused:
        await get(kept.agent, "/home/newer")
    assert refused.value.reason is Reason.PATH_FORBIDDEN


async def test_a_directory_that_becomes_a_link_there(kept: Kept) -> None:
    """PTH-7, RSM-5: an upload that goes on looks again where its directory leads."""
    (kept.root / "home/uploads").mkdir()
    started = await start_upload(kept.agent, "/home/uploads/token")
    staged = next((kept.root / "home/uploads").iterdir())
    (kept.root / "home/uploads").rename(kept.root / "home/moved")
    (kept.root / "home/uploads").symlink_to("/etc/openshell")
    (kept.root / "home/moved" / staged.name).rename(kept.root / "etc/openshell" / staged.name)
    with pytest.raises(Refused) as refused:
        await put(
            kept.agent,
            "/home/uploads/token",
            b"mine",
            declared=0,
            upload_id=started.upload_id,
            epoch=started.epoch,
        )
    assert refused.value.reason is Reason.PATH_FORBIDDEN
    (kept.root / "etc/openshell" / staged.name).unlink()


async def test_what_lies_beside_is_ordinary(kept: Kept) -> None:
    """PTH-7: the directory of a token is not private, nor are names that begin as it."""
    for path in ("/etc/openshell/other", "/etc/openshell/token.txt", "/run/f", "/var/lib/openshell-files2"):
        await put(kept.agent, path, b"x")
        assert (await get(kept.agent, path)).content == b"x"


@pytest.fixture
async def covered(both: Sandbox) -> AsyncIterator[FileAgent]:
    """An agent beside commands that see another /usr, /dev and /etc/passwd."""
    root = both.root
    for directory in ("usr/local/bin", "dev", "etc", "home"):
        (root / directory).mkdir(parents=True)
    (root / "etc/passwd").write_bytes(b"")
    (root / "home/to-usr").symlink_to("/usr/local")
    (root / "home/missing").symlink_to("/usr/lib/python3")
    (root / "home/to-passwd").symlink_to("/etc/passwd")
    os.link(root / "etc/passwd", root / "home/passwd")
    both.settings = replace(both.settings, covered=["usr", "dev", "etc/passwd", "not/there"])
    agent = both.agent()
    await agent.start()
    yield agent
    await agent.aclose()
    assert both.leftovers() == []


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "path",
    [
        "/usr/tool",
        "/usr/local/bin/tool",
        "/usr/new/tool",
        "/dev/shm/x",
        "/dev/x",
        "/home/to-usr/x",
        "/home/missing/x",
    ],
)
async def test_where_commands_see_something_else(covered: FileAgent, path: str, method: str) -> None:
    """PTH-8: refused with the place that covers it; a missing directory of it is not made."""
    with pytest.raises(Refused) as refused:
        await METHODS[method](covered, path)
    assert refused.value.reason is Reason.PATH_FORBIDDEN
    assert refused.value.metadata["covered_by"] in {"/usr", "/dev"}


@pytest.mark.parametrize("path", ["/etc/passwd", "/home/passwd", "/home/to-passwd"])
@pytest.mark.parametrize("method", [name for name in METHODS if name.startswith(("download", "stat"))])
async def test_a_file_that_is_covered_is_not_read(covered: FileAgent, path: str, method: str) -> None:
    """PTH-8: also over a link or a second name."""
    with pytest.raises(Refused) as refused:
        await METHODS[method](covered, path)
    leaf = path == "/home/to-passwd" and "link" not in method and "digest" not in method
    assert refused.value.reason is (Reason.LEAF_IS_LINK if leaf else Reason.PATH_FORBIDDEN)


async def test_a_file_that_is_covered_is_replaced(covered: FileAgent) -> None:
    """PTH-21, EXE-7: the rename ends the mount, so files and commands agree from then on."""
    await put(covered, "/etc/passwd", b"mine")
    assert (await get(covered, "/etc/passwd")).content == b"mine"


async def _replaced_by_an_upload(agent: FileAgent, root: Path) -> None:
    (root / "home/passwd").unlink()
    await put(agent, "/etc/passwd", b"mine")


async def _removed_in_the_sandbox(_agent: FileAgent, root: Path) -> None:
    (root / "home/passwd").unlink()
    (root / "etc/passwd").unlink()


async def _directory_removed(_agent: FileAgent, root: Path) -> None:
    (root / "dev").rmdir()


async def _directory_moved_away(_agent: FileAgent, root: Path) -> None:
    (root / "dev").rename(root / "home/dev")
    (root / "home/dev").rmdir()


@pytest.mark.parametrize(
    "lose", [_replaced_by_an_upload, _removed_in_the_sandbox, _directory_removed, _directory_moved_away]
)
async def test_the_number_of_an_inode_that_is_gone(
    covered: FileAgent, both: Sandbox, lose: Callable[[FileAgent, Path], Awaitable[None]]
) -> None:
    """PTH-22: no other file or directory gets it, whatever became of the one that was covered."""
    numbers = {os.stat(both.root / name).st_ino for name in ("etc/passwd", "dev")}
    await lose(covered, both.root)
    for number in range(300):
        for directory in ("etc", "home", ""):
            place = both.root / directory / f"new-{number}"
            # Both, since a file system may give numbers of directories to directories only.
            if number % 2:
                place.mkdir()
            else:
                place.write_bytes(b"x")
            assert os.stat(place).st_ino not in numbers
    assert (await get(covered, "/home/new-0")).content == b"x"
    await put(covered, "/home/new-1/f", b"x")


@pytest.mark.parametrize("name", ["etc/passwd", "dev"])
@pytest.mark.usefixtures("covered")
async def test_what_is_guarded_is_held(both: Sandbox, name: str) -> None:
    """PTH-22: on every file system, also on one that does not use numbers again at once."""
    path = both.root / name
    assert str(path) in {os.readlink(f"/proc/self/fd/{fd}") for fd in _open_descriptors()}


def _open_descriptors() -> list[str]:
    """Return the descriptors that are still open."""
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


async def test_roots_and_what_is_beside(covered: FileAgent) -> None:
    """PTH-8: only what is covered is refused."""
    for path in ("/f", "/home/f", "/etc/hosts", "/usr2", "/not/there"):
        await put(covered, path, b"x", parents=CREATE)
        assert (await get(covered, path)).content == b"x"
