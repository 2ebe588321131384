"""Trees of the gateway towards an SDK: it receives one in memory, and sends one that a case made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Final

from google.protobuf.message import Message

from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.file_core import Core, Live, Streamed
from openshell_files_conformance.peers.file_sandbox import Algorithm, TreeNode, chosen, digest_value
from openshell_files_conformance.peers.file_status import refusal
from openshell_files_conformance.peers.tree_rules import (
    MOST_ENTRIES_OF_A_MANIFEST,
    IncomingTree,
    Replies,
    has_content,
)

_Up = trees_pb2.UploadTreeRequest
_UpAnswer = trees_pb2.UploadTreeResponse
_Down = trees_pb2.DownloadTreeRequest
_DownAnswer = trees_pb2.DownloadTreeResponse
_PART_BYTES: Final = 64 * 1024


class TreeCalls:
    """UploadTree and DownloadTree.

    Attributes:
        present: paths that the sandbox has already: their content is not asked for.
        problems: paths that do not get into place, and why.
        started_after: seconds that the gateway waits before `started`.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.present = set[bytes]()
        self.problems = dict[bytes, str]()
        self.started_after = 0.0

    def streams(self) -> dict[str, Streamed]:
        """Return the methods by their names."""
        return {"UploadTree": self.upload_tree, "DownloadTree": self.download_tree}

    # Receiving

    async def upload_tree(self, live: Live) -> AsyncIterator[Message]:
        """Receive a tree."""
        messages = live.messages(_Up)
        first = await self._first(messages)
        if first.WhichOneof("payload") != "start":
            raise self._core.refuse("TRE-2", "INVALID_REQUEST", f"{live.call.name} does not begin with start")
        start = first.start
        algorithm = self._admitted(start.sandbox, start.accepted_digests)
        tree = IncomingTree(self._core, live.call, start, algorithm)
        reading = asyncio.ensure_future(anext(messages, None))
        await asyncio.wait({reading}, timeout=self.started_after)
        early = reading.result() if reading.done() and self.started_after else None
        if early is not None and any(entry.digest for entry in early.manifest.entries):
            # Entries may come before `started`, but no digests.
            self._core.violates("TRE-3", f"{live.call.name} sends a digest before it has `started`")
        tree.may_have_digests = True
        yield _UpAnswer(started=trees_pb2.TreeStarted(path=b"/" + start.path, digest_algorithm=algorithm))
        message = await reading
        over, came = False, 0
        while message is not None:
            if over:
                raise self._core.refuse(
                    "TRE-2", "INVALID_REQUEST", f"{live.call.name} sends more after its end"
                )
            tree.size_checked(message)
            match message.WhichOneof("payload"):
                case "manifest":
                    yield _UpAnswer(reply=self._decide(tree, message.manifest, dry=start.dry_run))
                case "content":
                    came += sum(len(part.data) for part in message.content.parts)
                    await live.strike("content", tree, content=came)
                    changed = self._with_links(tree, tree.carried(message.content))
                    reply = trees_pb2.TreeReply(decided_entries=len(tree.entries), changed=changed)
                    for number, reason in tree.given_up.items():
                        reply.problems.add(entry=number, reason=reason, message="the sender gave it up")
                    tree.given_up.clear()
                    yield _UpAnswer(reply=reply)
                case "end":
                    tree.ended(message.end)
                    over = True
                    await live.strike("finish", tree)
                    for answer in self._published(start, tree):
                        yield answer
                    return
                case "waiting":
                    self._core.violates("CAP-10", f"{live.call.name} sends waiting, which was not offered")
                case other:
                    raise self._core.refuse("TRE-2", "INVALID_REQUEST", f"{live.call.name} sends {other}")
            message = await anext(messages, None)
        raise refusal("UPLOAD_INCOMPLETE", "the stream ended without an end")

    @staticmethod
    async def _first(messages: AsyncGenerator[_Up]) -> _Up:
        first = await anext(messages, None)
        if first is None:
            raise asyncio.CancelledError
        return first

    def _admitted(self, sandbox: files_pb2.SandboxRef, accepted: Iterable[Algorithm]) -> Algorithm:
        self._core.admit_sandbox(sandbox.id, sandbox.name)
        algorithm = chosen(accepted, self._core.settings.digests)
        if algorithm is None:
            raise refusal("DIGEST_UNSUPPORTED", "none of the accepted digests is computed here")
        return algorithm

    def _decide(
        self, tree: IncomingTree, manifest: trees_pb2.TreeManifest, *, dry: bool
    ) -> trees_pb2.TreeReply:
        """Decide the entries of a manifest, all at once."""
        reply = trees_pb2.TreeReply()
        for number in tree.announced(manifest):
            entry = tree.entries[number]
            if reason := self.problems.get(entry.path):
                reply.problems.add(entry=number, reason=reason, message="made by the suite")
            elif entry.path in self.present or entry.excluded or entry.reason:
                continue
            elif has_content(entry) and not dry:
                reply.needed.append(number)
                tree.needed.add(number)
            elif entry.hard_link and not dry and self._waits(tree, entry.hard_link):
                # It is in place when the named file is (TRE-33).
                continue
            else:
                reply.changed.append(number)
                if not dry:
                    tree.nodes[entry.path] = TreeNode(entry)
        reply.decided_entries = len(tree.entries)
        return reply

    @staticmethod
    def _waits(tree: IncomingTree, path: bytes) -> bool:
        return any(tree.entries[number].path == path for number in tree.needed)

    @staticmethod
    def _with_links(tree: IncomingTree, complete: list[int]) -> list[int]:
        """Put the hard links to complete files in place as well; return the numbers of all of them."""
        changed = list(complete)
        paths = {tree.entries[number].path for number in complete}
        for number, entry in enumerate(tree.entries):
            if entry.hard_link and entry.hard_link in paths:
                tree.nodes[entry.path] = TreeNode(entry)
                changed.append(number)
        return changed

    def _published(self, start: trees_pb2.UploadTreeStart, tree: IncomingTree) -> list[_UpAnswer]:
        if not start.dry_run:
            self._core.sandbox.trees[start.path] = dict(tree.nodes)
        top = tree.entries[0]
        info = files_pb2.FileInfo(
            path=f"/{start.path.decode('utf-8', 'replace')}",
            type=files_pb2.FILE_TYPE_DIRECTORY,
            mode=top.mode,
            version="t1",
        )
        info.modified_time.FromNanoseconds(top.modified_seconds * 10**9 + top.modified_nanos)
        result = trees_pb2.UploadTreeResult(
            directory=info,
            durability=start.durability or files_pb2.DURABILITY_FSYNC,
            created=not start.dry_run,
        )
        return [_UpAnswer(result=result)]

    # Sending

    async def download_tree(self, live: Live) -> AsyncIterator[Message]:
        """Send the tree of the sandbox."""
        messages = live.messages(_Down)
        first = await anext(messages, None)
        if first is None:
            raise asyncio.CancelledError
        if first.WhichOneof("payload") != "start":
            raise self._core.refuse("TRE-2", "INVALID_REQUEST", f"{live.call.name} does not begin with start")
        start = first.start
        algorithm = self._admitted(start.sandbox, start.accepted_digests)
        nodes = [
            self._with_digest(node, algorithm, wanted=start.compare_content)
            for node in self._core.sandbox.tree
        ]
        entries = [node.entry for node in nodes]
        replies = Replies(self._core, live.call, entries)
        yield _DownAnswer(started=trees_pb2.TreeStarted(path=b"/" + start.path, digest_algorithm=algorithm))
        for index in range(0, len(entries), MOST_ENTRIES_OF_A_MANIFEST):
            part = entries[index : index + MOST_ENTRIES_OF_A_MANIFEST]
            replies.announced += len(part)
            yield _DownAnswer(manifest=trees_pb2.TreeManifest(entries=part))
        while replies.decided < len(entries) or replies.needed:
            while replies.needed:
                number = replies.needed.pop(0)
                for content in self._contents(number, nodes[number], algorithm):
                    yield _DownAnswer(content=content)
            if replies.decided < len(entries):
                message = await anext(messages, None)
                if message is None:
                    raise refusal("INVALID_REQUEST", "the replies ended before everything was decided")
                kind = message.WhichOneof("payload")
                if kind == "reply":
                    replies.take(message.reply)
                elif kind != "waiting":
                    raise self._core.refuse("TRE-2", "INVALID_REQUEST", f"{live.call.name} sends {kind}")
        await live.strike("finish")
        yield _DownAnswer(end=trees_pb2.TreeEnd(entries=len(entries)))

    @staticmethod
    def _with_digest(node: TreeNode, algorithm: Algorithm, *, wanted: bool) -> TreeNode:
        if not wanted or not has_content(node.entry):
            return node
        entry = trees_pb2.TreeEntry()
        entry.CopyFrom(node.entry)
        entry.digest = digest_value(node.content, algorithm)
        return TreeNode(entry, node.content)

    @staticmethod
    def _contents(number: int, node: TreeNode, algorithm: Algorithm) -> list[trees_pb2.TreeContent]:
        content = node.content
        starts = range(0, len(content), _PART_BYTES) if content else range(1)
        parts = [
            trees_pb2.TreePart(entry=number, offset=start, data=content[start : start + _PART_BYTES])
            for start in starts
        ]
        parts[-1].last = True
        parts[-1].digest = digest_value(content, algorithm)
        return [trees_pb2.TreeContent(parts=[part]) for part in parts]
