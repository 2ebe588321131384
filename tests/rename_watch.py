"""Sees every file that gets a name in a directory, so that "exactly once" can be counted."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Self

_IN_MOVED_FROM = 0x40
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class RenameWatch:
    """Notes what was renamed to which name; a context manager.

    The kernel queues what happens, so nothing is missed between two looks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1
        self._sources: dict[int, str] = {}
        self._seen: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE
        if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(self._directory), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify", str(self._directory))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def published(self, name: str) -> list[str]:
        """Return by which names the files came that got this name, in order; empty if without one."""
        self._read()
        return [source for source, target in self._seen if target == name]

    def _read(self) -> None:
        while True:
            try:
                events = os.read(self._fd, 65536)
            except BlockingIOError:
                return
            position = 0
            while position < len(events):
                _, mask, cookie, length = _EVENT.unpack_from(events, position)
                position += _EVENT.size
                name = os.fsdecode(events[position : position + length].rstrip(b"\0"))
                position += length
                assert not mask & _IN_Q_OVERFLOW, "more happened than the kernel could queue"
                if mask & _IN_MOVED_FROM:
                    self._sources[cookie] = name
                else:
                    self._seen.append((self._sources.pop(cookie, ""), name))
