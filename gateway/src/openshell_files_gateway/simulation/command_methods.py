"""ExecSandbox: runs a command in a sandbox."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import aclosing

from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2

from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.targets import CommandTarget
from openshell_files_gateway.sandboxes import phases
from openshell_files_gateway.sandboxes.directory import SandboxDirectory, not_ready
from openshell_files_gateway.server.calls import Call, Implementation, parse_request
from openshell_files_gateway.server.turn_queue import TurnQueue
from openshell_files_gateway.simulation.command_relay import CommandRelay
from openshell_files_gateway.simulation.core.sandbox_requests import check_command, workspace_of

#: Version of the command protocol.
_PROTOCOL_VERSION = 1


class CommandMethods:
    """Implements ExecSandbox.

    Args:
        directory: finds the sandbox, and hides those of other callers (AUT-5).
        broker: opens relays.
        commands: limits the commands that run at once.
        idle_seconds: timeout for a caller that does not read the output.
    """

    def __init__(
        self, directory: SandboxDirectory, broker: RelayBroker, commands: TurnQueue, idle_seconds: float
    ) -> None:
        self._directory = directory
        self._broker = broker
        self._commands = commands
        self._idle_seconds = idle_seconds

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {"ExecSandbox": self.exec_sandbox}

    async def exec_sandbox(self, data: bytes, call: Call) -> None:
        """ExecSandbox: forward the output, then the exit status (EXE-1 ff.).

        A caller that leaves cancels the command.
        """
        request: exec_pb2.ExecSandboxRequest = parse_request(exec_pb2.ExecSandboxRequest, data)
        check_command(request)
        sandbox = self._directory.resolve(
            call.user, sandbox_id="", name=request.sandbox, workspace=workspace_of(request.workspace_scope)
        )
        call.facts |= {"sandbox_id": sandbox.id, "program": request.command[0]}
        if sandbox.phase != phases.READY:
            raise not_ready(sandbox)
        # The command's environment overrides the sandbox's.
        merged = dict(sandbox.message.spec.environment) | dict(request.environment)
        request.environment.update(merged)
        opened = exec_relay_pb2.ExecRelayOpen(
            protocol_version=_PROTOCOL_VERSION,
            transfer_id=call.transfer_id,
            principal=call.user.key,
            request=request,
        )
        async with self._commands.taken(sandbox.id, call.user.key):
            channel, _ = await self._broker.open_relay(sandbox.id, CommandTarget(call.transfer_id))
            try:
                relay = CommandRelay(channel)
                await self._in_time(relay.open(opened))
                async with aclosing(relay.events()) as events:
                    async for event in events:
                        if event.WhichOneof("payload") == "exit":
                            call.facts["exit_code"] = event.exit.exit_code
                        # Only the caller has an idle timeout; a command may be silent for any time.
                        await self._in_time(call.write(event.SerializeToString()))
            finally:
                channel.close()

    async def _in_time(self, sending: Awaitable[None]) -> None:
        """Wait for a write, at most for the idle timeout (EXE-19).

        Raises:
            TransferError: TRANSFER_IDLE; or raised by `sending`.
        """
        await Activity(self._idle_seconds).watched(sending)
