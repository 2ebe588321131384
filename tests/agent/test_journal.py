"""The agent's journal: what it costs does not grow with what it holds, it stays small, and it never stops a start."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.journal_file import MAX_ROW_BYTES
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord

#: As many small files as may have been written in the time in which their outcomes are kept.
MANY = 2000

#: A long one.
ANSWER = files_pb2.UploadFileResponse(upload_id="u" * 8192).SerializeToString()


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
        metadata=b"",
        parent=b"/",
        name=b"file",
        staging=b".openshell-upload-s",
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


STATES = [
    files_pb2.UPLOAD_STATE_RECEIVING,
    files_pb2.UPLOAD_STATE_VERIFYING,
    files_pb2.UPLOAD_STATE_PUBLISHED,
    files_pb2.UPLOAD_STATE_ABORTED,
    files_pb2.UPLOAD_STATE_EXPIRED,
]


def test_purging_forgets_old_outcomes_and_nothing_else(journal: Journal) -> None:
    """RSM-3, RSM-22, RSM-23: never what is unfinished, however old it is."""
    for age, updated in enumerate((1.0, 3.0)):
        for number, state in enumerate(STATES):
            journal.write(replace(record(10 * age + number), state=state, updated=updated), durable=False)
    assert journal.purge(2.0) == 3
    left = [number for number in range(20) if journal.get(f"upload-{number}") is not None]
    assert left == [0, 1, 10, 11, 12, 13, 14]
    assert journal.unfinished() == ["upload-0", "upload-1", "upload-10", "upload-11"]


@pytest.mark.parametrize("name", ["upload_id", "request_id"])
def test_nobody_finds_anothers_upload(journal: Journal, name: str) -> None:
    """RSM-2: the id is not authority; both may use the same request_id."""
    journal.write(record(1), durable=False)
    value = f"{name.removesuffix('_id')}-1"
    assert journal.find("bob", **{name: value}) is None
    mine = replace(record(2), principal="bob", request_id="request-1")
    journal.write(mine, durable=False)
    assert journal.find("bob", request_id="request-1") == mine
    assert journal.find("alice", request_id="request-1") == record(1)


def test_a_row_in_the_way_of_a_request_id_is_replaced(journal: Journal) -> None:
    """RSM-1: a lost upload whose row could not be deleted does not poison its request_id."""
    journal.write(record(1), durable=False)
    journal.write(record(2, request_id="request-1"), durable=False)
    found = journal.find("alice", request_id="request-1")
    assert found is not None
    assert found.upload_id == "upload-2"
    assert journal.get("upload-1") is None


def file_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())


def test_a_row_is_bounded(journal: Journal) -> None:
    """RSM-23: what nobody can need is not kept."""
    with pytest.raises(TransferError) as refused:
        journal.write(replace(record(1), metadata=bytes(MAX_ROW_BYTES)), durable=False)
    assert refused.value.reason is Reason.INVALID_REQUEST
    assert journal.find("alice", upload_id="upload-1") is None


def test_the_quota_is_kept_at_the_cost_of_who_fills_it(tmp_path: Path) -> None:
    """RSM-3, RSM-23: outcomes of the principal with the most go first, unfinished uploads never; space is given back."""
    quota = MIB
    journal = Journal(tmp_path, quota)
    try:
        for number in range(20):
            journal.write(replace(record(number), principal="bob"), durable=False)
        unfinished = replace(record(20), state=files_pb2.UPLOAD_STATE_RECEIVING)
        journal.write(unfinished, durable=False)
        for number in range(100, 600):
            journal.write(replace(record(number), updated=float(number), result=ANSWER), durable=False)
        for number in range(2000):
            journal.add_name(b"/" + b"d" * 1000, b".openshell-upload-%d" % number)
        assert journal.used <= quota
        assert file_bytes(tmp_path) < quota + 4 * MIB + 64 * KIB
        assert journal.get("upload-20") == unfinished
        journal.purge(1e9)
        # 2000 names of a kilobyte do not fit; the newest are kept.
        assert journal.names()[-1][1] == b".openshell-upload-1999"
        for parent, name in journal.names():
            journal.drop_name(parent, name)
        journal.purge(1e9)
        assert journal.used < 64 * KIB
    finally:
        journal.close()
    assert file_bytes(tmp_path) < 128 * KIB


def test_others_keep_their_outcomes(tmp_path: Path) -> None:
    """RSM-23: who writes many small files makes its own outcomes go, not another's."""
    journal = Journal(tmp_path, MIB)
    try:
        bob = [replace(record(number), principal="bob") for number in range(20)]
        for one in bob:
            journal.write(one, durable=False)
        for number in range(100, 400):
            journal.write(replace(record(number), updated=float(number), result=ANSWER), durable=False)
        assert [journal.get(one.upload_id) for one in bob] == bob
        assert journal.get("upload-399") is not None, "the newest of the one that fills it"
        assert journal.get("upload-100") is None, "the oldest"
    finally:
        journal.close()


@pytest.mark.usefixtures("journal")
def test_nothing_is_spilled_to_temporary_files(connections: list[Connection]) -> None:
    """RSM-3: a confined agent may write nowhere else."""
    assert connections[0].execute("PRAGMA temp_store").fetchone() == (2,)


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def _header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(64))


def _page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 100)


def _other_tables(path: Path) -> None:
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE uploads (a)")
    db.close()


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage", [_garbage, _header, _page, _cut, _other_tables, _link, _directory], ids=lambda one: one.__name__
)
def test_a_damaged_journal_is_set_aside(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """RSM-13: the agent starts without it and says so; nothing of it is thrown away."""
    journal = Journal(tmp_path)
    for number in range(50):
        journal.write(record(number), durable=False)
    journal.close()
    damage(tmp_path / "uploads.sqlite3")
    journal = Journal(tmp_path)
    try:
        assert journal.unfinished() == []
        journal.write(record(1), durable=True)
        assert journal.get("upload-1") == record(1)
    finally:
        journal.close()
    assert len(list(tmp_path.glob("uploads.sqlite3.damaged-*"))) == 1
    assert "was renamed to" in caplog.text


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_journal_of_an_earlier_version_learns_to_shrink(tmp_path: Path, version: int) -> None:
    """RSM-3: its uploads are forgotten, and the names of their staging files noted."""
    Journal(tmp_path).close()
    path = tmp_path / "uploads.sqlite3"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA auto_vacuum=NONE")
    db.execute("VACUUM")
    columns = [field.name for field in fields(UploadRecord)]
    marks = ", ".join("?" * len(columns))
    for number in range(8):
        state = STATES[0] if number < 4 else STATES[2]
        row = replace(record(number), metadata=bytes(MIB), state=state)
        values = [getattr(row, column) for column in columns]
        db.execute(f"INSERT INTO uploads ({', '.join(columns)}) VALUES ({marks})", values)
    db.execute(f"PRAGMA user_version={version}")
    db.close()
    assert path.stat().st_size > 8 * MIB
    journal = Journal(tmp_path)
    try:
        assert journal.unfinished() == []
        assert [journal.get(f"upload-{number}") for number in range(8)] == [None] * 8
        assert len(journal.names()) == len({record(number).staging for number in range(8)})
        for number in range(4):
            journal.write(record(number), durable=False)
        journal.purge(0.0)
        assert journal.used < 64 * KIB
    finally:
        journal.close()
    assert path.stat().st_size < 64 * KIB
