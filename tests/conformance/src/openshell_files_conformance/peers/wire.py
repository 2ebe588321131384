"""HTTP/2 frame by frame, for what no gRPC library sends: half messages, resets, wrong flags, lost connections."""

from __future__ import annotations

import asyncio
import socket
import struct
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

from openshell_files_conformance.checks import CannotGoOnError, Transcript
from openshell_files_conformance.peers.client import ANSWER_SECONDS, SERVICE, Ended, ended_with

#: HTTP/2's first window, which is never enlarged by a receiver that does not read.
FIRST_WINDOW: Final = 65535
_CODES: Final = {cast(Any, code).value[0]: code for code in grpc.StatusCode}


def framed(message: Message | bytes, *, flag: int = 0, size: int | None = None) -> bytes:
    """Return a message as gRPC frames it; `flag` and `size` may be wrong."""
    body = message if isinstance(message, bytes) else message.SerializeToString()
    return struct.pack(">BI", flag, len(body) if size is None else size) + body


@dataclass
class WireCall:
    """What came of one stream.

    Attributes:
        headers: of the response.
        trailers: of the response, or its only headers.
        body: what came, framed.
        reset: code of a reset; None if there was none.
    """

    headers: dict[str, str] = field(default_factory=dict[str, str])
    trailers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    over: bool = False


class Wire:
    """A connection of its own; streams are numbered 1, 3, 5…"""

    def __init__(
        self,
        endpoint: str,
        case_id: str,
        transcript: Transcript,
        *,
        reads: bool = True,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        host, _, port = endpoint.rpartition(":")
        self._address = host, int(port)
        self._case_id = case_id
        self._transcript = transcript
        self._reads = reads
        self._patience = patience
        self._http = H2Connection(
            H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self._calls: dict[int, WireCall] = {}
        self.gone: str = ""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._http.initiate_connection()
        await self._flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def open(
        self, method: str, *, token: str | None, metadata: Iterable[tuple[str, str]] = (), end: bool = False
    ) -> int:
        """Open a stream; return its number."""
        number = self._http.get_next_available_stream_id()
        path = method if method.startswith("/") else f"{SERVICE}{method}"
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "conformance"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("x-conformance-case", self._case_id),
            *([] if token is None else [("authorization", f"Bearer {token}")]),
            *metadata,
        ]
        self._transcript.sent(f"stream {number}: headers of {path}{', end' if end else ''}")
        self._http.send_headers(number, head, end_stream=end)
        self._calls[number] = WireCall()
        await self._flush()
        return number

    async def send(self, number: int, data: bytes, *, end: bool = False, seconds: float | None = None) -> int:
        """Send bytes as they are, as far as the window allows; return how many were not sent for lack of window."""
        self._transcript.sent(f"stream {number}: {len(data)} bytes{', end' if end else ''}")
        left = data
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience if seconds is None else seconds)
        while True:
            window = min(self._http.local_flow_control_window(number), self._http.max_outbound_frame_size)
            part, rest = left[:window], left[window:]
            if part or not left:
                self._http.send_data(number, part, end_stream=end and not rest)
                await self._flush()
                left = rest
                if not left:
                    return 0
                continue
            remaining = deadline - loop.time()
            if remaining <= 0 or self._calls[number].over or not await self._receive(remaining):
                return len(left)

    async def reset(self, number: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Reset a stream."""
        self._transcript.sent(f"stream {number}: reset with {code.name}")
        self._http.reset_stream(number, code)
        await self._flush()

    async def end_and_reset(self, number: int, data: bytes = b"") -> None:
        """Send the end of a stream and its reset in one write, so that they arrive together."""
        self._transcript.sent(f"stream {number}: {len(data)} bytes, end, reset at once")
        self._http.send_data(number, data, end_stream=True)
        self._http.reset_stream(number, ErrorCodes.CANCEL)
        await self._flush()

    def close(self) -> None:
        """Close the connection in order."""
        self._transcript.sent("the connection is closed")
        self._writer.close()

    def abort(self) -> None:
        """Lose the TCP connection with a reset."""
        self._transcript.sent("the connection is reset")
        raw: socket.socket = self._writer.get_extra_info("socket")
        # Lingering for no time makes close() send RST.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def end(self, number: int, seconds: float | None = None) -> Ended[Any]:
        """Wait for the end of a stream, and return how it ended; a reset counts as a status of its own.

        Raises:
            CannotGoOnError: it did not end in time.
        """
        call = self._calls[number]
        seconds = self._patience if seconds is None else seconds
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not call.over and not self.gone:
            if not await self._receive(deadline - loop.time()):
                if self.gone:
                    break
                raise CannotGoOnError(f"stream {number}: waited {seconds:g} s in vain for its end")
        ended = self._ended(call)
        self._transcript.received(f"stream {number} ended: {ended}")
        return ended

    def messages(self, number: int) -> list[bytes]:
        """Return the whole messages that came on a stream."""
        body, found = bytes(self._calls[number].body), list[bytes]()
        while len(body) >= 5:
            size = struct.unpack(">I", body[1:5])[0]
            if len(body) < 5 + size:
                break
            found.append(body[5 : 5 + size])
            body = body[5 + size :]
        return found

    def call(self, number: int) -> WireCall:
        """Return what came on a stream so far."""
        return self._calls[number]

    async def receive(self, seconds: float) -> bool:
        """Take in what comes next; return whether anything came in time."""
        return await self._receive(seconds)

    def _ended(self, call: WireCall) -> Ended[Any]:
        status = call.trailers.get("grpc-status")
        if status is None:
            code = (
                grpc.StatusCode.CANCELLED if call.reset == ErrorCodes.CANCEL else grpc.StatusCode.UNAVAILABLE
            )
            how = "the connection was closed" if call.reset is None else f"reset with {call.reset}"
            return Ended(code, f"no status: {how}", details=self.gone)
        packed = call.trailers.get("grpc-status-details-bin")
        details = {}
        if packed is not None:
            details = {"grpc-status-details-bin": b64decode(packed + "=" * (-len(packed) % 4))}
        code = _CODES.get(int(status), grpc.StatusCode.UNKNOWN)
        return ended_with(code, unquote(call.trailers.get("grpc-message", "")), details.items())

    async def _receive(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                received = await self._reader.read(65536)
        except TimeoutError:
            return False
        except OSError as error:
            self.gone = str(error)
            return False
        if not received:
            self.gone = self.gone or "the connection was closed"
            return False
        for event in self._http.receive_data(received):
            self._take(event)
        await self._flush()
        return True

    def _take(self, event: Any) -> None:
        call = self._calls.get(getattr(event, "stream_id", None) or 0)
        match event:
            case ConnectionTerminated():
                self.gone = f"went away with {event.error_code}"
            case ResponseReceived() | TrailersReceived() if call is not None:
                found = {str(name): str(value) for name, value in event.headers}
                if not call.headers:
                    call.headers = found
                if "grpc-status" in found:
                    call.trailers = found
            case DataReceived() if call is not None:
                call.body += event.data
                if self._reads and event.flow_controlled_length:
                    self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamReset() if call is not None:
                call.reset, call.over = int(event.error_code), True
            case StreamEnded() if call is not None:
                call.over = True
            case _:
                pass

    async def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())
        try:
            await self._writer.drain()
        except OSError as error:
            self.gone = str(error)
