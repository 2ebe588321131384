"""What the gateway remembers across restarts: the sandboxes that it made.

One SQLite file, like upstream's default. All statements run on one thread of
their own, so the event loop never waits for a disk, and in the order in which
they were asked for. A lock file beside it keeps a second gateway out: each
would undo what the other does.
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

_TABLES: Final = {"sandboxes", "requests"}

T = TypeVar("T")


class StoreError(Exception):
    """The database cannot be opened, read or written."""


def not_kept(error: StoreError) -> TransferError:
    """Return what a caller is told; the operator finds the rest in the log."""
    log.error("the database failed", reason=str(error))
    return TransferError(
        Reason.IO_ERROR, "the gateway's database failed, so nothing can be promised; try again"
    )


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
        self._lock: int | None = None
        self._closed = False

    async def open(self) -> list[sandboxes_pb2.Sandbox]:
        """Open the database, made if it is missing, and return all sandboxes.

        Raises:
            StoreError: it is no database of this gateway, out of reach, or
                another gateway has it open.
        """
        return await self._run(self._open)

    async def aclose(self) -> None:
        """Close the database; more than once is fine."""
        if not self._closed:
            # Behind whatever is under way, an opening for one.
            closing = self._run(self._close)
            self._closed = True
            await closing
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
                self._lock = _lock(self._path)
                # The file names sandboxes and people; upstream's mode too.
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
        """Say whether the database is new; before anything is changed in one that is not ours."""
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version not in (0, _SCHEMA_VERSION):
            raise StoreError(f"{self._path} has the shape {version}, this gateway knows {_SCHEMA_VERSION}")
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if (version and not tables >= _TABLES) or (not version and tables):
            raise StoreError(f"{self._path} is the database of something else")
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
        """Run on the store's thread; what was begun is finished, also if the caller is cancelled.

        Not a coroutine: the order of the calls is the order of the work.
        """

        def mapped() -> T:
            with _mapped(self._path):
                return work()

        if self._closed:
            raise StoreError("the database was closed")
        return asyncio.get_running_loop().run_in_executor(self._thread, mapped)


def _lock(path: Path) -> int:
    """Keep other gateways out as long as this process lives.

    The kernel lets go however it ends. Not on the database itself, whose locks
    SQLite loses when any descriptor of the file is closed.
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
