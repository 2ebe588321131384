"""The service as grpc.aio handlers, made from its descriptor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.calls import Call, CallGuard, Context, Implementation, transfer_id_of
from openshell_files_gateway.server.first_message import only_message
from openshell_files_gateway.server.status import abort

_SERVICE: Final = openshell_pb2.DESCRIPTOR.services_by_name["OpenShell"]


def method_names() -> frozenset[str]:
    """Return the names of the service's methods."""
    return frozenset(method.name for method in _SERVICE.methods)


def build_handlers(guard: CallGuard, implementations: Mapping[str, Implementation]) -> grpc.GenericRpcHandler:
    """Return the handlers of all methods.

    Messages are bytes in both directions: the implementations parse the
    messages that they need and forward the others unparsed.

    Raises:
        ValueError: a method of the descriptor has no implementation, or an
            implementation has no method.
    """
    if method_names() != frozenset(implementations):
        raise ValueError(
            f"implementations and descriptor differ: {sorted(method_names() ^ frozenset(implementations))}"
        )
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for method in _SERVICE.methods:
        implementation = implementations[method.name]
        if not method.client_streaming:
            implementation = _with_its_message(implementation)
        behaviour: Any = guard.wrap(methods.path(method.name), implementation)
        # Every request is a stream for gRPC: see `only_message`.
        if method.server_streaming:
            handlers[method.name] = grpc.stream_stream_rpc_method_handler(behaviour)
        else:
            handlers[method.name] = grpc.stream_unary_rpc_method_handler(behaviour)
    return grpc.method_handlers_generic_handler(methods.SERVICE, handlers)


def _with_its_message(implementation: Implementation) -> Implementation:
    async def implement(_: Any, call: Call) -> Any:  # noqa: ANN401 - request type varies by method
        return await implementation(await only_message(call.context), call)

    return implement


class UnknownMethods(grpc.GenericRpcHandler):
    """Answers unknown methods with METHOD_UNSUPPORTED; the last handler of a server.

    The answer of gRPC itself would lack an ErrorInfo.
    """

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler that refuses the method."""
        # The path may be long; `abort` truncates the message.
        error = TransferError(
            Reason.METHOD_UNSUPPORTED, f"this gateway has no method {handler_call_details.method}"
        )

        async def refuse(_: object, context: Context) -> None:
            await abort(context, error, transfer_id_of(context))

        # A stream in both directions fits every method, since the handler reads nothing.
        behaviour: Any = refuse
        return grpc.stream_stream_rpc_method_handler(behaviour)
