"""The Health method that the official SDK calls."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

from openshell_files_gateway.server.calls import Call, Implementation


def health_method(serving: Callable[[], bool]) -> Implementation:
    """Return the implementation of Health.

    Args:
        serving: returns False while the gateway starts or stops.
    """
    # Read once: the method is public, and reading the package's metadata is its most expensive step.
    installed = version("openshell-files-gateway")

    async def health(_: bytes, __: Call) -> bytes:
        status = openshell_pb2.SERVICE_STATUS_HEALTHY if serving() else openshell_pb2.SERVICE_STATUS_UNHEALTHY
        return openshell_pb2.HealthResponse(status=status, version=installed).SerializeToString()

    return health
