"""What the agent knows about uploads, kept across its death (RSM-3).

One SQLite file. Two tables: `uploads`, a row for each upload that can be found
again, and `names`, staging names that belong to no such upload. Each staging
name is written here before it exists in a directory, so a start-up finds
whatever a killed agent left behind.

A commit survives the death of the process; a durable one, the loss of power.

The file is bounded: a row by `MAX_ROW_BYTES`, all of them by a quota, for
which the outcomes of ended uploads are forgotten early, those of the principal
with the most of them first. Unfinished uploads are never forgotten. A file
that cannot be read is set aside, so that the agent starts without it.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.upload_life import UNFINISHED

_log = logging.getLogger(__name__)

_SCHEMA_VERSION: Final = 3
_FILE_NAME: Final = "uploads.sqlite3"
#: SQLite's own files beside it.
_COMPANIONS: Final = ("-wal", "-shm", "-journal")

#: Paths of 4 KiB in a row's four places, an id and a principal fit in.
MAX_ROW_BYTES: Final = 48 * KIB

DEFAULT_QUOTA: Final = 32 * MIB
#: So much of the quota is left when room was made, so that it is not made for each row.
_ROOM_LEFT: Final = 0.9
_FORGET_AT_ONCE: Final = 256
#: Pages given back to the file system between two turns of other threads.
_PAGES_AT_ONCE: Final = 256
_WAL_BYTES: Final = 4 * MIB

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
    # The same tables, in a file that gives space back.
    2: "",
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
#: In place of another row of the same names: a lost upload's, which could not be deleted.
_WRITE: Final = (
    f"INSERT OR REPLACE INTO uploads ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own columns
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_IS_UNFINISHED: Final = f"state IN ({', '.join(str(int(state)) for state in UNFINISHED)})"
_IDS: Final = f"SELECT upload_id FROM uploads WHERE {_IS_UNFINISHED} ORDER BY created, upload_id"  # noqa: S608 - our own numbers
_PURGE: Final = f"DELETE FROM uploads WHERE updated < ? AND NOT {_IS_UNFINISHED}"  # noqa: S608 - our own numbers
_MOST_ENDED: Final = (
    f"SELECT principal FROM uploads WHERE NOT {_IS_UNFINISHED} "  # noqa: S608 - our own numbers
    "GROUP BY principal ORDER BY count(*) DESC LIMIT 1"
)
_FORGET_OLDEST: Final = (
    "DELETE FROM uploads WHERE rowid IN (SELECT rowid FROM uploads "  # noqa: S608 - our own numbers
    f"WHERE principal = ? AND NOT {_IS_UNFINISHED} ORDER BY updated LIMIT {_FORGET_AT_ONCE})"
)


class JournalError(TransferError):
    """The journal cannot be read or written."""


class _Unreadable(Exception):  # noqa: N818 - told apart and handled here
    """The file is no journal, or a damaged one."""


class Journal:
    """The journal of uploads. All methods may be called from any thread; all block.

    Args:
        state_dir: directory of the file; made with mode 0700 if missing.
        quota: bytes that the rows may occupy. The file can be larger by a row
            and by SQLite's log of 4 MiB.

    Raises:
        JournalError: DISK_FULL or IO_ERROR, also from every method.
        RuntimeError: another agent uses the file, or a newer one wrote it.
    """

    def __init__(self, state_dir: Path, quota: int = DEFAULT_QUOTA) -> None:
        self._lock = threading.Lock()
        self._quota = quota
        #: What the connection is set to; None until it was told.
        self._durable: bool | None = None
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _mapped():
            self._db = _opened_or_new(state_dir / _FILE_NAME)

    def close(self) -> None:
        """Close the file; more than once is fine."""
        with self._lock:
            self._db.close()

    def write(self, record: UploadRecord, *, durable: bool) -> None:
        """Insert or replace an upload's row.

        Raises:
            TransferError: INVALID_REQUEST if the row is longer than
                `MAX_ROW_BYTES`.
        """
        values = _values(record)
        size = sum(len(value) for value in values if isinstance(value, str | bytes))
        if size > MAX_ROW_BYTES:
            raise TransferError(
                Reason.INVALID_REQUEST,
                f"metadata: the upload's names and conditions take {size} bytes, at most {MAX_ROW_BYTES} are kept",
            )
        with self._transaction(durable=durable) as db:
            db.execute(_WRITE, values)
        self._make_room()

    def delete(self, upload_id: str) -> None:
        """Forget an upload."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    def set_aside(self, upload_id: str) -> None:
        """Forget an upload whose row makes no sense, and keep its staging name among those to be removed."""
        with self._transaction(durable=False) as db:
            db.execute(
                "INSERT OR REPLACE INTO names SELECT parent, staging FROM uploads WHERE upload_id = ?",
                (upload_id,),
            )
            db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    def find(self, principal: str, *, upload_id: str = "", request_id: str = "") -> UploadRecord | None:
        """Return a principal's upload by one of its names."""
        if not upload_id and not request_id:
            return None
        query, value = (_BY_UPLOAD_ID, upload_id) if upload_id else (_BY_REQUEST_ID, request_id)
        with self._reading() as db:
            row = db.execute(query, (principal, value)).fetchone()
        return _record(row) if row else None

    def unfinished(self) -> list[str]:
        """Return the ids of the uploads that are not finished, oldest first."""
        # Keys only: what is sorted has to fit into memory.
        with self._reading() as db:
            return [upload_id for (upload_id,) in db.execute(_IDS)]

    def get(self, upload_id: str) -> UploadRecord | None:
        """Return an upload, whosever it is: for a start-up."""
        with self._reading() as db:
            row = db.execute(f"{_SELECT} WHERE upload_id = ?", (upload_id,)).fetchone()
        return _record(row) if row else None

    def purge(self, before: float) -> int:
        """Forget uploads that ended before a time, and give their space back.

        Returns:
            How many were forgotten.
        """
        with self._transaction(durable=False) as db:
            forgotten = db.execute(_PURGE, (before,)).rowcount
        self._give_space_back()
        return forgotten

    def add_name(self, parent: bytes, name: bytes) -> None:
        """Note a staging name that is about to be made."""
        with self._transaction(durable=False) as db:
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (parent, name))
        self._make_room()

    def drop_name(self, parent: bytes, name: bytes) -> None:
        """Note that a staging name is gone."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM names WHERE parent = ? AND name = ?", (parent, name))

    def names(self) -> list[tuple[bytes, bytes]]:
        """Return the noted staging names as pairs of directory and name."""
        with self._reading() as db:
            return list(db.execute("SELECT parent, name FROM names"))

    @property
    def used(self) -> int:
        """Bytes that rows and their indexes occupy."""
        with self._reading() as db:
            return _used(db)

    def _make_room(self) -> None:
        """Forget ended uploads, and after them names, until the quota is kept; what was written stays written."""
        try:
            if self.used > self._quota:
                self._forget()
        except JournalError:
            _log.exception("the journal of uploads is larger than its quota")

    def _forget(self) -> None:
        while self.used > self._quota * _ROOM_LEFT:
            with self._transaction(durable=False) as db:
                most = db.execute(_MOST_ENDED).fetchone()
                if most is not None:
                    db.execute(_FORGET_OLDEST, most)
                elif not db.execute(
                    "DELETE FROM names WHERE rowid IN (SELECT rowid FROM names ORDER BY rowid LIMIT ?)",
                    (_FORGET_AT_ONCE,),
                ).rowcount:
                    break
                else:
                    _log.warning(
                        "the journal is full: it forgot names of staging files that could not be removed"
                    )
        self._give_space_back()

    def _give_space_back(self) -> None:
        """Shorten the file to what it holds, a part at a time, so that nobody waits long."""
        while True:
            with self._reading() as db:
                free = int(db.execute("PRAGMA freelist_count").fetchone()[0])
                if not free:
                    return
                db.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
                if int(db.execute("PRAGMA freelist_count").fetchone()[0]) >= free:
                    return

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


def _opened_or_new(path: Path) -> sqlite3.Connection:
    try:
        return _opened(path)
    except _Unreadable as damage:
        aside = _set_aside(path)
        _log.error(
            "the journal of uploads cannot be read (%s); it was renamed to %s, and the uploads in it are "
            "unknown from now on: their staging files, .openshell-upload-*, may stay in the sandbox",
            damage,
            aside,
        )
        return _opened(path)


def _opened(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR}:
            raise _Unreadable(str(error)) from error
        raise
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    try:
        # A confined agent may write to no directory for temporary files.
        db.execute("PRAGMA temp_store=MEMORY")
        # One process at a time, and no shared memory file beside it.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        # Before the first table; an older file gets it by its migration.
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            _run(db, _SCHEMA, _SCHEMA_VERSION)
        else:
            for version in range(found, _SCHEMA_VERSION):
                _run(db, _MIGRATIONS[version], version + 1)
        db.execute("COMMIT")
        if found > _SCHEMA_VERSION:
            raise RuntimeError(f"{path} was written by a newer agent (version {found})")
        if (damage := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _Unreadable(damage)
        # Tables that are there and are not ours are found out here.
        db.execute(f"{_SELECT} LIMIT 0")
        db.execute("SELECT parent, name FROM names LIMIT 0")
        if db.execute("PRAGMA auto_vacuum").fetchone()[0] == 0:
            _shrink(db)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise RuntimeError(f"another agent uses {path}") from error
        if "no such" in str(error) or "already exists" in str(error):
            raise _Unreadable(str(error)) from error
        raise
    except sqlite3.DatabaseError as error:
        raise _Unreadable(str(error)) from error


def _shrink(db: sqlite3.Connection) -> None:
    """Make an older file one that gives space back, less what an older agent should not have kept."""
    lengths = " + ".join(f"length({column})" for column in ("metadata", "result", "principal", "parent"))
    db.execute(
        f"DELETE FROM uploads WHERE {lengths} > ? AND NOT {_IS_UNFINISHED}",  # noqa: S608 - our own names
        (MAX_ROW_BYTES,),
    )
    db.execute("PRAGMA auto_vacuum=INCREMENTAL")
    with suppress(sqlite3.OperationalError):
        # Without room for a second file it stays as it is, and the next start tries again.
        db.execute("VACUUM")


def _run(db: sqlite3.Connection, statements: str, version: int) -> None:
    for statement in statements.split(";\n"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version={version}")


def _set_aside(path: Path) -> Path:
    """Rename a file that cannot be read, with what SQLite keeps beside it."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for suffix in ("", *_COMPANIONS):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _used(db: sqlite3.Connection) -> int:
    pages = db.execute("PRAGMA page_count").fetchone()[0] - db.execute("PRAGMA freelist_count").fetchone()[0]
    return int(pages * db.execute("PRAGMA page_size").fetchone()[0])


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
        raise JournalError(reason, f"the agent's journal of uploads: {error}") from error
