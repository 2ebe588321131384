"""The targets of relays (file agent, command, port), and which supervisors support them (RLY-1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import exec_relay_pb2, file_relay_pb2, openshell_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.relay.supervisor_session import SupervisorSession
from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.directory import Sandbox, not_ready


class RelayTarget(Protocol):
    """The far end of a relay in a sandbox."""

    @property
    def transfer_id(self) -> str:
        """Id of the call that requests the relay, for the logs of every party."""
        ...

    def require(self, session: SupervisorSession) -> None:
        """Check that the supervisor announced such targets.

        An old supervisor reads an unknown target as SSH, so the gateway must
        not send it one.

        Raises:
            TransferError: the supervisor did not announce them.
        """
        ...

    def describe(self, channel_id: str) -> openshell_pb2.RelayOpen:
        """Return the RelayOpen message for the target."""
        ...


@dataclass(frozen=True, slots=True)
class FileAgentTarget:
    """The file agent that the supervisor itself runs."""

    transfer_id: str

    def require(self, session: SupervisorSession) -> None:
        """See `RelayTarget`. Raises FILES_UNSUPPORTED."""
        if session.files is None:
            raise TransferError(
                Reason.FILES_UNSUPPORTED,
                "the sandbox's supervisor did not announce file transfer; update it",
            )

    def describe(self, channel_id: str) -> openshell_pb2.RelayOpen:
        """See `RelayTarget`."""
        return openshell_pb2.RelayOpen(
            channel_id=channel_id, file=file_relay_pb2.FileRelayTarget(transfer_id=self.transfer_id)
        )


@dataclass(frozen=True, slots=True)
class CommandTarget:
    """A command in the sandbox."""

    transfer_id: str

    def require(self, session: SupervisorSession) -> None:
        """See `RelayTarget`. Raises EXEC_UNSUPPORTED."""
        if session.commands is None:
            raise TransferError(
                Reason.EXEC_UNSUPPORTED,
                "the sandbox's supervisor did not announce commands over the relay",
            )

    def describe(self, channel_id: str) -> openshell_pb2.RelayOpen:
        """See `RelayTarget`."""
        return openshell_pb2.RelayOpen(
            channel_id=channel_id, exec=exec_relay_pb2.ExecRelayTarget(transfer_id=self.transfer_id)
        )


@dataclass(frozen=True, slots=True)
class PortTarget:
    """A TCP port on the sandbox's loopback; every supervisor supports such targets."""

    transfer_id: str
    port: int

    def require(self, session: SupervisorSession) -> None:
        """See `RelayTarget`. Always succeeds."""

    def describe(self, channel_id: str) -> openshell_pb2.RelayOpen:
        """See `RelayTarget`."""
        return openshell_pb2.RelayOpen(
            channel_id=channel_id, tcp=openshell_pb2.TcpRelayTarget(host="127.0.0.1", port=self.port)
        )


def file_agent_of(sandbox: Sandbox, transfer_id: str) -> RelayTarget:
    """Return the target that reaches a sandbox's file agent: in the supervisor, or behind a port.

    Raises:
        TransferError: SANDBOX_NOT_READY (SBX-4).
    """
    if sandbox.phase not in phases.RUNNING:
        raise not_ready(sandbox)
    if sandbox.agent is not None:
        return PortTarget(transfer_id, sandbox.agent.port)
    return FileAgentTarget(transfer_id)
