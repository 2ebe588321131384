"""How much memory processes hold, and the most they held (must hold 2)."""

from __future__ import annotations

import os
import re
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB


class ResidentMemory:
    """Measures the peak of some processes above what they held when it began.

    The kernel keeps the peak itself (`VmHWM`), so no moment is missed.

    Args:
        pids: by name.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        for pid in pids.values():
            # 5 sets the peak to what is held now.
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")
        self._idle = {name: _status(pid, "VmRSS") for name, pid in pids.items()}

    def growth(self) -> dict[str, int]:
        """Return the peak of each process above idle, in bytes."""
        return {name: _status(pid, "VmHWM") - self._idle[name] for name, pid in self._pids.items()}

    def now(self) -> dict[str, int]:
        """Return what each process holds now above idle, in bytes."""
        return {name: _status(pid, "VmRSS") - self._idle[name] for name, pid in self._pids.items()}

    def assert_within(self, limit: int) -> None:
        """Fail if a process held more than `limit` bytes above idle at any moment."""
        growth = {name: round(value / MIB, 1) for name, value in self.growth().items()}
        assert max(growth.values()) <= limit / MIB, f"peak above idle in MiB: {growth}"
        print(f"peak above idle in MiB: {growth}")


def bytes_read(pid: int) -> int:
    """Return the bytes that a process has read by system calls, files and sockets together."""
    text = Path(f"/proc/{pid}/io").read_text("ascii")
    return int(text.partition("rchar: ")[2].split()[0])


def _status(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    match = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert match is not None, f"no {field}; is {pid} alive? {os.path.exists(f'/proc/{pid}')}"
    return int(match[1]) * KIB
