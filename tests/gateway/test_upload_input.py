"""An upload's messages on their way to the agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest
from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_gateway.rpc.upload_input import UploadInput
from openshell_files_protocol.limits import MAX_CHUNK_BYTES


class Recorder:
    """A relay and a transfer's clock that note what happens to them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def forward(self, messages: Sequence[bytes], *, ended: bool = False) -> None:
        self.seen.append(f"forward {b''.join(messages).decode()}{' and end' if ended else ''}")

    def touch(self) -> None:
        self.seen.append("touch")


@pytest.mark.parametrize("declared", [3, 0, 1 << 30])
async def test_a_write_that_the_sandbox_took_is_movement(declared: int) -> None:
    """The last one, too: the agent has the whole idle time to answer it."""
    messages = iter([b"abc", None])
    recorder = Recorder()

    async def read() -> object:
        return next(messages)

    content = UploadInput(read, None, declared, MAX_CHUNK_BYTES)
    await content.read_on()
    await content.forward(cast("FileRelay", recorder), cast("Activity", recorder))
    assert recorder.seen[-1] == "touch"
    writes = [number for number, what in enumerate(recorder.seen) if what.startswith("forward")]
    assert recorder.seen[writes[-1]].endswith("and end")
    assert all(recorder.seen[number + 1] == "touch" for number in writes)
