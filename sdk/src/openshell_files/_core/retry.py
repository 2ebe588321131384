"""Decides whether and when an error is retried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openshell_files_protocol.reasons import Code, Reason, Retry

from openshell_files.errors import CredentialsError, FilesError, Unavailable
from openshell_files.options import RetryPolicy


@dataclass(frozen=True, slots=True)
class Decision:
    """A retry.

    Attributes:
        delay: seconds to wait before it.
        restart: begin a new transfer from its first byte.
        refresh_token: get a new token before it.
    """

    delay: float
    restart: bool = False
    refresh_token: bool = False


@dataclass(slots=True)
class Acquaintance:
    """Facts about the gateway, over all calls of a client.

    Attributes:
        answered: the gateway answered at least one call. If it is away later,
            that is an outage and not a wrong endpoint.
    """

    answered: bool = False


class RetryBudget:
    """Counts the tries of one call.

    Args:
        policy: the limits.
        gateway: facts about the gateway.
        random: returns a number from 0 to 1, for the jitter.
        may_refresh: a new token can be requested. A refused token is replaced
            once, which does not count as a try.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        gateway: Acquaintance,
        random: Callable[[], float],
        *,
        may_refresh: bool,
    ) -> None:
        self._policy = policy
        self._gateway = gateway
        self._random = random
        self._may_refresh = may_refresh
        self._refreshed = False
        self._failures = 0
        self._restarts = 0

    def progressed(self) -> None:
        """Note that the transfer advanced, which resets the count.

        Restarts remain counted: if a file changes again and again, every
        attempt advances and none ends.
        """
        self._failures = 0
        self._refreshed = False
        self._gateway.answered = True

    def decide(self, error: FilesError) -> Decision:
        """Return the retry after `error`.

        Raises:
            FilesError: `error` itself, if it must not be tried again or the
                budget is used up.
        """
        if error.code is Code.UNAUTHENTICATED and not isinstance(error, CredentialsError):
            if self._refreshed or not self._may_refresh:
                raise error
            self._refreshed = True
            return Decision(0.0, refresh_token=True)
        if error.retry is Retry.NEVER:
            raise error
        self._failures += 1
        restart = error.retry is Retry.RESTART
        self._restarts += restart
        asked = error.retry_delay or 0.0
        if (
            self._failures >= self._attempts(error)
            or self._restarts >= self._policy.attempts
            or asked > self._policy.max_server_delay
        ):
            raise error
        return Decision(max(asked, self.delay(self._failures - 1)), restart=restart)

    def _attempts(self, error: FilesError) -> int:
        """Return the limit of tries that end with such an error."""
        attempts = self._policy.attempts
        # A gateway that is full counts as away: other transfers need their places for a while.
        crowded = error.reason == Reason.TOO_MANY_TRANSFERS.name
        if attempts > 1 and self._gateway.answered and (crowded or isinstance(error, Unavailable)):
            return max(attempts, self._policy.outage_attempts)
        return attempts

    def delay(self, tries: int) -> float:
        """Return the pause after `tries` earlier pauses, in seconds: full jitter below a growing bound."""
        policy = self._policy
        # The bound of the exponent prevents an overflow of the float.
        bound = min(policy.max_delay, policy.initial_delay * policy.multiplier ** min(tries, 64))
        return bound * self._random()
