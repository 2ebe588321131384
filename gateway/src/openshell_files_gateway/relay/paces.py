"""Rate limits on the messages of supervisors, and the ban of those that flood (RLY-10, RLY-25, RLY-26)."""

from __future__ import annotations

import asyncio
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.targets import CommandTarget, RelayTarget
from openshell_files_gateway.server.core.pace import Pace, PaceTable

#: Control messages of one supervisor: enough for several results per second for
#: each relay that may wait, at little cost for the gateway.
_MESSAGES_PER_SECOND: Final = 200.0
_MESSAGES_AT_ONCE: Final = 500

#: Pieces with little content in the relays of one sandbox.
_PIECES_PER_SECOND: Final = 1000.0
_PIECES_AT_ONCE: Final = 500

#: Time above the rate, without a break, until it is a flood. A delay stops only
#: the reader: gRPC receives further small messages until the stream's window
#: of 4 MiB is full, which took half a CPU.
_PATIENCE_SECONDS: Final = 1.0


class SupervisorPaces:
    """The rate limits of all supervisors, by sandbox.

    A new session or relay of a sandbox continues with the count of the former.
    """

    def __init__(self) -> None:
        self._sessions = PaceTable(
            per_second=_MESSAGES_PER_SECOND, at_once=_MESSAGES_AT_ONCE, patience=_PATIENCE_SECONDS
        )
        self._relays = PaceTable(
            per_second=_PIECES_PER_SECOND, at_once=_PIECES_AT_ONCE, patience=_PATIENCE_SECONDS
        )
        # A command may write any number of small pieces, which is no flood.
        self._commands = PaceTable(per_second=_PIECES_PER_SECOND, at_once=_PIECES_AT_ONCE)

    def of_session(self, sandbox_id: str) -> Pace:
        """Return the rate limit of the sandbox's control messages."""
        return self._sessions.of(sandbox_id, _now())

    def of_relay(self, sandbox_id: str, target: RelayTarget) -> Pace:
        """Return the rate limit of the sandbox's relays to such a target."""
        paces = self._commands if isinstance(target, CommandTarget) else self._relays
        return paces.of(sandbox_id, _now())

    @staticmethod
    def require_patience(pace: Pace) -> None:
        """Check that a supervisor is not banned.

        Raises:
            TransferError: SUPERVISOR_FLOODS with the rest of the ban as retry delay.
        """
        if (seconds := pace.banned(_now())) > 0:
            raise floods(seconds)


def floods(seconds: float) -> TransferError:
    """Return the error for a supervisor that floods.

    Args:
        seconds: retry delay.
    """
    return TransferError(
        Reason.SUPERVISOR_FLOODS,
        "the sandbox's supervisor sends small messages above the rate limit: "
        f"{_MESSAGES_PER_SECOND:g} per second on its session, {_PIECES_PER_SECOND:g} per second in its relays",
        retry_delay=seconds,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
