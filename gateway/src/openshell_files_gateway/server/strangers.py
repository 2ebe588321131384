"""Limits on unauthenticated callers: calls in authentication, and log lines about refused calls."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.core.pace import Pace

#: Limit on calls whose token is being checked. A check is immediate unless the issuer's keys must be fetched first.
MAX_AUTHENTICATING: Final = 256

#: Limit on log lines about unauthenticated calls, which every peer that reaches the port can cause.
LINES_PER_SECOND: Final = 10.0
LINES_AT_ONCE: Final = 100


class Strangers:
    """Counts the calls in authentication, and the log lines about calls without a principal."""

    def __init__(self) -> None:
        self._authenticating = 0
        self._lines = Pace(per_second=LINES_PER_SECOND, at_once=LINES_AT_ONCE)
        self._left_out = 0

    @contextmanager
    def authenticating(self) -> Generator[None]:
        """Count a call within the context, while its token is checked.

        Raises:
            TransferError: TOO_MANY_CALLS.
        """
        if self._authenticating >= MAX_AUTHENTICATING:
            raise TransferError(
                Reason.TOO_MANY_CALLS,
                f"{self._authenticating} calls are waiting for their tokens to be checked, which is the limit",
                retry_delay=1.0,
            )
        self._authenticating += 1
        try:
            yield
        finally:
            self._authenticating -= 1

    def line(self, now: float) -> dict[str, object] | None:
        """Ask for permission to write a log line.

        Args:
            now: seconds on a monotonic clock.

        Returns:
            Further facts for the line: the number of lines left out before it.
            None if this line must be left out.
        """
        if not self._lines.spare(now):
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return {"lines_left_out": left_out} if left_out else {}
