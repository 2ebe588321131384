"""One stream of a tree: messages of its sender out, replies of its receiver in, joined."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.operation import FileRelay, Outcome, Response, digest

DIRECTORY = files_pb2.FILE_TYPE_DIRECTORY
REGULAR = files_pb2.FILE_TYPE_REGULAR
SYMLINK = files_pb2.FILE_TYPE_SYMLINK


def directory(path: bytes = b"", **fields: object) -> trees_pb2.TreeEntry:
    """Announce a directory."""
    return _entry(path, DIRECTORY, 0o755, fields)


def regular(path: bytes, size: int, **fields: object) -> trees_pb2.TreeEntry:
    """Announce a regular file."""
    return _entry(path, REGULAR, 0o644, {"size_bytes": size, **fields})


def symlink(path: bytes, target: bytes, **fields: object) -> trees_pb2.TreeEntry:
    """Announce a symbolic link."""
    return _entry(path, SYMLINK, 0o777, {"link_target": target, **fields})


def _entry(
    path: bytes, kind: files_pb2.FileType.ValueType, mode: int, fields: dict[str, object]
) -> trees_pb2.TreeEntry:
    known = {"path": path, "type": kind, "mode": mode, "modified_seconds": 1_000_000_000, **fields}
    entry = trees_pb2.TreeEntry()
    for name, given in known.items():
        if name == "losses":
            entry.losses.extend(given)  # type: ignore[arg-type]  # a list, by its name
        else:
            setattr(entry, name, given)
    return entry


def manifest(*entries: trees_pb2.TreeEntry) -> trees_pb2.UploadTreeRequest:
    """Announce entries."""
    return trees_pb2.UploadTreeRequest(manifest=trees_pb2.TreeManifest(entries=entries))


def part(entry: int, data: bytes, **fields: object) -> trees_pb2.TreePart:
    """The whole content of an entry, in one last part, unless fields say otherwise."""
    known = {"last": True, "digest": digest(data).value, **fields}
    made = trees_pb2.TreePart(entry=entry, data=data)
    for name, given in known.items():
        setattr(made, name, given)
    return made


def content(*parts: trees_pb2.TreePart) -> trees_pb2.UploadTreeRequest:
    """Send content."""
    return trees_pb2.UploadTreeRequest(content=trees_pb2.TreeContent(parts=parts))


def end(entries: int) -> trees_pb2.UploadTreeRequest:
    """End the tree."""
    return trees_pb2.UploadTreeRequest(end=trees_pb2.TreeEnd(entries=entries))


class TreeUpload:
    """The caller's half of `UploadTree` on a relay.

    Attributes:
        needed, changed, problems, deleted: of all replies together, in their order.
        decided: entries that the agent decided so far.
        fell: whether the number of decided entries ever fell.
        announced: entries that were announced.
        started: the agent's first message.
        result: the agent's last message.
    """

    def __init__(self, relay: FileRelay) -> None:
        self._relay = relay
        self._last: Response | None = None
        self._over = False
        self.needed: list[int] = []
        self.changed: list[int] = []
        self.problems: list[tuple[int, str]] = []
        self.deleted: list[bytes] = []
        self.decided = 0
        self.fell = False
        self.announced = 0
        self.started: trees_pb2.TreeStarted | None = None
        self.result: trees_pb2.UploadTreeResult | None = None

    @property
    def relay(self) -> FileRelay:
        """The relay of the stream."""
        return self._relay

    async def send(self, *messages: trees_pb2.UploadTreeRequest) -> None:
        """Send messages of the caller.

        Raises:
            CannotGoOnError: the supervisor has ended the relay.
        """
        for message in messages:
            self.announced += len(message.manifest.entries)
        await self._relay.upload_tree(*messages)

    async def send_all(self, messages: Iterable[trees_pb2.UploadTreeRequest], patience: float = 1.0) -> None:
        """Send messages one after the other, content once it is asked for, until the agent ends the stream.

        Args:
            messages: of the caller.
            patience: how long content waits to be asked for; then it is sent as it is.
        """
        with suppress(CannotGoOnError):
            for message in messages:
                if message.HasField("content"):
                    wanted = [one.entry for one in message.content.parts if one.entry < self.announced]
                    await self.wait(partial(self._all_decided, wanted), patience)
                if self._over:
                    return
                await self.send(message)

    def _all_decided(self, entries: Iterable[int]) -> bool:
        return all(map(self.is_decided, entries))

    def is_decided(self, entry: int) -> bool:
        """Whether an entry was named by a reply, or counted."""
        return entry < self.decided or entry in self.needed

    async def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Read replies until a condition holds; False if the stream is over before, or the time."""
        try:
            while not condition():
                if not await self._read(seconds):
                    return False
        except CannotGoOnError:
            return False
        return True

    async def needs(self, count: int) -> bool:
        """Wait until so much content is asked for."""
        return await self.wait(lambda: len(self.needed) >= count)

    async def changes(self, entry: int, seconds: float = 2.0) -> bool:
        """Wait until an entry is in place that was not before."""
        return await self.wait(lambda: entry in self.changed, seconds)

    async def outcome(self, seconds: float | None = None) -> Outcome:
        """Read to the last frame."""
        while not self._over:
            await self._read(seconds)
        kind = self._last.WhichOneof("frame") if self._last is not None else None
        return Outcome(kind or "", self._relay.frames, "" if kind else "the relay ended without a last frame")

    async def _read(self, seconds: float | None) -> bool:
        if self._over:
            return False
        frame = await self._relay.next(seconds)
        if frame is None or frame.WhichOneof("frame") in {"error", "tree_end"}:
            self._last, self._over = frame, True
            return False
        message = frame.upload_tree
        match message.WhichOneof("payload"):
            case "started":
                self.started = message.started
            case "reply":
                self._add(message.reply)
            case "result":
                self.result = message.result
            case _:
                pass
        return True

    def _add(self, reply: trees_pb2.TreeReply) -> None:
        self.fell = self.fell or reply.decided_entries < self.decided
        self.decided = reply.decided_entries
        self.needed += reply.needed
        self.changed += reply.changed
        self.problems += [(problem.entry, problem.reason) for problem in reply.problems]
        self.deleted += reply.deleted
