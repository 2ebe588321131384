"""Store of unfinished uploads, so that `--resume` can resume them hours later.

One small file per upload below `$XDG_STATE_HOME/openshell-files/uploads`,
named by a hash of gateway, sandbox, destination and local path. It has the
upload's id, which grants no access (RSM-2), and no token.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast


class ResumeStore:
    """The stored upload of one command line.

    Args:
        endpoint: the gateway.
        workspace: the sandbox's workspace.
        sandbox: its name or id.
        remote: the destination.
        local: the source.
    """

    def __init__(self, endpoint: str, workspace: str, sandbox: str, remote: str, local: str) -> None:
        key = json.dumps([endpoint, workspace, sandbox, remote, os.path.abspath(local)])
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        self._state = _state_home()
        self._path = (self._state or Path()) / "openshell-files" / "uploads" / f"{name}.json"
        self._key = key
        # Descriptor with a lock while this process sends the stored upload.
        self._held = -1

    def is_running(self) -> bool:
        """Return whether another process sends the upload at this moment."""
        if self._state is None:
            return False
        try:
            with self._path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def load(self) -> list[str]:
        """Return the ids of the stored uploads, the newest first."""
        try:
            entry: object = json.loads(self._path.read_bytes()) if self._state else None
        except (OSError, ValueError, RecursionError):
            # A new upload begins, which is never wrong.
            return []
        if not isinstance(entry, dict):
            return []
        fields = cast("dict[str, object]", entry)
        if fields.get("key") != self._key:
            return []
        older = fields.get("older")
        ids = [fields.get("upload_id"), *(cast("list[object]", older) if isinstance(older, list) else [])]
        return [upload_id for upload_id in ids if isinstance(upload_id, str) and _is_id(upload_id)]

    def save(self, upload_id: str, older: Sequence[str] = ()) -> None:
        """Store an upload, and the older ones that it does not resume.

        Raises:
            OSError: the state directory cannot be written to, or there is none.
        """
        if self._state is None:
            raise OSError("there is no home directory; set XDG_STATE_HOME")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._hold(descriptor)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"key": self._key, "upload_id": upload_id, "older": list(older)}, file)
            temporary.replace(self._path)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise

    def _hold(self, descriptor: int) -> None:
        """Lock the new entry until this process ends, so that a later process notices."""
        held = os.dup(descriptor)
        with suppress(OSError):
            # Without locks in the file system, other processes do not notice this one.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self._held >= 0:
            os.close(self._held)
        self._held = held

    def release(self) -> None:
        """Release the lock: this process does not send the upload any more."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def forget(self) -> None:
        """Remove the entry.

        Raises:
            OSError: it exists and cannot be removed.
        """
        if self._state is not None:
            self._path.unlink(missing_ok=True)


def _is_id(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()


def _state_home() -> Path | None:
    """Return the state directory; None for a user without a home directory."""
    given = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification requires that relative values are ignored.
    if os.path.isabs(given):
        return Path(given)
    try:
        return Path.home() / ".local" / "state"
    except RuntimeError:
        return None
