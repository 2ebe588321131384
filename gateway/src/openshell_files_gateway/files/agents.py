"""Operations in the file agents of sandboxes: find the sandbox, take a slot, hold a relay, send the first frame.

What all methods of the files have in common, whichever messages follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from openshell_files_process.agent_secret import SecretError, load_secret
from openshell_files_protocol.durations import duration_of
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import PROTOCOL_VERSION
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.core.relay_states import RelayState
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.relay.pool import RelayPool
from openshell_files_gateway.relay.targets import file_agent_of
from openshell_files_gateway.sandboxes.directory import AgentPort, Sandbox, SandboxDirectory
from openshell_files_gateway.server.calls import Call
from openshell_files_gateway.server.turn_queue import TurnQueue

log = structlog.get_logger("openshell_files_gateway.files")

#: Timeout of the handshake with an agent behind a port.
_HANDSHAKE_SECONDS: Final = 5.0

#: Timeout for the last write, since the answer may overtake the end of the caller's stream.
LAST_WRITE_SECONDS: Final = 0.005

#: Reasons after which the agent reads no more frames: it ended, or broke the protocol.
_AGENT_IS_DONE: Final = frozenset(
    {Reason.AGENT_PROTOCOL_ERROR, Reason.FILES_UNSUPPORTED, Reason.INTERNAL, Reason.RELAY_LOST}
)

#: Timeout for telling the agent of a cancellation, before the relay closes.
_CANCEL_SECONDS: Final = 1.0


@dataclass(slots=True)
class Operation:
    """One operation on a relay, with its idle timeout and the values of its first frame."""

    relay: FileRelay
    activity: Activity
    max_chunk_bytes: int
    transfer_id: str
    principal: str
    #: The agent may have heard of it.
    opened: bool = False


class FileAgents:
    """Starts operations in the file agents of sandboxes.

    Args:
        directory: finds sandboxes, and hides those of other callers (AUT-5).
        relays: pool of relays to the file agents.
        transfers: limits the operations that run at once.
        limits: limits that the gateway sends to agents, which enforce them.
    """

    def __init__(
        self,
        directory: SandboxDirectory,
        relays: RelayPool,
        transfers: TurnQueue,
        limits: LimitSettings,
    ) -> None:
        self._directory = directory
        self._relays = relays
        self._transfers = transfers
        self._limits = limits

    def sandbox_of(self, ref: files_pb2.SandboxRef, call: Call) -> Sandbox:
        """Find the sandbox that a request names (AUT-5).

        Raises:
            TransferError: SANDBOX_NOT_FOUND or SANDBOX_NOT_READY.
        """
        return self.resolve(call, ref.id, ref.name, ref.workspace)

    def resolve(self, call: Call, sandbox_id: str, name: str, workspace: str) -> Sandbox:
        """Find a sandbox by its id, or by name and workspace; see `sandbox_of`."""
        sandbox = self._directory.resolve(call.user, sandbox_id=sandbox_id, name=name, workspace=workspace)
        call.facts["sandbox_id"] = sandbox.id
        return sandbox

    def slot(self, sandbox: Sandbox, call: Call) -> AbstractAsyncContextManager[None]:
        """Return the context in which a call has a slot; it waits for its turn."""
        return self._transfers.taken(sandbox.id, call.user.key)

    @asynccontextmanager
    async def operation(self, sandbox: Sandbox, call: Call) -> AsyncGenerator[Operation, None]:
        """Hold a slot and a relay for an operation, within the context."""
        async with (
            self.slot(sandbox, call),
            self.relayed(sandbox, call) as operation,
        ):
            yield operation

    @asynccontextmanager
    async def relayed(self, sandbox: Sandbox, call: Call) -> AsyncGenerator[Operation, None]:
        """Hold a relay for an operation that has a slot, within the context."""
        target = file_agent_of(sandbox, call.transfer_id)
        activity = Activity(self._limits.idle_timeout)
        # An agent behind a port authenticates once for each relay, so its relays are not reused (FRM-8).
        reuse = sandbox.agent is None
        async with self._relays.use(sandbox.id, target, activity.touch, reuse=reuse) as relay:
            # The wait for the relay has timeouts of its own.
            activity.touch()
            if sandbox.agent is not None:
                await self._authenticate(relay, sandbox.agent)
            files = relay.session.files
            offered = files.max_chunk_bytes if files is not None else 0
            operation = Operation(
                relay,
                activity,
                min(offered or self._limits.max_chunk_bytes, self._limits.max_chunk_bytes),
                call.transfer_id,
                call.user.key,
            )
            try:
                yield operation
            except BaseException as ended:
                await _tell_cancelled(operation, ended)
                raise
            finally:
                # The log line of the RelayStream call has the id of the relay's first transfer only.
                call.facts["channel_id"] = relay.channel.channel_id

    async def _authenticate(self, relay: FileRelay, agent: AgentPort) -> None:
        """Run the handshake with an agent behind a port (FRM-8)."""
        try:
            secret = await asyncio.to_thread(load_secret, agent.secret_file)
        except SecretError as error:
            log.error("agent secret cannot be used", reason=str(error))  # noqa: TRY400 - no traceback needed
            raise TransferError(
                Reason.AGENT_UNAUTHENTICATED, "the gateway has no secret for the agent"
            ) from error
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await relay.authenticate(secret)
        except TimeoutError:
            raise TransferError(
                Reason.FILES_UNSUPPORTED, f"no file agent answers on port {agent.port} of the sandbox"
            ) from None

    async def open(self, operation: Operation, **request: Any) -> None:  # noqa: ANN401 - one field of a oneof
        """Send the agent the operation's first frame."""
        opened = file_relay_pb2.FileRelayOpen(
            protocol_version=PROTOCOL_VERSION,
            transfer_id=operation.transfer_id,
            principal=operation.principal,
            max_chunk_bytes=operation.max_chunk_bytes,
            keep_relay=operation.relay.reusable,
            digests=self._limits.digest_numbers,
            limits=file_relay_pb2.FileRelayLimits(
                max_file_bytes=self._limits.max_file_bytes,
                idle_timeout=duration_of(self._limits.idle_timeout),
                upload_expiry=duration_of(self._limits.upload_expiry),
                max_uploads_per_sandbox=self._limits.max_uploads_per_sandbox,
                max_uploads_per_principal=self._limits.max_uploads_per_principal,
            ),
            **request,
        )
        # This write blocks while the supervisor reads nothing.
        await operation.activity.watched(operation.relay.open(opened))
        operation.opened = True

    async def ask(self, sandbox: Sandbox, call: Call, answer: str, **request: Any) -> Any:  # noqa: ANN401 - by `answer`
        """Run an operation with one answer, and return it.

        Args:
            sandbox: that has the agent.
            call: of the caller.
            answer: field of the answer's frame.
            **request: field of the first frame, and the request.

        Raises:
            TransferError: of the gateway, or of the agent.
        """
        async with self.operation(sandbox, call) as operation:
            await self.open(operation, **request)
            frame = await operation.activity.watched(operation.relay.next_frame())
            return operation.relay.last(frame, answer)


async def _tell_cancelled(operation: Operation, ended: BaseException) -> None:
    """Tell the agent that its answer is not needed (FRM-31), if it has not answered and the relay still works."""
    over = isinstance(ended, TransferError) and ended.reason in _AGENT_IS_DONE
    if operation.opened and not over and operation.relay.life.state is RelayState.IN_USE:
        with suppress(TransferError, TimeoutError):
            async with asyncio.timeout(_CANCEL_SECONDS):
                await operation.relay.cancel_input()
