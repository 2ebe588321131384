"""The target of a relay: the file agent, a command, or a port in the sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2

from openshell_supervisor_sim.relay.byte_stream import RelayByteStream
from openshell_supervisor_sim.relay.tcp_target import open_tcp_target


class RelayServer(Protocol):
    """A server of relays: the file agent, the command server, or a connection to a port."""

    async def serve(self, stream: RelayByteStream, /) -> None:
        """Serve one relay, and return at its end."""
        ...


class FileServer(RelayServer, Protocol):
    """The file agent, whose relays may carry several operations (FRM-9)."""

    @property
    def capability(self) -> file_relay_pb2.FileTransferCapability:
        """The capability that the hello announces."""
        ...

    def finish(self) -> None:
        """End each relay after its current operation."""
        ...


class TargetRefusedError(Exception):
    """The relay cannot be served; the text goes to the gateway (RLY-5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTargets:
    """The targets that a supervisor serves.

    Attributes:
        files: the file agent, or None.
        commands: runs commands, or None.
        tcp: True if ports of the sandbox can be reached.
    """

    files: FileServer | None = None
    commands: RelayServer | None = None
    tcp: bool = True

    @asynccontextmanager
    async def opened(self, relay: openshell_pb2.RelayOpen) -> AsyncGenerator[RelayServer]:
        """Open the target of a relay before the relay is claimed (upstream's order).

        Raises:
            TargetRefusedError: this supervisor does not serve the target, or it cannot be reached.
        """
        match relay.WhichOneof("target"):
            case "file" if self.files is not None:
                yield self.files
            case "exec" if self.commands is not None:
                yield self.commands
            case "tcp" if self.tcp:
                try:
                    target = await open_tcp_target(relay.tcp.host, relay.tcp.port)
                except (OSError, ValueError) as error:
                    raise TargetRefusedError(str(error)) from error
                with target:
                    yield target
            case other:
                # Upstream reads an open without a target as ssh.
                raise TargetRefusedError(f"this supervisor serves no {other or 'ssh'} target")


def transfer_id(relay: openshell_pb2.RelayOpen) -> str:
    """Return the id that the logs of all parties share; the channel's id if the target has none."""
    match relay.WhichOneof("target"):
        case "file":
            return relay.file.transfer_id
        case "exec":
            return relay.exec.transfer_id
        case _:
            return relay.channel_id


def described(relay: openshell_pb2.RelayOpen) -> str:
    """Return a description of the target for the log."""
    target = relay.WhichOneof("target") or "ssh"
    return f"tcp {relay.tcp.host}:{relay.tcp.port}" if target == "tcp" else target
