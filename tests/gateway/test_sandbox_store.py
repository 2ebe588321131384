"""What the gateway remembers, and the databases it does not touch."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest
from openshell_files_gateway.simulation.core.sandbox_message import new_message
from openshell_files_gateway.simulation.store import REPLAY_SECONDS, AdmittedRequest, SandboxStore, StoreError
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2

NOW = 1_000_000.0


def sandbox(name: str, sandbox_id: str = "", version: int = 1) -> sandboxes_pb2.Sandbox:
    message = new_message(sandbox_id or f"id-{name}", name, "default", NOW)
    message.metadata.resource_version = version
    return message


def request(request_id: str = "r", caller: str = "alice", admitted: float = NOW) -> AdmittedRequest:
    return AdmittedRequest(caller, request_id, b"fingerprint", "id-a", admitted)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made" / "gateway.db"


@pytest.fixture
async def store(path: Path) -> AsyncGenerator[SandboxStore, None]:
    opened = SandboxStore(path)
    assert await opened.open() == []
    yield opened
    await opened.aclose()


async def reopened(path: Path) -> list[sandboxes_pb2.Sandbox]:
    again = SandboxStore(path)
    try:
        return await again.open()
    finally:
        await again.aclose()


async def test_what_was_written_is_there_after_a_restart(path: Path, store: SandboxStore) -> None:
    """SBX-2: by name, each as it was last."""
    await store.insert(sandbox("b"), None)
    await store.insert(sandbox("a"), request())
    await store.insert(sandbox("c"), None)
    await store.update(sandbox("b", version=2))
    await store.delete("id-c")
    await store.aclose()
    assert await reopened(path) == [sandbox("a"), sandbox("b", version=2)]


async def test_writes_happen_in_the_order_in_which_they_were_asked_for(
    path: Path, store: SandboxStore
) -> None:
    """Also if nobody waits between them."""
    await asyncio.gather(
        store.insert(sandbox("a"), None),
        *(store.update(sandbox("a", version=version)) for version in range(2, 40)),
        store.insert(sandbox("b"), None),
        store.delete("id-b"),
        store.update(sandbox("b", version=2)),
    )
    await store.aclose()
    assert await reopened(path) == [sandbox("a", version=39)]


async def test_a_sandbox_and_its_request_are_written_together(path: Path, store: SandboxStore) -> None:
    """SBX-5: a request is never remembered without its sandbox."""
    await store.insert(sandbox("a"), request("first"))
    with pytest.raises(StoreError):
        await store.insert(sandbox("a", sandbox_id="another"), request("second"))
    assert await store.recall("alice", "second", NOW) is None
    assert await store.recall("alice", "first", NOW) == request("first")
    await store.aclose()
    assert await reopened(path) == [sandbox("a")]


async def test_requests_are_remembered_for_a_day(store: SandboxStore) -> None:
    """SBX-5: of each caller, and of no other."""
    await store.remember(request())
    assert await store.recall("alice", "r", NOW + REPLAY_SECONDS - 1) == request()
    assert await store.recall("alice", "r", NOW + REPLAY_SECONDS) is None
    assert await store.recall("bob", "r", NOW) is None
    await store.remember(request("later", admitted=NOW + REPLAY_SECONDS))
    assert await store.recall("alice", "r", NOW) is None, "what is too old is not kept"


async def test_two_gateways_do_not_share_a_database(path: Path, store: SandboxStore) -> None:
    """The second is refused, and changes nothing for the first; later it may."""
    await store.insert(sandbox("a"), None)
    second = SandboxStore(path)
    with pytest.raises(StoreError, match="another gateway"):
        await second.open()
    await second.aclose()
    await store.update(sandbox("a", version=2))
    await store.aclose()
    assert await reopened(path) == [sandbox("a", version=2)]


async def test_only_its_user_reads_it(path: Path, store: SandboxStore) -> None:
    await store.insert(sandbox("a"), None)
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(files) == {"gateway.db", "gateway.db-wal", "gateway.db-shm", "gateway.db.lock"}
    assert set(files.values()) == {0o600}


@pytest.mark.parametrize("shape", ["no tables", "other tables", "a later shape", "our number"])
async def test_a_foreign_database_is_left_as_it_is(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "foreign.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1);")
        if shape == "no tables":
            db.executescript("DROP TABLE theirs; PRAGMA user_version = 7;")
        elif shape == "a later shape":
            db.executescript("PRAGMA user_version = 2;")
        elif shape == "our number":
            db.executescript("PRAGMA user_version = 1;")
    before = path.read_bytes()
    store = SandboxStore(path)
    with pytest.raises(StoreError, match=r"foreign\.db"):
        await store.open()
    await store.aclose()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    path.write_bytes(b"not a database at all, whatever its name says" * 100)
    store = SandboxStore(path)
    with pytest.raises(StoreError, match=r"gateway\.db: file is not a database"):
        await store.open()
    await store.aclose()


async def test_a_record_that_cannot_be_read(path: Path, store: SandboxStore) -> None:
    """Nothing is started on half of what was remembered."""
    await store.insert(sandbox("a"), None)
    await store.aclose()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE sandboxes SET message = ?", (b"\xff\xff",))
        db.commit()
    broken = SandboxStore(path)
    with pytest.raises(StoreError, match="cannot be read"):
        await broken.open()
    await broken.aclose()


async def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = SandboxStore(tmp_path / "file" / "gateway.db")
    with pytest.raises(StoreError, match=r"gateway\.db"):
        await store.open()
    await store.aclose()


async def test_a_full_disk(store: SandboxStore) -> None:
    """What fails is not half there, and what fits again is kept."""
    await store.insert(sandbox("a"), None)
    limit = "PRAGMA max_page_count = "
    db = store._db
    assert db is not None
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"{limit}{pages}")
    large = sandbox("b")
    large.metadata.annotations["x"] = "x" * 100_000
    with pytest.raises(StoreError, match="full"):
        await store.insert(large, request())
    assert await store.recall("alice", "r", NOW) is None
    db.execute(f"{limit}{pages + 1000}")
    await store.insert(large, request())
    assert await store.recall("alice", "r", NOW) == request()


async def test_nothing_is_asked_of_a_closed_store(path: Path) -> None:
    """A closed one says so; a session that ends late is no bug."""
    store = SandboxStore(path)
    await store.open()
    await store.aclose()
    await store.aclose()
    with pytest.raises(StoreError, match="closed"):
        await store.update(sandbox("a"))


async def test_closing_waits_for_an_opening_that_nobody_waits_for(path: Path) -> None:
    """Told to stop while it starts, a gateway leaves the database to the next one."""
    store = SandboxStore(path)
    opening = asyncio.create_task(store.open())
    await asyncio.sleep(0)
    opening.cancel()
    await store.aclose()
    assert await reopened(path) == []


async def test_without_a_file() -> None:
    store = SandboxStore(None)
    assert await store.open() == []
    await store.insert(sandbox("a"), request())
    assert await store.recall("alice", "r", NOW) == request()
    await store.aclose()
