"""The services without authentication: gRPC's health and reflection (AUT-7, AUT-8).

Their callers are unknown, so the number of open streams and the duration of a
reflection stream are limited.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.methods import SERVICE
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.server.first_message import only_message
from openshell_files_gateway.server.headers import send_headers
from openshell_files_gateway.server.status import abort

#: Limit on open Health/Watch streams, and on open reflection streams. A monitor has one.
MAX_STREAMS: Final = 64

#: Time limit of a reflection stream; a tool asks all its questions at once.
_REFLECTION_SECONDS: Final = 60.0

#: Time limit for a watcher to receive the last status.
_FAREWELL_SECONDS: Final = 0.5

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
_ALPHA: Final = "grpc.reflection.v1alpha"
#: The same messages under their stable name.
_STABLE: Final = "grpc.reflection.v1"
REFLECTION_SERVICES: Final = (f"{_STABLE}.ServerReflection", f"{_ALPHA}.ServerReflection")

Context = grpc.aio.ServicerContext[Any, Any]
_SERVING: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
_NOT_SERVING: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
_UNKNOWN: Final = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)


class _Streams:
    """Counts open streams of unauthenticated callers, up to `MAX_STREAMS`.

    Args:
        what: name of the streams in the error message.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def counted(self, context: Context) -> AsyncGenerator[None]:
        """Count the call of this task; refuse it with TOO_MANY_CALLS above the limit."""
        if len(self._tasks) >= MAX_STREAMS:
            error = TransferError(
                Reason.TOO_MANY_CALLS,
                f"{MAX_STREAMS} {self._what} are open, which is the limit",
                retry_delay=1.0,
            )
            await abort(context, error, "")
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("the handler of a call runs outside of a task")
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def end(self, seconds: float) -> None:
        """Wait up to `seconds` for the open streams to end, and cancel the others."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=seconds)
            for task in left:
                task.cancel()


class PublicServices:
    """Serves `grpc.health.v1.Health` and reflection, of version 1 and 1alpha.

    The health service is not grpc_health's servicer, because that holds a lock
    while it writes to a watcher: a watcher that reads nothing would keep the
    gateway from stopping.
    """

    def __init__(self) -> None:
        self._serving = self._stopping = False
        self._changed = asyncio.Event()
        self._watchers = _Streams("streams of grpc.health.v1.Health/Watch")
        self._questions = _Streams("streams of reflection")
        names = (SERVICE, HEALTH_SERVICE, *REFLECTION_SERVICES)
        servicer = ReflectionServicer(names, _pool_with_stable_reflection())
        # An async generator, although its annotation differs.
        self._answers: Callable[..., AsyncIterator[Any]] = _any(servicer).ServerReflectionInfo

    @property
    def serving(self) -> bool:
        """True between start and stop of the gateway."""
        return self._serving

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return the gRPC handlers of the services."""
        parse = health_pb2.HealthCheckRequest.FromString
        write = health_pb2.HealthCheckResponse.SerializeToString
        health: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.stream_unary_rpc_method_handler(_with_its_message(self._check), parse, write),
            "Watch": grpc.stream_stream_rpc_method_handler(_with_its_message(self._watch), parse, write),
        }
        reflect: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                _any(self._reflect),
                reflection_pb2.ServerReflectionRequest.FromString,
                reflection_pb2.ServerReflectionResponse.SerializeToString,
            )
        }
        return (
            grpc.method_handlers_generic_handler(HEALTH_SERVICE, health),
            *(grpc.method_handlers_generic_handler(name, reflect) for name in REFLECTION_SERVICES),
        )

    def begin(self) -> None:
        """Report SERVING from now on."""
        self._serving = True
        self._tell()

    def refuse_soon(self) -> None:
        """Report NOT_SERVING from now on: the gateway may refuse the next calls."""
        self._serving, self._stopping = False, True
        self._tell()

    async def aclose(self) -> None:
        """End all streams; watchers that read receive the last status."""
        self.refuse_soon()
        await self._questions.end(0)
        await self._watchers.end(_FAREWELL_SECONDS)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status_of(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in ("", SERVICE):
            return _UNKNOWN
        return _SERVING if self._serving else _NOT_SERVING

    async def _check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        answer = self._status_of(request.service)
        if answer is _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        return answer

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        async with self._watchers.counted(context):
            while True:
                changed = self._changed
                await context.write(self._status_of(request.service))
                if self._stopping:
                    return
                await changed.wait()

    async def _reflect(
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Context
    ) -> None:
        async with self._questions.counted(context):
            await send_headers(context)
            try:
                async with asyncio.timeout(_REFLECTION_SECONDS):
                    async for answer in self._answers(requests, context):
                        await context.write(answer)
            except TimeoutError:
                error = TransferError(
                    Reason.TRANSFER_IDLE, f"a stream of reflection ends after {_REFLECTION_SECONDS:g} s"
                )
                await abort(context, error, "")


def _with_its_message(behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:  # noqa: ANN401 - see `_any`
    async def behave(_: object, context: Context) -> Any:  # noqa: ANN401 - answer varies by method
        try:
            request = await only_message(context)
        except TransferError as error:
            await abort(context, error, "")
        return await behaviour(request, context)

    return behave


def _any(behaviour: object) -> Any:  # noqa: ANN401 - grpc's types know only the blocking flavour
    return behaviour


def _pool_with_stable_reflection() -> descriptor_pool.DescriptorPool:
    """Return the default descriptor pool, with the messages of reflection version 1 added."""
    pool = descriptor_pool.Default()
    name = "grpc/reflection/v1/reflection.proto"
    try:
        pool.FindFileByName(name)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = name, _STABLE
        _rename_types(file)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _rename_types(file: descriptor_pb2.FileDescriptorProto) -> None:
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_ALPHA, _STABLE)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA, _STABLE)
            method.output_type = method.output_type.replace(_ALPHA, _STABLE)
