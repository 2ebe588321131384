"""Finds the supervisors that an earlier gateway started, in the kernel's process table.

There is no file of process ids: it would be stale if the gateway died between
the start of a process and the write.
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
    """Return the ids of this user's processes whose command line contains an option with a value.

    Children of such a process are left out: between fork and exec they have
    its command line. Processes of other users are left out, because they can
    forge their command line; except for root, whose supervisors run as other
    users.
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
        # The process has ended, or is another user's.
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
        # The program's name, in brackets, may contain any character.
        return int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


class HeldProcess:
    """The pidfd of a process, which need not be a child of this one. Close it after use.

    A pidfd never refers to a later process with the same id.

    Raises:
        ProcessLookupError: the process has ended.
    """

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self._fd = os.pidfd_open(pid)

    def has_option(self, option: str, value: str) -> bool:
        """Return True if the command line contains the option with that value."""
        return _has_option(_arguments(_PROC / str(self.pid)), option, value)

    def was_started_by(self, command: Sequence[str]) -> bool:
        """Return True if the process runs this command, with or without an interpreter in front."""
        arguments = _arguments(_PROC / str(self.pid))
        return arguments[-len(command) :] == [os.fsencode(argument) for argument in command]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the process has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    async def wait(self) -> None:
        """Wait for the end of the process."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        # The loop allows one reader per descriptor, and several tasks may wait.
        fd = os.dup(self._fd)
        loop.add_reader(fd, ended.set)
        try:
            await ended.wait()
            _reap(fd)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        """Close the pidfd; idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            _reap(fd)
            os.close(fd)


def _reap(fd: int) -> None:
    """Reap an ended child; do nothing for a process that is not a child."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
