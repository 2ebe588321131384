"""What a loss of power may leave of an agent's work.

`Recorder` notes every change to the file system and every commit of the journal, in order. `leavings` gives,
for a moment in that order, the states in which a disk may be found that promises what POSIX promises and no more:

- of a file's content, what was there at its last flush, or everything;
- of a directory's names, those at its last flush and any number of the changes after it, in order;
- of the journal, every commit up to the last durable one, and any number of those after it, in order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.agent_harness import StrictFileSystem
from openshell_supervisor_sim.agent.store.journal import Journal


@dataclass
class Inode:
    """A file or directory: what is in it, and what of it is on the device."""

    number: int
    directory: bool
    content: bytes = b""
    mode: int = 0o600
    modified: int = 0
    flushed: tuple[bytes, int, int] = (b"", 0o600, 0)
    #: Names as they are on the device, and the changes since: a name, and what it is then.
    names: dict[bytes, int] = field(default_factory=dict[bytes, int])
    changes: list[dict[bytes, int | None]] = field(default_factory=list[dict[bytes, int | None]])


@dataclass(frozen=True)
class Moment:
    """A point in the order: the inodes and the journal as they were."""

    after: str
    inodes: dict[int, Inode]
    commits: int
    durable: int


class Recorder(StrictFileSystem):
    """System calls of an agent that are noted.

    Args:
        root: the sandbox's root; what is in it is on the device.
    """

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._inodes: dict[int, Inode] = {}
        self.commits: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._durable = 0
        self.moments: list[Moment] = []
        self._see(root)
        self.root = os.stat(root).st_ino

    def _see(self, path: Path) -> None:
        status = path.stat()
        inode = Inode(status.st_ino, directory=path.is_dir())
        self._inodes[status.st_ino] = inode
        if path.is_dir():
            for child in path.iterdir():
                inode.names[os.fsencode(child.name)] = child.stat().st_ino
                self._see(child)
        else:
            self._note_content(inode, path.read_bytes(), status)
            inode.flushed = (inode.content, inode.mode, inode.modified)

    @staticmethod
    def _note_content(inode: Inode, content: bytes, status: os.stat_result) -> None:
        inode.content, inode.mode, inode.modified = content, status.st_mode & 0o7777, status.st_mtime_ns

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name.startswith("_") or name == "fail" or not callable(value):
            return value

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            if self._note(name, args, kwargs, result):
                self._moment(name)
            return result

        return noted

    def _note(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        """Note a call that changed something; whether it did."""
        match name:
            case "open":
                return self._opened(result, args[0], args[1], kwargs.get("dir_fd"))
            case "pwrite" | "truncate" | "chmod" | "set_modified":
                status = os.fstat(args[0])
                content = os.pread(args[0], status.st_size, 0)
                self._note_content(self._inodes[status.st_ino], content, status)
            case "fsync" | "fdatasync":
                self._flushed(self._inodes[os.fstat(args[0]).st_ino])
            case _:
                return self._renamed(name, args)
        return True

    def _opened(self, fd: int, name: bytes, flags: int, dir_fd: int | None) -> bool:
        if not flags & (os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY):
            return False
        status = os.fstat(fd)
        inode = self._inodes[status.st_ino] = Inode(status.st_ino, directory=False)
        self._note_content(inode, b"", status)
        if flags & os.O_CREAT and dir_fd is not None:
            self._named(dir_fd, {name: inode.number})
        return True

    @staticmethod
    def _flushed(inode: Inode) -> None:
        for change in inode.changes:
            _apply(inode.names, change)
        inode.changes = []
        inode.flushed = (inode.content, inode.mode, inode.modified)

    def _renamed(self, name: str, args: tuple[Any, ...]) -> bool:
        match name:
            case "mkdir":
                number = os.stat(args[0], dir_fd=args[1]).st_ino
                self._inodes[number] = Inode(number, directory=True)
                self._named(args[1], {args[0]: number})
            case "rename" | "rename_noreplace":
                number = os.stat(args[2], dir_fd=args[0], follow_symlinks=False).st_ino
                self._named(args[0], {args[1]: None, args[2]: number})
            case "link":
                self._named(args[0], {args[2]: os.stat(args[2], dir_fd=args[0]).st_ino})
            case "link_descriptor":
                self._named(args[1], {args[2]: os.fstat(args[0]).st_ino})
            case "unlink":
                self._named(args[1], {args[0]: None})
            case _:
                return False
        return True

    def _named(self, dir_fd: int, change: dict[bytes, int | None]) -> None:
        self._inodes[os.fstat(dir_fd).st_ino].changes.append(change)

    def committed(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.commits.append((method, args, kwargs))
        if kwargs.get("durable"):
            self._durable = len(self.commits)
        self._moment(f"journal.{method}")

    def _moment(self, after: str) -> None:
        inodes = {
            number: Inode(
                number,
                inode.directory,
                inode.content,
                inode.mode,
                inode.modified,
                inode.flushed,
                dict(inode.names),
                list(inode.changes),
            )
            for number, inode in self._inodes.items()
        }
        self.moments.append(Moment(after, inodes, len(self.commits), self._durable))


def journal_of(recorder: Recorder) -> type[Journal]:
    """Return a journal whose commits are noted."""

    class NotedJournal(Journal):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name not in {"write", "delete", "add_name", "drop_name", "set_aside"}:
                return value

            def noted(*args: Any, **kwargs: Any) -> Any:
                result = value(*args, **kwargs)
                recorder.committed(name, args, kwargs)
                return result

            return noted

    return NotedJournal


def noted_names(recorder: Recorder, leaving: Leaving) -> set[bytes]:
    """Return the staging names that a start-up on a leaving has heard of."""
    names = set[bytes]()
    for method, args, _ in recorder.commits[: leaving.commits]:
        match method:
            case "add_name":
                names.add(args[1])
            case "drop_name":
                names.discard(args[1])
            case "write":
                names.add(args[0].staging)
            case _:
                pass
    return names


def _apply(names: dict[bytes, int], change: dict[bytes, int | None]) -> None:
    for name, number in change.items():
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


@dataclass(frozen=True)
class Leaving:
    """One state in which the disk may be found.

    Attributes:
        moment: when the power was lost.
        names: of each directory.
        flushed_only: content is what was flushed, and no more.
        commits: so many of the journal.
    """

    moment: int
    names: tuple[tuple[int, tuple[tuple[bytes, int], ...]], ...]
    flushed_only: bool
    commits: int


def leavings(recorder: Recorder, promises: Sequence[int]) -> Iterator[tuple[str, Leaving]]:
    """Give every state in which the disk may be found, with the name of the last call before it.

    Args:
        recorder: what was done.
        promises: moments from which on more was promised: the same state is another case then.
    """
    seen = set[object]()
    for index, moment in enumerate(recorder.moments):
        directories = [inode for inode in moment.inodes.values() if inode.directory]
        prefixes = [range(len(inode.changes) + 1) for inode in directories]
        commits = range(moment.durable, moment.commits + 1)
        for chosen, count, flushed_only in itertools.product(
            itertools.product(*prefixes), commits, (True, False)
        ):
            names: list[tuple[int, tuple[tuple[bytes, int], ...]]] = []
            for inode, prefix in zip(directories, chosen, strict=True):
                there = dict(inode.names)
                for change in inode.changes[:prefix]:
                    _apply(there, change)
                names.append((inode.number, tuple(sorted(there.items()))))
            leaving = Leaving(index, tuple(names), flushed_only, count)
            promised = sum(promise <= index for promise in promises)
            state = (promised, leaving.names, count, _contents(moment, leaving))
            if state not in seen:
                seen.add(state)
                yield moment.after, leaving


def _contents(moment: Moment, leaving: Leaving) -> tuple[object, ...]:
    named = {number for _, names in leaving.names for _, number in names}
    return tuple(
        (number, inode.flushed if leaving.flushed_only else (inode.content, inode.mode, inode.modified))
        for number, inode in sorted(moment.inodes.items())
        if not inode.directory and number in named
    )


def restore(recorder: Recorder, leaving: Leaving, root: Path, state: Path) -> None:
    """Make a root and a state directory as the disk is found. Inode numbers in the journal follow."""
    moment = recorder.moments[leaving.moment]
    names = dict(leaving.names)
    numbers = dict[int, int]()

    def build(directory: int, path: Path) -> None:
        for name, number in names.get(directory, ()):
            inode, child = moment.inodes[number], path / os.fsdecode(name)
            if inode.directory:
                child.mkdir()
                build(number, child)
                continue
            content, mode, modified = (
                inode.flushed if leaving.flushed_only else (inode.content, inode.mode, inode.modified)
            )
            child.write_bytes(content)
            child.chmod(mode)
            os.utime(child, ns=(modified, modified))
            numbers[number] = child.stat().st_ino

    root.mkdir(parents=True)
    build(recorder.root, root)
    journal = Journal(state)
    try:
        for method, args, kwargs in recorder.commits[: leaving.commits]:
            if method == "write" and args[0].inode in numbers:
                journal.write(replace(args[0], inode=numbers[args[0].inode]), **kwargs)
            else:
                getattr(journal, method)(*args, **kwargs)
    finally:
        journal.close()
