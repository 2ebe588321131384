"""The option `directories`: list, make, remove, move and copy entries (DIR-1)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from openshell_files_protocol.limits import MAX_PAGE_SIZE
from openshell_files_protocol.pb.openshell.v1 import (
    directories_pb2,
    file_options_pb2,
    file_relay_pb2,
    files_pb2,
)

from openshell_files_gateway.sandboxes.directory import Sandbox
from openshell_files_gateway.server.calls import Call, Implementation, parse_request

#: Type of the request of each method, and its field in the first frame and in the answer's frame.
_METHODS: Final[dict[str, tuple[type[Message], str]]] = {
    "ListDirectory": (directories_pb2.ListDirectoryRequest, "list_directory"),
    "MakeDirectory": (directories_pb2.MakeDirectoryRequest, "make_directory"),
    "RemovePath": (directories_pb2.RemovePathRequest, "remove_path"),
    "MovePath": (directories_pb2.MovePathRequest, "move_path"),
    "CopyPath": (directories_pb2.CopyPathRequest, "copy_path"),
}

#: Fields of requests and answers that the log line of a call has.
_FACTS: Final = (
    "path",
    "source",
    "destination",
    "recursive",
    "removed_entries",
    "copied_entries",
    "copied_bytes",
)


class AsksAgents(Protocol):
    """Runs an operation with one answer in the file agent of a sandbox."""

    def sandbox_of(self, ref: files_pb2.SandboxRef, call: Call) -> Sandbox:
        """Find the sandbox that a request names."""
        ...

    async def ask(self, sandbox: Sandbox, call: Call, answer: str, **request: Any) -> Any:  # noqa: ANN401 - by `answer`
        """Run the operation, and return its answer."""
        ...


class DirectoryMethods:
    """Implements the methods of directories.proto: one operation of the agent for each call.

    Args:
        agents: runs the operations.
    """

    def __init__(self, agents: AsksAgents) -> None:
        self._agents = agents

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {name: self._method(kind, field) for name, (kind, field) in _METHODS.items()}

    def _method(self, kind: type[Message], field: str) -> Callable[[bytes, Call], Awaitable[bytes]]:
        async def carry_out(data: bytes, call: Call) -> bytes:
            request = parse_request(kind, data)
            call.facts |= _facts(request)
            sandbox = self._agents.sandbox_of(request.sandbox, call)
            answer: Message = await self._agents.ask(sandbox, call, field, **{field: request})
            call.facts |= _facts(answer)
            return answer.SerializeToString()

        return carry_out


def _facts(message: Message) -> dict[str, object]:
    """Return the fields of a message for the log."""
    there = {field.name for field in message.DESCRIPTOR.fields}
    values = {name: getattr(message, name) for name in _FACTS if name in there}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        for name, value in values.items()
    }


def directories_capability(
    agent: file_relay_pb2.FileTransferCapability,
) -> file_options_pb2.DirectoriesCapability | None:
    """Return the capability that the gateway announces (CAP-3); None unless the agent has the operations.

    Args:
        agent: the agent's announcement.
    """
    if not agent.serves_directories:
        return None
    return file_options_pb2.DirectoriesCapability(max_page_size=MAX_PAGE_SIZE)
