"""The database of the sandboxes that the gateway created, and of the requests that it carried out.

One SQLite file, like upstream's default. All statements run on one thread, in
the order of the calls, so the event loop never waits for a disk. A lock file
next to it keeps a second gateway out, since two would overwrite each other's
changes.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog
from google.protobuf.message import DecodeError
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2
from openshell_files_protocol.reasons import Reason

log = structlog.get_logger("openshell_files_gateway.simulation.store")

#: Time for which a repeated request is recognised; upstream's value.
REPLAY_SECONDS: Final = 86_400.0

#: Incremented with every change of a table.
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

_TABLES: Final = {"sandboxes", "requests"}

T = TypeVar("T")


class StoreError(Exception):
    """The database cannot be opened, read or written."""


def database_failed(error: StoreError) -> TransferError:
    """Return the error for a caller, and log the details for the operator."""
    log.error("the database failed", reason=str(error))
    return TransferError(
        Reason.IO_ERROR, "the gateway's database failed, so the change may be lost; try again"
    )


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """The record of a request with a request_id.

    Attributes:
        caller: the caller's key; request ids are unique per caller.
        request_id: id that the caller chose.
        fingerprint: hash of all other fields of the request.
        sandbox_id: the request's sandbox.
        admitted: Unix time of the request, in seconds.
    """

    caller: str
    request_id: str
    fingerprint: bytes
    sandbox_id: str
    admitted: float


class SandboxStore:
    """The database. Call `open` before, and `aclose` after use.

    Args:
        path: file of the database; None for a database in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, "sandbox-store")
        self._db: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._closed = False

    async def open(self) -> list[sandboxes_pb2.Sandbox]:
        """Open the database, create it if it is missing, and return all sandboxes.

        Raises:
            StoreError: the file cannot be opened, is not a database of this
                program, or another gateway has it open.
        """
        return await self._run(self._open)

    async def aclose(self) -> None:
        """Close the database; idempotent."""
        if not self._closed:
            # Queued behind running work, for example an `open`.
            closing = self._run(self._close)
            self._closed = True
            await closing
            self._thread.shutdown(wait=False)

    async def insert(self, sandbox: sandboxes_pb2.Sandbox, request: AdmittedRequest | None) -> None:
        """Add a sandbox, and the request that created it, in one transaction."""
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
        """Replace the record of a sandbox; do nothing if it was deleted."""

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
        """Save the record of a request."""
        await self._write(lambda db: _remember(db, request))

    async def recall(self, caller: str, request_id: str, now: float) -> AdmittedRequest | None:
        """Return the record of a caller's request with that id, if it is younger than `REPLAY_SECONDS`."""

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
                self._lock = _lock(self._path)
                # Private, as in upstream, because the file names sandboxes and users.
                self._path.touch(mode=0o600, exist_ok=True)
            db = sqlite3.connect(
                self._path or ":memory:", isolation_level=None, check_same_thread=False, timeout=5
            )
            self._db = db
            fresh = self._check_shape(db)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if fresh:
                db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={_SCHEMA_VERSION};COMMIT;")
            rows = db.execute("SELECT message FROM sandboxes ORDER BY workspace, name")
            try:
                return [sandboxes_pb2.Sandbox.FromString(message) for (message,) in rows]
            except (DecodeError, TypeError) as error:
                raise StoreError(f"{self._path}: a sandbox cannot be read: {error}") from error

    def _check_shape(self, db: sqlite3.Connection) -> bool:
        """Return True for a new database; raise before any change of a foreign one."""
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, _SCHEMA_VERSION):
            raise StoreError(
                f"{self._path} has schema version {version}, this gateway needs {_SCHEMA_VERSION}"
            )
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if (version and not tables >= _TABLES) or (not version and tables):
            raise StoreError(f"{self._path} is the database of another program")
        return version == 0

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

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

    def _run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run work on the store's thread, to its end even if the caller is cancelled.

        Not a coroutine, so that the work runs in the order of the calls.
        """

        def mapped() -> T:
            with _mapped(self._path):
                return work()

        if self._closed:
            raise StoreError("the database was closed")
        return asyncio.get_running_loop().run_in_executor(self._thread, mapped)


def _lock(path: Path) -> int:
    """Lock the database against other gateways for the life of this process.

    The kernel releases the lock when the process ends. The lock is on a second
    file, because closing a descriptor of the database itself would drop
    SQLite's own locks.
    """
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(f"{path}: another gateway has it open; give each its own") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
