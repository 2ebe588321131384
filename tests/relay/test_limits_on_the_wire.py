"""What the gateway refuses, ends, or gives up on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import google.rpc.error_details_pb2 as error_details_pb2
import google.rpc.status_pb2 as status_pb2
import grpc
import pytest
from conditions import until
from gateway_harness import FOREIGN_SANDBOX, SANDBOX, GatewayHarness, running_gateway
from openshell_files_gateway.config import consistency
from openshell_files_gateway.config.tables import LimitSettings, RelaySettings
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MIN_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return ErrorInfo.reason."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            return info.reason
    raise AssertionError(f"no details in {error}")


async def uploading(harness: GatewayHarness, *requests: files_pb2.UploadFileRequest) -> Any:
    """Send some requests of an upload and leave the stream open."""
    call = cast("Any", harness.channel().stream_unary(methods.UPLOAD_FILE)(metadata=harness.user()))
    for request in requests:
        await call.write(request.SerializeToString())
    return call


METADATA = files_pb2.UploadFileRequest(
    metadata=files_pb2.UploadFileMetadata(sandbox_id=SANDBOX, remote_path="/f", explicit_finish=True)
)


async def test_a_transfer_in_which_nothing_moves_is_ended() -> None:
    """TRANSFER_IDLE: not a deadline for the whole, a bound on standing still."""
    async with running_gateway(limits=LimitSettings(idle_timeout=0.3)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        call = await uploading(harness, METADATA)
        relay = await supervisor.take_relay()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert reason_of(caught.value) == "TRANSFER_IDLE"
        while await relay.next_frame() is not None:
            pass


async def test_an_upload_without_metadata_is_not_waited_for() -> None:
    async with running_gateway(limits=LimitSettings(idle_timeout=0.3)) as harness:
        call = await uploading(harness)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert reason_of(caught.value) == "TRANSFER_IDLE"


async def test_one_transfer_too_many() -> None:
    """TOO_MANY_TRANSFERS reaches the caller as RESOURCE_EXHAUSTED (upstream wraps it into UNAVAILABLE)."""
    limits = LimitSettings(max_transfers_per_sandbox=1, transfer_wait=0.1)
    async with running_gateway(limits=limits) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        call = await uploading(harness, METADATA)
        relay = await supervisor.take_relay()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.stat()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(caught.value) == "TOO_MANY_TRANSFERS"
        call.cancel()
        while await relay.next_frame() is not None:
            pass
        await until(
            lambda: harness.gateway.statistics().transfers.active == 0, "the transfer gave its slot back"
        )
        asking = asyncio.create_task(harness.stat())
        answer = file_relay_pb2.FileRelayResponse(stat_file=files_pb2.StatFileResponse())
        await (await supervisor.take_relay()).answer(answer)
        await asking


async def test_a_refusal_reaches_a_caller_who_is_still_sending() -> None:
    """UPL-13."""
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        call = await uploading(harness, METADATA)
        relay = await supervisor.take_relay()
        refusal = file_relay_pb2.FileRelayError(
            reason="IS_A_DIRECTORY", message="/f is a directory", code=9, metadata={"path": "/f"}
        )
        await relay.answer(file_relay_pb2.FileRelayResponse(error=refusal))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert reason_of(caught.value) == "IS_A_DIRECTORY"
        assert caught.value.details() == "/f is a directory"


async def test_other_peoples_sandboxes_do_not_exist() -> None:
    """AUT-5: the same answer as for a sandbox that is not there."""
    async with running_gateway(relay=RelaySettings(session_wait_timeout=0.2)) as harness:
        answers = set[tuple[str, str, str | None]]()
        for sandbox_id in (FOREIGN_SANDBOX, "99999999-9999-4999-8999-999999999999"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await harness.stat(sandbox_id)
            details = (caught.value.details() or "").replace(sandbox_id, "ID")
            answers.add((caught.value.code().name, reason_of(caught.value), details))
        assert answers == {("NOT_FOUND", "SANDBOX_NOT_FOUND", "there is no sandbox with the id 'ID'")}


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        (files_pb2.UploadFileMetadata(remote_path="/f"), "sandbox_id"),
        (files_pb2.UploadFileMetadata(remote_path="/f", sandbox_id=SANDBOX, sandbox="demo"), "sandbox"),
        (files_pb2.UploadFileMetadata(remote_path="/f", sandbox_id=SANDBOX, workspace="w"), "workspace"),
    ],
)
async def test_a_sandbox_is_addressed_in_one_way(metadata: files_pb2.UploadFileMetadata, field: str) -> None:
    async with running_gateway() as harness:
        call = await uploading(harness, files_pb2.UploadFileRequest(metadata=metadata))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(caught.value.details()).startswith(f"{field}: ")


async def test_the_first_message_must_be_metadata() -> None:
    """UPL-4."""
    async with running_gateway() as harness:
        call = await uploading(harness, files_pb2.UploadFileRequest(chunk=b"x"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert reason_of(caught.value) == "INVALID_REQUEST"


async def test_an_upload_without_a_first_message_ends() -> None:
    """RLY-13: the idle timeout counts if it is shorter than 10 seconds."""
    async with running_gateway(limits=LimitSettings(idle_timeout=0.1)) as harness:
        call = await uploading(harness)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert reason_of(caught.value) == "TRANSFER_IDLE"
        assert harness.gateway.statistics().silent.active == 0


async def test_an_agent_that_answers_something_else() -> None:
    """FRM-3: AGENT_PROTOCOL_ERROR, whose fault is not the caller's."""
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        asking = asyncio.create_task(harness.stat())
        relay = await supervisor.take_relay()
        wrong = file_relay_pb2.FileRelayResponse(list_uploads=files_pb2.ListUploadsResponse())
        await relay.answer(wrong)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asking
        assert reason_of(caught.value) == "AGENT_PROTOCOL_ERROR"


async def test_a_silent_supervisor_loses_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """ADR 0007: upstream would keep it."""
    # Settings that are refused, as no supervisor sends heartbeats as often.
    monkeypatch.setattr(consistency, "LEAST_HEARTBEAT_SECONDS", 0.1)
    async with running_gateway(relay=RelaySettings(heartbeat_interval=0.1, silence_timeout=0.3)) as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        while await supervisor.hear() is not None:
            pass
        assert await supervisor.call.code() is grpc.StatusCode.OK


async def test_every_error_names_the_transfer() -> None:
    """The caller's own id is kept and comes back in ErrorInfo.metadata."""
    async with running_gateway() as harness:
        stat = cast("Any", harness.channel().unary_unary(methods.STAT_FILE))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stat(
                files_pb2.StatFileRequest().SerializeToString(),
                metadata=(*harness.user(), ("x-request-id", "my-call-17")),
            )
        details = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
        assert b"my-call-17" in (details if isinstance(details, bytes) else details.encode())


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (0, 0),
        (1, MIN_CHUNK_BYTES),
        (64, MIN_CHUNK_BYTES),
        (MIN_CHUNK_BYTES - 1, MIN_CHUNK_BYTES),
        (MIN_CHUNK_BYTES, MIN_CHUNK_BYTES),
        (MIN_CHUNK_BYTES + 1, MIN_CHUNK_BYTES + 1),
    ],
)
async def test_a_caller_cannot_make_the_supervisor_flood(wanted: int, told: int) -> None:
    """DWN-8: tiny pieces that a caller asks for would be counted as the supervisor's flood (RLY-25)."""
    async with running_gateway() as harness:
        supervisor = harness.supervisor()
        await supervisor.connect()
        request = files_pb2.DownloadFileRequest(
            sandbox_id=SANDBOX, remote_path="/f", checked=True, max_chunk_bytes=wanted
        )
        call = cast("Any", harness.channel().unary_stream(methods.DOWNLOAD_FILE))(
            request.SerializeToString(), metadata=harness.user()
        )
        relay = await supervisor.take_relay()
        frame = await relay.next_frame()
        assert frame is not None
        assert frame.open.download.max_chunk_bytes == told
        call.cancel()
        while await relay.next_frame() is not None:
            pass
