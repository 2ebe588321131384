"""Directories end to end: SDK of both flavours and command line, through gateway and supervisor, to the disk."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import pytest
from cli_scene import Cli, Outcome
from dev_command import DevStack
from openshell_files import AsyncFilesClient, Condition, FilesClient, LeafLink, OidcAuth, SandboxFiles
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.errors import DirectoryNotEmpty, FileExists, FileNotFound, NotADirectory, PathForbidden
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sdk_flavours import BlockingView


@pytest.fixture(params=["sync", "async"])
def files(request: pytest.FixtureRequest, stack: DevStack) -> Generator[SandboxFiles]:
    """The first sandbox, by a client of each flavour."""
    name = stack.sandboxes[0].name
    if request.param == "sync":
        with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            yield client.sandbox(name)
        return
    with asyncio.Runner() as runner:
        other = AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token))
        yield cast("SandboxFiles", BlockingView(runner, other.sandbox(name)))
        runner.run(other.aclose())


@pytest.fixture
def here(stack: DevStack, tmp_path: Path) -> Path:
    """A directory of the test's own in the sandbox's working directory, as this machine sees it."""
    made = stack.sandboxes[0].directory / tmp_path.name
    made.mkdir()
    return made


@dataclass
class Address:
    """Where the gateway listens."""

    address: str


class Command:
    """The command line in this process, against the stack."""

    def __init__(self, stack: DevStack, home: Path) -> None:
        self._cli = Cli(Address(stack.endpoint), home)
        self._cli.env |= {name: value for name, value in stack.environment().items() if "OPENSHELL" in name}
        self._sandbox = stack.sandboxes[0].name

    def __call__(self, name: str, *words: str | bytes) -> Outcome:
        return self._cli(name, self._sandbox, *map(os.fsdecode, words))

    def out(self, name: str, *words: str | bytes) -> str:
        """Run a command that succeeds; return what it printed."""
        done = self(name, *words)
        assert (done.status, done.err) == (0, "")
        return done.out

    def failed(self, code: ExitCode, name: str, *words: str | bytes) -> str:
        done = self(name, *words)
        assert done.status == code, (done.out, done.err)
        return done.err


@pytest.fixture
def cli(stack: DevStack, tmp_path: Path) -> Command:
    return Command(stack, tmp_path)


def test_the_option_is_announced(stack: DevStack) -> None:
    """DIR-1, CAP-3."""
    with grpc.insecure_channel(stack.endpoint.removeprefix("http://")) as channel:
        call = channel.unary_unary(
            methods.GET_TRANSFER_CAPABILITIES,
            request_serializer=files_pb2.GetTransferCapabilitiesRequest.SerializeToString,
            response_deserializer=files_pb2.GetTransferCapabilitiesResponse.FromString,
        )
        answer = call(
            files_pb2.GetTransferCapabilitiesRequest(
                sandbox=files_pb2.SandboxRef(name=stack.sandboxes[0].name)
            ),
            metadata=(("authorization", f"Bearer {stack.token}"),),
        )
    assert answer.directories.max_page_size == 10_000


def test_the_sdk(files: SandboxFiles, here: Path) -> None:
    """DIR-3, DIR-10, DIR-14, DIR-20, DIR-23: all of it, and what is on the disk afterwards."""
    top = here.name
    made = files.make_directory(f"{top}/a/b", parents=True, mode=0o750)
    assert (made.created, made.directory.mode) == (True, 0o750)
    assert not files.make_directory(f"{top}/a/b", exist_ok=True).created
    with pytest.raises(FileExists):
        files.make_directory(f"{top}/a/b")
    files.write_bytes(f"{top}/a/file", b"content")
    (here / "a/link").symlink_to("file")
    (here / os.fsdecode(b"caf\xe9\n")).mkdir()
    entries = list(files.list_directory(top, recursive=True))
    assert [entry.name for entry in entries] == ["a", "a/b", "a/file", "a/link", "caf\udce9\n"]
    info = files.stat(f"{top}/a/file")
    assert (entries[2].size, entries[2].version, entries[2].modified_ns) == (
        7,
        info.version,
        info.modified_ns,
    )
    copied = files.copy(f"{top}/a", f"{top}/c", recursive=True)
    assert (copied.entries, copied.bytes) == (4, 7)
    assert (here / "c/file").read_bytes() == b"content"
    assert os.readlink(here / "c/link") == "file"
    with pytest.raises(FileExists):
        files.move(f"{top}/c/file", f"{top}/a/file")
    moved = files.move(f"{top}/c/file", f"{top}/a/file", condition=Condition.version(info.version))
    assert moved.replaced
    with pytest.raises(DirectoryNotEmpty):
        files.remove(f"{top}/c")
    assert files.remove(f"{top}/c", recursive=True).entries == 3
    assert files.remove(f"{top}/caf\udce9\n").entries == 1
    with pytest.raises(FileNotFound):
        files.remove(f"{top}/c")
    assert files.remove(f"{top}/c", missing_ok=True).entries == 0
    with pytest.raises(NotADirectory):
        list(files.list_directory(f"{top}/a/file"))
    with pytest.raises(PathForbidden):
        files.remove("/", recursive=True)
    with pytest.raises(PathForbidden):
        files.remove(".", recursive=True)
    copy = files.copy(f"{top}/a/link", f"{top}/followed", leaf_link=LeafLink.FOLLOW)
    assert copy.file.size == 7
    assert sorted(path.name for path in here.iterdir()) == ["a", "followed"]


def test_many_pages(files: SandboxFiles, here: Path) -> None:
    """DIR-4, DIR-28: more entries than a page has."""
    names = [f"{number:05}" for number in range(10_050)]
    for name in names:
        (here / name).touch()
    assert [entry.name for entry in files.list_directory(here.name)] == names
    assert files.remove(here.name, recursive=True).entries == len(names) + 1


def test_ls(cli: Command, here: Path) -> None:
    """DIR-3: names, a long form, all directories, JSON; names that could control a terminal are escaped."""
    top = here.name
    (here / "d").mkdir(mode=0o755)
    (here / "d/x").write_bytes(b"12345")
    (here / "d/x").chmod(0o640)
    os.utime(here / "d/x", (1_700_000_000, 1_700_000_000))
    (here / "link").symlink_to("d/x")
    (here / "a\x1b[31mred").touch()
    (here / os.fsdecode(b"\xff")).touch()
    assert cli.out("ls", top).splitlines() == ["a\\x1b[31mred", "d", "link", "\\udcff"]
    assert cli.out("ls", "-R", f"{top}/d").splitlines() == ["x"]
    assert cli.out("ls", "-R", top).splitlines()[1:3] == ["d", "d/x"]
    lines = cli.out("ls", "-l", "-R", top).splitlines()
    assert lines[1].startswith("drwxr-xr-x ")
    assert lines[2] == "-rw-r-----            5 2023-11-14T22:13:20+00:00 d/x"
    assert lines[3].startswith("lrwxrwxrwx ")
    assert lines[3].endswith(" link -> d/x")
    assert cli.out("ls", f"{top}/d/x").splitlines() == [f"{top}/d/x"]
    printed = json.loads(cli.out("ls", "--json", top))
    assert printed["ok"]
    assert [entry["name"] for entry in printed["entries"]] == ["a\x1b[31mred", "d", "link", "\ufffd"]
    last = printed["entries"][3]
    assert base64.b64decode(last["name_base64"]) == b"\xff"
    assert (last["type"], last["mode_octal"], last["size"]) == ("regular", "0644", 0)
    assert cli.out("ls", os.fsencode(top) + b"/\xff") == f"{top}/\\udcff\n"
    assert "is no directory" in cli.failed(ExitCode.PATH_REFUSED, "ls", f"{top}/d/x/")
    assert "does not exist" in cli.failed(ExitCode.NOT_FOUND, "ls", f"{top}/none")


def test_mkdir(cli: Command, here: Path) -> None:
    """DIR-14."""
    top = here.name
    assert cli.out("mkdir", f"{top}/a", f"{top}/b", "-m", "700") == f"made {top}/a, made {top}/b\n"
    assert (here / "a").stat().st_mode & 0o777 == 0o700
    assert "-p accepts it" in cli.failed(ExitCode.CONDITION, "mkdir", f"{top}/a")
    assert "-p makes it" in cli.failed(ExitCode.NOT_FOUND, "mkdir", f"{top}/x/y")
    assert cli.out("mkdir", "-p", f"{top}/x/y") == f"made {top}/x/y\n"
    assert cli.out("mkdir", "-p", f"{top}/x/y") == f"{top}/x/y is there already\n"
    printed = json.loads(cli.out("mkdir", "--json", os.fsencode(top) + b"/\xff"))
    assert base64.b64decode(printed["directories"][0]["path_base64"]) == os.fsencode(top) + b"/\xff"
    assert (here / os.fsdecode(b"\xff")).is_dir()


def test_rm(cli: Command, here: Path) -> None:
    """DIR-10, DIR-13, DIR-19."""
    top = here.name
    for name in ("d/sub", "e"):
        (here / name).mkdir(parents=True)
    for name in ("d/x", "d/sub/y", "f", "g"):
        (here / name).touch()
    assert "-r removes it" in cli.failed(ExitCode.PATH_REFUSED, "rm", f"{top}/d")
    assert cli.out("rm", f"{top}/f", f"{top}/g", f"{top}/e") == "removed 3 entries\n"
    assert cli.out("rm", "-r", f"{top}/d") == "removed 4 entries\n"
    assert "-f accepts that" in cli.failed(ExitCode.NOT_FOUND, "rm", f"{top}/d")
    assert cli.out("rm", "-rf", f"{top}/d") == "removed 0 entries\n"
    assert json.loads(cli.out("rm", "-f", "--json", f"{top}/d"))["entries"] == 0
    cli.failed(ExitCode.PATH_REFUSED, "rm", "-rf", "/")
    cli.failed(ExitCode.PATH_REFUSED, "rm", "-rf", ".")
    assert here.is_dir()


#: Words behind `mv` or `cp` → entries afterwards, of: a, b (files), d/x, e (directories), link to d.
PLACEMENTS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "a new name": (["a", "new"], ["new"]),
    "a file is replaced": (["a", "b"], ["b"]),
    "a directory gets it": (["a", "e"], ["e/a"]),
    "a directory with a slash": (["a", "e/"], ["e/a"]),
    "a link to a directory": (["a", "link"], ["d/a"]),
    "several": (["a", "b", "e"], ["e/a", "e/b"]),
    "a directory into a directory": (["-r", "d", "e"], ["e/d", "e/d/x"]),
    "a directory to a new name": (["-r", "d/", "new"], ["new", "new/x"]),
    "missing parents": (["--parents", "a", "p/q"], ["p", "p/q"]),
    "a missing directory": (["--parents", "a", "p/"], ["p", "p/a"]),
    "several into a missing directory": (["--parents", "a", "b", "p/"], ["p", "p/a", "p/b"]),
}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["mv", "cp"])
def test_placement(cli: Command, here: Path, name: str, placement: str) -> None:
    """DIR-20, DIR-23: as mv and cp place."""
    given, expected = PLACEMENTS[placement]
    _scene(here)
    words = [word if word.startswith("-") else f"{here.name}/{word}" for word in given]
    if name == "mv" and "-r" in words:
        words.remove("-r")
    before = _entries(here)
    cli.out(name, *words)
    sources = {word.rstrip("/") for word in given if not word.startswith("-")} - {given[-1].rstrip("/")}
    gone = {entry for entry in before for source in sources if (entry + "/").startswith(source + "/")}
    assert _entries(here) == (before - (gone if name == "mv" else set[str]())) | set(expected)


REFUSED: dict[str, tuple[Sequence[str], ExitCode]] = {
    "several and no directory": (["a", "b", "new"], ExitCode.USAGE),
    "a slash and no directory": (["a", "new/"], ExitCode.NOT_FOUND),
    "a slash and a file": (["a", "b/"], ExitCode.PATH_REFUSED),
    "one word": (["a"], ExitCode.USAGE),
    "no name": (["a/..", "e"], ExitCode.USAGE),
    "nothing": (["none", "new"], ExitCode.NOT_FOUND),
    "no parent": (["a", "p/q"], ExitCode.NOT_FOUND),
    "no clobber": (["-n", "a", "b"], ExitCode.CONDITION),
    "into itself": (["-r", "d", "d/new"], ExitCode.USAGE),
    "onto itself": (["a", "a"], ExitCode.USAGE),
    "onto each other": (["-r", "d/x", "e/x", "e"], ExitCode.USAGE),
    "the same twice": (["a", "a", "e"], ExitCode.USAGE),
}


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize("name", ["mv", "cp"])
def test_refused_placement(cli: Command, here: Path, name: str, refused: str) -> None:
    """DIR-21, DIR-22: nothing changes."""
    given, code = REFUSED[refused]
    _scene(here)
    words = [word if word.startswith("-") else f"{here.name}/{word}" for word in given]
    if name == "mv" and "-r" in words:
        words.remove("-r")
    before = _entries(here)
    cli.failed(code, name, *words)
    assert _entries(here) == before


def test_cp_of_links(cli: Command, here: Path) -> None:
    """DIR-26: followed without -r, and copied as they are with -r."""
    _scene(here)
    (here / "to-a").symlink_to("a")
    assert "-r copies a directory" in cli.failed(
        ExitCode.PATH_REFUSED, "cp", f"{here.name}/d", f"{here.name}/z"
    )
    cli.out("cp", f"{here.name}/to-a", f"{here.name}/followed")
    assert not (here / "followed").is_symlink()
    cli.out("cp", "-r", f"{here.name}/to-a", f"{here.name}/kept")
    assert os.readlink(here / "kept") == "a"
    printed = json.loads(cli.out("cp", "--json", f"{here.name}/a", f"{here.name}/again"))
    assert printed["copied"][0]["bytes"] == 1
    printed = json.loads(cli.out("mv", "--json", f"{here.name}/again", f"{here.name}/b"))
    assert printed["moved"] == [
        {"source": f"{here.name}/again", "destination": f"{here.name}/b", "replaced": True}
    ]


def _scene(here: Path) -> None:
    for name in ("a", "b"):
        (here / name).write_text(name)
    (here / "d").mkdir()
    (here / "d/x").write_text("x")
    (here / "e").mkdir()
    (here / "link").symlink_to("d")


def _entries(here: Path) -> set[str]:
    return {str(path.relative_to(here)) for path in here.rglob("*")}


def test_an_entry_is_found_by_the_machine(files: SandboxFiles, here: Path) -> None:
    """DIR-24: a copy is a file like any other for the programs of the sandbox."""
    (here / "a").write_bytes(b"x" * 100_000)
    files.copy(f"{here.name}/a", f"{here.name}/b")
    assert subprocess.run(["cmp", here / "a", here / "b"], check=False).returncode == 0
