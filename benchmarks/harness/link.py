"""A link between two programs of this machine that is as slow and as long as one wants.

A TCP proxy in a process of its own. Each direction has a rate that all
connections share, a delay and a bounded queue, like a bottleneck router: bytes
wait in the queue for their turn on the wire, and arrive the delay later. When
the queue is full, or the far end does not take what arrived, the sender is not
read from: nothing is lost, and what the link holds of each connection is
bounded by its queue and its wire. The kernel's buffers on both sides of the
proxy come on top; SO_RCVBUF and SO_SNDBUF bound them.

Two threads for each direction that wait in system calls: a timer of the
kernel is more exact than an event loop's, and the pieces are large, so that
1 Gbit/s takes some hundred wake-ups a second.

Usage: ``python -m harness.link --to HOST:PORT [--delay-ms 25] [--mbit 1000]
[--queue-kib 256]``. It prints its own address, and on standard input takes
``cut`` (close every connection), ``cut-after BYTES`` (the same, once as many
were carried from now on, both directions together), ``refuse`` and ``accept``.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

#: Most and least that is read at a time; between them, what the wire carries
#: in `_PIECE_SECONDS`.
_MOST: Final = 256 * 1024
_LEAST: Final = 1448
_PIECE_SECONDS: Final = 0.002

#: What the kernel may keep of each connection; it takes twice as much.
_KERNEL_BYTES: Final = 256 * 1024

#: When bytes were waiting, it was this process that came late, not the sender:
#: the wire is given back so much of the time it stood idle.
_LATE_SECONDS: Final = 0.02
_AT_ONCE_SECONDS: Final = 0.0002

#: A wire without a rate would hold anything.
_UNLIMITED_WIRE: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """One direction of a link.

    Attributes:
        delay: from one end to the other, in seconds.
        rate: bytes per second; 0 for as many as come.
        queue: bytes that may wait for the wire.
    """

    delay: float = 0.0
    rate: float = 0.0
    queue: int = 256 * 1024

    @property
    def piece(self) -> int:
        """Bytes that are read at a time."""
        if not self.rate:
            return _MOST
        return max(_LEAST, min(_MOST, self.queue // 2, int(self.rate * _PIECE_SECONDS)))

    @property
    def holds(self) -> int:
        """Most bytes that are in the queue and on the wire together."""
        wire = self.rate * self.delay if self.rate else _UNLIMITED_WIRE * bool(self.delay)
        return self.queue + int(wire)


class Wire:
    """One direction of a link, with a rate that all connections share."""

    def __init__(self, settings: LinkSettings) -> None:
        self.settings = settings
        self._free_at = 0.0
        self._turn = threading.Lock()

    def until_room(self) -> float:
        """Return the seconds until the queue has room for a piece: it drains at the wire's rate."""
        settings = self.settings
        if not settings.rate:
            return 0.0
        return self._free_at - (settings.queue - settings.piece) / settings.rate - _now()

    def carry(self, size: int, began: float) -> float:
        """Put bytes on the wire that were there at `began`; when they arrive."""
        rate = self.settings.rate
        with self._turn:
            self._free_at = max(self._free_at, began) + (size / rate if rate else 0.0)
            return self._free_at + self.settings.delay


class Direction:
    """Carries bytes from a socket to another, as late and as slowly as the wire."""

    def __init__(
        self, wire: Wire, source: socket.socket, target: socket.socket, carried: Callable[[int], None]
    ) -> None:
        self._wire = wire
        self._carried = carried
        self._source = source
        self._target = target
        #: When each piece arrives; an empty one is the end.
        self._flying: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._over = False

    def take_off(self) -> None:
        """Read until the end of the stream, never more than the queue has room for."""
        holds, piece = self._wire.settings.holds, self._wire.settings.piece
        came = _now()
        with suppress(OSError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._over or self._held + piece <= holds)
                    if self._over:
                        return
                while (wait := self._wire.until_room()) > 0:
                    time.sleep(wait)
                asked = _now()
                data = self._source.recv(piece)
                here = _now()
                began = max(came, here - _LATE_SECONDS) if here - asked < _AT_ONCE_SECONDS else here
                due = self._wire.carry(len(data), began)
                with self._changed:
                    self._held += len(data)
                    self._flying.append((due, data))
                    self._changed.notify_all()
                self._carried(len(data))
                if not data:
                    return
        self.stop()

    def land(self) -> None:
        """Write each piece when it is due, and pass the end on."""
        with suppress(OSError):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._over or bool(self._flying))
                    if self._over:
                        return
                    due, data = self._flying.popleft()
                if (wait := due - _now()) > 0:
                    time.sleep(wait)
                if not data:
                    self._target.shutdown(socket.SHUT_WR)
                    return
                self._target.sendall(data)
                with self._changed:
                    self._held -= len(data)
                    self._changed.notify_all()
        self.stop()

    def stop(self) -> None:
        """Let both threads end, and both ends see that the connection broke."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for end in (self._source, self._target):
            _abort(end)


class Link:
    """Listens on loopback and carries every connection to one address."""

    def __init__(self, settings: LinkSettings, host: str, port: int) -> None:
        self._there, self._back = Wire(settings), Wire(settings)
        self._to = (host, port)
        self._connections: set[tuple[Direction, Direction]] = set()
        self._lock = threading.Lock()
        self._refusing = False
        #: Bytes until the next cut; None if none is planned.
        self._until_cut: int | None = None

    def listen(self) -> int:
        """Listen, and return the port."""
        server = socket.socket()
        _small_buffers(server)
        server.bind(("127.0.0.1", 0))
        server.listen(128)
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    def cut(self) -> None:
        """Close every connection at once, as a cable that is pulled out and noticed."""
        with self._lock:
            connections = list(self._connections)
        for both in connections:
            for direction in both:
                direction.stop()

    def cut_after(self, count: int) -> None:
        """Cut once so many more bytes were carried: at the same place of a transfer each time."""
        with self._lock:
            self._until_cut = count

    def refuse(self, *, refusing: bool) -> None:
        """Close new connections at once, or no longer."""
        self._refusing = refusing

    def _carried(self, count: int) -> None:
        with self._lock:
            if self._until_cut is None:
                return
            self._until_cut -= count
            if self._until_cut > 0:
                return
            self._until_cut = None
        self.cut()

    def _accept(self, server: socket.socket) -> None:
        while True:
            near, _ = server.accept()
            if self._refusing:
                _abort(near)
                near.close()
                continue
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.socket() as far:
            _small_buffers(far)
            try:
                far.connect(self._to)
            except OSError:
                _abort(near)
                return
            for one in (near, far):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            both = (
                Direction(self._there, near, far, self._carried),
                Direction(self._back, far, near, self._carried),
            )
            with self._lock:
                self._connections.add(both)
            threads = [
                threading.Thread(target=work, daemon=True)
                for direction in both
                for work in (direction.take_off, direction.land)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            with self._lock:
                self._connections.discard(both)


def _now() -> float:
    return time.monotonic()


def _small_buffers(one: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        one.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BYTES)


def _abort(one: socket.socket) -> None:
    """Reset a connection: whoever waits in a call on it is woken."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)


def _main(settings: LinkSettings, to: str) -> None:
    host, _, port = to.rpartition(":")
    link = Link(settings, host, int(port))
    print(json.dumps({"port": link.listen()}), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["cut"]:
                link.cut()
            case ["cut-after", count]:
                link.cut_after(int(count))
            case ["refuse"]:
                link.refuse(refusing=True)
                link.cut()
            case ["accept"]:
                link.refuse(refusing=False)
            case _:
                raise SystemExit(f"link: no such command: {line.strip()}")
        print(json.dumps({"done": line.strip()}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", required=True)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--mbit", type=float, default=0.0)
    parser.add_argument("--queue-kib", type=int, default=256)
    arguments = parser.parse_args()
    _main(
        LinkSettings(arguments.delay_ms / 1e3, arguments.mbit * 1e6 / 8, arguments.queue_kib * 1024),
        arguments.to,
    )
