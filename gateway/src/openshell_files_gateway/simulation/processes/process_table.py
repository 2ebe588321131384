"""Finds the supervisors that an earlier gateway started.

They are looked for in the kernel's process table and not in files of pids: a
file is wrong as soon as its writer dies at the wrong moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def pids_with_option(option: str, value: str) -> list[int]:
    """Return the processes of this user that were started with an option.

    A child that has not become another program yet looks like its parent; it
    is left out. Processes of other users can call themselves anything and are
    left out too, unless this is root, whose supervisors become other users.
    """
    found = {
        int(entry.name): _parent(entry)
        for entry in _PROC.iterdir()
        if entry.name.isdigit() and _has_option(_arguments(entry), option, value) and _is_ours(entry)
    }
    return [pid for pid, parent in found.items() if parent not in found]


def _arguments(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        # Gone, or somebody else's.
        return []


def _has_option(arguments: Sequence[bytes], option: str, value: str) -> bool:
    wanted = (os.fsencode(option), os.fsencode(value))
    return any(pair == wanted for pair in pairwise(arguments))


def _is_ours(process: Path) -> bool:
    try:
        return os.geteuid() in (0, process.stat().st_uid)
    except OSError:
        return False


def _parent(process: Path) -> int:
    try:
        # The name of the program, in brackets, can hold anything.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class HeldProcess:
    """A process, a child of this one or not.

    Held by a descriptor, so that a new process with an old number is never
    taken for it. Close it after use.

    Raises:
        ProcessLookupError: it is gone.
    """

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self._fd = os.pidfd_open(pid)

    def has_option(self, option: str, value: str) -> bool:
        """Whether it is still the process that was found by this option."""
        return _has_option(_arguments(_PROC / str(self.pid)), option, value)

    def was_started_by(self, command: Sequence[str]) -> bool:
        """Whether its command line is this one; an interpreter may stand before it."""
        arguments = _arguments(_PROC / str(self.pid))
        return arguments[-len(command) :] == [os.fsencode(argument) for argument in command]

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
            _reap(fd)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        """Forget it; more than once is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _reap(fd)
            os.close(fd)


def _reap(fd: int) -> None:
    """Let a child that has ended go; whose child it is does not matter."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
