"""The journal: the agent's record of uploads, which survives it (RSM-3).

It is one SQLite file with two tables: `uploads` has a row for each upload that can be found again,
and `names` the names of other staging files. Each name is written here before the file exists, so
that a start-up finds every staging file of a killed agent.

A commit survives the death of the process; a durable one, the loss of power.

The file is bounded: a row by `MAX_ROW_BYTES`, and all rows by a quota. To stay within the quota the
journal deletes rows of ended uploads early, those of the principal with the most rows first. It
never deletes rows of unfinished uploads. A file that cannot be read is set aside, so that the agent
starts without it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.reasons import Reason

from openshell_supervisor_sim.agent.store.journal_file import (
    ASIDE,
    COLUMNS,
    IS_UNFINISHED,
    MAX_ROW_BYTES,
    SELECT,
    open_journal,
    read_row,
    set_row_aside,
)
from openshell_supervisor_sim.agent.store.upload_record import (
    NonsenseError,
    UploadRecord,
    is_staging_place,
    require_text,
)

_log = logging.getLogger(__name__)

_FILE_NAME: Final = "uploads.sqlite3"
DEFAULT_QUOTA: Final = 32 * MIB
#: Part of the quota that is in use after rows were deleted, so that not each new row deletes some.
_ROOM_LEFT: Final = 0.9
_FORGET_AT_ONCE: Final = 256
#: Pages returned to the file system while the lock is taken once.
_PAGES_AT_ONCE: Final = 256

_BY_UPLOAD_ID: Final = f"{SELECT} WHERE principal = ? AND upload_id = ?"
#: SQLite uses a partial index only if the query contains its condition.
_BY_REQUEST_ID: Final = f"{SELECT} WHERE principal = ? AND request_id = ? AND request_id != ''"
#: It replaces a row with the same names: that of a lost upload, which could not be deleted.
_WRITE: Final = (
    f"INSERT OR REPLACE INTO uploads ({', '.join(COLUMNS)}) "  # noqa: S608 - names of our own columns
    f"VALUES ({', '.join('?' * len(COLUMNS))})"
)
_IDS: Final = f"SELECT rowid, upload_id FROM uploads WHERE {IS_UNFINISHED} ORDER BY created, upload_id"  # noqa: S608 - our own numbers
_PURGE: Final = f"DELETE FROM uploads WHERE updated < ? AND NOT {IS_UNFINISHED}"  # noqa: S608 - our own numbers
_MOST_ENDED: Final = (
    f"SELECT principal FROM uploads WHERE NOT {IS_UNFINISHED} "  # noqa: S608 - our own numbers
    "GROUP BY principal ORDER BY count(*) DESC LIMIT 1"
)
_FORGET_OLDEST: Final = (
    "DELETE FROM uploads WHERE rowid IN (SELECT rowid FROM uploads "  # noqa: S608 - our own numbers
    f"WHERE principal = CAST(? AS TEXT) AND NOT {IS_UNFINISHED} ORDER BY updated LIMIT {_FORGET_AT_ONCE})"
)


class JournalError(TransferError):
    """The journal cannot be read or written."""


class Journal:
    """The journal of uploads. All methods block, and any thread may call them.

    Args:
        state_dir: directory of the file; made with mode 0700 if missing.
        quota: bytes that the rows may occupy. The file can exceed it by a row and by SQLite's log
            of 4 MiB.

    Raises:
        JournalError: DISK_FULL or IO_ERROR, also from every method.
        RuntimeError: another agent uses the file, or a newer one wrote it.
    """

    def __init__(self, state_dir: Path, quota: int = DEFAULT_QUOTA) -> None:
        self._lock = threading.Lock()
        self._quota = quota
        #: The connection's current `synchronous`: True for FULL; None before the first write.
        self._durable: bool | None = None
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _mapped():
            self._db = open_journal(state_dir / _FILE_NAME)

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
                f"metadata: the upload's names and conditions take {size} bytes, at most {MAX_ROW_BYTES} are allowed",
            )
        with self._transaction(durable=durable) as db:
            db.execute(_WRITE, values)
        self._make_room()

    def delete(self, upload_id: str) -> None:
        """Delete an upload's row."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    def set_aside(self, upload_id: str) -> None:
        """Delete a row that makes no sense, and note its staging file for removal."""
        with self._transaction(durable=False) as db:
            row = db.execute("SELECT rowid FROM uploads WHERE upload_id = ?", (upload_id,)).fetchone()
            if row is not None:
                set_row_aside(db, row[0])

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
        # Keys only, since the sorted rows are in memory.
        with self._reading() as db:
            rows = db.execute(_IDS).fetchall()
        for rowid, upload_id in rows:
            try:
                found.append(require_text(upload_id))
            except NonsenseError as error:
                self._say_and_set_aside(rowid, error)
        return found

    def get(self, upload_id: str) -> UploadRecord | None:
        """Return an upload of any principal, for a start-up."""
        return self._read(f"{SELECT} WHERE upload_id = ?", upload_id)

    def _read(self, query: str, *values: str) -> UploadRecord | None:
        """Return the row that a query finds; a row that makes no sense is set aside and not returned."""
        with self._reading() as db:
            row = db.execute(query, values).fetchone()
        if row is None:
            return None
        try:
            return read_row(row)
        except NonsenseError as error:
            self._say_and_set_aside(row[0], error)
            return None

    def _say_and_set_aside(self, rowid: int, error: NonsenseError) -> None:
        _log.error(ASIDE, error)
        with self._transaction(durable=False) as db:
            set_row_aside(db, rowid)

    def purge(self, before: float) -> int:
        """Delete rows of uploads that ended before a time, and return their space to the file system.

        Returns:
            Rows that were deleted.
        """
        with self._transaction(durable=False) as db:
            forgotten = db.execute(_PURGE, (before,)).rowcount
        self._give_space_back()
        return forgotten

    def add_name(self, parent: bytes, name: bytes) -> None:
        """Note the name of a staging file that is about to be created."""
        with self._transaction(durable=False) as db:
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?)", (parent, name))
        self._make_room()

    def drop_name(self, parent: bytes, name: bytes) -> None:
        """Delete the note of a staging file that was removed."""
        with self._transaction(durable=False) as db:
            db.execute("DELETE FROM names WHERE parent = ? AND name = ?", (parent, name))

    def names(self) -> list[tuple[bytes, bytes]]:
        """Return the noted staging files as pairs of directory and name.

        The caller removes these files, so a name that is not of the form of a staging name is left out.
        """
        with self._reading() as db:
            noted = db.execute("SELECT parent, name FROM names").fetchall()
        names = [(parent, name) for parent, name in noted if is_staging_place(parent, name)]
        if len(names) < len(noted):
            _log.error(
                "the journal has %d names that are not of staging files; they are ignored",
                len(noted) - len(names),
            )
        return names

    @property
    def used(self) -> int:
        """Bytes that rows and their indexes occupy."""
        with self._reading() as db:
            return _used(db)

    def _make_room(self) -> None:
        """Delete rows of ended uploads, and then noted names, until the quota is met; the row just written stays."""
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
                        "the journal is full: it deleted names of staging files that could not be removed"
                    )
        self._give_space_back()

    def _give_space_back(self) -> None:
        """Return free pages to the file system, some at a time, so that no thread waits long for the lock."""
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


def _used(db: sqlite3.Connection) -> int:
    pages = db.execute("PRAGMA page_count").fetchone()[0] - db.execute("PRAGMA freelist_count").fetchone()[0]
    return int(pages * db.execute("PRAGMA page_size").fetchone()[0])


def _values(record: UploadRecord) -> tuple[Any, ...]:
    # dataclasses.astuple copies every value, and would take longer than the statement.
    values: tuple[Any, ...] = attrgetter(*COLUMNS)(record)
    return values


@contextmanager
def _mapped() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL if hasattr(error, "sqlite_errorcode") else False
        reason = Reason.DISK_FULL if full else Reason.IO_ERROR
        raise JournalError(reason, f"the agent's journal of uploads: {error}") from error
