"""A receiver takes the streams of `tests/vectors/trees` as they say, and touches nothing outside of its top directory."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openshell_files_disk.filesystem.handles import FileSystem
from openshell_files_disk.trees.receiver import ReceiveOptions, TreePlace, TreeReceiver
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from tree_cases import (
    TREES,
    TreeCase,
    TreeVectors,
    files,
    messages_of,
    path_of,
    read_trees,
    schema,
)
from tree_places import assert_there, make, outside, remove, with_secret

CASES = read_trees()


def test_the_schema_is_up_to_date() -> None:
    written = json.loads((TREES / "schema.json").read_text("utf-8"))
    assert written == schema(), "python tests/tree_cases.py > tests/vectors/trees/schema.json"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_names_are_given_once(path: Path) -> None:
    read = TreeVectors.model_validate_json(path.read_text("utf-8"))
    assert read.about
    assert max(Counter(case.name for case in read.trees).values()) == 1


@pytest.fixture
def place(tmp_path: Path) -> Generator[Path]:
    """Return the directory of a case, with what must not be touched."""
    with_secret(tmp_path)
    yield tmp_path
    remove(tmp_path / "top")


@dataclass
class Observed:
    """What all replies together had, and the reason that ended the stream."""

    reason: str | None = None
    needed: list[int] = field(default_factory=list[int])
    changed: list[int] = field(default_factory=list[int])
    problems: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    deleted: list[bytes] = field(default_factory=list[bytes])
    decided: int = 0

    def add(self, reply: trees_pb2.TreeReply) -> None:
        assert reply.decided_entries >= self.decided
        self.decided = reply.decided_entries
        self.needed += reply.needed
        self.changed += reply.changed
        self.problems += [(problem.entry, problem.reason) for problem in reply.problems]
        self.deleted += reply.deleted


def receive(case: TreeCase, place: Path) -> Observed:
    """Give a receiver the messages of a case, one after the other; the last may end the stream."""
    observed, options = Observed(), case.options
    parent_fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    messages = list(messages_of(case))
    try:
        receiver = TreeReceiver(
            FileSystem(),
            TreePlace(parent_fd=parent_fd, parent_path=os.fsencode(place), name=b"top"),
            ReceiveOptions(
                delete_others=options.delete_others,
                atomic=options.atomic,
                dry_run=options.dry_run,
                compare_content=options.compare_content,
                algorithm=files_pb2.DIGEST_ALGORITHM_SHA256,
                folds=options.folds,
                max_entries=int(options.max_entries or 0),
                max_file_bytes=int(options.max_file_bytes or 0),
            ),
        )
        try:
            for message in messages:
                for reply in step(receiver, message):
                    observed.add(reply)
        finally:
            receiver.close()
    except TransferError as error:
        observed.reason = error.reason.name
    finally:
        os.close(parent_fd)
    return observed


def step(
    receiver: TreeReceiver, message: trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd
) -> Iterator[trees_pb2.TreeReply]:
    if isinstance(message, trees_pb2.TreeEnd):
        yield from receiver.finish(message)
    else:
        yield receiver.take(message)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_receiver(case: TreeCase, place: Path) -> None:
    """TRE-44, TRE-54, TRE-58: and nothing of a staging directory is left, nor anything outside changed."""
    if case.before is not None:
        make(place / "top", case.before)
    before, outcome = outside(place), case.outcome
    observed = receive(case, place)
    assert outside(place) == before
    assert observed.reason == outcome.reason
    if outcome.files is not None and (case.before is not None or (place / "top").exists()):
        assert_there(place, outcome.files)
    if case.before is None and (outcome.reason is not None or outcome.files is None):
        assert not (place / "top").exists()
    if outcome.reason is None:
        assert_said(case, observed)


def assert_said(case: TreeCase, observed: Observed) -> None:
    """The replies have what the vector says, each once, in any order."""
    outcome = case.outcome
    if outcome.needed is not None:
        assert sorted(observed.needed) == sorted(map(int, outcome.needed))
    if outcome.changed is not None:
        assert sorted(observed.changed) == sorted(map(int, outcome.changed))
    assert sorted(observed.problems) == sorted((int(one.entry), one.reason) for one in outcome.problems)
    assert sorted(observed.deleted) == sorted(map(path_of, outcome.deleted))
    if case.messages[-1].end is not None:
        assert observed.decided == int(case.messages[-1].end)
