"""GetTransferCapabilities: the limits and options of a sandbox, answered without a relay (CAP-1 ff.)."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from openshell_files_protocol.durations import duration_of, seconds_of
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_WRITE_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.options.directories import directories_capability
from openshell_files_gateway.files.options.lanes import LaneTable
from openshell_files_gateway.files.options.trees import archives_capability, trees_capability
from openshell_files_gateway.files.options.waiting import waiting_capability
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.targets import file_agent_of
from openshell_files_gateway.sandboxes.directory import SandboxDirectory
from openshell_files_gateway.server.calls import Call, Implementation, parse_request

_NOTHING = file_relay_pb2.FileTransferCapability()


class CapabilityMethods:
    """Implements GetTransferCapabilities.

    Args:
        directory: finds the sandbox, and hides those of other callers (AUT-5).
        broker: knows the supervisors' sessions.
        limits: the gateway's limits.
        lanes: announces how many streams an upload may have.
        most_transfers: file operations that one caller may run at once in a sandbox.
    """

    def __init__(
        self,
        directory: SandboxDirectory,
        broker: RelayBroker,
        limits: LimitSettings,
        *,
        lanes: LaneTable,
        most_transfers: int,
    ) -> None:
        self._directory = directory
        self._broker = broker
        self._limits = limits
        self._lanes = lanes
        self._most_transfers = most_transfers

    def implementations(self) -> dict[str, Implementation]:
        """Return the method by name."""
        return {"GetTransferCapabilities": self.get_transfer_capabilities}

    async def get_transfer_capabilities(self, data: bytes, call: Call) -> bytes:
        """GetTransferCapabilities: answered from the settings and the supervisor's hello."""
        request: files_pb2.GetTransferCapabilitiesRequest = parse_request(
            files_pb2.GetTransferCapabilitiesRequest, data
        )
        ref = request.sandbox
        sandbox = self._directory.resolve(
            call.user, sandbox_id=ref.id, name=ref.name, workspace=ref.workspace
        )
        call.facts["sandbox_id"] = sandbox.id
        target = file_agent_of(sandbox, call.transfer_id)
        session = self._broker.usable_session(sandbox.id, target)
        if session is None:
            # No wait here: a transfer itself waits for the supervisor.
            raise TransferError(
                Reason.SUPERVISOR_NOT_CONNECTED, "supervisor session not connected", retry_delay=1.0
            )
        # The hello announces the supervisor's own agent, not one behind a port.
        announced = session.files if sandbox.agent is None else None
        return self._capabilities(announced or _NOTHING).SerializeToString()

    def _capabilities(
        self, agent: file_relay_pb2.FileTransferCapability
    ) -> files_pb2.GetTransferCapabilitiesResponse:
        """Return the stricter of the gateway's and the agent's limits, and the options that both support (CAP-2)."""
        own = self._limits
        return files_pb2.GetTransferCapabilitiesResponse(
            max_chunk_bytes=_least(own.max_chunk_bytes, agent.max_chunk_bytes),
            max_file_bytes=_least(own.max_file_bytes, agent.max_file_bytes),
            idle_timeout=_shortest(own.idle_timeout, agent.idle_timeout),
            upload_expiry=_shortest(own.upload_expiry, agent.upload_expiry),
            max_uploads_per_sandbox=_least(own.max_uploads_per_sandbox, agent.max_uploads_per_sandbox),
            max_uploads_per_principal=_least(own.max_uploads_per_principal, agent.max_uploads_per_principal),
            max_concurrent_transfers=self._most_transfers,
            max_write_bytes=MAX_WRITE_BYTES,
            digests=self._digests(agent),
            lanes=self._lanes.capability(),
            waiting=waiting_capability(own.max_pause, agent),
            directories=directories_capability(agent),
            trees=trees_capability(agent),
            archives=archives_capability(agent),
        )

    def _digests(
        self, agent: file_relay_pb2.FileTransferCapability
    ) -> list[files_pb2.DigestAlgorithm.ValueType]:
        """Return the agent's digests that the operator allows, in the agent's order; SHA-256 if it announces none."""
        allowed = self._limits.digest_numbers
        announced = agent.digests or [files_pb2.DIGEST_ALGORITHM_SHA256]
        return [algorithm for algorithm in announced if algorithm in allowed]


def _least(own: int, announced: int) -> int:
    """Return the stricter of two limits; zero is no limit."""
    return min(own or announced, announced or own)


def _shortest(own: float, announced: Duration) -> Duration:
    theirs = seconds_of(announced)
    return duration_of(min(own, theirs) if theirs > 0 else own)
