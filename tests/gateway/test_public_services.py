"""What anybody may ask without a token, and what a gateway that stops says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, cast

import grpc
import pytest
from conditions import until
from gateway_harness import SANDBOX, FakeSupervisor, GatewayHarness, running_gateway
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from openshell_files_gateway.auth.tokens import MAX_TOKEN_BYTES
from openshell_files_gateway.config.tables import LimitSettings
from openshell_files_gateway.server.public_services import MAX_STREAMS, REFLECTION_SERVICES
from openshell_files_gateway.server.strangers import LINES_AT_ONCE, MAX_AUTHENTICATING, Strangers
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_files_protocol.reasons import Reason
from stack_client import reason_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UPLOAD = files_pb2.UploadFileRequest(
    metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
).SerializeToString()


@pytest.fixture
async def harness() -> AsyncGenerator[GatewayHarness]:
    async with running_gateway() as running:
        yield running


async def check(channel: grpc.aio.Channel, service: str = methods.SERVICE) -> int:
    call = cast("Any", channel.unary_unary("/grpc.health.v1.Health/Check"))
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2.HealthCheckResponse.FromString(await call(request.SerializeToString())).status


async def health(channel: grpc.aio.Channel) -> openshell_pb2.HealthResponse:
    call = cast("Any", channel.unary_unary(methods.HEALTH))
    return openshell_pb2.HealthResponse.FromString(await call(b""))


def watch(channel: grpc.aio.Channel, service: str = "") -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return cast("Any", channel.unary_stream("/grpc.health.v1.Health/Watch"))(request.SerializeToString())


async def status_in(watching: Any) -> int:
    return health_pb2.HealthCheckResponse.FromString(await watching.read()).status


async def test_health_tells_before_the_first_refusal() -> None:
    """RLY-8: even while calls still wait for a supervisor's claim; and who watches hears it."""
    async with running_gateway(server={"stop_timeout": 60}) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        channel = harness.channel()
        watching = watch(channel)
        assert await status_in(watching) == SERVING
        assert (await health(channel)).status == openshell_pb2.SERVICE_STATUS_HEALTHY
        assert [await check(channel, service) for service in ("", methods.SERVICE)] == [SERVING, SERVING]
        asking = asyncio.create_task(harness.stat())
        opened = await supervisor.next_open()  # the gateway waits for the claim
        stopping = asyncio.create_task(harness.gateway.stop())
        assert await status_in(watching) == NOT_SERVING
        assert await watching.read() is grpc.aio.EOF
        assert await check(channel) == NOT_SERVING
        assert (await health(channel)).status == openshell_pb2.SERVICE_STATUS_UNHEALTHY
        relay = await supervisor.claim(opened.channel_id)
        await relay.answer(file_relay_pb2.FileRelayResponse(stat_file=files_pb2.StatFileResponse()))
        await asking
        await stopping


@pytest.mark.parametrize("service", ["", methods.SERVICE, "no.such.Service"])
async def test_watching(harness: GatewayHarness, service: str) -> None:
    known = service != "no.such.Service"
    watching = watch(harness.channel(), service)
    unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert await status_in(watching) == (SERVING if known else unknown)
    if not known:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(harness.channel(), service)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watching.cancel()


def reflect(channel: grpc.aio.Channel, service: str) -> Any:
    return cast("Any", channel.stream_stream(f"/{service}/ServerReflectionInfo"))()


async def ask(call: Any, **question: Any) -> reflection_pb2.ServerReflectionResponse:
    await call.write(reflection_pb2.ServerReflectionRequest(**question).SerializeToString())
    return reflection_pb2.ServerReflectionResponse.FromString(await call.read())


@pytest.mark.parametrize("service", REFLECTION_SERVICES)
async def test_reflection_of_both_versions(harness: GatewayHarness, service: str) -> None:
    """grpcurl asks for version 1 first; either describes every service, itself included."""
    call = reflect(harness.channel(), service)
    answer = await ask(call, list_services="")
    names = {one.name for one in answer.list_services_response.service}
    assert names == {methods.SERVICE, "grpc.health.v1.Health", *REFLECTION_SERVICES}
    for name in names:
        described = await ask(call, file_containing_symbol=name)
        assert described.file_descriptor_response.file_descriptor_proto, name
    assert (await ask(call, file_containing_symbol="no.such")).HasField("error_response")
    await call.done_writing()
    assert await call.code() is grpc.StatusCode.OK


def _watcher(channel: grpc.aio.Channel) -> Any:
    return watch(channel)


def _asker(channel: grpc.aio.Channel) -> Any:
    return reflect(channel, REFLECTION_SERVICES[0])


@pytest.mark.parametrize("open_one", [_watcher, _asker])
async def test_streams_of_strangers_are_bounded(
    harness: GatewayHarness, open_one: Callable[[grpc.aio.Channel], Any]
) -> None:
    """AUT-8: one too many is refused; the gateway serves others, and stops at once although all stay open."""
    channel = harness.channel()
    streams = list[Any]()
    for _ in range(MAX_STREAMS):
        stream = open_one(channel)
        if open_one is _watcher:
            await status_in(stream)
        else:
            await ask(stream, list_services="")
        streams.append(stream)
    refused = open_one(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await refused.read()
    assert reason_of(caught.value) == "TOO_MANY_CALLS"
    streams[0].cancel()
    await until(streams[0].done, "it is over")
    assert (await health(channel)).status == openshell_pb2.SERVICE_STATUS_HEALTHY


@pytest.mark.parametrize(
    ("size", "reasons"),
    [
        (9 * 1024, {"TOKEN_MALFORMED"}),
        (12 * 1024, {"TOKEN_MALFORMED"}),
        (MAX_TOKEN_BYTES, {"TOKEN_MALFORMED"}),
        (MAX_TOKEN_BYTES + 1, {"TOKEN_MALFORMED"}),
        (MAX_TOKEN_BYTES + 4096, {"TOKEN_MALFORMED"}),
        (26 * 1024, {"RESOURCE_EXHAUSTED"}),
        (100 * 1024, {"RESOURCE_EXHAUSTED"}),
    ],
)
async def test_a_large_token_has_one_answer(harness: GatewayHarness, size: int, reasons: set[str]) -> None:
    """AUT-2: never one answer now and another then; 20 of each, since gRPC's own pair of limits throws dice."""
    stat = cast("Any", harness.channel().unary_unary(methods.STAT_FILE))

    async def answer() -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stat(b"", metadata=(("authorization", f"Bearer {'A' * size}"),))
        try:
            return reason_of(caught.value)
        except AssertionError:
            return caught.value.code().name

    # Together: gRPC takes its time over what it refuses itself.
    assert set(await asyncio.gather(*(answer() for _ in range(20)))) == reasons


def test_lines_about_strangers_are_rationed() -> None:
    """A refused call costs its caller nothing, so it must not fill a disk."""
    strangers = Strangers()
    said = [strangers.line(100.0) for _ in range(LINES_AT_ONCE + 50)]
    assert said == [{}] * LINES_AT_ONCE + [None] * 50
    assert strangers.line(100.05) is None
    assert strangers.line(101.0) == {"lines_left_out": 51}
    assert strangers.line(101.0) == {}


async def test_refused_calls_write_few_lines(
    harness: GatewayHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of callers that are known are all written."""
    stat = cast("Any", harness.channel().unary_unary(methods.STAT_FILE))
    bad = files_pb2.StatFileRequest(remote_path="/f").SerializeToString()
    for _ in range(3 * LINES_AT_ONCE):
        with pytest.raises(grpc.aio.AioRpcError):
            await stat(b"")
    strangers = capsys.readouterr().out.count("TOKEN_MISSING")
    assert LINES_AT_ONCE <= strangers < 2 * LINES_AT_ONCE
    for _ in range(LINES_AT_ONCE + 20):
        with pytest.raises(grpc.aio.AioRpcError):
            await stat(bad, metadata=harness.user())
    assert capsys.readouterr().out.count("INVALID_REQUEST") == LINES_AT_ONCE + 20


def test_calls_in_authentication_are_bounded() -> None:
    """An issuer that hangs must not let strangers pile up."""
    strangers = Strangers()
    held = [strangers.authenticating() for _ in range(MAX_AUTHENTICATING)]
    for one in held:
        one.__enter__()
    with pytest.raises(TransferError) as caught, strangers.authenticating():
        pass
    assert caught.value.reason is Reason.TOO_MANY_CALLS
    held[0].__exit__(None, None, None)
    with strangers.authenticating():
        pass


async def _greeting(port: int) -> bytes:
    """Connect as HTTP/2 does, and return what the gateway says first; nothing if it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
    try:
        with suppress(ConnectionError):
            return await reader.read(4096)
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("limits", "streams"),
    [(None, 128), (LimitSettings(max_transfers_per_sandbox=500), 500 + 32 + 32 + 8 + 2)],
)
async def test_a_connection_has_a_bound_of_streams(limits: LimitSettings | None, streams: int) -> None:
    """The gateway says it in its SETTINGS (3 is MAX_CONCURRENT_STREAMS); a supervisor's relays all fit in."""
    async with running_gateway(limits=limits) as harness:
        said = await _greeting(int(harness.endpoint.rpartition(":")[2]))
    assert bytes((0, 3)) + streams.to_bytes(4, "big") in said


async def test_connections_are_bounded() -> None:
    async with running_gateway(server={"max_connections": 2}) as harness:
        port = int(harness.endpoint.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for _, writer in held:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        assert all([await reader.read(9) for reader, _ in held])
        assert await _greeting(port) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


async def _silent_upload(harness: GatewayHarness, _: FakeSupervisor) -> Any:
    call = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE))(metadata=harness.user())
    await until(lambda: harness.gateway.statistics().silent.active == 1, "it is counted")
    return call


async def _unread_download(harness: GatewayHarness, supervisor: FakeSupervisor) -> Any:
    request = files_pb2.DownloadFileRequest(sandbox_id=SANDBOX, remote_path="/f", checked=True)
    call = cast("Any", harness.channel().unary_stream(methods.DOWNLOAD_FILE))(
        request.SerializeToString(), metadata=harness.user()
    )
    await supervisor.take_relay()
    return call


async def _unclaimed(harness: GatewayHarness, supervisor: FakeSupervisor) -> Any:
    asking = asyncio.create_task(harness.stat())
    await supervisor.next_open()
    return asking


async def _claimed_and_silent(harness: GatewayHarness, supervisor: FakeSupervisor) -> Any:
    asking = asyncio.create_task(harness.stat())
    await supervisor.take_relay()
    return asking


async def _upload_that_stands_still(harness: GatewayHarness, supervisor: FakeSupervisor) -> Any:
    call = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE))(metadata=harness.user())
    await call.write(UPLOAD)
    await supervisor.take_relay()
    return call


async def _watch_that_nobody_reads(harness: GatewayHarness, _: FakeSupervisor) -> Any:
    call = watch(harness.channel())
    await status_in(call)
    return call


async def _silent_reflection(harness: GatewayHarness, _: FakeSupervisor) -> Any:
    call = reflect(harness.channel(), REFLECTION_SERVICES[1])
    await ask(call, list_services="")
    return call


@pytest.mark.parametrize(
    "state",
    [
        _silent_upload, _unread_download, _unclaimed, _claimed_and_silent, _upload_that_stands_still,
        _watch_that_nobody_reads, _silent_reflection,
    ],
)  # fmt: skip
async def test_the_gateway_stops_in_time(
    state: Callable[[GatewayHarness, FakeSupervisor], Any],
) -> None:
    """RLY-21: whatever it waits for, and however long that would take by itself."""
    async with running_gateway(server={"stop_timeout": 1.0}) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        held = await state(harness, supervisor)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await harness.gateway.stop()
        # The farewells of what is cut come on top: a second to tell an agent.
        assert loop.time() - began < 10
        held.cancel()
        await asyncio.wait({asyncio.ensure_future(_over(held))})


async def _over(held: Any) -> None:
    # How it ended is not what is looked at.
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await held
