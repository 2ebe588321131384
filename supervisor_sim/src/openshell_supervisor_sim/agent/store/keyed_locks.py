"""Locks by key, which exist while a thread holds or awaits them."""

from __future__ import annotations

import threading
from collections.abc import Generator, Hashable
from contextlib import contextmanager


class KeyedLocks:
    """Lets one thread at a time work on each key."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[Hashable, tuple[threading.Lock, int]] = {}

    def __len__(self) -> int:
        """Number of keys that are held or awaited."""
        return len(self._locks)

    @contextmanager
    def hold(self, key: Hashable) -> Generator[None]:
        """Hold the lock of `key` during the block."""
        with self._guard:
            lock, users = self._locks.get(key, (threading.Lock(), 0))
            self._locks[key] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, users = self._locks[key]
                if users == 1:
                    del self._locks[key]
                else:
                    self._locks[key] = (lock, users - 1)
