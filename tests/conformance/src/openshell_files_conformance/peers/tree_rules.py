"""Rules for callers of UploadTree and DownloadTree, as they are checked when a message arrives."""

from __future__ import annotations

from typing import Final

from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.file_calls import Call
from openshell_files_conformance.peers.file_core import Core
from openshell_files_conformance.peers.file_sandbox import MAX_MESSAGE_BYTES, TreeNode, digest_value
from openshell_files_conformance.peers.file_status import Status

MOST_ENTRIES_OF_A_MANIFEST: Final = 1024
MOST_OPEN_ENTRIES: Final = 8192
_MOST_PATH_BYTES: Final = 4095
_MOST_NAME_BYTES: Final = 255
STAGING_PREFIX: Final = b".openshell-upload-"
_TRANSFERRED: Final = (
    files_pb2.FILE_TYPE_REGULAR,
    files_pb2.FILE_TYPE_DIRECTORY,
    files_pb2.FILE_TYPE_SYMLINK,
)


def has_content(entry: trees_pb2.TreeEntry) -> bool:
    """Return whether an entry has content of its own."""
    plain = not (entry.hard_link or entry.excluded or entry.reason)
    return entry.type == files_pb2.FILE_TYPE_REGULAR and plain


def path_problem(path: bytes) -> str:
    """Return what is wrong with the path of an entry below the top directory; nothing if it may come (TRE-21)."""
    if len(path) > _MOST_PATH_BYTES:
        return "it is too long"
    for part in path.split(b"/"):
        if part in {b"", b".", b".."} or b"\0" in part or len(part) > _MOST_NAME_BYTES:
            return f"it has the component {part[:40]!r}"
    return ""


class IncomingTree:
    """A tree as its caller sends it.

    Args:
        core: of the gateway.
        call: the stream.
        start: its first message.
        algorithm: of all digests.

    Attributes:
        entries: announced so far.
        nodes: what is in place, by path.
        needed: numbers of the entries whose content was asked for and has not come.
        given_up: entries whose content the caller could not send, and why.
        may_have_digests: the caller has `started`.
    """

    def __init__(self, core: Core, call: Call, start: trees_pb2.UploadTreeStart, algorithm: int) -> None:
        self._core = core
        self._call = call
        self._start = start
        self._algorithm = algorithm
        self.entries = list[trees_pb2.TreeEntry]()
        self.nodes = dict[bytes, TreeNode]()
        self.needed = set[int]()
        self.given_up = dict[int, str]()
        self.may_have_digests = False
        self._directories = set[bytes]()
        self._paths = set[bytes]()
        # The directories from the top to the one that the last entry is in, or is.
        self._open = list[bytes]()
        self._content = bytearray()
        self._part_of = -1

    def size_checked(self, message: trees_pb2.UploadTreeRequest) -> None:
        """Check the size of a message (TRE-5)."""
        if message.ByteSize() > MAX_MESSAGE_BYTES:
            raise self._violation("TRE-5", f"a message of {message.ByteSize()} bytes")

    def announced(self, manifest: trees_pb2.TreeManifest) -> range:
        """Take the entries of a manifest; return their numbers.

        Raises:
            Status: an entry is a violation.
        """
        if len(manifest.entries) > MOST_ENTRIES_OF_A_MANIFEST:
            raise self._violation("TRE-5", f"{len(manifest.entries)} entries in a manifest")
        first = len(self.entries)
        for entry in manifest.entries:
            self._entry(entry)
            self.entries.append(entry)
        if len(self.needed) > MOST_OPEN_ENTRIES:
            raise self._violation("TRE-5", f"{len(self.needed)} open entries")
        return range(first, len(self.entries))

    def _entry(self, entry: trees_pb2.TreeEntry) -> None:
        path, number = entry.path, len(self.entries)
        if number == 0:
            if path or entry.type != files_pb2.FILE_TYPE_DIRECTORY:
                raise self._violation("TRE-4", f"entry 0 is {path!r}")
        else:
            if problem := path_problem(path):
                raise self._violation("TRE-21", f"the path {path[:80]!r}: {problem}")
            self._place(path)
        if not (entry.reason or entry.excluded) and entry.type not in _TRANSFERRED:
            raise self._violation("TRE-24", f"{path!r} has the type {entry.type}")
        if entry.mode > 0o777 or entry.modified_nanos > 999_999_999:
            raise self._violation("TRE-24", f"{path!r} has mode {entry.mode:o} and {entry.modified_nanos} ns")
        if entry.type == files_pb2.FILE_TYPE_SYMLINK and not entry.link_target and not entry.reason:
            raise self._violation("TRE-24", f"the link {path!r} has no target")
        if entry.hard_link and not any(
            has_content(one) and one.path == entry.hard_link for one in self.entries
        ):
            raise self._violation("TRE-27", f"{path!r} is a hard link to {entry.hard_link!r}")
        if path.rpartition(b"/")[2].startswith(STAGING_PREFIX):
            self._core.violates("TRE-23", f"{self._call.name} announces the staging file {path!r}")
        self._digest_of_entry(entry)
        if entry.type == files_pb2.FILE_TYPE_DIRECTORY and not (entry.excluded or entry.reason):
            self._directories.add(path)
            self._open.append(path)
        self._paths.add(path)

    def _place(self, path: bytes) -> None:
        """Check that the entry belongs where it comes (TRE-4, TRE-20, TRE-22)."""
        parent = path.rpartition(b"/")[0]
        if parent not in self._directories:
            raise self._violation("TRE-20", f"the parent of {path!r} was not announced as a directory")
        if path in self._paths:
            raise self._violation("TRE-22", f"{path!r} occurs twice")
        if parent not in self._open:
            raise self._violation("TRE-4", f"{path!r} comes after an entry outside of its directory")
        # An entry of a directory completes everything below that directory that came before.
        while self._open[-1] != parent:
            self._open.pop()

    def _digest_of_entry(self, entry: trees_pb2.TreeEntry) -> None:
        if entry.digest and not self.may_have_digests:
            self._core.violates("TRE-3", f"{self._call.name} sends a digest before it has `started`")
        if self._start.compare_content and has_content(entry) and len(entry.digest) != 32:
            self._core.violates("TRE-8", f"{entry.path!r} has a digest of {len(entry.digest)} bytes")

    def carried(self, content: trees_pb2.TreeContent) -> list[int]:
        """Take parts; return the numbers of the entries that are complete with them.

        Raises:
            Status: a part is a violation.
        """
        complete = list[int]()
        for part in content.parts:
            if part.entry not in self.needed:
                raise self._violation("TRE-31", f"content of entry {part.entry}, which is not needed")
            if part.entry != self._part_of:
                if part.entry < self._part_of or self._part_of in self.needed:
                    raise self._violation("TRE-37", f"content of entry {part.entry} out of order")
                self._content.clear()
                self._part_of = part.entry
            if part.offset != len(self._content):
                raise self._violation("TRE-37", f"a part at {part.offset}, expected is {len(self._content)}")
            self._content += part.data + bytes(part.hole_bytes)
            if part.reason:
                self.needed.discard(part.entry)
                self.given_up[part.entry] = part.reason
            elif part.last:
                self._last(part)
                complete.append(part.entry)
        return complete

    def _last(self, part: trees_pb2.TreePart) -> None:
        entry, content = self.entries[part.entry], bytes(self._content)
        self.needed.discard(part.entry)
        if len(content) != entry.size_bytes:
            raise self._violation(
                "TRE-37", f"{entry.path!r} has {len(content)} bytes, announced {entry.size_bytes}"
            )
        right = digest_value(content, self._algorithm)
        if part.digest != right:
            raise self._violation("TRE-38", f"the digest of {entry.path!r} is not that of its content")
        if entry.digest and entry.digest != right:
            self._core.violates("TRE-8", f"the announced digest of {entry.path!r} is not that of its content")
        self.nodes[entry.path] = TreeNode(entry, content)

    def ended(self, end: trees_pb2.TreeEnd) -> None:
        """Check the end (TRE-15).

        Raises:
            Status: it is a violation.
        """
        if end.entries != len(self.entries) or self.needed:
            raise self._violation(
                "TRE-15",
                f"the end says {end.entries} of {len(self.entries)}; {len(self.needed)} contents are missing",
            )

    def _violation(self, clause: str, text: str) -> Status:
        return self._core.refuse(clause, "INVALID_REQUEST", f"{self._call.name}: {text}")


class Replies:
    """What the caller of DownloadTree replies about the entries that it got.

    Attributes:
        decided: entries from the first on.
        needed: numbers of the entries whose content is to be sent, in the order of the replies.
    """

    def __init__(self, core: Core, call: Call, entries: list[trees_pb2.TreeEntry]) -> None:
        self._core = core
        self._call = call
        self._entries = entries
        self._asked = set[int]()
        self.announced = 0
        self.decided = 0
        self.needed = list[int]()

    def take(self, reply: trees_pb2.TreeReply) -> None:
        """Check a reply and note what it says.

        Raises:
            Status: it is a violation.
        """
        named = [*reply.needed, *reply.changed, *(problem.entry for problem in reply.problems)]
        if reply.decided_entries > self.announced or any(number >= self.announced for number in named):
            raise self._violation("TRE-6", f"a reply names an entry beyond {self.announced}")
        if reply.decided_entries < self.decided:
            raise self._violation(
                "TRE-30", f"decided_entries falls from {self.decided} to {reply.decided_entries}"
            )
        if any(number >= reply.decided_entries for number in named):
            raise self._violation("TRE-30", "a reply names an entry that is not decided")
        for number in reply.needed:
            if number in self._asked or not has_content(self._entries[number]):
                raise self._violation("TRE-31", f"entry {number} is needed twice, or has no content")
            self._asked.add(number)
        self.decided = reply.decided_entries
        self.needed += sorted(reply.needed)

    def _violation(self, clause: str, text: str) -> Status:
        return self._core.refuse(clause, "INVALID_REQUEST", f"{self._call.name}: {text}")
