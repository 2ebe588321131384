"""A caller that speaks HTTP/2 frame by frame, for what no gRPC client sends."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset, TrailersReceived
from hpack import Encoder


class PlainEncoder(Encoder):
    """Leaves values as they are: hpack's Huffman code takes seconds for a value of 200 KB."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:  # noqa: FBT001 - as it is called
        return super().encode(headers, huffman)


class RawStream:
    """One call on a connection of its own; a context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._http = H2Connection(
            H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self._http.encoder = PlainEncoder()

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._http.initiate_connection()
        await self._flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def headers(self, method: str, metadata: Iterable[tuple[str, str]], *, end: bool = False) -> None:
        """Open the stream."""
        fixed = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "gateway"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        self._http.send_headers(1, [*fixed, *metadata], end_stream=end)
        await self._flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes as they are."""
        self._http.send_data(1, data, end_stream=end)
        await self._flush()

    async def status(self) -> tuple[int, str]:
        """Wait for the end; return gRPC's status and its message, -1 if the stream was reset."""
        while True:
            received = await self._reader.read(65536)
            if not received:
                return -1, "the connection was closed"
            for event in self._http.receive_data(received):
                if isinstance(event, ResponseReceived | TrailersReceived):
                    found = {str(name): str(value) for name, value in event.headers}
                    if "grpc-status" in found:
                        return int(found["grpc-status"]), unquote(found.get("grpc-message", ""))
                elif isinstance(event, StreamReset):
                    return -1, f"reset with {event.error_code}"
                elif isinstance(event, ConnectionTerminated):
                    return -1, f"went away: {event.additional_data!r}"
            await self._flush()

    async def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())
        await self._writer.drain()


def framed(message: bytes) -> bytes:
    """Return a message as it is on the wire."""
    return b"\0" + struct.pack(">I", len(message)) + message
