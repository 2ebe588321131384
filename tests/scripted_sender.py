"""A sender of a tree in memory, for the driver of the SDK: it sends what it is told, and writes down the replies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from digest_values import value_of
from fake_trees import with_digests
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.limits import MAX_OPEN_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

Message = trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd


class ScriptedSender:
    """Announces entries, one manifest for each sequence, and sends what is needed.

    Args:
        manifests: entries.
        content: of the files, by their number.
        compare: content is compared; it is the entries' path (TRE-8).
        window: most entries that are announced and not decided (TRE-5).
        ends: the tree has an end; otherwise the sender waits for ever.
    """

    def __init__(
        self,
        manifests: Sequence[Sequence[trees_pb2.TreeEntry]],
        content: Mapping[int, bytes],
        *,
        compare: bool = False,
        window: int = MAX_OPEN_ENTRIES,
        ends: bool = True,
    ) -> None:
        self._window = window
        self._compare = compare
        self.algorithm = DigestAlgorithm.SHA256
        self.replies: list[trees_pb2.TreeReply] = []
        self.closed = False
        self.on_next: Callable[[], None] | None = None
        self._manifests = list(manifests)
        self._content = content
        self._lock = threading.Lock()
        self._needed: list[int] = []
        self._announced = 0
        self._decided = 0
        self._ended = not ends

    def next(self) -> Message | None:
        if self.on_next is not None:
            self.on_next()
        with self._lock:
            if self._needed:
                number = self._needed.pop(0)
                data = self._content[number]
                digest = digest_of(self.algorithm, data)
                part = trees_pb2.TreePart(entry=number, data=data, last=True, digest=digest)
                return trees_pb2.TreeContent(parts=[part])
            if self._manifests and self._announced + len(self._manifests[0]) <= self._decided + self._window:
                entries = self._manifests.pop(0)
                if self._compare:
                    entries = with_digests(entries, self.algorithm.wire)
                self._announced += len(entries)
                return trees_pb2.TreeManifest(entries=entries)
            if self._manifests or self._decided < self._announced or self._ended:
                return None
            self._ended = True
            return trees_pb2.TreeEnd(entries=self._announced)

    def reply(self, reply: trees_pb2.TreeReply) -> None:
        with self._lock:
            self.replies.append(reply)
            self._needed.extend(reply.needed)
            self._decided = reply.decided_entries

    def close(self) -> None:
        self.closed = True


def digest_of(algorithm: DigestAlgorithm, data: bytes) -> bytes:
    return value_of(data, algorithm.wire)
