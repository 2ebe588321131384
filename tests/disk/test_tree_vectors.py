"""A receiver takes the streams of `tests/vectors/trees` as they say, and touches nothing outside of its top directory."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from tree_cases import (
    TREES,
    There,
    TreeCase,
    TreeVectors,
    files,
    messages_of,
    path_of,
    read_trees,
    schema,
)
from vector_cases import content_of

CASES = read_trees()
SECOND = 1_000_000_000


def test_the_schema_is_up_to_date() -> None:
    written = json.loads((TREES / "schema.json").read_text("utf-8"))
    assert written == schema(), "python tests/tree_cases.py > tests/vectors/trees/schema.json"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_names_are_given_once(path: Path) -> None:
    read = TreeVectors.model_validate_json(path.read_text("utf-8"))
    assert read.about
    assert max(Counter(case.name for case in read.trees).values()) == 1


@pytest.fixture
def place(tmp_path: Path) -> Generator[Path]:
    """Return the directory of a case, with what must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret!")
    os.utime(tmp_path / "outside", ns=(0, SECOND))
    yield tmp_path
    # Thousands of directories deep.
    subprocess.run(["rm", "-rf", str(tmp_path / "top")], check=False)


@dataclass
class Observed:
    """What all replies together had, and the reason that ended the stream."""

    reason: str | None = None
    needed: list[int] = field(default_factory=list[int])
    changed: list[int] = field(default_factory=list[int])
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    deleted: list[bytes] = field(default_factory=list[bytes])
    decided: int = 0

    def add(self, reply: trees_pb2.TreeReply) -> None:
        assert reply.decided_entries >= self.decided
        self.decided = reply.decided_entries
        self.needed += reply.needed
        self.changed += reply.changed
        self.problems += [(problem.entry, problem.reason) for problem in reply.problems]
        self.deleted += reply.deleted


def receive(case: TreeCase, place: Path) -> Observed:
    """Give a receiver the messages of a case, one after the other; the last may end the stream."""
    observed, options = Observed(), case.options
    parent_fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    messages = list(messages_of(case))
    try:
        receiver = TreeReceiver(
            FileSystem(),
            TreePlace(parent_fd=parent_fd, parent_path=os.fsencode(place), name=b"top"),
            ReceiveOptions(
                delete_others=options.delete_others,
                atomic=options.atomic,
                dry_run=options.dry_run,
                compare_content=options.compare_content,
                algorithm=files_pb2.DIGEST_ALGORITHM_SHA256,
                folds=options.folds,
                max_entries=int(options.max_entries or 0),
                max_file_bytes=int(options.max_file_bytes or 0),
            ),
        )
        try:
            for message in messages:
                for reply in step(receiver, message):
                    observed.add(reply)
        finally:
            receiver.close()
    except TransferError as error:
        observed.reason = error.reason.name
    finally:
        os.close(parent_fd)
    return observed


def step(
    receiver: TreeReceiver, message: trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd
) -> Iterator[trees_pb2.TreeReply]:
    if isinstance(message, trees_pb2.TreeEnd):
        yield from receiver.finish(message)
    else:
        yield receiver.take(message)


def make(top: Path, entries: list[There]) -> None:
    """Make what is there before a case."""
    top.mkdir()
    root = os.fsencode(top)
    for entry in entries:
        place = os.path.join(root, path_of(entry.path))
        if entry.same_as is not None:
            os.link(os.path.join(root, entry.same_as.encode()), place)
        elif entry.type == "directory":
            os.mkdir(place)
        elif entry.type == "link":
            os.symlink(path_of(entry.link_target or ""), place)
        else:
            Path(os.fsdecode(place)).write_bytes(content_of(entry.content or ""))
    for entry in (*reversed(entries), There(path="", type="directory")):
        place, mode, seconds = os.path.join(root, path_of(entry.path)), entry.mode, entry.modified_seconds
        if entry.type == "directory":
            mode, seconds = mode or "0755", seconds or "1000000000"
        if mode is not None:
            os.chmod(place, int(mode, 8))
        if seconds is not None:
            time = int(seconds) * SECOND + entry.modified_nanos
            os.utime(place, ns=(time, time), follow_symlinks=False)


@dataclass(frozen=True)
class Present:
    """An entry on the disk."""

    kind: str
    status: os.stat_result
    content: bytes


KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


def present(name: bytes, dir_fd: int) -> Present:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    kind, content = KINDS.get(stat.S_IFMT(status.st_mode), "special"), b""
    if kind == "file":
        with open(os.open(name, os.O_RDONLY, dir_fd=dir_fd), "rb") as file:
            content = file.read()
    if kind == "link":
        content = os.readlink(name, dir_fd=dir_fd)
    return Present(kind, status, content)


def everything(directory: int, above: bytes = b"") -> Iterator[tuple[bytes, Present]]:
    """Yield what is below a directory; by descriptors, since paths may be longer than one call takes."""
    for name in map(os.fsencode, os.listdir(directory)):
        found = present(name, directory)
        yield above + name, found
        if found.kind == "directory":
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                yield from everything(fd, above + name + b"/")
            finally:
                os.close(fd)


def assert_there(place: Path, expected: list[There]) -> None:
    """Compare what is below the top directory; of an entry what the vector gives."""
    fd = os.open(place / "top", os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {b"": present(b".", fd), **dict(everything(fd))}
    finally:
        os.close(fd)
    wanted = {path_of(entry.path): entry for entry in expected}
    assert {path: one.kind for path, one in found.items()} == {
        b"": "directory",
        **{path: "file" if entry.same_as else entry.type for path, entry in wanted.items()},
    }
    for path, entry in wanted.items():
        one = found[path]
        if entry.content is not None:
            assert one.content == content_of(entry.content), path
        if entry.link_target is not None:
            assert one.content == path_of(entry.link_target), path
        if entry.mode is not None:
            assert f"{stat.S_IMODE(one.status.st_mode):04o}" == entry.mode, path
        if entry.modified_seconds is not None:
            time = int(entry.modified_seconds) * SECOND + entry.modified_nanos
            assert one.status.st_mtime_ns == time, path
        if entry.same_as is not None:
            assert one.status.st_ino == found[entry.same_as.encode()].status.st_ino, path


def outside(place: Path) -> list[tuple[str, object]]:
    """Return all that must not change: content, and every property but the access time."""
    looked = list[tuple[str, object]]()
    for path in (place / "outside", place / "outside/secret"):
        one = path.lstat()
        looked.append((str(path), (one.st_ino, one.st_mode, one.st_nlink, one.st_size, one.st_mtime_ns)))
    looked.append(("names", sorted(os.listdir(place / "outside"))))
    looked.append(("content", (place / "outside/secret").read_bytes()))
    looked.append(("beside", sorted({*os.listdir(place), "top"})))
    return looked


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_receiver(case: TreeCase, place: Path) -> None:
    """TRE-44, TRE-54, TRE-58: and nothing of a staging directory is left, nor anything outside changed."""
    if case.before is not None:
        make(place / "top", case.before)
    before, outcome = outside(place), case.outcome
    observed = receive(case, place)
    assert outside(place) == before
    assert observed.reason == outcome.reason
    if outcome.files is not None and (case.before is not None or (place / "top").exists()):
        assert_there(place, outcome.files)
    if case.before is None and (outcome.reason is not None or outcome.files is None):
        assert not (place / "top").exists()
    if outcome.reason is None:
        assert_said(case, observed)


def assert_said(case: TreeCase, observed: Observed) -> None:
    """The replies have what the vector says, each once, in any order."""
    outcome = case.outcome
    if outcome.needed is not None:
        assert sorted(observed.needed) == sorted(map(int, outcome.needed))
    if outcome.changed is not None:
        assert sorted(observed.changed) == sorted(map(int, outcome.changed))
    assert sorted(observed.problems) == sorted((int(one.entry), one.reason) for one in outcome.problems)
    assert sorted(observed.deleted) == sorted(map(path_of, outcome.deleted))
    if case.messages[-1].end is not None:
        assert observed.decided == int(case.messages[-1].end)
