"""The sending side of a tree: announces entries, and sends the content that the receiver needs (TRE-4 to TRE-6, TRE-15)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import invalid
from openshell_files_protocol.limits import KIB, MAX_MANIFEST_ENTRIES, MAX_OPEN_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

from openshell_files_disk.filesystem.errno_reasons import mapped
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.guard import TreeGuard
from openshell_files_disk.trees.links import Links
from openshell_files_disk.trees.opening import Beneath
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sending.content import Content
from openshell_files_disk.trees.sending.described import Source
from openshell_files_disk.trees.sending.walk import Walk, Walked

#: A manifest takes no further entry from this size on; one entry has at most 20 KiB.
_MANIFEST_BYTES: Final = 512 * KIB


def _no_trace(_point: str) -> None:
    """Do nothing; the default hook."""


class TreeSender:
    """Sends one tree. Close it after use.

    One thread at a time calls `next`; another thread may call `reply` meanwhile.

    Args:
        fs: system calls.
        top_fd: descriptor of the top directory, open for reading; `close` closes it.
        selection: what is sent.
        compare_content: entries of files have the digest of their content (TRE-8).
        links: treatment of symbolic links. `Links.FOLLOW` sends the target of a link that stays inside the tree.
        guard: refuses places below the top directory.
        shown: path of the top directory, for messages.
        algorithm: of all digests.
        trace: called with the name of a moment, for fault injection: `tree.manifest_read`, `tree.content_read`,
            `tree.read`.

    Attributes:
        algorithm: as given; may be set until the first `next`.

    Raises:
        OSError: the top directory cannot be used; it is closed.
    """

    def __init__(
        self,
        fs: FileSystem,
        top_fd: int,
        selection: Selection,
        *,
        compare_content: bool = False,
        links: Links = Links.KEEP,
        guard: TreeGuard | None = None,
        shown: str = "",
        algorithm: DigestAlgorithm = DigestAlgorithm.BLAKE3,
        trace: Callable[[str], None] = _no_trace,
    ) -> None:
        self._fs = fs
        self._top_fd = top_fd
        self._shown = shown
        self._trace = trace
        self._lock = threading.Lock()
        try:
            self._beneath = Beneath(fs, top_fd, follow=links is Links.FOLLOW)
            self._content = Content(fs, self._beneath, shown)
            self._content.algorithm = algorithm
            self._walk = Walk(
                fs,
                Beneath(fs, top_fd, follow=links is Links.FOLLOW),
                selection,
                links=links,
                guard=guard,
                shown=shown,
                digest=self._content.digest if compare_content else None,
            )
        except BaseException:
            self.close()
            raise
        self._entries: Iterator[Walked] | None = self._walk.entries()
        self._announced = self._decided = 0
        #: Files that are announced and not decided, in order.
        self._undecided: deque[tuple[int, Source]] = deque()
        #: Files whose content is needed and not begun, in order.
        self._needed: deque[tuple[int, Source]] = deque()
        self._needed_open = 0
        self._ended = False

    @property
    def algorithm(self) -> DigestAlgorithm:
        """Algorithm of all digests."""
        return self._content.algorithm

    @algorithm.setter
    def algorithm(self, algorithm: DigestAlgorithm) -> None:
        self._content.algorithm = algorithm

    def next(self) -> trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd | None:
        """Return the next message.

        Needed content comes before further entries. The call looks at some thousand names at most, and reads 1 MiB, or
        64 MiB of files that it announces with `compare_content`. A manifest without entries says that it found nothing
        to announce so far.

        Returns:
            The message; None if a reply has to come first, and after the end.

        Raises:
            TransferError: the tree cannot be read.
        """
        with mapped(f"reading {self._shown}"):
            if self._needed or self._content.reading:
                return self._next_content()
            room = MAX_OPEN_ENTRIES - self._open_entries()
            if self._entries is not None and room > 0 and (manifest := self._next_manifest(room)) is not None:
                return manifest
        if self._entries is None and not self._open_entries() and not self._ended:
            self._ended = True
            self._trace("tree.read")
            return trees_pb2.TreeEnd(entries=self._announced)
        return None

    def reply(self, reply: trees_pb2.TreeReply) -> None:
        """Take a reply of the receiver.

        Raises:
            TransferError: INVALID_REQUEST if it names entries that it cannot name (TRE-6, TRE-30, TRE-31).
        """
        with self._lock:
            if not self._decided <= reply.decided_entries <= self._announced:
                raise invalid(
                    "reply.decided_entries",
                    f"is {reply.decided_entries} after {self._decided}, and {self._announced} entries were announced",
                )
            wanted = set(reply.needed)
            undecided, taken = self._undecided, 0
            while undecided and undecided[0][0] < reply.decided_entries:
                file = undecided.popleft()
                if file[0] in wanted:
                    self._needed.append(file)
                    taken += 1
            if taken != len(reply.needed):
                raise invalid(
                    "reply.needed", "names an entry twice, or one that has no content or was decided before"
                )
            self._needed_open += taken
            self._decided = reply.decided_entries
        for field, numbers in (
            ("changed", reply.changed),
            ("problems", [one.entry for one in reply.problems]),
        ):
            if numbers and max(numbers) >= self._announced:
                raise invalid(
                    f"reply.{field}", f"names an entry that was not announced, of {self._announced}"
                )

    def close(self) -> None:
        """Free everything; more than once is fine."""
        self._entries = None
        for name in ("_content", "_beneath"):
            if (part := getattr(self, name, None)) is not None:
                part.close()
        if self._top_fd >= 0:
            fd, self._top_fd = self._top_fd, -1
            self._fs.close(fd)

    def _open_entries(self) -> int:
        with self._lock:
            return self._announced - self._decided + self._needed_open

    def _next_content(self) -> trees_pb2.TreeContent:
        message, completed = self._content.message(self._needed)
        with self._lock:
            self._needed_open -= completed
        self._trace("tree.content_read")
        return message

    def _next_manifest(self, room: int) -> trees_pb2.TreeManifest | None:
        """Return the next entries; None if there are none."""
        manifest = trees_pb2.TreeManifest()
        files: list[tuple[int, Source]] = []
        number, size, paused = self._announced, 0, False
        most = min(room, MAX_MANIFEST_ENTRIES)
        entries = self._entries
        while entries is not None and len(manifest.entries) < most and size < _MANIFEST_BYTES:
            try:
                walked = next(entries)
            except StopIteration:
                self._entries = None
                break
            if walked is None:
                paused = True
                break
            entry, source = walked
            manifest.entries.append(entry)
            size += entry.ByteSize() + 4
            if source is not None:
                files.append((number, source))
            number += 1
        if not manifest.entries and not paused:
            return None
        with self._lock:
            self._announced = number
            self._undecided += files
        self._trace("tree.manifest_read")
        return manifest
