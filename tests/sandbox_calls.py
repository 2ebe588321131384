"""The methods about sandboxes and commands, called by path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import exec_pb2, sandboxes_pb2


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class SandboxCalls:
    """Calls of one user about sandboxes of the default workspace."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel: Any = channel
        self.metadata = (("authorization", f"Bearer {token}"),)

    async def create(self, name: str = "", **fields: Any) -> sandboxes_pb2.Sandbox:
        request = sandboxes_pb2.CreateSandboxRequest(name=name, **fields)
        return await self._sandbox(methods.CREATE_SANDBOX, request)

    async def get(self, name: str) -> sandboxes_pb2.Sandbox:
        return await self._sandbox(methods.GET_SANDBOX, sandboxes_pb2.GetSandboxRequest(name=name))

    async def stop(self, name: str) -> sandboxes_pb2.Sandbox:
        return await self._sandbox(methods.STOP_SANDBOX, sandboxes_pb2.StopSandboxRequest(name=name))

    async def start(self, name: str) -> sandboxes_pb2.Sandbox:
        return await self._sandbox(methods.START_SANDBOX, sandboxes_pb2.StartSandboxRequest(name=name))

    async def delete(self, name: str, **fields: Any) -> sandboxes_pb2.DeleteSandboxResponse:
        request = sandboxes_pb2.DeleteSandboxRequest(name=name, **fields)
        return sandboxes_pb2.DeleteSandboxResponse.FromString(
            await self._unary(methods.DELETE_SANDBOX, request)
        )

    async def names(self) -> list[str]:
        data = await self._unary(methods.LIST_SANDBOXES, sandboxes_pb2.ListSandboxesRequest())
        return [one.metadata.name for one in sandboxes_pb2.ListSandboxesResponse.FromString(data).sandboxes]

    async def wait_phase(
        self, name: str, phase: sandboxes_pb2.SandboxPhase.ValueType
    ) -> sandboxes_pb2.Sandbox:
        """Ask until a sandbox is in a phase."""
        seen = await self.get(name)
        while seen.status.phase != phase:
            assert seen.status.phase != sandboxes_pb2.SANDBOX_PHASE_ERROR, seen
            seen = await self.get(name)
        return seen

    async def ready(self, name: str) -> sandboxes_pb2.Sandbox:
        return await self.wait_phase(name, sandboxes_pb2.SANDBOX_PHASE_READY)

    async def run(self, sandbox: str, *command: str, **fields: Any) -> Ran:
        """Run a command to its end."""
        request = exec_pb2.ExecSandboxRequest(sandbox=sandbox, command=command, **fields)
        call = self._channel.unary_stream(
            methods.EXEC_SANDBOX, response_deserializer=exec_pb2.ExecSandboxEvent.FromString
        )(request.SerializeToString(), metadata=self.metadata, wait_for_ready=True)
        stdout, stderr, exits = bytearray(), bytearray(), list[int]()
        async for event in call:
            assert not exits, "the exit is the last event"
            match event.WhichOneof("payload"):
                case "stdout":
                    stdout += event.stdout.data
                case "stderr":
                    stderr += event.stderr.data
                case _:
                    exits.append(event.exit.exit_code)
        return Ran(exits[0], bytes(stdout), bytes(stderr))

    async def _sandbox(self, method: str, request: Any) -> sandboxes_pb2.Sandbox:
        return sandboxes_pb2.SandboxResponse.FromString(await self._unary(method, request)).sandbox

    async def _unary(self, method: str, request: Any) -> bytes:
        answer: bytes = await self._channel.unary_unary(method)(
            request.SerializeToString(), metadata=self.metadata, wait_for_ready=True
        )
        return answer
