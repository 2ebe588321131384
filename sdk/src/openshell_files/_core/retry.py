"""When to try again, and how long to wait before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openshell_files_protocol.reasons import Code, Reason, Retry

from openshell_files.errors import CredentialsError, FilesError, Unavailable
from openshell_files.options import RetryPolicy


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do after a failure that may be tried again.

    Attributes:
        delay: seconds to wait first.
        restart: from the start, as a new transfer.
        refresh_token: get a new token first.
    """

    delay: float
    restart: bool = False
    refresh_token: bool = False


@dataclass(slots=True)
class Acquaintance:
    """What a client knows of its gateway, over all its transfers.

    Attributes:
        answered: the gateway did what it was asked for, at least once. Then
            one that is away is an outage, and not a wrong endpoint.
    """

    answered: bool = False


class RetryBudget:
    """Counts the tries of one transfer.

    Args:
        policy: the limits.
        gateway: what the client knows of it.
        random: a number from 0 to 1, for the jitter.
        may_refresh: whether a new token can be had. A refused token is
            replaced once; it is not a try.
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
        """Note that the transfer advanced: counting begins anew.

        Restarts stay counted: a file that changes again and again lets every
        attempt advance, and none end.
        """
        self._failures = 0
        self._refreshed = False
        self._gateway.answered = True

    def decide(self, error: FilesError) -> Decision:
        """Return how to go on after `error`.

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
        """Return how many tries may end like this."""
        attempts = self._policy.attempts
        # A gateway that has no place now is as good as away: others need theirs for a while.
        crowded = error.reason == Reason.TOO_MANY_TRANSFERS.name
        if attempts > 1 and self._gateway.answered and (crowded or isinstance(error, Unavailable)):
            return max(attempts, self._policy.outage_attempts)
        return attempts

    def delay(self, tries: int) -> float:
        """Return a pause after `tries` earlier ones, in seconds: full jitter below a growing bound."""
        policy = self._policy
        # The exponent is bounded so that a huge count does not overflow a float.
        bound = min(policy.max_delay, policy.initial_delay * policy.multiplier ** min(tries, 64))
        return bound * self._random()
