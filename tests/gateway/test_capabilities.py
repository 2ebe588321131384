"""What a gateway says of what may be done in a sandbox (CAP-1 to CAP-7)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from gateway_harness import FILES, SANDBOX, GatewayHarness, running_gateway
from google.protobuf.duration_pb2 import Duration
from openshell_files_gateway.config.tables import LimitSettings, SandboxSettings
from openshell_files_protocol import methods
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
from status_details import reason_in, retry_seconds_in

Answer = files_pb2.GetTransferCapabilitiesResponse
Hello = file_relay_pb2.FileTransferCapability

OWN = LimitSettings(
    max_file_bytes=1000,
    idle_timeout=30.0,
    upload_expiry=600.0,
    max_uploads_per_sandbox=10,
    max_uploads_per_principal=5,
    max_pause=90.0,
    principal_share=1.0,
)


async def asked(harness: GatewayHarness, sandbox_id: str = SANDBOX) -> Answer:
    request = files_pb2.GetTransferCapabilitiesRequest(sandbox=files_pb2.SandboxRef(id=sandbox_id))
    method = cast("Any", harness.channel()).unary_unary(methods.GET_TRANSFER_CAPABILITIES)
    return Answer.FromString(await method(request.SerializeToString(), metadata=harness.user()))


async def refusal(harness: GatewayHarness, sandbox_id: str = SANDBOX) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked(harness, sandbox_id)
    return caught.value


async def told(hello: Hello, limits: LimitSettings = OWN) -> Answer:
    """Connect a supervisor with this hello, and ask (CAP-1): no relay is opened."""
    async with running_gateway(limits=limits) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect(hello)
        answer = await asked(harness)
        assert harness.gateway.statistics().broker.relays.pending == 0
        assert harness.gateway.statistics().transfers.active == 0
        return answer


@pytest.mark.parametrize(
    ("field", "announced", "said"),
    [
        ("max_chunk_bytes", 0, MAX_CHUNK_BYTES),
        ("max_chunk_bytes", 1, MAX_CHUNK_BYTES),
        ("max_chunk_bytes", 256 * KIB - 1, MAX_CHUNK_BYTES),
        ("max_chunk_bytes", 256 * KIB, 256 * KIB),
        ("max_chunk_bytes", 300_000, 300_000),
        ("max_chunk_bytes", 1 << 30, MAX_CHUNK_BYTES),
        ("max_file_bytes", 0, 1000),
        ("max_file_bytes", 999, 999),
        ("max_file_bytes", 1001, 1000),
        ("idle_timeout", 0, 30),
        ("idle_timeout", 29, 29),
        ("idle_timeout", 31, 30),
        ("idle_timeout", -1, 30),
        ("upload_expiry", 0, 600),
        ("upload_expiry", 599, 599),
        ("upload_expiry", 601, 600),
        ("max_uploads_per_sandbox", 0, 10),
        ("max_uploads_per_sandbox", 9, 9),
        ("max_uploads_per_sandbox", 11, 10),
        ("max_uploads_per_principal", 0, 5),
        ("max_uploads_per_principal", 4, 4),
        ("max_uploads_per_principal", 6, 5),
    ],
)
async def test_the_stricter_of_two_limits(field: str, announced: int, said: int) -> None:
    """CAP-2, CAP-1, CAP-9, CAP-14: one that the agent does not announce, or cannot mean, is the gateway's."""
    hello = Hello(protocol_version=1)
    if field in {"idle_timeout", "upload_expiry"}:
        getattr(hello, field).seconds = announced
        expected: object = Duration(seconds=said)
    else:
        setattr(hello, field, announced)
        expected = said
    assert getattr(await told(hello), field) == expected


@pytest.mark.parametrize("field", ["idle_timeout", "upload_expiry"])
@pytest.mark.parametrize(("nanos", "seconds"), [(1, 0), (999_999_999, 0), (0, 1)])
async def test_a_time_that_no_transfer_survives(field: str, nanos: int, seconds: int) -> None:
    """CAP-14."""
    hello = Hello(protocol_version=1)
    getattr(hello, field).FromNanoseconds(seconds * 10**9 + nanos)
    own = {"idle_timeout": 30, "upload_expiry": 600}[field]
    assert getattr(await told(hello), field) == Duration(seconds=seconds or own)


@pytest.mark.parametrize(("most_lanes", "lanes"), [(0, None), (1, 2), (3, 4), (7, 8), (64, 8)], ids=str)
async def test_lanes(most_lanes: int, lanes: int | None) -> None:
    """CAP-3, LAN-1: the gateway's alone; set only if an upload may have more than one stream."""
    limits = OWN.model_copy(update={"max_upload_lanes": most_lanes})
    answer = await told(FILES, limits)
    assert answer.HasField("lanes") is (lanes is not None)
    assert answer.lanes.max_lanes == (lanes or 0)


@pytest.mark.parametrize(
    ("max_pause", "agent", "offered"), [(90.0, True, True), (90.0, False, False), (0.0, True, False)]
)
async def test_waiting(max_pause: float, *, agent: bool, offered: bool) -> None:
    """CAP-3, WAI-5: both must know it, since the one that does not ends the upload."""
    limits = OWN.model_copy(update={"max_pause": max_pause})
    answer = await told(Hello(protocol_version=1, takes_waiting=agent), limits)
    assert answer.HasField("waiting") is offered
    assert answer.waiting.max_pause.seconds == (90 if offered else 0)


async def test_how_many_transfers_one_caller_may_run() -> None:
    """RLY-24"""
    limits = OWN.model_copy(update={"max_transfers_per_sandbox": 8, "principal_share": 0.5})
    assert (await told(FILES, limits)).max_concurrent_transfers == 4


async def test_without_a_supervisor() -> None:
    """CAP-4: said at once, so that the transfer that waits for the supervisor is not waited for."""
    async with running_gateway(limits=OWN) as harness:
        error = await refusal(harness)
        assert (reason_in(error), error.code()) == (
            "SUPERVISOR_NOT_CONNECTED",
            grpc.StatusCode.UNAVAILABLE,
        )
        assert retry_seconds_in(error) == 1.0
        assert harness.gateway.statistics().broker.waiting_for_session == 0


async def test_a_supervisor_without_file_transfer() -> None:
    """RLY-1, CAP-11: as every file method."""
    async with running_gateway(limits=OWN) as harness:
        await harness.supervisor().connect(None)
        assert reason_in(await refusal(harness)) == "FILES_UNSUPPORTED"


async def test_a_sandbox_that_the_caller_does_not_see() -> None:
    """AUT-5, CAP-11"""
    async with running_gateway(limits=OWN) as harness:
        await harness.supervisor().connect()
        error = await refusal(harness, "another")
        assert (reason_in(error), error.code()) == ("SANDBOX_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_an_agent_behind_a_port(tmp_path: Path) -> None:
    """CAP-9: the hello says nothing of it, so the limits are the gateway's, and what the agent would have to know is not offered."""
    sandbox = SandboxSettings(id=SANDBOX, name="demo", agent_port=4711, agent_secret=tmp_path / "secret")
    async with running_gateway(limits=OWN, changes={"sandboxes": (sandbox,)}) as harness:
        await harness.supervisor().connect(Hello(protocol_version=1, max_file_bytes=1, takes_waiting=True))
        answer = await asked(harness)
        assert (answer.max_file_bytes, answer.HasField("waiting")) == (1000, False)
        assert answer.HasField("lanes")


BLAKE3, SHA256 = files_pb2.DIGEST_ALGORITHM_BLAKE3, files_pb2.DIGEST_ALGORITHM_SHA256


@pytest.mark.parametrize(
    ("announced", "allowed", "said"),
    [
        ([BLAKE3, SHA256], ("sha256", "blake3"), [BLAKE3, SHA256]),
        ([BLAKE3, SHA256], ("sha256",), [SHA256]),
        ([], ("sha256", "blake3"), [SHA256]),
        ([9, BLAKE3, BLAKE3, SHA256, SHA256], ("sha256", "blake3"), [BLAKE3, SHA256]),
        ([9], ("sha256", "blake3"), [SHA256]),
        ([SHA256, *[9] * 14, BLAKE3], ("sha256", "blake3"), [SHA256, BLAKE3]),
        ([SHA256, *[9] * 15, BLAKE3], ("sha256", "blake3"), [SHA256]),
    ],
)
async def test_digests(announced: list[Any], allowed: tuple[str, ...], said: list[Any]) -> None:
    """CAP-8, CAP-13, CAP-15, DIG-3: what the agent announces and the operator allows; SHA-256 if nothing is announced."""
    limits = OWN.model_copy(update={"digests": allowed})
    assert (await told(Hello(protocol_version=1, digests=announced), limits)).digests == said
