"""Account of a tree: what became of each entry, by the messages of sender and receiver.

It takes one byte for an entry, and its path and size until it is known what became of it. Paths of directories and
hard links are kept to the end, because the last word on them may come then (TRE-33, TRE-47).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

from openshell_files.tree_results import TreeLoss, TreeProblem

_LOSSES: Final = {
    trees_pb2.TREE_LOSS_SPECIAL_BITS: "special bits",
    trees_pb2.TREE_LOSS_OWNER: "owner",
}

#: Longest kept message of a problem: one side may be hostile.
_MESSAGE_CHARACTERS: Final = 4096

#: Most kept paths of a dry run. More are counted only.
MOST_PATHS: Final = 1_000_000


class Fate(IntEnum):
    """What became of an entry."""

    UNKNOWN = 0
    NEEDED = 1
    UNCHANGED = 2
    SENT = 3
    MADE = 4
    FAILED = 5
    EXCLUDED = 6


#: Fates that end the wait for an entry. What comes later corrects them.
_SETTLED: Final = frozenset({Fate.UNCHANGED, Fate.SENT, Fate.MADE, Fate.FAILED, Fate.EXCLUDED})

#: Bit of a regular file with content of its own.
_FILE: Final = 0x10
_FATE: Final = 0x0F


class AccountFaultError(Exception):
    """A reply says what cannot be."""


@dataclass(slots=True)
class _Open:
    """What is kept of an entry.

    Attributes:
        path: its path.
        size: of its content.
        moved: bytes of it that were sent.
        stays: keep it after its fate is known.
    """

    path: bytes
    size: int
    moved: int
    stays: bool


@dataclass(slots=True)
class TreeAccount:
    """What became of the entries of one stream.

    Attributes:
        dry_run: the receiver changes nothing, and names what it would change.
        entries: number of announced entries.
        total_bytes: size of the announced files that are sent, compared or failed.
        content_bytes: content that was sent, without holes.
        complete: the whole tree was announced.
        problems: in the order in which they became known.
        losses: in the order of the entries.
        deleted: paths that the receiver named as deleted.
        changed_paths: with `dry_run`; so are the next two.
        deleted_paths: see `TreeResult`.
        excluded_paths: see `TreeResult`.
        top_mode: permission bits of the top directory.
        top_modified_ns: its modified time, in nanoseconds since the epoch.
    """

    dry_run: bool
    entries: int = 0
    total_bytes: int = 0
    content_bytes: int = 0
    complete: bool = False
    problems: list[TreeProblem] = field(default_factory=list[TreeProblem])
    losses: list[TreeLoss] = field(default_factory=list[TreeLoss])
    deleted: int = 0
    changed_paths: list[str] = field(default_factory=list[str])
    deleted_paths: list[str] = field(default_factory=list[str])
    excluded_paths: list[str] = field(default_factory=list[str])
    top_mode: int = 0
    top_modified_ns: int = 0
    _fates: bytearray = field(default_factory=bytearray)
    _counts: list[int] = field(default_factory=lambda: [0] * len(Fate))
    _open: dict[int, _Open] = field(default_factory=dict[int, _Open])
    _decided: int = 0
    _settled_bytes: int = 0
    _moving_bytes: int = 0

    def count(self, fate: Fate) -> int:
        """Return the number of entries with a fate."""
        return self._counts[fate]

    @property
    def kept(self) -> int:
        """Number of entries whose path is in memory."""
        return len(self._open)

    @property
    def done(self) -> int:
        """Number of entries of which it is known what became of them."""
        return self.entries - self.unsettled

    @property
    def unsettled(self) -> int:
        """Number of entries of which it is not known."""
        return self._counts[Fate.UNKNOWN] + self._counts[Fate.NEEDED]

    @property
    def done_bytes(self) -> int:
        """Size of the files of which it is known, and what was sent of the others."""
        return self._settled_bytes + self._moving_bytes

    @property
    def selects_nothing(self) -> bool:
        """True if every announced entry but the top directory is excluded."""
        return self.entries - self._counts[Fate.EXCLUDED] <= 1

    # The sender

    def announced(self, manifest: trees_pb2.TreeManifest) -> None:
        """Take a manifest."""
        for entry in manifest.entries:
            number = self.entries
            self.entries += 1
            if not number:
                self.top_mode = entry.mode
                self.top_modified_ns = entry.modified_seconds * 1_000_000_000 + entry.modified_nanos
            if entry.excluded:
                self._fates.append(Fate.EXCLUDED)
                self._counts[Fate.EXCLUDED] += 1
                self._list(self.excluded_paths, entry.path)
                continue
            regular = entry.type == files_pb2.FILE_TYPE_REGULAR and not entry.hard_link
            size = entry.size_bytes if regular else 0
            stays = bool(entry.hard_link) or entry.type == files_pb2.FILE_TYPE_DIRECTORY
            self._fates.append(_FILE if regular else 0)
            self._counts[Fate.UNKNOWN] += 1
            self._open[number] = _Open(entry.path, size, 0, stays)
            self.total_bytes += size
            if entry.reason:
                self._fail(number, entry.reason, entry.message)
            elif entry.losses:
                words = tuple(_LOSSES.get(loss, "unknown") for loss in entry.losses)
                self.losses.append(TreeLoss(shown(entry.path), words))

    def carried(self, content: trees_pb2.TreeContent) -> None:
        """Take a message with content."""
        for part in content.parts:
            self.content_bytes += len(part.data)
            if (kept := self._open.get(part.entry)) is not None and self._fate(part.entry) == Fate.NEEDED:
                moved = min(len(part.data) + part.hole_bytes, kept.size - kept.moved)
                kept.moved += moved
                self._moving_bytes += moved
            if part.reason and part.entry < self.entries:
                # The receiver repeats it.
                self._fail(part.entry, part.reason, part.message)

    # The receiver

    def replied(self, reply: trees_pb2.TreeReply) -> None:
        """Take a reply.

        Raises:
            AccountFaultError: it says what cannot be.
        """
        if not self._decided <= reply.decided_entries <= self.entries:
            raise AccountFaultError(
                f"{reply.decided_entries} entries are decided, after {self._decided} and of {self.entries}"
            )
        for number in reply.needed:
            self._check(number, reply, "needed")
            if self._fates[number] != _FILE | Fate.UNKNOWN or self.dry_run:
                raise AccountFaultError(f"entry {number} is needed, and has no content to send")
            self._settle(number, Fate.NEEDED)
        for number in reply.changed:
            self._check(number, reply, "changed")
            self._change(number)
        for problem in reply.problems:
            self._check(problem.entry, reply, "a problem")
            if self._fate(problem.entry) == Fate.EXCLUDED:
                raise AccountFaultError(f"entry {problem.entry} is a problem, and was excluded")
            self._fail(problem.entry, problem.reason, problem.message)
        for number in range(self._decided, reply.decided_entries):
            if self._fate(number) == Fate.UNKNOWN:
                self._settle(number, Fate.UNCHANGED)
        self._decided = reply.decided_entries
        self.deleted += len(reply.deleted)
        for path in reply.deleted:
            self._list(self.deleted_paths, path)

    def published(self) -> None:
        """Take it that every entry is in place, because the whole tree was published (TRE-13)."""
        for number in list(self._open):
            if self._fate(number) == Fate.UNKNOWN:
                self._settle(number, Fate.MADE)
            elif self._fate(number) == Fate.NEEDED:
                self._settle(number, Fate.SENT)

    def _check(self, number: int, reply: trees_pb2.TreeReply, what: str) -> None:
        if number >= reply.decided_entries:
            raise AccountFaultError(f"entry {number} is {what}, and {reply.decided_entries} are decided")

    def _change(self, number: int) -> None:
        match self._fate(number):
            case Fate.NEEDED:
                fate = Fate.SENT
            case Fate.UNKNOWN | Fate.UNCHANGED:
                fate = Fate.SENT if self.dry_run and self._fates[number] & _FILE else Fate.MADE
            case Fate.FAILED:
                # A directory that was made, and whose content is incomplete.
                return
            case _:
                raise AccountFaultError(f"entry {number} is changed, and is so already or excluded")
        if (kept := self._open.get(number)) is not None:
            self._list(self.changed_paths, kept.path)
        self._settle(number, fate)

    def _fail(self, number: int, reason: str, message: str) -> None:
        if self._fate(number) == Fate.FAILED:
            return
        kept = self._open.get(number)
        path = f"entry {number}" if kept is None else shown(kept.path)
        self.problems.append(TreeProblem(path, reason, message[:_MESSAGE_CHARACTERS]))
        self._settle(number, Fate.FAILED)

    # Entries

    def _fate(self, number: int) -> int:
        # No Fate: to make one takes longer than everything else here.
        return self._fates[number] & _FATE

    def _settle(self, number: int, fate: Fate) -> None:
        before = self._fate(number)
        self._counts[before] -= 1
        self._counts[fate] += 1
        self._fates[number] = self._fates[number] & _FILE | fate
        if fate in _SETTLED and before not in _SETTLED and (kept := self._open.get(number)) is not None:
            self._moving_bytes -= kept.moved
            self._settled_bytes += kept.size
            if not kept.stays:
                del self._open[number]

    def _list(self, paths: list[str], path: bytes) -> None:
        if self.dry_run and len(paths) < MOST_PATHS:
            paths.append(shown(path))


def shown(path: bytes) -> str:
    """Return a path of a message as text, with surrogates for bytes that are not UTF-8."""
    return path.decode("utf-8", "surrogateescape")
