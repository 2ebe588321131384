"""The agent's journal: what it costs does not grow with what it holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent.journal import Journal, UploadRecord

#: As many small files as may have been written in the time in which their outcomes are kept.
MANY = 2000


class Connection(sqlite3.Connection):
    """Notes how durable each commit was."""

    commits: ClassVar[list[int]] = []

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT":
            self.commits.append(super().execute("PRAGMA synchronous").fetchone()[0])
        return super().execute(sql, parameters)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """What the journal opens."""
    opened: list[Connection] = []
    connect = sqlite3.connect

    def noted(*arguments: Any, **options: Any) -> Connection:
        opened.append(connect(*arguments, factory=Connection, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    return opened


@pytest.fixture
def journal(tmp_path: Path, connections: list[Connection]) -> Iterator[Journal]:
    journal = Journal(tmp_path)
    assert len(connections) == 1
    Connection.commits.clear()
    yield journal
    journal.close()


def record(number: int, request_id: str | None = None) -> UploadRecord:
    return UploadRecord(
        upload_id=f"upload-{number}",
        request_id=f"request-{number}" if request_id is None else request_id,
        principal="alice",
        fingerprint=b"f",
        metadata=b"m",
        parent=b"/",
        name=b"file",
        staging=b".staging",
        epoch=1,
        state=files_pb2.UPLOAD_STATE_PUBLISHED,
        created=1.0,
        updated=1.0,
        expiry=60.0,
    )


def steps(connection: Connection, work: Callable[[], object]) -> int:
    """Count what SQLite has to do, in steps of its virtual machine."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(step, 1)
    try:
        work()
    finally:
        connection.set_progress_handler(None, 1)
    return count


@pytest.mark.parametrize("name", ["upload_id", "request_id"])
def test_finding_an_upload_does_not_look_at_the_others(
    journal: Journal, connections: list[Connection], name: str
) -> None:
    def find(number: int) -> UploadRecord | None:
        kind = name.removesuffix("_id")
        return journal.find("alice", **{name: f"{kind}-{number}"})

    journal.write(record(0), durable=False)
    alone = steps(connections[0], lambda: find(0))
    for number in range(1, MANY):
        journal.write(record(number), durable=False)
    assert steps(connections[0], lambda: find(MANY // 2)) <= alone + 5
    assert steps(connections[0], lambda: find(MANY)) <= alone + 5, "one that is not there"
    found = find(MANY // 2)
    assert found is not None
    assert found.upload_id == f"upload-{MANY // 2}"


def test_an_upload_without_a_name_of_its_caller_is_not_found_by_none(journal: Journal) -> None:
    for number in range(2):
        journal.write(record(number, request_id=""), durable=False)
    assert journal.find("alice") is None


@pytest.mark.parametrize("order", [(True, False, True), (False, True, False)])
def test_each_write_is_as_durable_as_it_is_asked_for(journal: Journal, order: tuple[bool, ...]) -> None:
    """RSM-3, UPL-9: whichever came before."""
    for number, durable in enumerate(order):
        journal.write(record(number), durable=durable)
    normal, full = 1, 2
    assert Connection.commits == [full if durable else normal for durable in order]
