"""Packs a tree as a tar archive, from the entries and the content that a `TreeSender` sends (ARC-12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.archives.outcome import ArchiveOutcome
from openshell_files_disk.archives.tar_writer import END, member_header, padding

#: Largest piece of zeros that is not sent as a hole.
_ZEROS: Final = bytes(MIB)


class SendsTree(Protocol):
    """The sender of a tree, see `openshell_files_disk.trees.sender`."""

    def next(self) -> trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd | None:
        """Return the next message."""
        ...

    def reply(self, reply: trees_pb2.TreeReply, /) -> None:
        """Take a reply of the receiver."""
        ...


@dataclass(frozen=True, slots=True)
class Zeros:
    """Zero bytes of the archive that came from a hole."""

    length: int


Piece = bytes | Zeros


class Packing:
    """Turns what a sender sends into the bytes of an archive. Methods block.

    A file is announced with its size before it is read. If it ends earlier or changes, its content
    is filled with zeros up to that size, so that the archive can be read, and `changed` says that
    it must not be trusted.

    Args:
        tree: the sender.

    Attributes:
        outcome: what became of the entries so far.
        changed: paths of files that changed while they were read; the first of them.
        complete: everything was packed.
    """

    def __init__(self, tree: SendsTree) -> None:
        self.outcome = ArchiveOutcome()
        self.changed: list[bytes] = []
        self.complete = False
        self._tree = tree
        #: Entries whose header was not written, by number, and the number of the first.
        self._waiting: deque[trees_pb2.TreeEntry] = deque()
        self._number = 0
        #: Files that have no member, which hard links may name.
        self._left_out: set[bytes] = set()
        #: Bytes of content of the first waiting entry; None before its header.
        self._written: int | None = None

    def read(self) -> list[Piece]:
        """Return the next bytes of the archive, of one message of the sender; may be empty before the end.

        Raises:
            TransferError: of the sender.
        """
        message = self._tree.next()
        match message:
            case trees_pb2.TreeManifest():
                self._take_entries(message)
                return list(self._headers())
            case trees_pb2.TreeContent():
                pieces: list[Piece] = []
                for part in message.parts:
                    pieces += self._headers()
                    pieces += self._part(part)
                pieces += self._headers()
                return pieces
            case trees_pb2.TreeEnd():
                self.complete = True
                return [END]
            case None:
                return []

    def _take_entries(self, manifest: trees_pb2.TreeManifest) -> None:
        first = self._number + len(self._waiting)
        self._waiting.extend(manifest.entries)
        reply = trees_pb2.TreeReply(decided_entries=first + len(manifest.entries))
        reply.needed.extend(
            number for number, entry in enumerate(manifest.entries, first) if _has_content(entry)
        )
        self._tree.reply(reply)

    def _headers(self) -> Iterator[Piece]:
        """Write the waiting entries up to the next one that has content."""
        while self._waiting and not _has_content(self._waiting[0]):
            entry = self._waiting.popleft()
            self._number += 1
            if not entry.excluded:
                yield from self._without_content(entry)

    def _without_content(self, entry: trees_pb2.TreeEntry) -> Iterator[Piece]:
        self.outcome.entries += 1
        reason, message = entry.reason, entry.message
        if entry.hard_link in self._left_out and entry.hard_link:
            reason, message = Reason.FILE_NOT_FOUND.name, "the file of which it is another name was left out"
        if reason:
            self.outcome.problem(entry.path, reason, message)
        # A directory that cannot be read is still one.
        if not reason or entry.type == files_pb2.FILE_TYPE_DIRECTORY:
            yield member_header(entry)

    def _part(self, part: trees_pb2.TreePart) -> Iterator[Piece]:
        entry = self._waiting[0]
        if self._written is None:
            self.outcome.entries += 1
            if part.reason and not part.offset and not part.data:
                self._leave_out(entry, part)
                return
            self._written = 0
            yield member_header(entry)
        room = entry.size_bytes - self._written
        if data := part.data[:room]:
            self._written += len(data)
            yield data
        hole = min(part.hole_bytes, room - len(data))
        self._written += hole
        yield from _zeros(hole)
        if part.last or part.reason:
            yield from self._end(entry, part, entry.size_bytes - self._written)

    def _end(self, entry: trees_pb2.TreeEntry, part: trees_pb2.TreePart, missing: int) -> Iterator[Piece]:
        """Complete the member of the first waiting entry, of which some bytes did not come."""
        yield from _zeros(missing)
        if filler := padding(entry.size_bytes):
            yield filler
        if part.reason or missing:
            self._changed(entry.path)
            self.outcome.problem(
                entry.path,
                part.reason or Reason.FILE_CHANGED.name,
                part.message or "it became shorter while it was read",
            )
        else:
            self.outcome.files += 1
            self.outcome.content_bytes += entry.size_bytes
        self._next_entry()

    def _leave_out(self, entry: trees_pb2.TreeEntry, part: trees_pb2.TreePart) -> None:
        self.outcome.problem(entry.path, part.reason, part.message)
        self._left_out.add(entry.path)
        if part.reason == Reason.FILE_CHANGED.name:
            self._changed(entry.path)
        self._next_entry()

    def _changed(self, path: bytes) -> None:
        if len(self.changed) < 3:
            self.changed.append(path)

    def _next_entry(self) -> None:
        self._waiting.popleft()
        self._number += 1
        self._written = None


def _has_content(entry: trees_pb2.TreeEntry) -> bool:
    return (
        entry.type == files_pb2.FILE_TYPE_REGULAR
        and not entry.hard_link
        and not entry.excluded
        and not entry.reason
    )


def _zeros(count: int) -> Iterator[Piece]:
    if count > len(_ZEROS):
        yield Zeros(count)
    elif count:
        yield _ZEROS[:count]
