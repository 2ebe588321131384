"""What an error of gRPC carries."""

from __future__ import annotations

import google.rpc.error_details_pb2 as error_details_pb2
import google.rpc.status_pb2 as status_pb2
import grpc


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    raise AssertionError(f"no details in {error}")


def reason_in(error: grpc.aio.AioRpcError) -> str:
    """Return ErrorInfo.reason."""
    info = error_details_pb2.ErrorInfo()
    assert _status(error).details[0].Unpack(info)
    return info.reason


def metadata_in(error: grpc.aio.AioRpcError) -> dict[str, str]:
    """Return ErrorInfo.metadata."""
    info = error_details_pb2.ErrorInfo()
    assert _status(error).details[0].Unpack(info)
    return dict(info.metadata)


def field_in(error: grpc.aio.AioRpcError) -> str:
    """Return the first field that is at fault."""
    for detail in _status(error).details:
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            return request.field_violations[0].field
    raise AssertionError(f"no field in {error}")


def retry_seconds_in(error: grpc.aio.AioRpcError) -> float | None:
    """Return RetryInfo.retry_delay; None without one."""
    for detail in _status(error).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToNanoseconds() / 1e9
    return None
