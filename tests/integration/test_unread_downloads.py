"""What downloads that nobody reads cost the gateway: a bound for each, which docs/operations.md states."""

from __future__ import annotations

import os
from typing import Any

import grpc
import pytest
from dev_command import DevStack, dev_stack
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from resident_memory import MIB, ResidentMemory
from stopping_scene import counted, unchanged

#: As many as one caller may have in so many sandboxes.
FORMS = [(24, 1), pytest.param(64, 3, marks=pytest.mark.long)]
#: Of the file, so that none is sent completely.
FILE_BYTES = 64 * MIB
#: Of the gateway's memory, for each; docs/operations.md says so.
MOST_BYTES = 12 * MIB
#: Less would mean that nothing stood still.
LEAST_BYTES = 2 * MIB


@pytest.mark.parametrize(("downloads", "sandboxes"), FORMS)
async def test_memory_of_downloads_that_nobody_reads(downloads: int, sandboxes: int) -> None:
    # A stack of the test's own: what another test left in its memory would look like idle.
    with dev_stack("--sandboxes", str(sandboxes)) as stack:
        await _leave_unread(stack, downloads)


async def _leave_unread(stack: DevStack, downloads: int) -> None:
    content = os.urandom(FILE_BYTES)
    for one in stack.sandboxes:
        (one.directory / "big").write_bytes(content)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 4 * MIB)]
    memory = ResidentMemory({"gateway": stack.gateway_pid})
    async with grpc.aio.insecure_channel(stack.endpoint, options) as channel:
        untyped: Any = channel
        download = untyped.unary_stream(methods.DOWNLOAD_FILE)
        calls: list[Any] = []
        for number in range(downloads):
            sandbox_id = stack.sandboxes[number % len(stack.sandboxes)].id
            request = files_pb2.DownloadFileRequest(sandbox_id=sandbox_id, remote_path="big", checked=True)
            calls.append(
                download(request.SerializeToString(), metadata=(("authorization", f"Bearer {stack.token}"),))
            )
            assert await calls[-1].read() is not grpc.aio.EOF
        # The supervisors read files only as long as somebody takes what they send.
        await unchanged(lambda: [counted(pid, "rchar") for pid in stack.supervisor_pids], "nothing moves")
        memory.assert_within(downloads * MOST_BYTES)
        assert memory.growth()["gateway"] >= downloads * LEAST_BYTES
        for call in calls:
            call.cancel()
