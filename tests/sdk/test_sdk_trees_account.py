"""What became of the entries of a tree: counts, problems and paths, by what sender and receiver say."""

from __future__ import annotations

from typing import Any

import pytest
from fake_trees import directory, file, link, part
from openshell_files import TreeProblem
from openshell_files._core.trees import account as module
from openshell_files._core.trees.account import AccountFaultError, Fate, TreeAccount
from openshell_files._core.trees.outcome import TreeCourse
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

#: Entries 0 to 5.
ENTRIES = [
    directory(),
    file(b"a", 10),
    file(b"b", 20),
    file(b"c", 0, hard_link=b"a"),
    link(b"d", b"a"),
    file(b"e", 40, excluded=True),
]


def account(*, dry_run: bool = False) -> TreeAccount:
    made = TreeAccount(dry_run)
    made.announced(trees_pb2.TreeManifest(entries=ENTRIES))
    return made


def reply(decided: int, **fields: Any) -> trees_pb2.TreeReply:
    return trees_pb2.TreeReply(decided_entries=decided, **fields)


def problem(entry: int) -> trees_pb2.TreeProblem:
    return trees_pb2.TreeProblem(entry=entry, reason="IO_ERROR", message="x")


def counts(made: TreeAccount) -> dict[str, int]:
    return {fate.name: made.count(fate) for fate in Fate if made.count(fate)}


#: Name → replies, and the counts after them.
COURSES: dict[str, tuple[list[trees_pb2.TreeReply], dict[str, int]]] = {
    "announced": ([], {"UNKNOWN": 5, "EXCLUDED": 1}),
    "unchanged": ([reply(6)], {"UNCHANGED": 5, "EXCLUDED": 1}),
    "needed": ([reply(6, needed=[1])], {"NEEDED": 1, "UNCHANGED": 4, "EXCLUDED": 1}),
    "sent": ([reply(6, needed=[1]), reply(6, changed=[1])], {"SENT": 1, "UNCHANGED": 4, "EXCLUDED": 1}),
    "made": ([reply(6, changed=[0, 3, 4])], {"MADE": 3, "UNCHANGED": 2, "EXCLUDED": 1}),
    "a file that got another mode": ([reply(6, changed=[1])], {"MADE": 1, "UNCHANGED": 4, "EXCLUDED": 1}),
    "a hard link, later": ([reply(6), reply(6, changed=[3])], {"MADE": 1, "UNCHANGED": 4, "EXCLUDED": 1}),
    "a problem": ([reply(6, problems=[problem(2)])], {"FAILED": 1, "UNCHANGED": 4, "EXCLUDED": 1}),
    "a problem of needed content": (
        [reply(6, needed=[2]), reply(6, problems=[problem(2)])],
        {"FAILED": 1, "UNCHANGED": 4, "EXCLUDED": 1},
    ),
    "a directory, at the end": (
        [reply(6, changed=[0]), reply(6, problems=[problem(0)])],
        {"FAILED": 1, "UNCHANGED": 4, "EXCLUDED": 1},
    ),
    "a directory with a problem that is changed": (
        [reply(6, problems=[problem(0)]), reply(6, changed=[0])],
        {"FAILED": 1, "UNCHANGED": 4, "EXCLUDED": 1},
    ),
    "part by part": (
        [reply(2, needed=[1]), reply(4)],
        {"NEEDED": 1, "UNCHANGED": 3, "UNKNOWN": 1, "EXCLUDED": 1},
    ),
}


@pytest.mark.parametrize(("replies", "expected"), COURSES.values(), ids=COURSES)
def test_counts(replies: list[trees_pb2.TreeReply], expected: dict[str, int]) -> None:
    made = account()
    for one in replies:
        made.replied(one)
    assert counts(made) == expected
    assert sum(made.count(fate) for fate in Fate) == made.entries == 6


#: Name → replies of which the last says what cannot be (TRE-30, TRE-31).
FAULTS = {
    "more than announced": [reply(7)],
    "fewer than before": [reply(3), reply(2)],
    "needed and not decided": [reply(1, needed=[1])],
    "changed and not decided": [reply(1, changed=[1])],
    "a problem and not decided": [reply(1, problems=[problem(1)])],
    "needed twice": [reply(6, needed=[1]), reply(6, needed=[1])],
    "needed and unchanged": [reply(6), reply(6, needed=[1])],
    "a needed directory": [reply(6, needed=[0])],
    "a needed hard link": [reply(6, needed=[3])],
    "a needed link": [reply(6, needed=[4])],
    "an excluded one is needed": [reply(6, needed=[5])],
    "an excluded one is changed": [reply(6, changed=[5])],
    "an excluded one is a problem": [reply(6, problems=[problem(5)])],
    "changed twice": [reply(6, changed=[4]), reply(6, changed=[4])],
}


@pytest.mark.parametrize("replies", FAULTS.values(), ids=FAULTS)
def test_replies_that_cannot_be(replies: list[trees_pb2.TreeReply]) -> None:
    made = account()
    for one in replies[:-1]:
        made.replied(one)
    with pytest.raises(AccountFaultError):
        made.replied(replies[-1])


def test_bytes() -> None:
    """Files that are settled count whole, and the others as far as they were sent; holes move no content."""
    made = account()
    assert (made.total_bytes, made.done_bytes) == (30, 0)
    made.replied(reply(6, needed=[2]))
    assert made.done_bytes == 10
    parts = [trees_pb2.TreePart(entry=2, data=b"12345", hole_bytes=7)]
    made.carried(trees_pb2.TreeContent(parts=parts))
    assert (made.done_bytes, made.content_bytes) == (22, 5)
    # What a hostile sender sends beyond the size of its entry is no progress.
    made.carried(trees_pb2.TreeContent(parts=[trees_pb2.TreePart(entry=2, offset=12, data=b"x" * 100)]))
    assert made.done_bytes == 30
    made.replied(reply(6, changed=[2]))
    assert (made.done_bytes, made.content_bytes) == (30, 105)


def test_problems_are_told_once() -> None:
    """The sender's reason is the more precise one, and the receiver repeats it (TRE-42)."""
    made = TreeAccount(dry_run=False)
    broken = file(b"\xff", 1, reason="ACCESS_DENIED", message="locked")
    made.announced(trees_pb2.TreeManifest(entries=[directory(), broken, file(b"b", 1)]))
    made.replied(reply(3, needed=[2]))
    changed = part(2, b"", reason="FILE_CHANGED", message="it grew")
    made.carried(trees_pb2.TreeContent(parts=[changed]))
    made.replied(reply(3, problems=[problem(1), problem(2), problem(0)]))
    assert made.problems == [
        TreeProblem("\udcff", "ACCESS_DENIED", "locked"),
        TreeProblem("b", "FILE_CHANGED", "it grew"),
        TreeProblem("", "IO_ERROR", "x"),
    ]
    assert made.count(Fate.FAILED) == 3


def test_memory() -> None:
    """What is settled needs no path, but of directories and hard links (TRE-58); a message is cut."""
    made = account()
    made.replied(reply(6))
    assert made.kept == 2
    long = trees_pb2.TreeProblem(entry=1, reason="IO_ERROR", message="x" * 100_000)
    made.replied(reply(6, problems=[long]))
    assert made.problems[0].path == "entry 1"
    assert len(made.problems[0].message) == 4096


def test_paths_of_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    made = account(dry_run=True)
    made.replied(reply(6, changed=[1, 4], deleted=[b"x\xff", b"y"]))
    assert counts(made) == {"SENT": 1, "MADE": 1, "UNCHANGED": 3, "EXCLUDED": 1}
    assert made.changed_paths == ["a", "d"]
    assert made.deleted_paths == ["x\udcff", "y"]
    assert made.excluded_paths == ["e"]
    with pytest.raises(AccountFaultError):
        account(dry_run=True).replied(reply(6, needed=[2]))
    monkeypatch.setattr(module, "MOST_PATHS", 3)
    made.replied(reply(6, deleted=[b"z", b"zz"]))
    assert (made.deleted, made.deleted_paths) == (4, ["x\udcff", "y", "z"])
    other = account()
    other.replied(reply(6, changed=[1], deleted=[b"x"]))
    assert (other.deleted, other.changed_paths, other.deleted_paths, other.excluded_paths) == (1, [], [], [])


def test_a_published_tree() -> None:
    """TRE-13: only a tree without problems is published, so everything of it is in place."""
    made = account()
    made.replied(reply(3, needed=[1]))
    made.published()
    assert counts(made) == {"UNCHANGED": 2, "SENT": 1, "MADE": 2, "EXCLUDED": 1}


def test_selection() -> None:
    made = TreeAccount(dry_run=False)
    made.announced(trees_pb2.TreeManifest(entries=[directory(), file(b"e", 40, excluded=True)]))
    assert made.selects_nothing
    made.announced(trees_pb2.TreeManifest(entries=[directory(b"sub")]))
    assert not made.selects_nothing


def test_a_course_of_several_attempts() -> None:
    """Counts are of the newest attempt, moved bytes of all; an earlier attempt can turn out to have succeeded."""
    course = TreeCourse("s", "d", dry_run=False, clock=lambda: 1.0)
    first = course.begin()
    first.announced(trees_pb2.TreeManifest(entries=ENTRIES))
    first.replied(reply(6, needed=[2]))
    first.carried(trees_pb2.TreeContent(parts=[part(2, b"x" * 20)]))
    assert not course.advanced
    first.replied(reply(6, changed=[2]))
    assert course.advanced
    second = course.begin()
    assert not course.advanced
    second.carried(trees_pb2.TreeContent(parts=[part(2, b"x" * 3)]))
    assert course.result().content_bytes == course.progress().content_bytes == 23
    assert (course.result().entries, course.attempts) == (0, 2)
    course.resume(first)
    assert (course.result().entries, course.result().content_bytes) == (6, 23)


def test_directories_that_each_attempt_changes_again_are_no_progress() -> None:
    """ERR-3: an attempt with as many entries in place as one before it has not advanced, whatever it changed."""
    course = TreeCourse("s", "d", dry_run=False, clock=lambda: 1.0)
    for attempt in range(3):
        account = course.begin()
        account.announced(trees_pb2.TreeManifest(entries=ENTRIES))
        account.replied(reply(6, changed=[0]))
        assert course.advanced is (attempt == 0)
