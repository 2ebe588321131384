"""The tree methods of the fake gateway: a tree in memory goes down, and what comes up is received on the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
from digest_values import SHA256, Algorithm, value_of
from fake_base import Context, FakeBase, serialize
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

SECOND = 1_000_000_000
TIME = 1_700_000_000

Up = trees_pb2.UploadTreeRequest
UpAnswer = trees_pb2.UploadTreeResponse
Down = trees_pb2.DownloadTreeRequest
DownAnswer = trees_pb2.DownloadTreeResponse

#: Replaces what the gateway does in a stream: number of the stream from 1, start, further messages, honest answers.
UpHook = Callable[[int, trees_pb2.UploadTreeStart, Iterator[Up]], Iterable[UpAnswer | bytes]]
DownHook = Callable[[int, trees_pb2.DownloadTreeStart, Iterator[Down]], Iterable[DownAnswer | bytes]]


def directory(path: bytes = b"", **fields: Any) -> trees_pb2.TreeEntry:
    return _entry(path, {"type": files_pb2.FILE_TYPE_DIRECTORY, "mode": 0o755} | fields)


def file(path: bytes, size: int, **fields: Any) -> trees_pb2.TreeEntry:
    return _entry(path, {"type": files_pb2.FILE_TYPE_REGULAR, "mode": 0o644, "size_bytes": size} | fields)


def link(path: bytes, target: bytes, **fields: Any) -> trees_pb2.TreeEntry:
    return _entry(path, {"type": files_pb2.FILE_TYPE_SYMLINK, "mode": 0o777, "link_target": target} | fields)


def _entry(path: bytes, fields: dict[str, Any]) -> trees_pb2.TreeEntry:
    return trees_pb2.TreeEntry(path=path, modified_seconds=TIME, modified_nanos=5, **fields)


def part(entry: int, data: bytes, **fields: Any) -> trees_pb2.TreePart:
    """Return the only part of an entry's content."""
    whole: dict[str, Any] = {"last": True, "digest": hashlib.sha256(data).digest()}
    return trees_pb2.TreePart(entry=entry, data=data, **(whole | fields))


def with_digests(entries: Iterable[trees_pb2.TreeEntry], algorithm: Algorithm) -> list[trees_pb2.TreeEntry]:
    """Return entries with digests of their content, which is their path (TRE-8)."""
    made = list[trees_pb2.TreeEntry]()
    for entry in entries:
        copy = trees_pb2.TreeEntry()
        copy.CopyFrom(entry)
        if entry.type == files_pb2.FILE_TYPE_REGULAR and not entry.excluded:
            copy.digest = value_of(entry.hard_link or entry.path, algorithm)
        made.append(copy)
    return made


STARTED = trees_pb2.TreeStarted(path=b"/tree", digest_algorithm=files_pb2.DIGEST_ALGORITHM_SHA256)

#: A tree of every kind; its files' content is their path.
TREE = [
    directory(),
    file(b"a.txt", 5),
    link(b"link", b"a.txt"),
    file(b"other-name", 5, hard_link=b"a.txt"),
    directory(b"empty"),
    directory(b"sub", mode=0o777),
    file(b"sub/\xff", 5, mode=0o755),
]


class FakeTrees(FakeBase):
    """Sends `tree`, whose files' content is their path, and receives into `tree_place`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.tree: list[trees_pb2.TreeEntry] = TREE
        #: Directory in which a received tree is put.
        self.tree_place = Path("/nonexistent")
        self.on_upload_tree: UpHook | None = None
        self.on_download_tree: DownHook | None = None
        #: What came of the caller, but content, in order.
        self.tree_messages: list[Up | Down] = []
        self._streams |= {methods.UPLOAD_TREE: 0, methods.DOWNLOAD_TREE: 0}

    def tree_handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        return {
            "UploadTree": grpc.stream_stream_rpc_method_handler(self._up, Up.FromString, serialize),
            "DownloadTree": grpc.stream_stream_rpc_method_handler(self._down, Down.FromString, serialize),
        }

    def _up(self, requests: Iterator[Up], context: Context) -> Iterator[UpAnswer | bytes]:
        with self._failing(context):
            first = next(requests)
            number = self._begun(methods.UPLOAD_TREE, first, context)
            hook = self.on_upload_tree
            rest = self._noted(requests)
            yield from self.receive(first.start, rest) if hook is None else hook(number, first.start, rest)

    def _down(self, requests: Iterator[Down], context: Context) -> Iterator[DownAnswer | bytes]:
        with self._failing(context):
            first = next(requests)
            number = self._begun(methods.DOWNLOAD_TREE, first, context)
            hook = self.on_download_tree
            rest = self._noted(requests)
            tree = with_digests(self.tree, SHA256) if first.start.compare_content else self.tree
            yield from self.send(tree, rest) if hook is None else hook(number, first.start, rest)

    def _begun(self, method: str, first: Any, context: Context) -> int:
        with self._lock:
            self._streams[method] += 1
            self._admit(method, first.start, context)
            return self._streams[method]

    def _noted(self, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            if request.WhichOneof("payload") != "content":
                self.tree_messages.append(request)
            yield request

    def receive(self, start: trees_pb2.UploadTreeStart, requests: Iterator[Up]) -> Iterator[UpAnswer]:
        """Receive a tree as an agent does."""
        algorithm = DigestAlgorithm(self._choose(start.accepted_digests))
        name = os.path.basename(start.path)
        place = os.fsencode(self.tree_place)
        above = os.open(place, os.O_PATH | os.O_DIRECTORY)
        try:
            receiver = TreeReceiver(
                FileSystem(),
                TreePlace(above, place, name),
                ReceiveOptions(
                    delete_others=start.delete_others,
                    atomic=start.atomic,
                    dry_run=start.dry_run,
                    compare_content=start.compare_content,
                    fsync=start.durability == files_pb2.DURABILITY_FSYNC,
                    algorithm=algorithm,
                ),
            )
            try:
                yield from self._received(receiver, algorithm, place + b"/" + name, requests)
            finally:
                receiver.close()
        finally:
            os.close(above)

    def _received(
        self, receiver: TreeReceiver, algorithm: DigestAlgorithm, path: bytes, requests: Iterator[Up]
    ) -> Iterator[UpAnswer]:
        yield UpAnswer(started=trees_pb2.TreeStarted(path=path, digest_algorithm=algorithm.wire))
        for request in requests:
            match request.WhichOneof("payload"):
                case "manifest":
                    yield UpAnswer(reply=receiver.take(request.manifest))
                case "content":
                    yield UpAnswer(reply=receiver.take(request.content))
                case "end":
                    for reply in receiver.finish(request.end):
                        yield UpAnswer(reply=reply)
                    yield UpAnswer(result=result_at(path, receiver))
                    return
                case _:
                    pass

    def send(self, tree: list[trees_pb2.TreeEntry], requests: Iterator[Down]) -> Iterator[DownAnswer]:
        """Send a tree as an agent does, entry by entry in one manifest."""
        yield DownAnswer(started=STARTED)
        yield DownAnswer(manifest=trees_pb2.TreeManifest(entries=tree))
        decided = 0
        while decided < len(tree):
            reply = next(requests).reply
            decided = reply.decided_entries
            for number in reply.needed:
                content = trees_pb2.TreeContent(parts=[part(number, tree[number].path)])
                yield DownAnswer(content=content)
        yield DownAnswer(end=trees_pb2.TreeEnd(entries=len(tree)))


def result_at(path: bytes, receiver: TreeReceiver) -> trees_pb2.UploadTreeResult:
    """Return the result of a received tree; in a dry run it may not be there."""
    info = files_pb2.FileInfo(
        path=os.fsdecode(path), type=files_pb2.FILE_TYPE_DIRECTORY, mode=0o755, version="v"
    )
    return trees_pb2.UploadTreeResult(
        directory=info,
        durability=files_pb2.DURABILITY_FSYNC if receiver.durable else files_pb2.DURABILITY_RENAME,
        deleted_entries=receiver.deleted_entries,
        created=receiver.created,
    )
