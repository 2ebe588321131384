"""Sends uploads of the RFC frame by frame over HTTP/2, and breaks each off; see callers.py."""

from __future__ import annotations

import base64
import json
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes


class RawCall:
    """One UploadFile on a connection of its own."""

    def __init__(self, order: dict[str, Any], *extra: tuple[str, str]) -> None:
        host, _, port = order["endpoint"].rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.http = H2Connection(H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.stream = self.http.get_next_available_stream_id()
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", order["method"]), (":authority", order["endpoint"]),
            ("te", "trailers"), ("content-type", "application/grpc"), ("authorization", f"Bearer {order['token']}"),
            *extra,
        ]  # fmt: skip
        self.http.send_headers(self.stream, headers)
        self.flush()

    def message(self, message: bytes) -> None:
        self.http.send_data(self.stream, b"\0" + struct.pack(">I", len(message)) + message)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.http.data_to_send())


def _reset(call: RawCall, seconds: float, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
    time.sleep(seconds)
    call.http.reset_stream(call.stream, code)
    call.flush()


def _truncated(call: RawCall, seconds: float) -> None:
    call.http.send_data(call.stream, b"\0\0\0\0\x09half")
    call.flush()
    _reset(call, seconds)


def _end_then_reset(call: RawCall, seconds: float) -> float:
    """As gRPC's client for JavaScript cancels, and a Go client that cancels after CloseSend."""
    ended = time.monotonic()
    call.http.end_stream(call.stream)
    call.flush()
    _reset(call, seconds)
    return time.monotonic() - ended


def _end_and_reset(call: RawCall, seconds: float) -> None:
    """The same in one segment."""
    time.sleep(seconds)
    call.http.end_stream(call.stream)
    call.http.reset_stream(call.stream, ErrorCodes.CANCEL)
    call.flush()


def _goaway(call: RawCall, seconds: float) -> None:
    time.sleep(seconds)
    call.http.close_connection()
    call.flush()


def _connection_reset(call: RawCall, seconds: float) -> None:
    time.sleep(seconds)
    call.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _connection_closed(_: RawCall, seconds: float) -> None:
    time.sleep(seconds)


#: Some return how long after the end they broke off.
WAYS: dict[str, Callable[[RawCall, float], float | None]] = {
    "reset": _reset,
    "reset with NO_ERROR": lambda call, seconds: _reset(call, seconds, ErrorCodes.NO_ERROR),
    "reset in a message": _truncated,
    "end, then reset": _end_then_reset,
    "end and reset at once": _end_and_reset,
    "GOAWAY": _goaway,
    "TCP reset": _connection_reset,
    "connection closed": _connection_closed,
}


def main() -> None:
    order = json.load(sys.stdin)
    way = WAYS[order["way"]]
    late: list[int] = []
    for number, upload in enumerate(order["uploads"]):
        call = RawCall(order)
        try:
            for message in upload["messages"]:
                call.message(base64.b64decode(message))
            seconds = way(call, upload["delay_ms"] / 1000)
            if seconds is not None and seconds * 1000 > order["most_delay_ms"]:
                late.append(number)
        finally:
            call.socket.close()
    print(json.dumps(late))


if __name__ == "__main__":
    main()
