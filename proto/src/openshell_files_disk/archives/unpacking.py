"""Unpacks an archive while it arrives: its members become entries of a tree (ARC-2, ARC-5)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, Protocol

from openshell_files_protocol.digests import HASHERS, DigestAlgorithm, Hasher
from openshell_files_protocol.limits import KIB, MAX_MANIFEST_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_disk.archives.decompression import Decompression
from openshell_files_disk.archives.directory_times import DirectoryTimes
from openshell_files_disk.archives.limits import ArchiveLimits, too_large
from openshell_files_disk.archives.names import FoldedNames, UnusableName, clean_name, clean_target
from openshell_files_disk.archives.outcome import ArchiveOutcome
from openshell_files_disk.archives.tar_headers import REGULAR, Member
from openshell_files_disk.archives.tar_reader import TarReader

#: Algorithm of the digests between reader and receiver, which are in one process.
DIGESTS: Final = DigestAlgorithm.BLAKE3

#: Content, and bytes of entries, that are gathered before the receiver gets them.
_BATCH_BYTES: Final = 512 * KIB

_NANOS: Final = 1_000_000_000


class TakesTree(Protocol):
    """The receiver of a tree, see `openshell_files_disk.trees.receiver`."""

    @property
    def folds(self) -> bool:
        """Whether the file system takes different names for one; known after the first entry."""
        ...

    def take(self, message: trees_pb2.TreeManifest | trees_pb2.TreeContent, /) -> trees_pb2.TreeReply:
        """Take entries or content."""
        ...

    def finish(self, end: trees_pb2.TreeEnd, /) -> Generator[trees_pb2.TreeReply]:
        """Complete the tree."""
        ...


@dataclass(slots=True)
class _File:
    """The file whose content arrives.

    Attributes:
        entry: its number.
        hasher: of its content.
        offset: bytes that were taken.
    """

    entry: int
    hasher: Hasher
    offset: int = 0


class Unpacking:
    """Takes the bytes of one archive. Methods block.

    Entries and content are gathered into batches, so that a small file does not cost a call of its
    own. The content of a file is in place before a later member of its name, or below it, is
    announced: what comes later decides, as with tar.

    Args:
        tree: receiver of the tree, not ordered (`ReceiveOptions`).
        limits: of the archive.
        check: called before each batch; raises to end the work.

    Attributes:
        outcome: what became of the entries so far.
    """

    def __init__(
        self, tree: TakesTree, limits: ArchiveLimits, *, check: Callable[[], None] = lambda: None
    ) -> None:
        self.outcome = ArchiveOutcome()
        self._tree = tree
        self._limits = limits
        self._check = check
        self._reader = TarReader(self)
        self._decompression = Decompression(self._reader.feed, limits)
        self._manifest = trees_pb2.TreeManifest()
        self._content = trees_pb2.TreeContent()
        #: Paths in the batch.
        self._names: set[bytes] = set()
        self._gathered = 0
        #: Number of entries that the receiver has or will get with this batch.
        self._entries = 0
        #: Path and size of the entries that may still have a problem, by number: files until their content
        #: is in place, and directories, whose modes and times are set last.
        self._open: dict[int, tuple[bytes, int]] = {}
        self._needed: set[int] = set()
        self._file: _File | None = None
        self._first = b""
        self._twins: FoldedNames | None = None
        self._directories = DirectoryTimes()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the archive.

        Raises:
            TransferError: ARCHIVE_INVALID, ARCHIVE_TOO_LARGE, or an error of the receiver.
        """
        self._decompression.feed(data)

    def finish(self) -> Generator[None]:
        """Take the end of the archive, in steps.

        Raises:
            TransferError: as `feed`.
        """
        self._decompression.finish()
        self._reader.finish()
        # What is still to come changes directories, too.
        self._flush()
        for entry in self._directories.disturbed():
            self._announce(entry)
        self._flush()
        for reply in self._tree.finish(trees_pb2.TreeEnd(entries=self._entries)):
            self._take_reply(reply)
            yield

    def member(self, member: Member) -> None:
        """Announce a member; see `TakesMembers`."""
        self.outcome.entries += 1
        if self.outcome.entries > self._limits.max_entries:
            raise too_large(
                f"it has more than {self._limits.max_entries} entries",
                "max_archive_entries",
                self._limits.max_entries,
            )
        if member.not_unpacked:
            self.outcome.problem(
                member.name, Reason.NOT_A_REGULAR_FILE.name, f"{member.not_unpacked} is not unpacked"
            )
            return
        try:
            entry = _entry(member)
        except UnusableName as error:
            self.outcome.problem(member.name, Reason.INVALID_PATH.name, str(error))
            return
        if self._is_twin(entry.path):
            self.outcome.problem(
                member.name,
                Reason.FILE_EXISTS.name,
                "its name, or that of a directory above it, differs only in case or Unicode normalisation from an "
                "earlier one, and the file system takes both for one",
            )
            return
        if not self._entries:
            self._first = entry.path
        self._announce(entry)
        self._directories.note(entry)

    def _is_twin(self, path: bytes) -> bool:
        if self._entries == 1:
            # With the first entry the receiver has found out whether names fold.
            self._flush()
            if self._tree.folds:
                self._twins = FoldedNames()
                self._twins.is_twin(self._first)
        return self._twins is not None and self._twins.is_twin(path)

    def _announce(self, entry: trees_pb2.TreeEntry) -> None:
        if (
            entry.hard_link
            or entry.path in self._names
            or len(self._manifest.entries) >= MAX_MANIFEST_ENTRIES
            or self._gathered >= _BATCH_BYTES
        ):
            self._flush()
        self._manifest.entries.append(entry)
        self._names.add(entry.path)
        self._gathered += entry.ByteSize()
        number, self._entries = self._entries, self._entries + 1
        self._open[number] = entry.path, entry.size_bytes
        if entry.type == files_pb2.FILE_TYPE_REGULAR and not entry.hard_link:
            self._file = _File(number, HASHERS[DIGESTS]())

    def content(self, data: memoryview) -> None:
        """Gather content of the last member; see `TakesMembers`."""
        file = self._file
        if file is None:
            return
        while data:
            piece, data = data[:_BATCH_BYTES], data[_BATCH_BYTES:]
            file.hasher.update(piece)
            # `add` makes the part in place: `append` would copy the content once more.
            self._content.parts.add(entry=file.entry, offset=file.offset, data=bytes(piece))
            file.offset += len(piece)
            self._gathered += len(piece)
            if self._gathered >= _BATCH_BYTES:
                self._flush()

    def member_end(self) -> None:
        """Complete the content of the last member; see `TakesMembers`."""
        file, self._file = self._file, None
        if file is None:
            return
        parts = self._content.parts
        if not parts or parts[-1].entry != file.entry:
            parts.add(entry=file.entry, offset=file.offset)
        parts[-1].last = True
        parts[-1].digest = file.hasher.digest()

    def _flush(self) -> None:
        """Give the batch to the receiver."""
        self._check()
        manifest, content = self._manifest, self._content
        self._manifest, self._content = trees_pb2.TreeManifest(), trees_pb2.TreeContent()
        self._names.clear()
        self._gathered = 0
        if manifest.entries:
            self._take_entries(manifest)
        wanted = [part for part in content.parts if part.entry in self._needed]
        if wanted:
            if len(wanted) < len(content.parts):
                content = trees_pb2.TreeContent(parts=wanted)
            self._take_reply(self._tree.take(content))
        for part in content.parts:
            if part.last:
                self._needed.discard(part.entry)
                self._count(part.entry)

    def _take_entries(self, manifest: trees_pb2.TreeManifest) -> None:
        self._take_reply(self._tree.take(manifest))
        for number, entry in enumerate(manifest.entries, self._entries - len(manifest.entries)):
            if number not in self._needed and entry.type != files_pb2.FILE_TYPE_DIRECTORY:
                self._open.pop(number, None)

    def _take_reply(self, reply: trees_pb2.TreeReply) -> None:
        self._needed.update(reply.needed)
        for problem in reply.problems:
            path, _ = self._open.pop(problem.entry, (b"", 0))
            self._directories.forget(path)
            self.outcome.problem(path, problem.reason, problem.message)

    def _count(self, number: int) -> None:
        """Count a file whose content the receiver has taken."""
        entry = self._open.pop(number, None)
        if entry is not None:
            self.outcome.files += 1
            self.outcome.content_bytes += entry[1]


def _entry(member: Member) -> trees_pb2.TreeEntry:
    """Return the entry of a member.

    Raises:
        UnusableName: of the member, or of a link's target.
    """
    seconds, nanos = divmod(member.modified_ns, _NANOS)
    entry = trees_pb2.TreeEntry(
        path=clean_name(member.name),
        mode=member.mode & 0o777,
        modified_seconds=seconds,
        modified_nanos=nanos,
    )
    if member.type == tarfile.DIRTYPE:
        entry.type = files_pb2.FILE_TYPE_DIRECTORY
        return entry
    if not entry.path:
        raise UnusableName("the name is that of the directory itself")
    if member.type == tarfile.SYMTYPE:
        entry.type = files_pb2.FILE_TYPE_SYMLINK
        entry.link_target = clean_target(member.target)
        return entry
    entry.type = files_pb2.FILE_TYPE_REGULAR
    if member.type in REGULAR:
        entry.size_bytes = member.size
        return entry
    entry.hard_link = clean_name(member.target)
    if not entry.hard_link:
        raise UnusableName("the hard link's target is the directory itself")
    return entry
