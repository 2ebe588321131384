"""Replies to a tree's sender: joined, and split so that they fit into messages (TRE-5, TRE-30)."""

from __future__ import annotations

import pytest
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES, MAX_OPEN_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from openshell_supervisor_sim.agent.core.tree_replies import Replies

Reply = trees_pb2.TreeReply


def problem(entry: int, size: int = 10) -> trees_pb2.TreeProblem:
    return trees_pb2.TreeProblem(entry=entry, reason="ACCESS_DENIED", message="x" * size)


def test_replies_are_joined() -> None:
    replies = Replies()
    replies.add(Reply(decided_entries=2, needed=[1], changed=[0]))
    replies.add(Reply(decided_entries=5, needed=[3], problems=[problem(4)], deleted=[b"a"]))
    assert replies.take() == [
        Reply(decided_entries=5, needed=[1, 3], changed=[0], problems=[problem(4)], deleted=[b"a"])
    ]


def test_no_news_are_no_reply() -> None:
    """A turn with a piece of a large file says nothing."""
    replies = Replies()
    assert replies.take() == []
    replies.add(Reply(decided_entries=3))
    assert replies.take() == [Reply(decided_entries=3)]
    replies.add(Reply(decided_entries=3))
    assert replies.take() == []
    replies.add(Reply(decided_entries=3, changed=[2]))
    assert replies.take() == [Reply(decided_entries=3, changed=[2])]


@pytest.mark.parametrize("size", [1, 300, 4000])
@pytest.mark.parametrize("deleted", [0, 3000])
@pytest.mark.parametrize("already", [0, 500])
def test_large_ones_are_split(size: int, deleted: int, already: int) -> None:
    """No piece says that an entry is decided before what it says of that entry has come."""
    replies = Replies()
    replies.add(Reply(decided_entries=already))
    replies.take()
    failed = range(0, MAX_OPEN_ENTRIES, 3)
    needed = [number for number in range(already, MAX_OPEN_ENTRIES) if number % 3 == 1]
    whole = Reply(
        decided_entries=MAX_OPEN_ENTRIES,
        needed=needed,
        changed=range(2, MAX_OPEN_ENTRIES, 3),
        problems=[problem(number, size) for number in failed],
        deleted=[b"%d" % number + bytes(400) for number in range(deleted)],
    )
    replies.add(whole)
    pieces = replies.take()
    told = already
    problems, wanted = set[int](), set[int]()
    for piece in pieces:
        assert piece.ByteSize() < MAX_MESSAGE_BYTES - 1024
        assert piece.decided_entries >= told
        assert all(number >= told for number in piece.needed), "needed, and it was said to be in place"
        assert all(number < piece.decided_entries for number in (*piece.needed, *piece.changed))
        problems |= {one.entry for one in piece.problems}
        wanted |= set(piece.needed)
        told = piece.decided_entries
        assert {number for number in failed if already <= number < told} <= problems
        assert {number for number in needed if number < told} <= wanted
    joined = Reply(decided_entries=pieces[-1].decided_entries)
    for piece in pieces:
        piece.decided_entries = 0
        joined.MergeFrom(piece)
    assert joined == whole
    assert len(pieces) > 1 or whole.ByteSize() < MAX_MESSAGE_BYTES
