"""The service as grpc.aio handlers, made from its descriptor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2

from openshell_files_gateway.rpc.calls import CallGuard, Implementation

_SERVICE: Final = openshell_pb2.DESCRIPTOR.services_by_name["OpenShell"]


def method_names() -> frozenset[str]:
    """Return the names of the service's methods."""
    return frozenset(method.name for method in _SERVICE.methods)


def build_handlers(guard: CallGuard, implementations: Mapping[str, Implementation]) -> grpc.GenericRpcHandler:
    """Return the handlers of all methods.

    Messages are bytes on both sides: the implementations parse what they have
    to look at and let the rest through.

    Raises:
        ValueError: the descriptor has a method that nobody implements, or
            the reverse.
    """
    if method_names() != frozenset(implementations):
        raise ValueError(
            f"implementations and descriptor differ: {sorted(method_names() ^ frozenset(implementations))}"
        )
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in _SERVICE.methods:
        behaviour: Any = guard.wrap(methods.path(method.name), implementations[method.name])
        if method.client_streaming and method.server_streaming:
            handlers[method.name] = grpc.stream_stream_rpc_method_handler(behaviour)
        elif method.client_streaming:
            handlers[method.name] = grpc.stream_unary_rpc_method_handler(behaviour)
        elif method.server_streaming:
            handlers[method.name] = grpc.unary_stream_rpc_method_handler(behaviour)
        else:
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(behaviour)
    return grpc.method_handlers_generic_handler(methods.SERVICE, handlers)
