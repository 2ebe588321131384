"""Directories on the command line end to end: through gateway and supervisor, to the disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_scene import Cli, Outcome
from dev_command import DevStack
from openshell_files.cli.exit_codes import ExitCode


@dataclass
class Address:
    """Where the gateway listens."""

    address: str


class Scene:
    """The command line against the stack, with a directory of the test's own on either side."""

    def __init__(self, stack: DevStack, home: Path) -> None:
        self.home = home / "home"
        self.home.mkdir()
        self.sandbox = stack.sandboxes[0].directory / home.name
        self.sandbox.mkdir()
        self.there = home.name
        self._name = stack.sandboxes[0].name
        self._cli = Cli(Address(stack.endpoint), self.home)
        self._cli.env |= {name: value for name, value in stack.environment().items() if "OPENSHELL" in name}
        self.source = self.home / "dir"
        for name in ("one", "sub/two", "sub/deep/three"):
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_text(name)
        (self.source / "empty").mkdir()
        (self.source / "link").symlink_to("nowhere")
        os.link(self.source / "one", self.source / "same")
        os.utime(self.source / "one", ns=(1, 1_000_000_007))

    def __call__(self, command: str, *words: str) -> Outcome:
        return self._cli(command, self._name, *words)


@pytest.fixture
def scene(stack: DevStack, tmp_path: Path) -> Scene:
    return Scene(stack, tmp_path)


def content(top: Path) -> dict[str, object]:
    """Return what is below a directory: type, mode, time and content by path."""
    found: dict[str, object] = {}
    for directory, subdirectories, files in os.walk(top):
        for name in (*subdirectories, *files):
            path = Path(directory, name)
            status = path.lstat()
            text = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            found[str(path.relative_to(top))] = (status.st_mode, status.st_mtime_ns, text)
    return found


def test_there_and_back_and_again(scene: Scene) -> None:
    up = scene("upload", "dir", scene.there)
    assert (up.status, up.err) == (0, "")
    assert "uploaded 3 files" in up.out
    assert content(scene.sandbox / "dir") == content(scene.source)
    again = scene("upload", "dir", scene.there, "--json")
    assert (again.json["sent"], again.json["content_bytes"]) == (0, 0)
    down = scene("download", f"{scene.there}/dir", "copy")
    assert down.status == 0, down
    assert content(scene.home / "copy") == content(scene.source)
    assert (scene.home / "copy/one").stat().st_ino == (scene.home / "copy/same").stat().st_ino
    assert scene("download", f"{scene.there}/dir", "copy", "--json").json["sent"] == 0


def test_plan_and_deletion(scene: Scene) -> None:
    assert scene("upload", "dir", scene.there).status == 0
    (scene.sandbox / "dir/more").mkdir()
    (scene.sandbox / "dir/more/x").write_bytes(b"1")
    (scene.sandbox / "dir/sub/keep.log").write_bytes(b"1")
    (scene.source / "sub/two").write_bytes(b"longer than before")
    words = ("upload", "dir", scene.there, "--delete", "--exclude", "*.log")
    (scene.source / "sub/new.log").write_bytes(b"1")
    plan = scene(*words, "--dry-run")
    assert plan.status == 0, plan
    *lines, last = plan.out.splitlines()
    assert "send dir/sub/two" in lines
    assert f"delete {scene.there}/dir/more" in lines
    assert "skip dir/sub/new.log (--exclude)" in lines
    assert last.startswith("would upload 1 file")
    assert (scene.sandbox / "dir/more/x").exists()
    done = scene(*words)
    assert done.status == 0, done
    assert not (scene.sandbox / "dir/more").exists()
    assert not (scene.sandbox / "dir/sub/new.log").exists()


def test_nothing_that_matches_is_an_error(scene: Scene) -> None:
    for dry in ([], ["--dry-run"]):
        none = scene("upload", "dir", scene.there, "--include", "*.none", "--delete", *dry)
        assert none.status == ExitCode.USAGE, none
        assert "NOTHING_MATCHED" in none.err
    assert not [path for path in scene.sandbox.rglob("*") if not path.is_dir()]


def test_what_include_leaves_out_is_not_deleted(scene: Scene) -> None:
    """Also where nothing below a directory matches, so that the directory itself is not sent."""
    assert scene("upload", "dir", scene.there).status == 0
    (scene.sandbox / "dir/more").write_bytes(b"1")
    assert scene("upload", "dir", scene.there, "--include", "one", "--delete").status == 0
    assert (scene.sandbox / "dir/sub/two").exists()
    assert (scene.sandbox / "dir/empty").exists()
    assert not (scene.sandbox / "dir/more").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_entry_that_cannot_be_read(scene: Scene) -> None:
    (scene.source / "one").chmod(0)
    done = scene("upload", "dir", scene.there)
    assert done.status == ExitCode.PARTIAL, done
    assert "dir/one" in done.err


def test_a_fifo_is_a_problem_of_its_own(scene: Scene) -> None:
    os.mkfifo(scene.source / "pipe")
    done = scene("upload", "dir", scene.there)
    assert (done.status, done.out) == (ExitCode.PARTIAL, "")
    assert done.err.splitlines()[0].startswith("openshell-files: dir/pipe: ")
    assert "1 failed to" in done.err
    assert (scene.sandbox / "dir/sub/deep/three").read_text() == "sub/deep/three"


def test_missing_parents(scene: Scene) -> None:
    """Row 15 of the placement table in docs/trees.md."""
    refused = scene("upload", "dir", f"{scene.there}/new")
    assert (refused.status, "--parents" in refused.err) == (ExitCode.NOT_FOUND, True), refused
    assert scene("upload", "dir", f"{scene.there}/new", "--parents").status == 0
    refused = scene("download", f"{scene.there}/new/dir", "no/copy")
    assert (refused.status, "--parents" in refused.err) == (ExitCode.LOCAL_FILE, True), refused
    assert scene("download", f"{scene.there}/new/dir", "no/copy", "--parents").status == 0
    assert content(scene.home / "no/copy") == content(scene.source)


def test_merged_into_a_directory(scene: Scene) -> None:
    """Row 16 of the placement table in docs/trees.md."""
    (scene.sandbox / "dir").mkdir()
    for name in ("one", "other"):
        (scene.sandbox / "dir" / name).write_bytes(b"before")
    assert scene("upload", "dir", scene.there).status == 0
    assert (scene.sandbox / "dir/one").read_text() == "one"
    assert (scene.sandbox / "dir/other").read_text() == "before"
    atomic = scene("upload", "dir", scene.there, "--atomic")
    assert (atomic.status, "leave --atomic out" in atomic.err) == (ExitCode.CONDITION, True), atomic


def test_something_else_at_the_place(scene: Scene) -> None:
    """Row 17 of the placement table in docs/trees.md."""
    (scene.sandbox / "dir").write_bytes(b"a file")
    assert scene("upload", "dir", scene.there).status == ExitCode.PATH_REFUSED
    assert (scene.sandbox / "dir").read_bytes() == b"a file"
    (scene.sandbox / "dir").unlink()
    (scene.sandbox / "elsewhere").mkdir()
    (scene.sandbox / "dir").symlink_to("elsewhere")
    refused = scene("upload", "dir", scene.there)
    assert (refused.status, "LEAF_IS_LINK" in refused.err) == (ExitCode.PATH_REFUSED, True), refused
    assert not list((scene.sandbox / "elsewhere").iterdir())
    assert scene("upload", "dir/.", f"{scene.there}/elsewhere").status == 0
    (scene.home / "file").write_bytes(b"a file")
    assert scene("download", f"{scene.there}/elsewhere/", "file").status == ExitCode.LOCAL_FILE
    (scene.home / "aim").mkdir()
    (scene.home / "to").symlink_to("aim")
    assert scene("download", f"{scene.there}/elsewhere", "to").status == 0
    assert (scene.home / "aim/one").exists()


def test_a_link_to_a_directory_as_source(scene: Scene) -> None:
    """Row 18 of the placement table in docs/trees.md."""
    (scene.home / "l").symlink_to("dir")
    assert scene("upload", "l", scene.there).status == 0
    assert content(scene.sandbox / "l") == content(scene.source)
    (scene.sandbox / "m").symlink_to("l")
    assert scene("download", f"{scene.there}/m").status == ExitCode.PATH_REFUSED
    assert scene("download", f"{scene.there}/m", "--follow").status == 0
    assert scene("download", f"{scene.there}/m/", "n").status == 0
    assert content(scene.home / "m") == content(scene.home / "n") == content(scene.source)
