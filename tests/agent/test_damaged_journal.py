"""A journal on a disk that loses and turns bits: the agent starts, keeps what can be read, and says what it left."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import pytest
from agent.agent_harness import Sandbox, get_upload, metadata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_supervisor_sim.agent.core.requests import upload_request
from openshell_supervisor_sim.agent.store.journal import Journal
from openshell_supervisor_sim.agent.store.upload_record import UploadRecord

COLUMNS: Final = [field.name for field in fields(UploadRecord)]
KINDS: Final = {field.name: str(field.type) for field in fields(UploadRecord)}
UNFINISHED: Final = files_pb2.UPLOAD_STATE_RECEIVING


def record(number: int, **changes: Any) -> UploadRecord:
    asked = metadata(f"/file-{number}", 3)
    row = UploadRecord(
        upload_id=f"u{number}",
        request_id=f"r{number}",
        principal="alice",
        fingerprint=upload_request(asked, started=True).fingerprint,
        metadata=asked.SerializeToString(),
        parent=b"/",
        name=b"file-%d" % number,
        staging=b".openshell-upload-%d" % number,
        epoch=1,
        state=UNFINISHED,
        created=1.0,
        updated=1.8e9,
        expiry=1e9,
    )
    return replace(row, **changes)


def filled(directory: Path, count: int) -> Path:
    """Write a journal of unfinished uploads; return its file."""
    with closing(Journal(directory)) as journal:
        for number in range(count):
            journal.write(record(number), durable=False)
        journal.add_name(b"/", b".openshell-upload-left")
    return directory / "uploads.sqlite3"


def put_into(path: Path, column: str, value: object, *, table: str = "uploads", where: str = "") -> None:
    """Write a value as a disk may: whatever the table says of its column."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE type = 'table'")
        db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table'")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        expression = "CAST(? AS TEXT)" if isinstance(value, NoText) else "?"
        db.execute(f"UPDATE {table} SET {column} = {expression} {where}", (value,))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_schema SET sql = sql || ' STRICT' WHERE type = 'table'")


class NoText(bytes):
    """Bytes that a column has as a text."""


ODD_VALUES: Final = {
    "nothing": None,
    "empty": "",
    "a text": "odd",
    "no text": NoText(b"\xff\xfe"),
    "a NUL": "a\0b",
    "bytes": b"\xff\x00/..",
    "a path": b"/etc/../passwd",
    "a name": b"file-0",
    "negative": -5,
    "the largest": 2**63 - 1,
    "the smallest": -(2**63),
    "a fraction": 0.5,
    "endless": float("inf"),
    "endlessly small": float("-inf"),
}


async def starts(sandbox: Sandbox) -> list[str]:
    """Start an agent on the journal; return which uploads it has, and that it can be used."""
    agent = sandbox.agent()
    await agent.start()
    try:
        found: list[str] = []
        for number in range(3):
            status = await get_upload(agent, request_id=f"r{number}")
            if status.state == UNFINISHED:
                found.append(status.request_id)
        await agent.sweep()
        return found
    finally:
        await agent.aclose()


@pytest.fixture
def files(sandbox: Sandbox) -> Sandbox:
    """The sandbox, with the files of three uploads and of their destinations."""
    for number in range(3):
        (sandbox.root / f"file-{number}").write_bytes(b"old")
        (sandbox.root / f".openshell-upload-{number}").write_bytes(b"ab")
    return sandbox


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
@pytest.mark.parametrize("column", COLUMNS)
async def test_an_odd_value_in_a_row(files: Sandbox, column: str, value: object) -> None:
    """RSM-13: it costs the row at most; no file but a staging file is removed."""
    path = filled(files.settings.state_dir, 3)
    put_into(path, column, value, where="WHERE upload_id = 'u1'")
    found = await starts(files)
    assert {"r0", "r2"} <= set(found)
    assert not list(files.settings.state_dir.glob("*.damaged-*"))
    assert {path.name for path in files.root.iterdir()} >= {"file-0", "file-1", "file-2"}


@pytest.mark.parametrize(
    "column", [column for column in COLUMNS if KINDS[column] == "str" and column != "failure_reason"]
)
async def test_a_text_that_is_none(files: Sandbox, column: str, caplog: pytest.LogCaptureFixture) -> None:
    """RSM-13: the row is set aside, that is said, and the others go on."""
    path = filled(files.settings.state_dir, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE uploads SET {column} = CAST(x'fffe' AS TEXT) WHERE upload_id = 'u1'")
    assert await starts(files) == ["r0", "r2"]
    assert "set aside" in caplog.text
    assert await starts(files) == ["r0", "r2"]
    assert sorted(files.leftovers()) == [".openshell-upload-0", ".openshell-upload-2"]


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
@pytest.mark.parametrize("column", ["created", "updated", "expiry"])
async def test_a_time_that_is_none(files: Sandbox, column: str, value: float) -> None:
    """RSM-13, RSM-8: an upload that would live for ever is set aside, with its staging file."""
    path = filled(files.settings.state_dir, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE uploads SET {column} = ? WHERE upload_id = 'u1'", (value,))
    assert await starts(files) == ["r0", "r2"]
    assert await starts(files) == ["r0", "r2"]
    assert sorted(files.leftovers()) == [".openshell-upload-0", ".openshell-upload-2"]


@pytest.mark.parametrize(
    ("parent", "name"),
    [
        (b"/", b"file-0"),
        (b"/", b".openshell-upload-/../file-0"),
        (b"file-0", b".openshell-upload-x"),
        (b"/../..", b".openshell-upload-x"),
        (b"/a\0", b".openshell-upload-x"),
        (b"/", b""),
    ],
)
async def test_a_noted_name_that_no_agent_gave(files: Sandbox, parent: bytes, name: bytes) -> None:
    """RSM-13: what it names is left alone."""
    path = filled(files.settings.state_dir, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("INSERT INTO names VALUES (?, ?)", (parent, name))
    before = {path.name for path in files.root.iterdir()}
    assert await starts(files) == ["r0", "r1", "r2"]
    assert {path.name for path in files.root.iterdir()} == before


@pytest.mark.parametrize("version", [-(2**31), -5, -1])
def test_a_version_that_there_never_was(tmp_path: Path, version: int) -> None:
    """RSM-13: the file is set aside."""
    path = filled(tmp_path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version={version}")
    with closing(Journal(tmp_path)) as journal:
        assert journal.unfinished() == []
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_an_index_that_is_damaged_is_made_anew(tmp_path: Path) -> None:
    """RSM-13: the rows are still there."""
    path = filled(tmp_path, 3)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '!=', '=') WHERE type = 'index' AND sql LIKE '%by_request%'"
        )
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("REINDEX")
        db.execute("PRAGMA writable_schema=ON")
        db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '= ''', '!= ''') WHERE type = 'index' AND sql LIKE '%by_request%'"
        )
    with closing(Journal(tmp_path)) as journal:
        assert journal.unfinished() == ["u0", "u1", "u2"]
        assert journal.find("alice", request_id="r1") == record(1)
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", ["directory", "link", "garbage", "FIFO"])
def test_what_lies_beside_the_file(tmp_path: Path, suffix: str, kind: str) -> None:
    """RSM-13: it costs no row that is in the file."""
    path = filled(tmp_path, 3)
    beside = path.with_name(path.name + suffix)
    beside.unlink(missing_ok=True)
    match kind:
        case "directory":
            beside.mkdir()
        case "link":
            beside.symlink_to("/nonexistent")
        case "FIFO":
            os.mkfifo(beside)
        case _:
            beside.write_bytes(os.urandom(5000))
    with closing(Journal(tmp_path)) as journal:
        assert journal.unfinished() == ["u0", "u1", "u2"]
        journal.write(record(9), durable=True)


@pytest.mark.parametrize("kind", ["directory", "link", "FIFO"])
def test_what_lies_in_the_place_of_the_file(tmp_path: Path, kind: str) -> None:
    """RSM-13: it is set aside; opening it has no effect, and does not wait."""
    path = tmp_path / "uploads.sqlite3"
    match kind:
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("/nonexistent")
        case _:
            os.mkfifo(path)
    with closing(Journal(tmp_path)) as journal:
        journal.write(record(1), durable=True)
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1


Damage = Callable[[bytearray], None]
_places = st.floats(0, 1, exclude_max=True)


@st.composite
def damages(draw: st.DrawFn) -> Damage:
    """Return what a disk does to a file: turns bits, loses sectors, its end, or puts others in."""
    kind = draw(st.sampled_from(["flip", "header", "zero", "cut", "garbage"]))
    places = draw(st.lists(_places, min_size=1, max_size=20))
    bits = draw(st.integers(0, 7))

    def flip(data: bytearray, size: int) -> None:
        for place in places:
            data[int(place * size)] ^= 1 << bits

    def damage(data: bytearray) -> None:
        at = int(places[0] * len(data))
        match kind:
            case "flip":
                flip(data, len(data))
            case "header":
                flip(data, min(100, len(data)))
            case "zero":
                data[at : at + 512] = bytes(len(data[at : at + 512]))
            case "cut":
                del data[at:]
            case _:
                data[at : at + 512] = bytes(
                    (bits * 37 + index) & 0xFF for index in range(len(data[at : at + 512]))
                )

    return damage


@pytest.fixture(scope="module", params=["closed", "killed"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal that was closed, or one whose agent died with rows in the log only."""
    directory: Path = tmp_path_factory.mktemp("original")
    if request.param == "closed":
        filled(directory, 40)
        return directory
    source = tmp_path_factory.mktemp("living")
    filled(source, 20)
    with closing(Journal(source)) as journal:
        for number in range(20, 40):
            journal.write(record(number), durable=False)
        shutil.copytree(source, directory, dirs_exist_ok=True)
    return directory


def is_of_a_newer_agent(directory: Path) -> bool:
    """Return whether the version in the file is a later one: damage that cannot be told from the truth."""
    copy = directory / "copy"
    copy.mkdir()
    for file in directory.glob("uploads.sqlite3*"):
        shutil.copy(file, copy)
    try:
        with closing(sqlite3.connect(copy / "uploads.sqlite3")) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0]) > 4
    except sqlite3.Error:
        return False


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages(), name=st.sampled_from(["uploads.sqlite3", "uploads.sqlite3-wal"]))
def test_a_damaged_file(
    original: Path, tmp_path_factory: pytest.TempPathFactory, damage: Damage, name: str
) -> None:
    """RSM-13, RSM-14: whatever is damaged, a journal can be used; only a newer agent's version stops a start."""
    directory = tmp_path_factory.mktemp("damaged")
    shutil.copytree(original, directory, dirs_exist_ok=True)
    path = directory / name
    if path.exists():
        data = bytearray(path.read_bytes())
        if data:
            damage(data)
        path.write_bytes(data)
    if is_of_a_newer_agent(directory):
        with pytest.raises(RuntimeError, match="newer agent"):
            Journal(directory)
        return
    journal = Journal(directory)
    with closing(journal):
        for upload_id in journal.unfinished():
            journal.get(upload_id)
        journal.names()
        journal.find("alice", request_id="r1")
        journal.write(record(99), durable=True)
        assert journal.get("u99") == record(99)
        journal.purge(3.0)
    shutil.rmtree(directory)
