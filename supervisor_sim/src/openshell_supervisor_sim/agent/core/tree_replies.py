"""The replies to a tree's sender, joined and kept below the size of a message (TRE-5, TRE-30)."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

#: Bytes from which a reply takes no further problem or deleted path. One of these has at most about 8 KiB.
REPLY_BYTES: Final = MIB // 2


class Replies:
    """Joins the replies to several messages, and gives them in pieces that fit into a message.

    A piece counts an entry as decided only if it, or a piece before, tells the entry's problem and
    whether its content is needed: what is decided and in neither list is in place.
    """

    def __init__(self) -> None:
        self._joined = trees_pb2.TreeReply()
        self._told = 0

    def add(self, reply: trees_pb2.TreeReply) -> None:
        """Add a reply."""
        decided = max(self._joined.decided_entries, reply.decided_entries)
        self._joined.MergeFrom(reply)
        self._joined.decided_entries = decided

    def take(self) -> list[trees_pb2.TreeReply]:
        """Return what was added since the last call, in one or more replies; nothing if that says nothing new."""
        joined, self._joined = self._joined, trees_pb2.TreeReply()
        told, self._told = self._told, max(self._told, joined.decided_entries)
        if joined.ByteSize() <= REPLY_BYTES:
            joined.decided_entries = self._told
            news = joined.needed or joined.changed or joined.problems or joined.deleted or self._told > told
            return [joined] if news else []
        return _pieces(joined, told, self._told)


def _pieces(joined: trees_pb2.TreeReply, told: int, decided: int) -> list[trees_pb2.TreeReply]:
    """Split a large reply, in the order of its entries."""
    problems = sorted(joined.problems, key=lambda problem: problem.entry)
    needed = sorted(joined.needed)
    pieces = list[trees_pb2.TreeReply]()
    piece, size, first_needed = trees_pb2.TreeReply(), 0, 0
    for number, problem in enumerate(problems):
        piece.problems.append(problem)
        size += problem.ByteSize() + 8
        another = number + 1 < len(problems) and problems[number + 1].entry > problem.entry
        if size > REPLY_BYTES and another:
            behind = bisect_right(needed, problem.entry)
            piece.needed.extend(needed[first_needed:behind])
            told = piece.decided_entries = max(told, min(problem.entry + 1, decided))
            pieces.append(piece)
            piece, size, first_needed = trees_pb2.TreeReply(), 0, behind
    piece.needed.extend(needed[first_needed:])
    piece.changed.extend(joined.changed)
    piece.decided_entries = decided
    for path in joined.deleted:
        if size > REPLY_BYTES:
            pieces.append(piece)
            piece, size = trees_pb2.TreeReply(decided_entries=decided), 0
        piece.deleted.append(path)
        size += len(path) + 8
    return [*pieces, piece]
