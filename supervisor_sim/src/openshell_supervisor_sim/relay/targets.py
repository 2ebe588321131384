"""What a relay leads to: files, commands, or a port in the sandbox."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, openshell_pb2

from openshell_supervisor_sim.relay.byte_stream import RelayByteStream
from openshell_supervisor_sim.relay.tcp_target import open_tcp_target


class RelayServer(Protocol):
    """What serves a relay: the file agent, commands, or a connection."""

    async def serve(self, stream: RelayByteStream, /) -> None:
        """Serve one relay and return."""
        ...


class FileServer(RelayServer, Protocol):
    """The file agent, whose relays may carry several operations (FRM-9)."""

    @property
    def capability(self) -> file_relay_pb2.FileTransferCapability:
        """What the hello says of it."""
        ...

    def finish(self) -> None:
        """Wait for no next operation any more."""
        ...


class TargetRefusedError(Exception):
    """A relay cannot be taken up; the text goes to the gateway (RLY-5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayTargets:
    """The targets that a supervisor serves.

    Attributes:
        files: the file agent, or None.
        commands: runs commands, or None.
        tcp: whether ports of the sandbox can be reached.
    """

    files: FileServer | None = None
    commands: RelayServer | None = None
    tcp: bool = True

    @asynccontextmanager
    async def opened(self, relay: openshell_pb2.RelayOpen) -> AsyncGenerator[RelayServer]:
        """Open the target of a relay before the relay is claimed (upstream's order).

        Raises:
            TargetRefusedError: this supervisor does not serve it, or it
                cannot be reached.
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
                # No target is ssh, as upstream reads it.
                raise TargetRefusedError(f"this supervisor serves no {other or 'ssh'} target")


def transfer_id(relay: openshell_pb2.RelayOpen) -> str:
    """Return the id that the logs of all parties share; the channel's if the target has none."""
    match relay.WhichOneof("target"):
        case "file":
            return relay.file.transfer_id
        case "exec":
            return relay.exec.transfer_id
        case _:
            return relay.channel_id


def described(relay: openshell_pb2.RelayOpen) -> str:
    """Return the target for the log."""
    target = relay.WhichOneof("target") or "ssh"
    return f"tcp {relay.tcp.host}:{relay.tcp.port}" if target == "tcp" else target
