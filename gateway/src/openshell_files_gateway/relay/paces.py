"""How fast each sandbox's supervisor may speak, and what becomes of one that floods (RLY-10)."""

from __future__ import annotations

import asyncio
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.targets import CommandTarget, RelayTarget
from openshell_files_gateway.server.core.pace import Pace, PaceTable

#: Control messages of one supervisor: a result for each relay that may wait,
#: several times a second, and little of the gateway's time. Who has more to
#: say is read a little later.
_MESSAGES_PER_SECOND: Final = 200.0
_MESSAGES_AT_ONCE: Final = 500

#: Pieces of relays of one sandbox that carry hardly any content.
_PIECES_PER_SECOND: Final = 1000.0
_PIECES_AT_ONCE: Final = 500

#: Above that without a break it is a flood. Waiting holds up only who reads;
#: gRPC itself takes in the small messages until the stream's window is full,
#: 4 MiB of them, and that took half a core.
_PATIENCE_SECONDS: Final = 1.0


class SupervisorPaces:
    """Counts what supervisors send, for each sandbox.

    A new session or relay of a sandbox goes on counting where the last one
    stopped.
    """

    def __init__(self) -> None:
        self._sessions = PaceTable(
            per_second=_MESSAGES_PER_SECOND, at_once=_MESSAGES_AT_ONCE, patience=_PATIENCE_SECONDS
        )
        self._relays = PaceTable(
            per_second=_PIECES_PER_SECOND, at_once=_PIECES_AT_ONCE, patience=_PATIENCE_SECONDS
        )
        # A command may write as little at a time as it likes, as often as it likes.
        self._commands = PaceTable(per_second=_PIECES_PER_SECOND, at_once=_PIECES_AT_ONCE)

    def of_session(self, sandbox_id: str) -> Pace:
        """Return the pace of the sandbox's control messages."""
        return self._sessions.of(sandbox_id, _now())

    def of_relay(self, sandbox_id: str, target: RelayTarget) -> Pace:
        """Return the pace of pieces in the sandbox's relays to such a target."""
        paces = self._commands if isinstance(target, CommandTarget) else self._relays
        return paces.of(sandbox_id, _now())

    @staticmethod
    def require_patience(pace: Pace) -> None:
        """Refuse to begin something with one that was found flooding lately.

        Raises:
            TransferError: SUPERVISOR_FLOODS.
        """
        if (seconds := pace.banned(_now())) > 0:
            raise floods(seconds)


def floods(seconds: float) -> TransferError:
    """Make the error for a supervisor that sends more than a gateway takes.

    Args:
        seconds: how long it has to wait.
    """
    return TransferError(
        Reason.SUPERVISOR_FLOODS,
        "the sandbox's supervisor sends small messages faster than a gateway takes them: above "
        f"{_MESSAGES_PER_SECOND:g} on its session or {_PIECES_PER_SECOND:g} in its relays a second",
        retry_delay=seconds,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
