"""A tree's receiver under test, a sender that announces what a test says, and what a directory has in it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sender import TreeSender
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

SECOND = 1_000_000_000
#: Time of entries for which a test gives none.
TIME = 1_000_000_000 * SECOND

Entry = trees_pb2.TreeEntry


def file(path: bytes, content: bytes = b"", *, mode: int = 0o644, **fields: Any) -> Entry:
    """Return the entry of a file with some content."""
    return _entry(files_pb2.FILE_TYPE_REGULAR, path, mode, {"size_bytes": len(content)} | fields)


def directory(path: bytes = b"", *, mode: int = 0o755, **fields: Any) -> Entry:
    """Return the entry of a directory; of the top directory without a path."""
    return _entry(files_pb2.FILE_TYPE_DIRECTORY, path, mode, fields)


def link(path: bytes, target: bytes, **fields: Any) -> Entry:
    """Return the entry of a symbolic link."""
    return _entry(files_pb2.FILE_TYPE_SYMLINK, path, 0o777, {"link_target": target} | fields)


def hard_link(path: bytes, first: bytes, **fields: Any) -> Entry:
    """Return the entry of a further name of a file."""
    return _entry(files_pb2.FILE_TYPE_REGULAR, path, 0o644, {"hard_link": first} | fields)


def _entry(kind: files_pb2.FileType.ValueType, path: bytes, mode: int, fields: dict[str, Any]) -> Entry:
    fields.setdefault("modified_seconds", TIME // SECOND)
    return Entry(type=kind, path=path, mode=mode, **fields)


def part(entry: int, content: bytes, **fields: Any) -> trees_pb2.TreePart:
    """Return the only part of a content."""
    values: dict[str, Any] = {"last": True, "digest": digest(content)} | fields
    return trees_pb2.TreePart(entry=entry, data=content, **values)


def digest(content: bytes) -> bytes:
    """Return the digest with the algorithm of the tests."""
    return hashlib.sha256(content).digest()


@dataclass
class Said:
    """What all replies of a receiver together had."""

    needed: list[int] = field(default_factory=list[int])
    changed: list[int] = field(default_factory=list[int])
    problems: dict[int, str] = field(default_factory=dict[int, str])
    messages: dict[int, str] = field(default_factory=dict[int, str])
    deleted: list[bytes] = field(default_factory=list[bytes])
    decided: int = 0

    def add(self, reply: trees_pb2.TreeReply) -> None:
        """Add a reply."""
        assert reply.decided_entries >= self.decided
        self.decided = reply.decided_entries
        self.needed += reply.needed
        self.changed += reply.changed
        for problem in reply.problems:
            assert problem.entry not in self.problems
            self.problems[problem.entry] = problem.reason
            self.messages[problem.entry] = problem.message
        self.deleted += reply.deleted


class Receiving:
    """A receiver of `top` in a directory, and what it said."""

    def __init__(
        self,
        place: Path,
        *,
        fs: FileSystem | None = None,
        guard: TreeGuard | None = None,
        trace: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> None:
        options.setdefault("algorithm", DigestAlgorithm.SHA256)
        self._parent = os.open(place, os.O_PATH | os.O_DIRECTORY)
        self.said = Said()
        try:
            self.receiver = TreeReceiver(
                fs or FileSystem(),
                TreePlace(self._parent, os.fsencode(place), b"top"),
                ReceiveOptions(**options),
                guard=guard,
                trace=trace,
            )
        except BaseException:
            os.close(self._parent)
            raise

    def entries(self, *entries: Entry) -> Said:
        """Announce entries; return what was said so far."""
        self.said.add(self.receiver.take(trees_pb2.TreeManifest(entries=entries)))
        return self.said

    def content(self, *parts: trees_pb2.TreePart) -> Said:
        """Send content; return what was said so far."""
        self.said.add(self.receiver.take(trees_pb2.TreeContent(parts=parts)))
        return self.said

    def finish(self) -> Said:
        """End the tree, and close the receiver; return all that was said."""
        for reply in self.receiver.finish(trees_pb2.TreeEnd(entries=self.receiver.decided)):
            self.said.add(reply)
        self.close()
        return self.said

    def close(self) -> None:
        """Close the receiver; more than once is fine."""
        try:
            self.receiver.close()
        finally:
            if self._parent >= 0:
                os.close(self._parent)
                self._parent = -1


@contextmanager
def receiving(place: Path, **arguments: Any) -> Generator[Receiving]:
    """Yield a receiver that is closed after use; see `Receiving`."""
    receiver = Receiving(place, **arguments)
    try:
        yield receiver
    finally:
        receiver.close()


@dataclass
class Transfer:
    """What went over the wire between a sender and a receiver."""

    said: Said = field(default_factory=Said)
    paths: list[bytes] = field(default_factory=list[bytes])
    content_bytes: int = 0
    largest: int = 0

    @property
    def sent(self) -> list[bytes]:
        """Paths of the files whose content was sent."""
        return [self.paths[number] for number in self.said.needed]


def loop(
    source: Path, place: Path, *, lag: int = 0, sending: dict[str, Any] | None = None, **arguments: Any
) -> Transfer:
    """Send a directory to `top` in another one.

    Args:
        source: the directory.
        place: the other one.
        lag: number of replies that are on their way.
        sending: arguments of the sender.
        arguments: of the receiver.
    """
    transfer = Transfer()
    waiting: list[trees_pb2.TreeReply] = []
    options: dict[str, Any] = sending or {}
    sender = TreeSender(
        FileSystem(),
        os.open(source, os.O_RDONLY | os.O_DIRECTORY),
        Selection(),
        algorithm=DigestAlgorithm.SHA256,
        **options,
    )
    try:
        with receiving(place, **arguments) as receiver:
            receiver.said = transfer.said
            while not isinstance(message := sender.next(), trees_pb2.TreeEnd):
                if message is not None:
                    transfer.largest = max(transfer.largest, message.ByteSize())
                    reply = receiver.receiver.take(_passed(message))
                    transfer.said.add(reply)
                    waiting.append(reply)
                if isinstance(message, trees_pb2.TreeManifest):
                    transfer.paths += [entry.path for entry in message.entries]
                if isinstance(message, trees_pb2.TreeContent):
                    transfer.content_bytes += sum(len(one.data) for one in message.parts)
                if message is None:
                    assert waiting, "the sender waits, and every reply was given"
                if message is None or len(waiting) > lag:
                    sender.reply(waiting.pop(0))
            receiver.finish()
    finally:
        sender.close()
    return transfer


def _passed(
    message: trees_pb2.TreeManifest | trees_pb2.TreeContent,
) -> trees_pb2.TreeManifest | trees_pb2.TreeContent:
    """Return a message as it comes from the wire."""
    return type(message).FromString(message.SerializeToString())


def tree_of(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """Return what is in a directory, by path: type, mode, time, content or target, and the first name of its inode."""
    found: dict[bytes, tuple[Any, ...]] = {}
    firsts: dict[tuple[int, int], bytes] = {}
    root = os.fsencode(top)
    pending = [b""]
    while pending:
        path = pending.pop()
        full = os.path.join(root, path)
        status = os.lstat(full)
        content, first = b"", path
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(full)
        elif stat.S_ISREG(status.st_mode):
            content = digest(Path(os.fsdecode(full)).read_bytes())
            first = firsts.setdefault((status.st_dev, status.st_ino), path)
        elif stat.S_ISDIR(status.st_mode):
            names = sorted(os.listdir(full), reverse=True)
            pending += [path + b"/" + name if path else name for name in names]
        found[path] = (status.st_mode, status.st_mtime_ns, content, first)
    # Which name of an inode comes first depends on the order of the walk.
    smallest: dict[bytes, bytes] = {}
    for path, (*_, first) in found.items():
        smallest[first] = min(path, smallest.get(first, path))
    return {path: (*values, smallest[first]) for path, (*values, first) in found.items()}
