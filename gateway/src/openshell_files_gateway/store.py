"""What the gateway remembers across restarts: the sandboxes that it made.

One SQLite file, like upstream's default. All statements run on one thread of
their own, so the event loop never waits for a disk, and in the order in which
they were asked for.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2

log = structlog.get_logger("openshell_files_gateway.store")

#: How long a repeated request is recognised; upstream's value.
REPLAY_SECONDS: Final = 86_400.0

#: Raised when a table changes its shape.
_SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    message BLOB NOT NULL,
    UNIQUE (workspace, name)
) STRICT;
CREATE TABLE requests (
    caller TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    sandbox_id TEXT NOT NULL,
    admitted REAL NOT NULL,
    PRIMARY KEY (caller, request_id)
) STRICT;
"""

T = TypeVar("T")


class StoreError(Exception):
    """The database cannot be opened, read or written."""


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request that may be repeated.

    Attributes:
        caller: who made it; ids of different callers are different.
        request_id: as the caller chose it.
        fingerprint: of everything else in the request.
        sandbox_id: what it was about.
        admitted: seconds since 1970.
    """

    caller: str
    request_id: str
    fingerprint: bytes
    sandbox_id: str
    admitted: float


class SandboxStore:
    """The database. Open it before, and close it after use.

    Args:
        path: of the file; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "sandbox-store")
        self._db: sqlite3.Connection | None = None

    async def open(self) -> list[sandboxes_pb2.Sandbox]:
        """Open the database, made if it is missing, and return all sandboxes.

        Raises:
            StoreError: it is no database of this gateway, or out of reach.
        """
        return await self._run(self._open)

    async def aclose(self) -> None:
        """Close the database; more than once is fine."""
        if self._db is not None:
            await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def insert(self, sandbox: sandboxes_pb2.Sandbox, request: AdmittedRequest | None) -> None:
        """Add a sandbox, together with the request that made it."""
        meta = sandbox.metadata

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO sandboxes VALUES (?, ?, ?, ?)",
                (meta.id, meta.workspace, meta.name, sandbox.SerializeToString()),
            )
            if request is not None:
                _remember(db, request)

        await self._write(work)

    async def update(self, sandbox: sandboxes_pb2.Sandbox) -> None:
        """Replace a sandbox; one that is gone stays gone."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE sandboxes SET message = ? WHERE id = ?",
                (sandbox.SerializeToString(), sandbox.metadata.id),
            )

        await self._write(work)

    async def delete(self, sandbox_id: str) -> None:
        """Remove a sandbox."""
        await self._write(lambda db: db.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,)))

    async def remember(self, request: AdmittedRequest) -> None:
        """Note a request that was carried out."""
        await self._write(lambda db: _remember(db, request))

    async def recall(self, caller: str, request_id: str, now: float) -> AdmittedRequest | None:
        """Return a caller's earlier request of that id, if it is not too long ago."""

        def work(db: sqlite3.Connection) -> AdmittedRequest | None:
            row = db.execute(
                "SELECT * FROM requests WHERE caller = ? AND request_id = ? AND admitted > ?",
                (caller, request_id, now - REPLAY_SECONDS),
            ).fetchone()
            return AdmittedRequest(*row) if row else None

        return await self._run(lambda: work(self._connection()))

    def _open(self) -> list[sandboxes_pb2.Sandbox]:
        with _mapped(self._path):
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # The file names sandboxes and people; upstream's mode too.
                self._path.touch(mode=0o600, exist_ok=True)
            db = sqlite3.connect(
                self._path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5
            )
            self._db = db
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _SCHEMA_VERSION):
                raise StoreError(
                    f"{self._path} has the shape {version}, this gateway knows {_SCHEMA_VERSION}"
                )
            if version == 0:
                db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={_SCHEMA_VERSION};COMMIT;")
            rows = db.execute("SELECT message FROM sandboxes ORDER BY workspace, name")
            return [sandboxes_pb2.Sandbox.FromString(message) for (message,) in rows]

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError("the database is not open")
        return self._db

    async def _write(self, work: Callable[[sqlite3.Connection], object]) -> None:
        def transaction() -> None:
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                work(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

        await self._run(transaction)

    async def _run(self, work: Callable[[], T]) -> T:
        """Run on the store's thread; what was begun is finished, also if the caller is cancelled."""

        def mapped() -> T:
            with _mapped(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, mapped)


def _remember(db: sqlite3.Connection, request: AdmittedRequest) -> None:
    db.execute("DELETE FROM requests WHERE admitted <= ?", (request.admitted - REPLAY_SECONDS,))
    db.execute(
        "INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?)",
        (request.caller, request.request_id, request.fingerprint, request.sandbox_id, request.admitted),
    )


@contextmanager
def _mapped(path: Path | None) -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path or 'the database in memory'}: {error}") from error
