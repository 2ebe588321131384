"""Decides whether and when an error is retried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from openshell_files_protocol.reasons import Code, Reason, Retry

from openshell_files.errors import CredentialsError, FilesError, LocalReason, Unavailable
from openshell_files.options import RetryPolicy


@dataclass(frozen=True, slots=True)
class Decision:
    """A retry that the budget allows.

    Attributes:
        delay: seconds to wait before the retry.
        restart: begin a new transfer at the first byte.
        refresh_token: get a new token before the retry.
    """

    delay: float
    restart: bool = False
    refresh_token: bool = False


@dataclass(slots=True)
class GatewayHistory:
    """Facts about the gateway, over all calls of a client.

    Attributes:
        answered: the gateway answered at least one call. If it is unavailable
            later, that is an outage and not a wrong endpoint.
    """

    answered: bool = False


class RetryBudget:
    """Counts the failures of one call, and decides about its retries.

    Args:
        policy: the limits.
        gateway: facts about the gateway.
        random: returns a number from 0 to 1, for the jitter.
        may_refresh: True if a new token can be requested. A refused token is
            replaced once; that does not count as a failure.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        gateway: GatewayHistory,
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
        self._unreachable: FilesError | None = None

    def progressed(self) -> None:
        """Reset the count of failures, because the transfer advanced.

        The count of restarts stays: if a file changes again and again, every
        attempt advances and none completes.
        """
        self._failures = 0
        self._refreshed = False
        self._unreachable = None
        self._gateway.answered = True

    def cause(self, error: FilesError) -> FilesError:
        """Return the cause of an error: for the end of the caller's time, the missing connection before it."""
        return self._unreachable or error

    def decide(self, error: FilesError) -> Decision:
        """Return the retry after `error`.

        Raises:
            FilesError: `error` itself, if it must not be retried or the budget
                is used up.
        """
        if error.reason == LocalReason.TIMEOUT:
            raise self.cause(error)
        missing = error.code is Code.UNAVAILABLE and error.reason == Code.UNAVAILABLE.name
        self._unreachable = error if missing else None
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
        if self._policy.on_retry is not None:
            self._policy.on_retry(error, self._failures + 1)
        return Decision(max(asked, self.delay(self._failures - 1)), restart=restart)

    def _attempts(self, error: FilesError) -> int:
        """Return the limit on attempts that fail with such an error."""
        attempts = self._policy.attempts
        # A full gateway counts as an outage: running transfers keep their slots for a while.
        full = error.reason == Reason.TOO_MANY_TRANSFERS.name
        if attempts > 1 and self._gateway.answered and (full or isinstance(error, Unavailable)):
            return max(attempts, self._policy.outage_attempts)
        return attempts

    def delay(self, tries: int) -> float:
        """Return the seconds before the next attempt after `tries` delays: full jitter, exponential backoff."""
        policy = self._policy
        # The bound of the exponent prevents an overflow of the float.
        bound = min(policy.max_delay, policy.initial_delay * policy.multiplier ** min(tries, 64))
        return bound * self._random()
