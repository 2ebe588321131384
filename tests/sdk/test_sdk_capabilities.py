"""The SDK asks what it may do, while other calls are on their way, and works without an answer (CAP-1 to CAP-7)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_file_gateway import FakeFile, FakeGateway, PlainStatus
from openshell_files import NO_RETRY, SandboxFiles
from openshell_files._core.capabilities import DEFAULTS, Capabilities, capabilities
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect, big_content

ASKING = methods.GET_TRANSFER_CAPABILITIES
AWAY = PlainStatus(grpc.StatusCode.UNAVAILABLE, "no supervisor")


def questions(gateway: FakeGateway) -> int:
    return len(gateway.method_calls(ASKING))


def largest_chunk(gateway: FakeGateway, stream: int = -1) -> int:
    return max(len(message.data.data) for message in gateway.upload_messages[stream])


def test_it_costs_no_round_trip(connect: Connect, gateway: FakeGateway) -> None:
    """CAP-12: the first upload sends both calls at once: neither is answered before the other has arrived."""
    both = threading.Barrier(2, timeout=20)
    gateway.before = {methods.START_UPLOAD: both.wait, ASKING: both.wait}
    connect(retry=NO_RETRY, timeout=15).write_bytes("x", big_content())
    assert gateway.files["x"].content == big_content()
    assert largest_chunk(gateway) == MAX_CHUNK_BYTES


def test_it_is_asked_once(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """CAP-12: per client and sandbox, however many uploads there are."""
    for name in ("a", "b", "c"):
        sandbox.write_bytes(name, big_content())
    assert questions(gateway) == 1


@pytest.mark.parametrize(
    ("call", "arguments"),
    [("write_bytes", ("y", b"small")), ("read_bytes", ("x",)), ("stat", ("x",)), ("uploads", ())],
)
def test_calls_that_need_no_limit_ask_nothing(
    gateway: FakeGateway, sandbox: SandboxFiles, call: str, arguments: tuple[Any, ...]
) -> None:
    gateway.files["x"] = FakeFile(big_content())
    getattr(sandbox, call)(*arguments)
    assert questions(gateway) == 0


def test_small_streams_ask_once(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """RFC-8: a gateway of the RFC alone must not get a stream of extensions; WriteFile shows that it has them."""
    gateway.has_write = False
    for name in ("a", "b"):
        sandbox.write_bytes(name, b"small")
    assert questions(gateway) == 1


def test_a_small_file_without_the_method(connect: Connect, gateway: FakeGateway) -> None:
    """CAP-5: StartUpload then shows that the gateway has the extensions."""
    gateway.stop()
    gateway.lacks = {"GetTransferCapabilities", "WriteFile"}
    gateway.start()
    connect().write_bytes("x", b"small")
    assert gateway.files["x"].content == b"small"
    assert len(gateway.method_calls(methods.START_UPLOAD)) == 1


def test_a_gateway_without_the_method(connect: Connect, gateway: FakeGateway, tmp_path: Path) -> None:
    """CAP-5: what every server takes, and it is not asked again."""
    gateway.stop()
    gateway.lacks = {"GetTransferCapabilities"}
    gateway.start()
    gateway.upload_lanes = 8
    (tmp_path / "big").write_bytes(big_content())
    files = connect()
    for name in ("a", "b"):
        files.upload_path(tmp_path / "big", name)
        assert gateway.files[name].content == big_content()
        assert largest_chunk(gateway) == MIN_CHUNK_LIMIT_BYTES
    assert not gateway.method_calls("lane")


def test_a_failed_question_is_repeated(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """CAP-4: when StartUpload was answered there is a supervisor."""
    gateway.failures[ASKING].append(AWAY)
    sandbox.write_bytes("x", big_content())
    assert (questions(gateway), largest_chunk(gateway)) == (2, MAX_CHUNK_BYTES)


def test_no_answer_fails_no_upload(connect: Connect, gateway: FakeGateway) -> None:
    """CAP-5: the upload uses the limits of every server, and the next upload asks again."""
    files = connect(retry=NO_RETRY)
    gateway.failures[ASKING].extend([AWAY, AWAY])
    files.write_bytes("x", big_content())
    assert (questions(gateway), largest_chunk(gateway)) == (2, MIN_CHUNK_LIMIT_BYTES)
    files.write_bytes("y", big_content())
    assert (questions(gateway), largest_chunk(gateway)) == (3, MAX_CHUNK_BYTES)


def test_a_limit_that_became_stricter(connect: Connect, gateway: FakeGateway) -> None:
    """CAP-6: a chunk that is refused is sent in smaller ones, and the limits are asked for again."""
    files = connect(retry=NO_RETRY)
    files.write_bytes("x", big_content())
    gateway.max_chunk_bytes = 300 * KIB
    files.write_bytes("y", big_content())
    assert gateway.files["y"].content == big_content()
    assert largest_chunk(gateway) == MIN_CHUNK_LIMIT_BYTES
    files.write_bytes("z", big_content())
    assert (questions(gateway), largest_chunk(gateway)) == (2, 300 * KIB)


@pytest.mark.parametrize("call", ["write_bytes", "read_bytes", "stat"])
def test_too_many_transfers_say_how_many_may_run(connect: Connect, gateway: FakeGateway, call: str) -> None:
    """CAP-6, RLY-24: the refusal of any call makes the client ask."""
    gateway.max_concurrent_transfers = 3
    gateway.files["x"] = FakeFile(b"1")
    method = {
        "write_bytes": methods.UPLOAD_FILE,
        "read_bytes": methods.DOWNLOAD_FILE,
        "stat": methods.STAT_FILE,
    }
    gateway.failures[method[call]].append(
        TransferError(Reason.TOO_MANY_TRANSFERS, "too many", retry_delay=0.01)
    )
    files = connect()
    getattr(files, call)("x", *([b"2"] if call == "write_bytes" else []))
    files.write_bytes("y", big_content())
    assert questions(gateway) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_chunk_bytes": 256 * KIB}, DEFAULTS),
        ({"max_chunk_bytes": 300_000}, Capabilities(chunk_bytes=300_000)),
        ({"max_chunk_bytes": 1 << 31}, Capabilities(chunk_bytes=MAX_CHUNK_BYTES)),
        ({"max_chunk_bytes": 256 * KIB, "max_concurrent_transfers": 3}, Capabilities(transfers=3)),
        ({"max_chunk_bytes": 256 * KIB, "lanes": {"max_lanes": 8}}, Capabilities(lanes=8)),
        ({"max_chunk_bytes": 256 * KIB, "lanes": {}}, DEFAULTS),
        ({"max_chunk_bytes": 256 * KIB, "waiting": {}, "idle_timeout": {"seconds": 60}}, DEFAULTS),
    ],
)
def test_what_an_answer_means(fields: dict[str, Any], said: Capabilities) -> None:
    """CAP-2, CAP-3, CAP-10: an option that is not announced is not there."""
    assert capabilities(files_pb2.GetTransferCapabilitiesResponse(**fields)) == said
