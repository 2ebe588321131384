"""Which supervisor session speaks for a sandbox (RLY-4).

| state of the sandbox | register(new)                      | remove(session)                    |
|----------------------|------------------------------------|------------------------------------|
| no session           | new is current                     | nothing                            |
| session A            | new is current, A is out           | A: no session; another id: nothing |
| session A, and new is an earlier connection of A's supervisor | SESSION_OUTDATED | as above |

A supervisor counts its connections. The hello of an earlier one can arrive
last, after a network that held it back; it must not end the later one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason


class Session(Protocol):
    """What the table needs to know of a session."""

    @property
    def session_id(self) -> str:
        """Random id of this session."""
        ...

    @property
    def sandbox_id(self) -> str:
        """Sandbox it speaks for."""
        ...

    @property
    def instance_id(self) -> str:
        """The supervisor's own id; empty if it gave none."""
        ...

    @property
    def connection_epoch(self) -> int:
        """Which of its connections this is; 0 if it does not count."""
        ...


S = TypeVar("S", bound=Session)


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """Counts since the start, and the sessions there are now."""

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
                f"connection {session.connection_epoch} of this supervisor came after its connection "
                f"{superseded.connection_epoch}",
            )
        self._current[session.sandbox_id] = session
        self._registered += 1
        self._superseded += superseded is not None
        return superseded

    def remove(self, session: S) -> bool:
        """Forget a session that ended.

        Returns:
            Whether it was current. A superseded one changes nothing.
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
