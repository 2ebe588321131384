"""Trees up and down, for tests of the agent: a caller with the real sender and receiver, and one that says what it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agent.agent_harness import Peer, Refused, Request, opened, peer_of
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_disk.trees.selection import Selection
from openshell_files_disk.trees.sender import TreeSender
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_supervisor_sim.agent import FileAgent

Up = trees_pb2.UploadTreeRequest
Down = trees_pb2.DownloadTreeRequest


@dataclass
class TreePeer:
    """One tree operation of a peer.

    Attributes:
        peer: the stream.
        method: `upload_tree` or `download_tree`.
        told: the agent's messages so far, without `working`.
        working: how often the agent said that it works.
    """

    peer: Peer
    method: str
    told: list[Any] = field(default_factory=list[Any])
    working: int = 0

    async def say(self, **payload: Any) -> None:
        """Send one message of the caller."""
        if self.method == "upload_tree":
            await self.peer.send(Request(upload_tree=Up(**payload)))
        else:
            await self.peer.send(Request(download_tree=Down(**payload)))

    async def next(self) -> Any:
        """Return the agent's next message; an error is raised, and None is the last frame."""
        while True:
            frame = await self.peer.next()
            assert frame is not None, "the stream ended without a last frame"
            match frame.WhichOneof("frame"):
                case "error":
                    raise Refused(frame.error)
                case "accepted" | "working":
                    continue
                case "tree_end":
                    return None
                case self.method:
                    message = getattr(frame, self.method)
                    if message.WhichOneof("payload") == "working":
                        self.working += 1
                        continue
                    self.told.append(message)
                    return message
                case other:
                    raise AssertionError(f"unexpected {other}")

    async def started(self) -> trees_pb2.TreeStarted:
        """Return the agent's first message."""
        message = await self.next()
        assert message.WhichOneof("payload") == "started", message
        started: trees_pb2.TreeStarted = message.started
        return started

    async def error(self) -> Refused:
        """Return the error that ends the operation."""
        try:
            while await self.next() is not None:
                pass
        except Refused as refused:
            return refused
        raise AssertionError("no error, but the last frame")


@asynccontextmanager
async def tree_of(
    agent: FileAgent, method: str, path: str | bytes = "/tree", *, keep: bool = False, **fields: Any
) -> AsyncGenerator[TreePeer]:
    """Start an operation; whatever is left open is broken at the end."""
    async with peer_of(agent) as peer:
        yield await begun(peer, method, path, keep=keep, **fields)


async def begun(
    peer: Peer, method: str, path: str | bytes = "/tree", *, keep: bool = False, **fields: Any
) -> TreePeer:
    """Start an operation on a stream."""
    limits = {name: fields.pop(name) for name in ("limits", "digests", "principal") if name in fields}
    kind = trees_pb2.UploadTreeStart if method == "upload_tree" else trees_pb2.DownloadTreeStart
    start: Any = kind(path=os.fsencode(path), **fields)
    await peer.send(opened(**{method: start}, keep_relay=keep, **limits))
    return TreePeer(peer, method)


class TreeStream(Protocol):
    """The messages of one tree operation, at the caller's end."""

    told: list[Any]

    async def say(self, **payload: Any) -> None:
        """Send one message of the caller."""
        ...

    async def next(self) -> Any:
        """Return the other side's next message; None at the end."""
        ...

    async def started(self) -> trees_pb2.TreeStarted:
        """Return the first message."""
        ...


async def send_tree(
    tree: TreeStream, source: Path, *, on_message: Callable[[Any], None] = lambda _: None, **selection: Any
) -> trees_pb2.UploadTreeResult:
    """Be the sender of an upload."""
    started = await tree.started()
    sender = TreeSender(
        FileSystem(),
        os.open(source, os.O_RDONLY | os.O_DIRECTORY),
        Selection(**selection),
        algorithm=DigestAlgorithm(started.digest_algorithm),
    )
    try:
        while True:
            message = await asyncio.to_thread(sender.next)
            if isinstance(message, trees_pb2.TreeManifest):
                await tree.say(manifest=message)
            elif isinstance(message, trees_pb2.TreeContent):
                await tree.say(content=message)
            elif message is not None:
                await tree.say(end=message)
                break
            else:
                sender.reply((await tree.next()).reply)
            on_message(message)
        while (answer := await tree.next()).WhichOneof("payload") == "reply":
            pass
        assert await tree.next() is None
    finally:
        sender.close()
    result: trees_pb2.UploadTreeResult = answer.result
    return result


async def receive_tree(tree: TreeStream, destination: Path) -> None:
    """Be the receiver of a download."""
    started = await tree.started()
    parent = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY)
    receiver = TreeReceiver(
        FileSystem(),
        TreePlace(parent, os.fsencode(destination.parent), os.fsencode(destination.name)),
        ReceiveOptions(algorithm=started.digest_algorithm),
    )
    try:
        while (message := await tree.next()).WhichOneof("payload") != "end":
            taken = getattr(message, message.WhichOneof("payload"))
            await tree.say(reply=await asyncio.to_thread(receiver.take, taken))
        await asyncio.to_thread(lambda: list(receiver.finish(message.end)))
        assert await tree.next() is None
    finally:
        receiver.close()
        os.close(parent)


async def upload(
    agent: FileAgent, source: Path, path: str | bytes = "/tree", **fields: Any
) -> tuple[trees_pb2.UploadTreeResult, list[trees_pb2.TreeReply]]:
    """Send a tree; return the result and the replies."""
    async with tree_of(agent, "upload_tree", path, **fields) as tree:
        result = await send_tree(tree, source)
        await tree.peer.over()
    return result, [message.reply for message in tree.told if message.WhichOneof("payload") == "reply"]


async def download(agent: FileAgent, destination: Path, path: str | bytes = "/tree", **fields: Any) -> None:
    """Receive a tree."""
    async with tree_of(agent, "download_tree", path, **fields) as tree:
        await receive_tree(tree, destination)
        await tree.peer.over()
