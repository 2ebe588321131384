"""What the agent knows about uploads, kept across its death (RSM-3).

One SQLite file. Two tables: `uploads`, a row for each upload that can be found
again, and `names`, staging names that belong to no such upload. Each staging
name is written here before it exists in a directory, so a start-up finds
whatever a killed agent left behind.

A commit survives the death of the process; a durable one, the loss of power.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

_SCHEMA_VERSION: Final = 2
_FILE_NAME: Final = "uploads.sqlite3"

_SCHEMA: Final = """
CREATE TABLE uploads (
  upload_id TEXT PRIMARY KEY,
  request_id TEXT NOT NULL,
  principal TEXT NOT NULL,
  fingerprint BLOB NOT NULL,
  metadata BLOB NOT NULL,
  parent BLOB NOT NULL,
  name BLOB NOT NULL,
  staging BLOB NOT NULL,
  epoch INTEGER NOT NULL,
  state INTEGER NOT NULL,
  created REAL NOT NULL,
  updated REAL NOT NULL,
  expiry REAL NOT NULL,
  durable INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  finish_size INTEGER NOT NULL,
  finish_digest BLOB NOT NULL,
  failure_reason TEXT NOT NULL,
  result BLOB NOT NULL,
  digest_algorithm INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX uploads_by_request ON uploads (principal, request_id) WHERE request_id != '';
CREATE TABLE names (parent BLOB NOT NULL, name BLOB NOT NULL, PRIMARY KEY (parent, name)) STRICT;
"""

#: What makes a file of an earlier version one of the next.
_MIGRATIONS: Final = {
    # There was only SHA-256, whatever an upload's metadata asked for.
    1: """
ALTER TABLE uploads RENAME COLUMN finish_sha256 TO finish_digest;
ALTER TABLE uploads ADD COLUMN digest_algorithm INTEGER NOT NULL DEFAULT 0;
""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """A row of `uploads`.

    Attributes:
        upload_id: the agent's name of the upload.
        request_id: the caller's name of it, or empty.
        principal: whose it is (RSM-2).
        fingerprint: of the request (RSM-1).
        metadata: the request, a serialized UploadFileMetadata.
        parent: real path of the destination's directory inside the root.
        name: of the destination in that directory.
        staging: name of the staging file, in the same directory.
        epoch: of the latest attempt (RSM-5).
        state: an `UploadState` of files.proto.
        created: seconds since 1970.
        updated: when the last byte or change came, seconds since 1970.
        expiry: seconds that it lives without a byte.
        durable: bytes flushed to the device.
        inode: of the staging file, once the finish arrived.
        finish_size: size that is being, or was, published.
        finish_digest: its digest.
        failure_reason: why the finish was refused.
        result: a serialized UploadFileResponse, once published.
        digest_algorithm: a `DigestAlgorithm` of files.proto: what the agent
            computes, which an older one may not have done as asked (DIG-3).
    """

    upload_id: str
    request_id: str
    principal: str
    fingerprint: bytes
    metadata: bytes
    parent: bytes
    name: bytes
    staging: bytes
    epoch: int
    state: files_pb2.UploadState.ValueType
    created: float
    updated: float
    expiry: float
    durable: int = 0
    inode: int = 0
    finish_size: int = 0
    finish_digest: bytes = b""
    failure_reason: str = ""
    result: bytes = b""
    digest_algorithm: int = 0

    @property
    def finish(self) -> Digest:
        """Digest of what is being, or was, published, and which one it is."""
        return Digest(DigestAlgorithm.of(self.digest_algorithm), self.finish_digest)


_COLUMNS: Final = tuple(field.name for field in fields(UploadRecord))
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM uploads"  # noqa: S608 - names of our own columns
_BY_UPLOAD_ID: Final = f"{_SELECT} WHERE principal = ? AND upload_id = ?"
#: SQLite takes a partial index only if it sees the index's condition in the query.
_BY_REQUEST_ID: Final = f"{_SELECT} WHERE principal = ? AND request_id = ? AND request_id != ''"
_CHANGES: Final = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS)
_WRITE: Final = (
    f"INSERT INTO uploads ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own columns
    f"VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (upload_id) DO UPDATE SET {_CHANGES}"
)


class Journal:
    """The journal of uploads. All methods may be called from any thread; all block.

    Args:
        state_dir: directory of the file; made with mode 0700 if missing.

    Raises:
        TransferError: DISK_FULL or IO_ERROR, also from every method.
        RuntimeError: another agent uses the file, or a newer one wrote it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._lock = threading.Lock()
        #: What the connection is set to; None until it was told.
        self._durable: bool | None = None
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = state_dir / _FILE_NAME
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self._open(path)
        except BaseException:
            self._db.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            # One process at a time, and no shared memory file beside it.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("BEGIN IMMEDIATE")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                self._run(_SCHEMA, _SCHEMA_VERSION)
            else:
                for version in range(found, _SCHEMA_VERSION):
                    self._run(_MIGRATIONS[version], version + 1)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise RuntimeError(f"another agent uses {path}") from error
            raise
        if found > _SCHEMA_VERSION:
            raise RuntimeError(f"{path} was written by a newer agent (version {found})")

    def _run(self, statements: str, version: int) -> None:
        for statement in statements.split(";\n"):
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={version}")

    def close(self) -> None:
        """Close the file; more than once is fine."""
        with self._lock:
            self._db.close()

    def write(self, record: UploadRecord, *, durable: bool) -> None:
        """Insert or replace an upload's row."""
        with self._transaction(durable=durable) as db:
            db.execute(_WRITE, _values(record))

    def delete(self, upload_id: str) -> None:
        """Forget an upload."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    def find(self, principal: str, *, upload_id: str = "", request_id: str = "") -> UploadRecord | None:
        """Return a principal's upload by one of its names."""
        if not upload_id and not request_id:
            return None
        query, value = (_BY_UPLOAD_ID, upload_id) if upload_id else (_BY_REQUEST_ID, request_id)
        with self._reading() as db:
            row = db.execute(query, (principal, value)).fetchone()
        return _record(row) if row else None

    def in_states(self, *states: int) -> list[UploadRecord]:
        """Return the uploads in one of the states, oldest first."""
        marks = ", ".join("?" * len(states))
        with self._reading() as db:
            rows = db.execute(f"{_SELECT} WHERE state IN ({marks}) ORDER BY created, upload_id", states)
            return [_record(row) for row in rows]

    def purge(self, before: float, *, keep_states: tuple[int, ...]) -> int:
        """Forget uploads last changed before a time, except in some states.

        Returns:
            How many were forgotten.
        """
        marks = ", ".join("?" * len(keep_states))
        with self._transaction(durable=False) as db:
            return db.execute(
                f"DELETE FROM uploads WHERE updated < ? AND state NOT IN ({marks})",  # noqa: S608
                (before, *keep_states),
            ).rowcount

    def add_name(self, parent: bytes, name: bytes) -> None:
        """Note a staging name that is about to be made."""
        with self._transaction(durable=False) as db:
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (parent, name))

    def drop_name(self, parent: bytes, name: bytes) -> None:
        """Note that a staging name is gone."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM names WHERE parent = ? AND name = ?", (parent, name))

    def names(self) -> list[tuple[bytes, bytes]]:
        """Return the noted staging names as pairs of directory and name."""
        with self._reading() as db:
            return list(db.execute("SELECT parent, name FROM names"))

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        with self._lock, _mapped():
            yield self._db

    @contextmanager
    def _transaction(self, *, durable: bool) -> Generator[sqlite3.Connection]:
        with self._lock, _mapped():
            if durable is not self._durable:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def _values(record: UploadRecord) -> tuple[Any, ...]:
    # dataclasses.astuple copies every value, and takes longer than the statement.
    values: tuple[Any, ...] = attrgetter(*_COLUMNS)(record)
    return values


def _record(row: tuple[Any, ...]) -> UploadRecord:
    return UploadRecord(**dict(zip(_COLUMNS, row, strict=True)))


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL if hasattr(error, "sqlite_errorcode") else False
        reason = Reason.DISK_FULL if full else Reason.IO_ERROR
        raise TransferError(reason, f"the agent's journal of uploads: {error}") from error
