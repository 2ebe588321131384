"""A caller's half of UploadTree and DownloadTree: messages out, replies in, joined; and what is below a directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.caller import Caller
from openshell_files_conformance.peers.client import ANSWER_SECONDS, Call, Ended
from openshell_files_conformance.vectors_data import value

Up = trees_pb2.UploadTreeRequest
Down = trees_pb2.DownloadTreeRequest
KINDS: Final = {
    files_pb2.FILE_TYPE_REGULAR: "file",
    files_pb2.FILE_TYPE_DIRECTORY: "directory",
    files_pb2.FILE_TYPE_SYMLINK: "link",
}


class TreeUpload:
    """One call of UploadTree.

    Attributes:
        needed, changed, problems, deleted: of all replies together, in their order.
        decided: entries that were decided so far.
    """

    def __init__(self, call: Call[trees_pb2.UploadTreeResponse]) -> None:
        self.call = call
        self.started: trees_pb2.TreeStarted | None = None
        self.result: trees_pb2.UploadTreeResult | None = None
        self.needed: list[int] = []
        self.changed: list[int] = []
        self.problems: list[tuple[int, str]] = []
        self.deleted: list[bytes] = []
        self.decided = 0
        self.announced = 0
        self._changed = asyncio.Condition()
        self._reading = asyncio.ensure_future(self._read())

    async def send(self, *messages: Up) -> bool:
        """Send messages; return whether the stream still took them."""
        for message in messages:
            self.announced += len(message.manifest.entries)
        return await self.call.send(*messages)

    async def send_all(self, messages: Iterable[Up], patience: float = 1.0) -> None:
        """Send messages one after the other, content once it is asked for."""
        for message in messages:
            wanted = [one.entry for one in message.content.parts if one.entry < self.announced]
            if wanted:
                await self.wait(partial(self._decided, wanted), patience)
            if not await self.send(message):
                return

    def _decided(self, wanted: Sequence[int]) -> bool:
        return all(one < self.decided or one in self.needed for one in wanted)

    async def wait(self, condition: Callable[[], bool], seconds: float = ANSWER_SECONDS) -> bool:
        """Wait until a condition on the replies holds; False if the call is over before, or the time."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: condition() or self._reading.done())
        except TimeoutError:
            return False
        return condition()

    async def end(self, seconds: float = 20.0, *, half_close: bool = True) -> Ended[Any]:
        """Half-close, and return how the call ended. A half-close may overtake the refusal of a message before it."""
        if half_close:
            await self.call.half_close()
        await asyncio.wait_for(self._reading, seconds)
        return await self.call.end(seconds)

    async def _read(self) -> None:
        while (message := await self.call.next(3600)) is not None:
            self._take(message)
            async with self._changed:
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    def _take(self, message: trees_pb2.UploadTreeResponse) -> None:
        match message.WhichOneof("payload"):
            case "started":
                self.started = message.started
            case "reply":
                self.needed += message.reply.needed
                self.changed += message.reply.changed
                self.problems += [(one.entry, one.reason) for one in message.reply.problems]
                self.deleted += message.reply.deleted
                self.decided = message.reply.decided_entries
            case "result":
                self.result = message.result
            case _:
                pass


async def begin_tree(caller: Caller, path: str, **fields: Any) -> TreeUpload:
    """Begin an upload of a tree."""
    upload = TreeUpload(caller.open("UploadTree"))
    start = trees_pb2.UploadTreeStart(sandbox=caller.sandbox, path=path.encode(), **fields)
    await upload.call.send(Up(start=start))
    return upload


@dataclass
class Node:
    """An entry that a download of a tree gave."""

    entry: trees_pb2.TreeEntry
    content: bytes = b""


@dataclass
class TreeDownload:
    """What a download of a tree gave.

    Attributes:
        kinds: of all messages, in their order.
    """

    nodes: dict[bytes, Node] = field(default_factory=dict[bytes, Node])
    kinds: list[str] = field(default_factory=list[str])
    parts: list[trees_pb2.TreePart] = field(default_factory=list[trees_pb2.TreePart])
    started: trees_pb2.TreeStarted | None = None
    ended: Ended[Any] | None = None

    @property
    def reason(self) -> str:
        """How the call ended."""
        return self.ended.reason if self.ended is not None else "not ended"


async def download_tree(caller: Caller, path: str, **fields: Any) -> TreeDownload:
    """Download a whole tree into memory, as a receiver that has nothing."""
    call: Call[trees_pb2.DownloadTreeResponse] = caller.open("DownloadTree")
    found, entries = TreeDownload(), list[Node]()
    start = trees_pb2.DownloadTreeStart(sandbox=caller.sandbox, path=path.encode(), **fields)
    await call.send(Down(start=start))
    while (message := await call.next()) is not None:
        kind = str(message.WhichOneof("payload"))
        found.kinds.append(kind)
        if kind == "started":
            found.started = message.started
        elif kind == "manifest":
            needed = list[int]()
            for entry in message.manifest.entries:
                node = Node(entry)
                found.nodes[entry.path] = node
                plain = entry.type == files_pb2.FILE_TYPE_REGULAR and not entry.hard_link
                if plain and not entry.reason and not entry.excluded:
                    needed.append(len(entries))
                entries.append(node)
            await call.send(Down(reply=trees_pb2.TreeReply(decided_entries=len(entries), needed=needed)))
        elif kind == "content":
            for part in message.content.parts:
                found.parts.append(part)
                entries[part.entry].content += part.data + bytes(part.hole_bytes)
    await call.half_close()
    found.ended = await call.end()
    return found


def differences(
    found: TreeDownload, expected: Sequence[Mapping[str, Any]] | None, path_of: Callable[[Any], bytes]
) -> list[str]:
    """Return how what is below a directory differs from what a vector wants there."""
    if expected is None:
        return []
    if found.started is None:
        return [f"the directory cannot be read: {found.reason}"]
    wanted = {path_of(there["path"]): there for there in expected}
    wrong = [f"{path!r} is there" for path in found.nodes if path and path not in wanted]
    for path, there in wanted.items():
        node = found.nodes.get(path)
        if node is None:
            wrong.append(f"{path!r} is not there")
            continue
        wrong += [f"{path!r} {text}" for text in _unlike(node, there, path_of, found)]
    return wrong


def _unlike(
    node: Node, there: Mapping[str, Any], path_of: Callable[[Any], bytes], found: TreeDownload
) -> list[str]:
    entry, wrong = node.entry, list[str]()
    kind = KINDS.get(entry.type, "special")
    if kind != there.get("type", "file"):
        wrong.append(f"is a {kind}")
    if there.get("mode") is not None and kind != "link" and entry.mode != int(there["mode"], 8):
        wrong.append(f"has the mode {entry.mode:o}")
    if there.get("modified_seconds") is not None:
        at = (entry.modified_seconds, entry.modified_nanos)
        if at != (int(there["modified_seconds"]), int(there.get("modified_nanos", 0))):
            wrong.append(f"was modified at {at}")
    if there.get("link_target") is not None and entry.link_target != path_of(there["link_target"]):
        wrong.append(f"leads to {entry.link_target!r}")
    # What cannot be read, of mode 0 for example, is announced with a reason; then its content cannot be seen.
    if there.get("content") is not None and not entry.reason:
        source = found.nodes.get(entry.hard_link, node) if entry.hard_link else node
        if source.content != value(there["content"]):
            wrong.append(f"has the content {source.content[:32]!r}")
    return wrong
