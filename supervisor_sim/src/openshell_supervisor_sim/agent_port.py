"""The agent port: serves the file agent on a loopback port, which a relay's `tcp` target reaches (FRM-8).

It is for a sandbox whose supervisor has no file target. After a handshake, the connection carries
the same bytes as a relay.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Final

import structlog
from google.protobuf.message import DecodeError, Message
from openshell_files_process import agent_secret
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.framing import SSH_BANNER, frame_segments
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2
from openshell_files_protocol.reasons import Reason
from openshell_files_protocol.varint import VarintError, decode_varint

from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.streams import ByteStream, error_message

log = structlog.get_logger("openshell_supervisor_sim.agent_port")

#: Timeout of the handshake.
HANDSHAKE_SECONDS: Final = 5.0

#: Timeout until the peer has read the end and closed.
_CLOSING_SECONDS: Final = 5.0

#: Most connections in the handshake. Further ones are closed at once.
MAX_HANDSHAKES: Final = 32

#: Largest frame of a handshake; its messages have less than 100 bytes.
_MAX_HANDSHAKE_FRAME: Final = 1024

_READ_BYTES: Final = 256 * 1024
_BACKLOG: Final = 128


class SocketStream:
    """Implements the agent's ByteStream on a connection.

    Args:
        connection: connected, not blocking.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._pushed_back = b""

    def push_back(self, data: bytes) -> None:
        """Put bytes back, for the next `receive`."""
        self._pushed_back = data

    async def receive(self) -> bytes:
        """Return the next bytes; b"" at the end."""
        if self._pushed_back:
            data, self._pushed_back = self._pushed_back, b""
            return data
        return await asyncio.get_running_loop().sock_recv(self._socket, _READ_BYTES)

    async def send(self, *segments: bytes | memoryview) -> None:
        """Send bytes; waits while the peer accepts none."""
        data = segments[0] if len(segments) == 1 else b"".join(segments)
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def end(self) -> None:
        """Half-close, and wait until the peer has read everything and closes.

        Its bytes are discarded: to close a connection with unread bytes resets it, and could lose
        the last bytes that were sent.
        """
        try:
            self._socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_CLOSING_SECONDS):
                while await self.receive():
                    pass
        except OSError as error:
            log.debug("the peer did not wait for the end", reason=str(error) or "timeout")


async def authenticate(stream: SocketStream, secret: bytes) -> None:
    """Prove knowledge of the secret to the gateway, and check the gateway's proof.

    Args:
        stream: keeps the bytes after the handshake.
        secret: shared with the gateway.

    Raises:
        TransferError: AGENT_UNAUTHENTICATED; the peer does not know the
            secret, or does not speak the protocol.
        ConnectionError: the peer is gone.
    """
    first, rest = await _next_frame(stream, b"")
    if first.WhichOneof("frame") != "authenticate":
        raise _unauthenticated("the first frame must be authenticate")
    theirs, ours = first.authenticate.nonce, agent_secret.new_nonce()
    if len(theirs) != agent_secret.NONCE_BYTES:
        raise _unauthenticated(f"authenticate.nonce must have {agent_secret.NONCE_BYTES} bytes")
    challenge = file_relay_pb2.FileRelayChallenge(
        nonce=ours, proof=agent_secret.agent_proof(secret, theirs, ours)
    )
    await _say(stream, file_relay_pb2.FileRelayResponse(challenge=challenge))
    second, rest = await _next_frame(stream, rest)
    if second.WhichOneof("frame") != "proof":
        raise _unauthenticated("the second frame must be proof")
    if not agent_secret.is_proof(agent_secret.gateway_proof(secret, theirs, ours), second.proof.proof):
        raise _unauthenticated("the proof is wrong; gateway and agent have different secrets")
    stream.push_back(rest)


def _unauthenticated(why: str) -> TransferError:
    return TransferError(Reason.AGENT_UNAUTHENTICATED, f"the peer is not authenticated as the gateway: {why}")


async def _next_frame(stream: ByteStream, data: bytes) -> tuple[file_relay_pb2.FileRelayRequest, bytes]:
    """Return the next frame of the handshake, and the bytes after it.

    The agent's decoder cannot serve here: it could consume bytes of the first operation, and would
    accept frames of 1 MiB from an unauthenticated peer.
    """
    while True:
        if data.startswith(SSH_BANNER):
            raise _unauthenticated("it speaks SSH")
        try:
            length = decode_varint(data, 0) if data else None
        except VarintError as error:
            raise _unauthenticated(f"not a frame: {error}") from None
        if length is not None:
            size, start = length
            if size > _MAX_HANDSHAKE_FRAME:
                raise _unauthenticated("a frame of the handshake is too large")
            if len(data) >= start + size:
                try:
                    frame = file_relay_pb2.FileRelayRequest.FromString(data[start : start + size])
                except DecodeError:
                    raise _unauthenticated("a frame is not a FileRelayRequest") from None
                return frame, data[start + size :]
        more = await stream.receive()
        if not more:
            raise ConnectionResetError("the peer left during the handshake")
        data += bytes(more)


async def _say(stream: ByteStream, message: Message) -> None:
    await stream.send(*frame_segments([message.SerializeToString()]))


@dataclass(slots=True)
class AgentPort:
    """Serves an agent on a listening socket.

    Attributes:
        agent: started.
        secret: shared with the gateway.
        max_connections: operations at the same time.
    """

    agent: FileAgent
    secret: bytes
    max_connections: int = 256
    _in_handshake: int = field(default=0, init=False)
    _admitted: int = field(default=0, init=False)
    _serving: TaskScope = field(default_factory=TaskScope, init=False)

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections until cancelled; accepted connections continue, see `drain`."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Most likely no descriptor is free; other connections will close some.
                log.warning("no connection can be accepted", reason=str(error))
                await asyncio.sleep(0.1)
                continue
            if self._in_handshake >= MAX_HANDSHAKES:
                log.warning(
                    "a connection was closed: too many are in the handshake", in_handshake=self._in_handshake
                )
                connection.close()
                continue
            connection.setblocking(False)
            self._serving.start(self._connection(connection), "agent-connection")

    async def drain(self, seconds: float) -> int:
        """Wait for running operations, for some seconds at most, and end the rest.

        Returns:
            Connections that were ended.
        """
        self.agent.finish()
        left = await self._serving.wait(seconds)
        await self._serving.end()
        return left

    async def _connection(self, connection: socket.socket) -> None:
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = SocketStream(connection)
            try:
                await self._admit(stream)
            except TransferError as error:
                log.warning("a connection was refused", reason=error.message)
                await self._refuse(stream, error)
                return
            except OSError as error:
                log.info("a connection ended during the handshake", reason=str(error))
                return
            self._admitted += 1
            try:
                await self.agent.serve(stream)
            finally:
                self._admitted -= 1
            await stream.end()

    async def _admit(self, stream: SocketStream) -> None:
        self._in_handshake += 1
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await authenticate(stream, self.secret)
        except TimeoutError:
            raise _unauthenticated(f"it took more than {HANDSHAKE_SECONDS:g} seconds") from None
        finally:
            self._in_handshake -= 1
        if self._admitted >= self.max_connections:
            raise TransferError(
                Reason.TOO_MANY_TRANSFERS,
                f"{self._admitted} operations are running, no more are allowed",
                retry_delay=1.0,
            )

    async def _refuse(self, stream: SocketStream, error: TransferError) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await _say(stream, error_message(error))
            await stream.end()
        except (OSError, TimeoutError) as gone:
            log.debug("the refusal of a connection cannot be sent", reason=str(gone))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a loopback address.

    Raises:
        OSError: the port is in use, for example.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
