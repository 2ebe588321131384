"""The options `trees` and `archives`: directories with everything below them (TRE-1, ARC-1).

UploadTree and DownloadTree are streams in both directions at the same time: the
caller's messages go to the agent, and the agent's messages to the caller, both
unparsed. Archives have no methods: they are fields of UploadFile and DownloadFile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from openshell_files_protocol.errors import invalid
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, file_relay_pb2, trees_pb2

from openshell_files_gateway.concurrency.tasks import Helpers, cancel, ends_within, with_helpers
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.files.agents import LAST_WRITE_SECONDS, FileAgents, Operation
from openshell_files_gateway.files.caller_input import CallerInput
from openshell_files_gateway.files.options.waiting import with_bounded_pauses
from openshell_files_gateway.sandboxes.directory import Sandbox
from openshell_files_gateway.server.calls import Call, Implementation, parse_request
from openshell_files_gateway.server.first_message import FirstMessages

_REQUEST_FIELDS: Final = file_relay_pb2.FileRelayRequest.DESCRIPTOR.fields_by_name


@dataclass(frozen=True, slots=True)
class _Method:
    """One of the two methods.

    Attributes:
        field: name of its fields in the frames, in both directions.
        request: type of the caller's messages.
    """

    field: str
    request: type[trees_pb2.UploadTreeRequest | trees_pb2.DownloadTreeRequest]


_METHODS: Final = {
    "UploadTree": _Method("upload_tree", trees_pb2.UploadTreeRequest),
    "DownloadTree": _Method("download_tree", trees_pb2.DownloadTreeRequest),
}


class TreeMethods:
    """Implements UploadTree and DownloadTree.

    Args:
        agents: starts operations in the file agents.
        first_messages: reads the first messages of the callers.
        limits: of pauses.
    """

    def __init__(self, agents: FileAgents, first_messages: FirstMessages, limits: LimitSettings) -> None:
        self._agents = agents
        self._first_messages = first_messages
        self._limits = limits

    def implementations(self) -> dict[str, Implementation]:
        """Return the methods by name."""
        return {name: partial(self._carry_out, method) for name, method in _METHODS.items()}

    async def _carry_out(self, method: _Method, _: object, call: Call) -> None:
        """Forward the messages of both sides until the agent sends its last frame."""
        data = await self._first_messages.read(call, "start")
        request: Any = parse_request(method.request, data)
        if request.WhichOneof("payload") != "start":
            raise invalid("start", "must be the first message")
        start = request.start
        call.facts["path"] = start.path.decode("utf-8", "replace")
        sandbox = self._agents.sandbox_of(start.sandbox, call)
        # Read-ahead takes memory, so only calls with a slot have it.
        async with self._agents.slot(sandbox, call):
            await self._exchange(method, start, sandbox, call)

    async def _exchange(self, method: _Method, start: Any, sandbox: Sandbox, call: Call) -> None:  # noqa: ANN401 - by `method`
        """Forward messages in both directions at the same time, with bounded buffers."""
        content = CallerInput(
            with_bounded_pauses(call.read, self._limits.max_pause, method.request),
            field=_REQUEST_FIELDS[method.field].number,
        )
        call.facts["received_bytes"] = call.facts["sent_bytes"] = 0

        async def carried(helpers: Helpers) -> None:
            helpers.start(content.read_on(), "tree-read")
            async with self._agents.relayed(sandbox, call) as operation:
                await self._agents.open(operation, **{method.field: start})
                operation.relay.input_over = False
                forwarding = helpers.start(
                    content.forward(operation.relay, operation.activity), "tree-forward"
                )
                try:
                    await operation.activity.watched(_answers(operation, method, call))
                    content.stop()
                    if operation.relay.reusable:
                        operation.relay.input_over = await ends_within(forwarding, LAST_WRITE_SECONDS)
                finally:
                    await cancel(forwarding)

        try:
            await with_helpers(carried)
        finally:
            call.facts["received_bytes"] = content.message_bytes


async def _answers(operation: Operation, method: _Method, call: Call) -> None:
    """Forward the agent's messages, without read-ahead, since the relay's window holds the next ones already."""
    sent = 0
    try:
        while isinstance(frame := await operation.relay.next_frame(method.field), memoryview):
            operation.activity.touch()
            await call.write(bytes(frame))
            operation.activity.touch()
            sent += len(frame)
        operation.relay.last(frame, "tree_end")
    finally:
        call.facts["sent_bytes"] = sent


def trees_capability(
    agent: file_relay_pb2.FileTransferCapability,
) -> file_options_pb2.TreesCapability | None:
    """Return the capability that the gateway announces (CAP-3); None unless the agent has the operations.

    Args:
        agent: the agent's announcement.
    """
    if not agent.serves_trees:
        return None
    return file_options_pb2.TreesCapability(max_entries=agent.max_tree_entries)


def archives_capability(
    agent: file_relay_pb2.FileTransferCapability,
) -> file_options_pb2.ArchivesCapability | None:
    """Return the capability that the gateway announces (CAP-3); None unless the agent has the operations.

    Args:
        agent: the agent's announcement.
    """
    if not agent.serves_archives:
        return None
    return file_options_pb2.ArchivesCapability(
        max_entries=agent.max_archive_entries, max_extracted_bytes=agent.max_extracted_bytes
    )
