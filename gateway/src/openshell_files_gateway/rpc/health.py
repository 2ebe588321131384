"""Health as the official SDK asks for it."""

from __future__ import annotations

from importlib.metadata import version

from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

from openshell_files_gateway.rpc.calls import Call


async def health(_: bytes, __: Call) -> bytes:
    """Health: the gateway answers, so it is healthy."""
    return openshell_pb2.HealthResponse(
        status=openshell_pb2.SERVICE_STATUS_HEALTHY, version=version("openshell-files-gateway")
    ).SerializeToString()
