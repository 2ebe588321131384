"""What the life of sandboxes needs of those who run them."""

from __future__ import annotations

from typing import Protocol


class SandboxDriver(Protocol):
    """Has sandboxes run. Every method may be repeated after a failure."""

    async def start(self, sandbox_id: str) -> None:
        """Make what is missing of a sandbox, and have its supervisor run.

        Raises:
            OSError: it cannot be made or started.
        """
        ...

    async def stop(self, sandbox_id: str) -> None:
        """End a sandbox's supervisor and wait until it is gone; its files stay."""
        ...

    async def remove(self, sandbox_id: str) -> None:
        """End a sandbox's supervisor and remove everything of the sandbox.

        Raises:
            OSError: something could not be removed.
        """
        ...


class Sessions(Protocol):
    """The supervisors that are connected."""

    def turn_away(self, sandbox_id: str, reason: str) -> None:
        """Fail what waits for a sandbox."""
        ...

    def close_session(self, sandbox_id: str, reason: str) -> None:
        """End the session of a sandbox, if it has one."""
        ...
