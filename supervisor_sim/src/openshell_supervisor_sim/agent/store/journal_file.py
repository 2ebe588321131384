"""The journal's SQLite file: its tables, and how an old or damaged file is opened (RSM-13, RSM-14, ADR 0022).

A file of an earlier version is migrated. A file that cannot be read is set aside, and so is a row
whose values make no sense, so that the agent starts without them.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import stat
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from openshell_files_protocol.limits import KIB, MIB

from openshell_supervisor_sim.agent.core.upload_life import UNFINISHED
from openshell_supervisor_sim.agent.store.upload_record import (
    NonsenseError,
    UploadRecord,
    is_staging_place,
    record_of,
)

_log = logging.getLogger(__name__)

_SCHEMA_VERSION: Final = 4
#: Suffixes of SQLite's own files beside it.
_COMPANIONS: Final = ("-wal", "-shm", "-journal")

#: Holds four paths of 4 KiB, an id and a principal.
MAX_ROW_BYTES: Final = 48 * KIB

_WAL_BYTES: Final = 4 * MIB

_UPLOADS: Final = """
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
  digest_algorithm INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX uploads_by_request ON uploads (principal, request_id) WHERE request_id != '';
"""
_NAMES: Final = """
CREATE TABLE names (parent BLOB NOT NULL, name BLOB NOT NULL, PRIMARY KEY (parent, name)) STRICT;
"""

ASIDE: Final = "a row of the journal of uploads makes no sense and is set aside: %s"

#: SQLite's message for a value that its column excludes: the row is damaged, and not the file.
_OF_A_ROW: Final = re.compile(r" value in (uploads|names)\.")

#: Errors of the machine and not of the file.
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

#: Migrates a file of an earlier version. Its rows have messages of an earlier protocol: they are
#: deleted, and their staging files removed.
_FORGET: Final = """
INSERT OR REPLACE INTO names SELECT parent, staging FROM uploads;
DROP TABLE uploads;
"""

COLUMNS: Final = tuple(field.name for field in fields(UploadRecord))
SELECT: Final = f"SELECT rowid, {', '.join(COLUMNS)} FROM uploads"  # noqa: S608 - names of our own columns
IS_UNFINISHED: Final = f"state IN ({', '.join(str(int(state)) for state in UNFINISHED)})"


class _Unreadable(Exception):  # noqa: N818 - raised and handled in this module
    """The file is no journal, or it is damaged."""


def open_journal(path: Path) -> sqlite3.Connection:
    """Open the file, migrated and checked; create one if there is none, or if it cannot be read.

    Raises:
        Error: of sqlite3; the disk fails. OSError: the disk fails.
        RuntimeError: another agent uses the file, or a newer one wrote it.
    """
    try:
        return _opened(path)
    except _Unreadable as damage:
        aside = _set_aside(path)
        _log.error(
            "the journal of uploads cannot be read (%s); it was renamed to %s, and the uploads in it are "
            "lost: their staging files, .openshell-upload-*, may stay in the sandbox",
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
    # Texts of a damaged row are decoded, and refused, where they are read.
    db.text_factory = bytes
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    try:
        # A confined agent may not write to a directory for temporary files.
        db.execute("PRAGMA temp_store=MEMORY")
        # One process at a time, and without a shared memory file.
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        # It must precede the first table; a migration sets it for an older file.
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
            _run(db, _UPLOADS + _NAMES)
        elif found < _SCHEMA_VERSION:
            _run(db, _FORGET + _UPLOADS)
        db.execute("COMMIT")
        _require_sound(db)
        # A file with other tables fails here.
        db.execute(f"{SELECT} LIMIT 0")
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
        # Python's sqlite3 raises these for a damaged file.
        raise _Unreadable(repr(error)) from error


def _require_sound(db: sqlite3.Connection) -> None:
    """Refuse a damaged file. A damaged index is rebuilt, and rows with impossible values are set aside."""
    damage = _damage(db, "integrity_check")
    if any(not _OF_A_ROW.search(one) for one in damage) and all(
        _OF_A_ROW.search(one) for one in _damage(db, "quick_check")
    ):
        _log.error("the indexes of the journal of uploads are rebuilt: %s", damage[0])
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
        row = db.execute(f"{SELECT} WHERE rowid = ?", (rowid,)).fetchone()
        try:
            read_row(row)
        except NonsenseError as error:
            _log.error(ASIDE, error)
            set_row_aside(db, rowid)


def set_row_aside(db: sqlite3.Connection, rowid: int) -> None:
    """Delete an upload's row, and note the name of its staging file, unless that is impossible."""
    parent, staging = db.execute("SELECT parent, staging FROM uploads WHERE rowid = ?", (rowid,)).fetchone()
    if is_staging_place(parent, staging):
        db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (parent, staging))
    db.execute("DELETE FROM uploads WHERE rowid = ?", (rowid,))


def _shrink(db: sqlite3.Connection) -> None:
    """Convert an older file so that it can return space to the file system."""
    db.execute("PRAGMA auto_vacuum=INCREMENTAL")
    with suppress(sqlite3.OperationalError):
        # The conversion needs room for a second file; if there is none, the next start tries again.
        db.execute("VACUUM")


def _run(db: sqlite3.Connection, statements: str) -> None:
    for statement in statements.split(";\n"):
        db.execute(statement)
    db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")


def _set_aside(path: Path) -> Path:
    """Rename a file that cannot be read, and SQLite's own files beside it."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    for suffix in ("", *_COMPANIONS):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def read_row(row: tuple[Any, ...]) -> UploadRecord:
    """Return the record of a row of `SELECT`.

    Raises:
        NonsenseError: no agent writes such values.
    """
    return record_of(dict(zip(COLUMNS, row[1:], strict=True)))
