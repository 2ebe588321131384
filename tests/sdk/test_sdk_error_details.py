"""Details of errors: damaged ones, pauses, reset streams, and the names in messages."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from fake_file_gateway import FakeGateway, PlainStatus, details_of
from google.rpc import error_details_pb2, status_pb2
from openshell_files import SandboxFiles, errors
from openshell_files._error_mapping import error_from_status
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Code, Reason, Retry
from sdk_flavours import Connect


def status_with(kind: str, value: bytes) -> bytes:
    status = status_pb2.Status(code=int(Code.NOT_FOUND), message="gone")
    detail = status.details.add()
    detail.type_url, detail.value = f"type.googleapis.com/google.rpc.{kind}", value
    return status.SerializeToString()


@pytest.mark.parametrize("kind", ["ErrorInfo", "RetryInfo", "BadRequest"])
@pytest.mark.parametrize(
    "value",
    [b"\xff", b"\x0a\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"],
    ids=["no tag", "no length", "too short", "no text"],
)
def test_damaged_details(kind: str, value: bytes) -> None:
    """Status and message are valid even so."""
    trailing = [("grpc-status-details-bin", status_with(kind, value))]
    error = error_from_status(int(Code.NOT_FOUND), "gone", trailing)
    assert isinstance(error, errors.FileNotFound)
    assert (error.code, error.message, error.retry_delay) == (Code.NOT_FOUND, "gone", None)


@pytest.mark.parametrize("kind", ["ErrorInfo", "RetryInfo", "BadRequest"])
def test_damaged_details_over_the_wire(connect: Connect, gateway: FakeGateway, kind: str) -> None:
    gateway.failures[methods.STAT_FILE].append(
        PlainStatus(grpc.StatusCode.NOT_FOUND, "gone", status_with(kind, b"\xff"))
    )
    with pytest.raises(errors.FileNotFound, match="gone"):
        connect().stat("x")


@pytest.mark.parametrize(
    ("seconds", "nanos", "delay"),
    [(-1, 0, None), (0, -1, None), (0, 1 << 30, None), ((1 << 63) - 1, 0, None), (-(1 << 63), -1, None),
     (0, 0, 0.0), (2, 500_000_000, 2.5), (315_576_000_000, 0, 315_576_000_000.0)],
)  # fmt: skip
def test_pauses(seconds: int, nanos: int, delay: float | None) -> None:
    """An invalid pause is ignored, and the error is raised all the same."""
    pause = error_details_pb2.RetryInfo()
    pause.retry_delay.seconds, pause.retry_delay.nanos = seconds, nanos
    trailing = [("grpc-status-details-bin", status_with("RetryInfo", pause.SerializeToString()))]
    assert error_from_status(int(Code.NOT_FOUND), "gone", trailing).retry_delay == delay


@pytest.mark.parametrize(
    "code", [Code.INTERNAL, Code.UNKNOWN, Code.RESOURCE_EXHAUSTED, Code.PERMISSION_DENIED]
)
def test_a_reset_stream_may_be_tried_again(code: Code) -> None:
    """gRPC makes statuses of RST_STREAM's codes that no server said: 11 and 12, for two."""
    error = error_from_status(int(code), "Received RST_STREAM with error code 11", ())
    assert isinstance(error, errors.Unavailable)
    assert error.retry is Retry.LATER
    said = TransferError(Reason.TOO_MANY_UPLOADS, "RST_STREAM is only a word here")
    error = error_from_status(int(said.code), said.message, [("grpc-status-details-bin", details_of(said))])
    assert isinstance(error, errors.ResourceExhausted)


@pytest.mark.parametrize("method", [methods.STAT_FILE, methods.UPLOAD_FILE, methods.DOWNLOAD_FILE])
def test_a_missing_sandbox_is_named(connect: Connect, gateway: FakeGateway, method: str) -> None:
    gateway.failures[method].append(TransferError(Reason.SANDBOX_NOT_FOUND, "no such sandbox"))
    demo = connect(workspace="team")
    calls: dict[str, Callable[[], object]] = {
        methods.STAT_FILE: lambda: demo.stat("x"),
        methods.UPLOAD_FILE: lambda: demo.write_bytes("x", b""),
        methods.DOWNLOAD_FILE: lambda: demo.read_bytes("x"),
    }
    with pytest.raises(errors.SandboxNotFound, match="sandbox 'demo' in workspace 'team'"):
        calls[method]()


@pytest.mark.parametrize("reason", [Reason.DISK_FULL, Reason.CHUNK_CHECKSUM])
def test_a_refused_stream_says_why(sandbox: SandboxFiles, gateway: FakeGateway, reason: Reason) -> None:
    """Not that the source cannot be read again, which would not have helped."""

    def refuse(_number: int, _upload: object, request: files_pb2.UploadFileRequest) -> None:
        if request.WhichOneof("payload") == "data":
            raise TransferError(reason, "as the test wants it")

    gateway.on_upload_message = refuse
    with pytest.raises(errors.FilesError, match=reason.name):
        sandbox.upload(iter([b"x" * MIB] * 3), "x")
