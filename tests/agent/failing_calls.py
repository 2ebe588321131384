"""System calls and journal of an agent of which one, chosen by its number, fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from agent.agent_harness import StrictFileSystem
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent.store.journal import Journal, JournalError


class Failure:
    """Which call fails, and how.

    Attributes:
        seen: the names of the calls so far, in order.
        failed: the name of the call that failed; empty if it was not reached.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.failed = ""
        self._at = -1
        self._sticky = False
        self._armed = False

    def arm(self, at: int = -1, *, sticky: bool = False) -> None:
        """Fail the call of that number; if sticky, from then on every call of the same name."""
        self.seen, self.failed, self._at, self._sticky, self._armed = [], "", at, sticky, True

    def disarm(self) -> None:
        """Let every call through again."""
        self._armed = False

    def strikes(self, name: str) -> bool:
        """Count a call; whether it fails."""
        if not self._armed:
            return False
        self.seen.append(name)
        if len(self.seen) - 1 == self._at:
            self.failed = name
            return True
        return self._sticky and name == self.failed


class FailingFileSystem(StrictFileSystem):
    """Fails one system call.

    Args:
        failure: which.
        code: errno.
        performed: the call has its effect and fails all the same, as a network file system may have it.
    """

    def __init__(self, failure: Failure, code: int, *, performed: bool = False) -> None:
        super().__init__()
        self._failure = failure
        self._code = code
        self._performed = performed

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        # Closing does not fail: see FileSystem.close.
        if name.startswith("_") or name in {"fail", "close"} or not callable(value):
            return value

        def failing(*args: Any, **kwargs: Any) -> Any:
            if not self._failure.strikes(name):
                return value(*args, **kwargs)
            if self._performed:
                value(*args, **kwargs)
            raise OSError(self._code, os.strerror(self._code))

        return failing


def failing_journal(failure: Failure, reason: Reason) -> Callable[..., Journal]:
    """Return a journal of which one method fails."""

    class FailingJournal(Journal):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name not in {"write", "delete", "find", "add_name", "drop_name", "purge"}:
                return value

            def failing(*args: Any, **kwargs: Any) -> Any:
                if failure.strikes(name):
                    raise JournalError(reason, "the agent's journal of uploads: it was told to fail")
                return value(*args, **kwargs)

            return failing

    return FailingJournal
