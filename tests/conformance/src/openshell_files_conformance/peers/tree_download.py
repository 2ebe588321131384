"""The caller's half of `DownloadTree`: manifests in, replies out, content put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import SHA256, FileRelay, Outcome, digest


class Announced(dict[bytes, trees_pb2.TreeEntry]):
    """Entries by their paths; one that a case needs and that did not come ends the case."""

    def __missing__(self, path: bytes) -> trees_pb2.TreeEntry:
        raise CannotGoOnError(f"{path!r} was not announced")


class TreeDownload:
    """The caller's half of `DownloadTree`: it takes manifests, asks for content, and puts it together.

    Attributes:
        entries: that were announced, in order.
        contents: of entries that are complete.
        kinds: of the agent's messages, in order.
        wrong: what is wrong about the content.
    """

    def __init__(self, relay: FileRelay, wants: Callable[[trees_pb2.TreeEntry], bool]) -> None:
        self._relay = relay
        self._wants = wants
        self._parts: dict[int, bytes] = {}
        self.entries: list[trees_pb2.TreeEntry] = []
        self.contents: dict[int, bytes] = {}
        self.reasons: dict[int, str] = {}
        self.kinds: list[str] = []
        self.manifests: list[int] = []
        self.started: trees_pb2.TreeStarted | None = None
        self.end: int | None = None
        self.wrong: list[str] = []

    async def run(self, seconds: float | None = None) -> Outcome:
        """Take everything, to the last frame."""
        while True:
            frame = await self._relay.next(seconds)
            if frame is None:
                return Outcome("", self._relay.frames, "the relay ended without a last frame")
            kind = str(frame.WhichOneof("frame"))
            if kind in {"error", "tree_end"}:
                return Outcome(kind, self._relay.frames)
            if kind == "download_tree":
                await self._take(frame.download_tree)

    async def _take(self, message: trees_pb2.DownloadTreeResponse) -> None:
        kind = str(message.WhichOneof("payload"))
        self.kinds.append(kind)
        match kind:
            case "started":
                self.started = message.started
            case "manifest":
                await self._decide(message.manifest.entries)
            case "content":
                for one in message.content.parts:
                    self._add(one)
            case "end":
                self.end = message.end.entries
            case _:
                pass

    async def _decide(self, entries: Iterable[trees_pb2.TreeEntry]) -> None:
        first = len(self.entries)
        self.entries += entries
        self.manifests.append(len(self.entries) - first)
        needed = [number for number in range(first, len(self.entries)) if self._needs(self.entries[number])]
        reply = trees_pb2.TreeReply(decided_entries=len(self.entries), needed=needed)
        await self._relay.download_tree(trees_pb2.DownloadTreeRequest(reply=reply))

    def _needs(self, entry: trees_pb2.TreeEntry) -> bool:
        plain = entry.type == files_pb2.FILE_TYPE_REGULAR and not entry.hard_link
        return plain and not entry.excluded and not entry.reason and self._wants(entry)

    def _add(self, one: trees_pb2.TreePart) -> None:
        before = self._parts.get(one.entry, b"")
        if one.reason:
            self.reasons[one.entry] = one.reason
            return
        if one.offset != len(before) or one.entry in self.contents:
            self.wrong.append(f"a part of entry {one.entry} at {one.offset} behind {len(before)} bytes")
        if self.contents and max(self.contents) > one.entry:
            self.wrong.append(f"entry {one.entry} behind a later one")
        self._parts[one.entry] = before + one.data + bytes(one.hole_bytes)
        if one.last:
            self.contents[one.entry] = self._parts[one.entry]
            algorithm = self.started.digest_algorithm if self.started else SHA256
            if one.digest != digest(self._parts[one.entry], algorithm).value:
                self.wrong.append(f"the digest of entry {one.entry}")

    @property
    def by_path(self) -> dict[bytes, trees_pb2.TreeEntry]:
        """The entries by their paths."""
        return Announced((entry.path, entry) for entry in self.entries)

    def content(self, path: bytes) -> bytes | None:
        """The content of a path."""
        return self.contents.get([entry.path for entry in self.entries].index(path))
