"""A source that pauses for longer than the idle timeout, through all processes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from conditions import block_until
from openshell_files import FilesClient, OidcAuth
from openshell_files._core.upload.outgoing import waiting_message
from openshell_files._sync._calls import UploadCall
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings

#: In one idle timeout three are sent.
SEVERAL = 5


async def test_a_pause_does_not_end_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAI-6: gateway, supervisor and agent wait as long as the caller says that it does."""
    said = list[bytes]()

    write = UploadCall.write

    def counted(call: UploadCall, message: bytes, *, last: bool = False) -> None:
        write(call, message, last=last)
        if message == waiting_message():
            said.append(message)

    monkeypatch.setattr(UploadCall, "write", counted)
    content = bytes(range(256)) * 8192

    def pausing() -> Iterator[bytes]:
        yield content
        block_until(lambda: len(said) >= SEVERAL, "the pause is longer than the idle timeout")
        yield content

    settings = StackSettings(root=tmp_path / "stack", restart=False, limits={"idle_timeout": 1.0})
    async with DevelopmentStack(settings) as stack:
        described = stack.describe()

        def upload() -> bytes:
            with FilesClient(described.endpoint, auth=OidcAuth(described.token)) as client:
                sandbox = client.sandbox(stack.sandboxes[0].name)
                result = sandbox.upload(pausing(), "x")
                assert result.attempts == 1
                return sandbox.read_bytes("x")

        assert await asyncio.to_thread(upload) == 2 * content
