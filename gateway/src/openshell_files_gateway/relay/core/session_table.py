"""The current supervisor session of each sandbox (RLY-4).

| state of the sandbox | register(new)                      | remove(session)                    |
|----------------------|------------------------------------|------------------------------------|
| no session           | new is current                     | nothing                            |
| session A            | new is current, A is superseded    | A: no session; another id: nothing |
| session A, and new is an earlier connection of A's supervisor | SESSION_OUTDATED | as above |

A supervisor counts its connections. The network may deliver the hello of an
earlier connection last; that hello must not end the later session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


class Session(Protocol):
    """The values of a session that the table needs."""

    @property
    def session_id(self) -> str:
        """Random id of this session."""
        ...

    @property
    def sandbox_id(self) -> str:
        """The sandbox whose supervisor it is."""
        ...

    @property
    def instance_id(self) -> str:
        """Id that the supervisor chose for itself; empty without one."""
        ...

    @property
    def connection_epoch(self) -> int:
        """Number of this connection of the supervisor; 0 if it does not count them."""
        ...


S = TypeVar("S", bound=Session)


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """The number of current sessions, and counts since the start."""

    current: int
    registered: int
    superseded: int


class SessionTable(Generic[S]):
    """The current session of each sandbox; at most one."""

    def __init__(self) -> None:
        self._current: dict[str, S] = {}
        self._registered = 0
        self._superseded = 0

    def register(self, session: S) -> S | None:
        """Make `session` current and return the one it supersedes.

        Raises:
            TransferError: SESSION_OUTDATED.
        """
        superseded = self._current.get(session.sandbox_id)
        if (
            superseded is not None
            and session.instance_id
            and session.instance_id == superseded.instance_id
            and 0 < session.connection_epoch < superseded.connection_epoch
        ):
            raise TransferError(
                Reason.SESSION_OUTDATED,
                f"connection {session.connection_epoch} of this supervisor arrived after its connection "
                f"{superseded.connection_epoch}",
            )
        self._current[session.sandbox_id] = session
        self._registered += 1
        self._superseded += superseded is not None
        return superseded

    def remove(self, session: S) -> bool:
        """Forget a session that ended.

        Returns:
            True if it was current. A superseded session changes nothing.
        """
        current = self._current.get(session.sandbox_id)
        if current is None or current.session_id != session.session_id:
            return False
        del self._current[session.sandbox_id]
        return True

    def find(self, sandbox_id: str) -> S | None:
        """Return the current session of a sandbox."""
        return self._current.get(sandbox_id)

    def all(self) -> list[S]:
        """Return every current session."""
        return list(self._current.values())

    def statistics(self) -> SessionStatistics:
        """Return the counts."""
        return SessionStatistics(len(self._current), self._registered, self._superseded)
