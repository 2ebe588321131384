"""A source that gives nothing for a while."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conditions import block_until
from fake_file_gateway import FakeGateway
from openshell_files._core.capabilities import capabilities
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sdk_flavours import big_content


def waiting_messages(gateway: FakeGateway) -> int:
    return sum(message.HasField("waiting") for stream in gateway.upload_messages for message in stream)


def test_it_is_said_while_the_source_gives_nothing(gateway: FakeGateway, sandbox: Any) -> None:
    """WAI-2: again and again, without content, and not behind the finish."""
    gateway.max_pause, gateway.idle_timeout = 60.0, 0.3

    def pausing() -> Iterator[bytes]:
        yield big_content()
        block_until(lambda: waiting_messages(gateway) >= 3, "the client says that it waits")
        yield b"the rest"

    sandbox.upload(pausing(), "x")
    assert gateway.files["x"].content == big_content() + b"the rest"
    assert gateway.upload_messages[-1][-1].HasField("finish")


@pytest.mark.parametrize(
    ("pause", "idle", "interval"),
    [(0, 60, None), (60, 0, None), (3600, 60, 20.0), (1, 60, 20.0), (60, 0.000001, 0.05), (-1, 60, None)],
)
def test_how_often_it_is_said(pause: float, idle: float, interval: float | None) -> None:
    """WAI-1, WAI-2: only if it was announced, three times per timeout, and never as a flood."""
    answer = files_pb2.GetTransferCapabilitiesResponse()
    answer.waiting.max_pause.FromNanoseconds(round(pause * 1e9))
    answer.idle_timeout.FromNanoseconds(round(idle * 1e9))
    assert capabilities(answer).waiting == interval


def test_a_gateway_that_does_not_offer_it_never_hears_it(
    gateway: FakeGateway, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CAP-10, WAI-1"""
    gateway.idle_timeout = 0.3
    asked = list[float]()

    def note(_: object, interval: float) -> None:
        asked.append(interval)

    for flavour in ("_sync", "_async"):
        monkeypatch.setattr(f"openshell_files.{flavour}.upload.waiting.ContentWriter._run", note)
    sandbox.upload(iter([big_content()]), "x")
    assert asked == []
    assert waiting_messages(gateway) == 0
