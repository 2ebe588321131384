"""An upload's messages on their way to the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest
from conditions import PATIENCE_SECONDS, until
from openshell_files_gateway.concurrency.tasks import cancel
from openshell_files_gateway.files.caller_input import BROKEN, Read
from openshell_files_gateway.files.upload_input import UploadInput
from openshell_files_gateway.relay.activity import Activity
from openshell_files_gateway.relay.file_relay import FileRelay
from openshell_files_protocol.chunks import FILE_FIELD, encode_plain
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES
from openshell_files_protocol.reasons import Reason


class Recorder:
    """A relay and a transfer's clock that note what happens to them."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def forward(self, messages: Sequence[bytes], *, ended: bool = False, field: int) -> None:
        assert field == FILE_FIELD
        self.seen.append(f"forward {b''.join(messages).decode()}{' and end' if ended else ''}")

    def touch(self) -> None:
        self.seen.append("touch")


async def forward(content: UploadInput, recorder: Recorder) -> None:
    """Forward all that is read; fails if the end never comes."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await content.forward(cast("FileRelay", recorder), cast("Activity", recorder))


@pytest.mark.parametrize("declared", [3, 0, 1 << 30])
async def test_a_write_that_the_sandbox_took_is_movement(declared: int) -> None:
    """The last one, too: the agent has the whole idle time to answer it."""
    messages = iter([b"abc", None])
    recorder = Recorder()

    async def read() -> object:
        return next(messages)

    content = UploadInput(read, declared, MAX_CHUNK_BYTES)
    await content.read_on()
    await forward(content, recorder)
    assert recorder.seen[-1] == "touch"
    writes = [number for number, what in enumerate(recorder.seen) if what.startswith("forward")]
    assert recorder.seen[writes[-1]].endswith("and end")
    assert all(recorder.seen[number + 1] == "touch" for number in writes)


class Relay(Recorder):
    """Notes the end of the input, too."""

    async def cancel_input(self) -> None:
        self.seen.append("cancelled")


def reading(*messages: object) -> Read:
    given = iter(messages)

    async def read() -> object:
        return next(given)

    return read


@pytest.mark.parametrize("ended", [True, False])
async def test_an_end_that_is_a_cancellation_is_passed_on_as_one(*, ended: bool) -> None:
    """UPL-32, FRM-16."""

    async def confirm() -> bool:
        return ended

    relay = Relay()
    content = UploadInput(reading(None), 0, MAX_CHUNK_BYTES, confirm)
    await content.read_on()
    await forward(content, relay)
    assert relay.seen == ["forward  and end" if ended else "cancelled", "touch"]


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES])
async def test_the_largest_message_passes(size: int) -> None:
    """UPL-15."""
    head = 4
    message = b"".join(encode_plain(bytes(size - head)))
    assert len(message) == size
    content = UploadInput(reading(message, None), 0, MAX_CHUNK_BYTES)
    async with asyncio.timeout(30):
        await content.read_on()


async def test_a_larger_message_does_not() -> None:
    """UPL-15: whatever gRPC lets through, the agent's frames have no room for it."""
    message = b"".join(encode_plain(bytes(MAX_MESSAGE_BYTES - 3)))
    content = UploadInput(reading(message, None), 0, MAX_CHUNK_BYTES)
    with pytest.raises(TransferError) as refused:
        await content.read_on()
    assert refused.value.reason is Reason.CHUNK_TOO_LARGE


async def test_broken_input_has_no_end() -> None:
    """LAN-8: the agent must not take a lost lane for the end of the content."""
    relay = Relay()
    content = UploadInput(reading(b"abc", BROKEN), 0, MAX_CHUNK_BYTES)
    await content.read_on()
    forwarding = asyncio.create_task(content.forward(cast("FileRelay", relay), cast("Activity", relay)))
    await until(lambda: "forward abc" in relay.seen, "what came is passed on")
    await cancel(forwarding)
    assert not [what for what in relay.seen if what.endswith("end") or what == "cancelled"]
