"""Finds the supervisors that an earlier gateway started.

They are looked for in the kernel's process table and not in files of pids: a
file is wrong as soon as its writer dies at the wrong moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def pids_with_argument(argument: str) -> Iterator[int]:
    """Give the processes of this user that have an argument on their command line."""
    wanted = os.fsencode(argument)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and wanted in _arguments(entry):
            yield int(entry.name)


def _arguments(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        # Gone, or somebody else's.
        return []


class ForeignProcess:
    """A process that need not be a child of this one.

    Held by a descriptor, so that a new process with an old number is never
    taken for it. Close it after use.

    Raises:
        ProcessLookupError: it is gone.
    """

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self._fd = os.pidfd_open(pid)

    def has_argument(self, argument: str) -> bool:
        """Whether it is still the process that was found by this argument."""
        return os.fsencode(argument) in _arguments(_PROC / str(self.pid))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it is gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    async def wait(self) -> None:
        """Wait until it has ended."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # Several may wait; each needs a descriptor of its own in the loop.
        fd = os.dup(self._fd)
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        """Forget it; more than once is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
