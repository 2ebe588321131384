"""Interfaces that `SandboxLifecycle` uses: the driver that runs sandboxes, and the sessions of supervisors."""

from __future__ import annotations

from typing import Protocol


class SandboxDriver(Protocol):
    """Runs sandboxes. Every method may be repeated after a failure."""

    async def start(self, sandbox_id: str) -> None:
        """Create the missing files of a sandbox, and start its supervisor if it is not running.

        Raises:
            OSError: a file cannot be created, or the supervisor cannot be started.
        """
        ...

    async def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox's supervisor and wait for its end; the files stay."""
        ...

    async def remove(self, sandbox_id: str) -> None:
        """Stop a sandbox's supervisor and remove all files of the sandbox.

        Raises:
            OSError: a file could not be removed.
        """
        ...


class Sessions(Protocol):
    """The sessions of connected supervisors."""

    def fail_waiting(self, sandbox_id: str, reason: str) -> None:
        """Fail all callers that wait for a sandbox's supervisor or a relay into it."""
        ...

    def close_session(self, sandbox_id: str, reason: str) -> None:
        """End the session of a sandbox's supervisor, if there is one."""
        ...
