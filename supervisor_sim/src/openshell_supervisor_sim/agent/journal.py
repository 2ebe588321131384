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
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.core.upload_life import UNFINISHED
from openshell_supervisor_sim.agent.upload_record import (
    NonsenseError,
    UploadRecord,
    is_staging_place,
    record_of,
    require_text,
)

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

_ASIDE: Final = "a row of the journal of uploads makes no sense and is set aside: %s"

#: What SQLite says of a value that its column excludes: the row is damaged, and not the file.
_OF_A_ROW: Final = re.compile(r" value in (uploads|names)\.")

#: What the machine under the file lacks, and not the file.
_OF_THE_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)

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


_COLUMNS: Final = tuple(field.name for field in fields(UploadRecord))
_SELECT: Final = f"SELECT rowid, {', '.join(_COLUMNS)} FROM uploads"  # noqa: S608 - names of our own columns
_BY_UPLOAD_ID: Final = f"{_SELECT} WHERE principal = ? AND upload_id = ?"
#: SQLite takes a partial index only if it sees the index's condition in the query.
_BY_REQUEST_ID: Final = f"{_SELECT} WHERE principal = ? AND request_id = ? AND request_id != ''"
#: In place of another row of the same names: a lost upload's, which could not be deleted.
_WRITE: Final = (
    f"INSERT OR REPLACE INTO uploads ({', '.join(_COLUMNS)}) "  # noqa: S608 - names of our own columns
    f"VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_IS_UNFINISHED: Final = f"state IN ({', '.join(str(int(state)) for state in UNFINISHED)})"
_IDS: Final = f"SELECT rowid, upload_id FROM uploads WHERE {_IS_UNFINISHED} ORDER BY created, upload_id"  # noqa: S608 - our own numbers
_PURGE: Final = f"DELETE FROM uploads WHERE updated < ? AND NOT {_IS_UNFINISHED}"  # noqa: S608 - our own numbers
_MOST_ENDED: Final = (
    f"SELECT principal FROM uploads WHERE NOT {_IS_UNFINISHED} "  # noqa: S608 - our own numbers
    "GROUP BY principal ORDER BY count(*) DESC LIMIT 1"
)
_FORGET_OLDEST: Final = (
    "DELETE FROM uploads WHERE rowid IN (SELECT rowid FROM uploads "  # noqa: S608 - our own numbers
    f"WHERE principal = CAST(? AS TEXT) AND NOT {_IS_UNFINISHED} ORDER BY updated LIMIT {_FORGET_AT_ONCE})"
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
            row = db.execute("SELECT rowid FROM uploads WHERE upload_id = ?", (upload_id,)).fetchone()
            if row is not None:
                _set_row_aside(db, row[0])

    def find(self, principal: str, *, upload_id: str = "", request_id: str = "") -> UploadRecord | None:
        """Return a principal's upload by one of its names."""
        if not upload_id and not request_id:
            return None
        if upload_id:
            return self._read(_BY_UPLOAD_ID, principal, upload_id)
        return self._read(_BY_REQUEST_ID, principal, request_id)

    def unfinished(self) -> list[str]:
        """Return the ids of the uploads that are not finished, oldest first."""
        found: list[str] = []
        # Keys only: what is sorted has to fit into memory.
        with self._reading() as db:
            rows = db.execute(_IDS).fetchall()
        for rowid, upload_id in rows:
            try:
                found.append(require_text(upload_id))
            except NonsenseError as error:
                self._say_and_set_aside(rowid, error)
        return found

    def get(self, upload_id: str) -> UploadRecord | None:
        """Return an upload, whosever it is: for a start-up."""
        return self._read(f"{_SELECT} WHERE upload_id = ?", upload_id)

    def _read(self, query: str, *values: str) -> UploadRecord | None:
        """Return the row that a query finds; one that makes no sense is set aside, as if there were none."""
        with self._reading() as db:
            row = db.execute(query, values).fetchone()
        if row is None:
            return None
        try:
            return _record(row)
        except NonsenseError as error:
            self._say_and_set_aside(row[0], error)
            return None

    def _say_and_set_aside(self, rowid: int, error: NonsenseError) -> None:
        _log.error(_ASIDE, error)
        with self._transaction(durable=False) as db:
            _set_row_aside(db, rowid)

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
        """Return the noted staging names as pairs of directory and name.

        Whatever they name is removed: a name that no agent gives is not among them.
        """
        with self._reading() as db:
            noted = db.execute("SELECT parent, name FROM names").fetchall()
        names = [(parent, name) for parent, name in noted if is_staging_place(parent, name)]
        if len(names) < len(noted):
            _log.error(
                "the journal has %d names of no staging file, which are left alone", len(noted) - len(names)
            )
        return names

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
    for suffix in _COMPANIONS:
        beside = path.with_name(path.name + suffix)
        if beside.is_symlink() or (beside.exists() and not beside.is_file()):
            _log.error("%s is no file of SQLite's; it was renamed to %s", beside, _set_aside(beside))
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise _Unreadable("it is no file")
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise _Unreadable(str(error)) from error
        raise
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    # What is no text in a damaged row is found out where it is read.
    db.text_factory = bytes
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
        if found > _SCHEMA_VERSION:
            raise RuntimeError(f"{path} was written by a newer agent (version {found})")
        if found < 0:
            raise _Unreadable(f"version {found}")
        if found == 0:
            _run(db, _SCHEMA, _SCHEMA_VERSION)
        else:
            for version in range(found, _SCHEMA_VERSION):
                _run(db, _MIGRATIONS[version], version + 1)
        db.execute("COMMIT")
        _require_sound(db)
        # Tables that are there and are not ours are found out here.
        db.execute(f"{_SELECT} LIMIT 0")
        db.execute("SELECT parent, name FROM names LIMIT 0")
        if db.execute("PRAGMA auto_vacuum").fetchone()[0] == 0:
            _shrink(db)
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise RuntimeError(f"another agent uses {path}") from error
        if error.sqlite_errorcode & 0xFF in _OF_THE_DISK:
            raise
        raise _Unreadable(str(error)) from error
    except (UnicodeError, ValueError, TypeError, OverflowError) as error:
        # What a damaged file makes of Python's part of SQLite.
        raise _Unreadable(repr(error)) from error


def _require_sound(db: sqlite3.Connection) -> None:
    """Refuse a damaged file. A damaged index is made anew, and rows with odd values are set aside."""
    damage = _damage(db, "integrity_check")
    if any(not _OF_A_ROW.search(one) for one in damage) and all(
        _OF_A_ROW.search(one) for one in _damage(db, "quick_check")
    ):
        _log.error("the indexes of the journal of uploads are made anew: %s", damage[0])
        db.execute("REINDEX")
        damage = _damage(db, "integrity_check")
    for one in damage:
        if not _OF_A_ROW.search(one):
            raise _Unreadable(one)
    if damage:
        _set_odd_rows_aside(db)


def _damage(db: sqlite3.Connection, check: str) -> list[str]:
    said = [row[0].decode("utf-8", "replace") for row in db.execute(f"PRAGMA {check}")]
    return [] if said == ["ok"] else said


def _set_odd_rows_aside(db: sqlite3.Connection) -> None:
    for (rowid,) in db.execute("SELECT rowid FROM uploads").fetchall():
        row = db.execute(f"{_SELECT} WHERE rowid = ?", (rowid,)).fetchone()
        try:
            _record(row)
        except NonsenseError as error:
            _log.error(_ASIDE, error)
            _set_row_aside(db, rowid)


def _set_row_aside(db: sqlite3.Connection, rowid: int) -> None:
    parent, staging = db.execute("SELECT parent, staging FROM uploads WHERE rowid = ?", (rowid,)).fetchone()
    if is_staging_place(parent, staging):
        db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (parent, staging))
    db.execute("DELETE FROM uploads WHERE rowid = ?", (rowid,))


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
    return record_of(dict(zip(_COLUMNS, row[1:], strict=True)))


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL if hasattr(error, "sqlite_errorcode") else False
        reason = Reason.DISK_FULL if full else Reason.IO_ERROR
        raise JournalError(reason, f"the agent's journal of uploads: {error}") from error
