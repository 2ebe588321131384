"""ExecSandbox: a command in a sandbox."""

from __future__ import annotations

from contextlib import aclosing

from openshell_files_protocol.pb.openshell.v1 import exec_pb2, exec_relay_pb2

from openshell_files_gateway.core import phases
from openshell_files_gateway.core.sandbox_requests import check_command, workspace_of
from openshell_files_gateway.core.transfers import TransferLimits
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.relay.command_relay import CommandRelay
from openshell_files_gateway.relay.targets import CommandTarget
from openshell_files_gateway.rpc.calls import Call, Implementation, parse_request
from openshell_files_gateway.sandboxes import SandboxDirectory, not_ready

#: Version of the command protocol.
_PROTOCOL_VERSION = 1


class CommandMethods:
    """Implements ExecSandbox.

    Args:
        directory: finds sandboxes and hides other people's (AUT-5).
        broker: opens relays.
        commands: bounds how many run at once.
    """

    def __init__(self, directory: SandboxDirectory, broker: RelayBroker, commands: TransferLimits) -> None:
        self._directory = directory
        self._broker = broker
        self._commands = commands

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {"ExecSandbox": self.exec_sandbox}

    async def exec_sandbox(self, data: bytes, call: Call) -> None:
        """ExecSandbox: output as it comes, the exit last (EXE-1 ff.).

        A caller that goes away cancels the command.
        """
        request: exec_pb2.ExecSandboxRequest = parse_request(exec_pb2.ExecSandboxRequest, data)
        check_command(request)
        sandbox = self._directory.resolve(
            call.user, sandbox_id="", name=request.sandbox, workspace=workspace_of(request.workspace_scope)
        )
        call.facts |= {"sandbox_id": sandbox.id, "program": request.command[0]}
        if sandbox.phase != phases.READY:
            raise not_ready(sandbox)
        # The sandbox's own environment lies under the command's.
        merged = dict(sandbox.message.spec.environment) | dict(request.environment)
        request.environment.update(merged)
        opened = exec_relay_pb2.ExecRelayOpen(
            protocol_version=_PROTOCOL_VERSION,
            transfer_id=call.transfer_id,
            principal=call.user.key,
            request=request,
        )
        self._commands.begin(sandbox.id)
        try:
            channel, _ = await self._broker.open_relay(sandbox.id, CommandTarget(call.transfer_id))
            try:
                relay = CommandRelay(channel)
                await relay.open(opened)
                async with aclosing(relay.events()) as events:
                    async for event in events:
                        if event.WhichOneof("payload") == "exit":
                            call.facts["exit_code"] = event.exit.exit_code
                        await call.context.write(event.SerializeToString())
            finally:
                channel.close()
        finally:
            self._commands.end(sandbox.id)
