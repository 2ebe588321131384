"""A caller of a gateway: calls methods by their path, and says how each call ended, with reason and details.

Every call is a stream both ways on the wire, whatever the method is, so that a case can send too many messages, too few, or none.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from openshell_files_conformance.checks import CannotGoOnError, Transcript, shown
from openshell_files_conformance.pb.openshell.v1 import (
    directories_pb2,
    exec_pb2,
    files_pb2,
    openshell_pb2,
    sandboxes_pb2,
    trees_pb2,
)

SERVICE: Final = "/openshell.v1.OpenShell/"
ERROR_DOMAIN: Final = "openshell.nvidia.com"
OK: Final = "OK"
#: How long a case waits for anything that should come at once, in seconds.
ANSWER_SECONDS: Final = 10.0

M = TypeVar("M", bound=Message)
#: What grpc.aio itself is built on; it has no types.
_cython: Any = importlib.import_module("grpc._cython.cygrpc")

#: The methods of callers, and the message that each answers with.
ANSWERS: Final[dict[str, type[Message]]] = {
    "Health": openshell_pb2.HealthResponse,
    "UploadFile": files_pb2.UploadFileResponse,
    "WriteFile": files_pb2.WriteFileResponse,
    "DownloadFile": files_pb2.DownloadFileResponse,
    "GetTransferCapabilities": files_pb2.GetTransferCapabilitiesResponse,
    "StartUpload": files_pb2.StartUploadResponse,
    "GetUpload": files_pb2.GetUploadResponse,
    "ListUploads": files_pb2.ListUploadsResponse,
    "AbortUpload": files_pb2.AbortUploadResponse,
    "StatFile": files_pb2.StatFileResponse,
    "ListDirectory": directories_pb2.ListDirectoryResponse,
    "MakeDirectory": directories_pb2.MakeDirectoryResponse,
    "RemovePath": directories_pb2.RemovePathResponse,
    "MovePath": directories_pb2.MovePathResponse,
    "CopyPath": directories_pb2.CopyPathResponse,
    "UploadTree": trees_pb2.UploadTreeResponse,
    "DownloadTree": trees_pb2.DownloadTreeResponse,
    "ExecSandbox": exec_pb2.ExecSandboxEvent,
    "CreateSandbox": sandboxes_pb2.SandboxResponse,
    "GetSandbox": sandboxes_pb2.SandboxResponse,
    "StopSandbox": sandboxes_pb2.SandboxResponse,
    "StartSandbox": sandboxes_pb2.SandboxResponse,
    "DeleteSandbox": sandboxes_pb2.DeleteSandboxResponse,
    "ConnectSupervisor": openshell_pb2.GatewayMessage,
    "RelayStream": openshell_pb2.RelayFrame,
    "RefreshSandboxToken": openshell_pb2.RefreshSandboxTokenResponse,
}


@dataclass
class Ended(Generic[M]):
    """How a call ended.

    Attributes:
        code: of gRPC.
        reason: OK, the reason of the ErrorInfo, or without one `CODE without a reason`.
        messages: that were received, in order.
        metadata: of the ErrorInfo.
        fields: that a BadRequest names.
        retry_after: seconds of a RetryInfo.
        details: the status message, for people.
        domain: of the ErrorInfo.
    """

    code: grpc.StatusCode
    reason: str = OK
    messages: list[M] = field(default_factory=list[M])
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    fields: list[str] = field(default_factory=list[str])
    retry_after: float | None = None
    details: str = ""
    domain: str = ""
    trailers: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def ok(self) -> bool:
        """Whether the call succeeded."""
        return self.code is grpc.StatusCode.OK

    @property
    def answer(self) -> Any:
        """The only message; None if there is none."""
        return self.messages[-1] if self.messages else None

    @property
    def answers(self) -> Any:
        """The messages, for code that reads their fields."""
        return self.messages

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.details}"


def ended_with(code: grpc.StatusCode, details: str, trailers: Iterable[tuple[str, Any]]) -> Ended[Any]:
    """Read a status with its details.

    Raises:
        CannotGoOnError: the details are not what gRPC says they are.
    """
    found = dict(trailers)
    if code is grpc.StatusCode.OK:
        return Ended(code, trailers=found)
    ended: Ended[Any] = Ended(code, f"{code.name} without a reason", details=details, trailers=found)
    packed = found.get("grpc-status-details-bin")
    if packed is None:
        return ended
    try:
        status = status_pb2.Status.FromString(packed)
        for detail in status.details:
            _read_detail(ended, detail)
    except DecodeError as error:
        raise CannotGoOnError(f"grpc-status-details-bin is no google.rpc.Status: {packed!r}") from error
    return ended


def _read_detail(ended: Ended[Any], detail: Any) -> None:
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    if detail.Unpack(info):
        ended.reason, ended.domain, ended.metadata = info.reason, info.domain, dict(info.metadata)
    elif detail.Unpack(bad):
        ended.fields = [violation.field for violation in bad.field_violations]
    elif detail.Unpack(retry):
        ended.retry_after = retry.retry_delay.ToNanoseconds() / 1e9


#: A larger message is shown by its kind and size: its text would take longer than the call.
_SHOWN_BYTES: Final = 4096


def brief(message: Message) -> str:
    """A message in one line, as transcripts show it."""
    size = message.ByteSize()
    if size > _SHOWN_BYTES:
        kinds = ", ".join(field.name for field, _ in message.ListFields())
        return f"{message.DESCRIPTOR.name} of {size} bytes with {kinds}"
    return shown(text_format.MessageToString(message, as_one_line=True), 240).strip('"')


class Call(Generic[M]):
    """One call, a stream both ways.

    Attributes:
        name: of the method.
        messages: that were received so far.
    """

    def __init__(
        self, name: str, call: Any, answer: type[M], transcript: Transcript, patience: float = ANSWER_SECONDS
    ) -> None:
        self.name = name
        self._patience = patience
        self.messages: list[M] = []
        self._call = call
        self._answer = answer
        self._transcript = transcript
        self._reading: asyncio.Future[Any] | None = None

    async def send(self, *messages: Message, quiet: bool = False) -> bool:
        """Send messages; return whether the stream still took them. A call that is over takes none, which is no error."""
        for message in messages:
            if not quiet:
                self._transcript.sent(f"{self.name}: {brief(message)}")
            if not await self._write(message.SerializeToString()):
                return False
        return True

    async def _write(self, message: bytes) -> bool:
        if self._call.done():
            return False
        try:
            await self._call.wait_for_connection()
            # Not `write`: after a failed one, grpc.aio replaces the status that the server sent by one of its own.
            await self._call._cython_call.send_serialized_message(message)
        except (_cython.BaseError, asyncio.InvalidStateError, grpc.aio.AioRpcError, grpc.aio.UsageError):
            return False
        return True

    async def half_close(self) -> None:
        """Say that no more messages come."""
        self._transcript.sent(f"{self.name}: half-close")
        try:
            await self._call.done_writing()
        except (_cython.BaseError, asyncio.InvalidStateError, grpc.aio.AioRpcError):
            return

    def cancel(self) -> None:
        """Cancel the call, as a caller does that leaves."""
        self._transcript.sent(f"{self.name}: cancel")
        self._call.cancel()

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return bool(self._call.done())

    async def connected(self) -> None:
        """Wait until the call's headers were sent, or it is over."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._call.wait_for_connection()

    async def headers(self, seconds: float | None = None) -> dict[str, Any]:
        """Wait for the initial metadata."""
        async with self._waiting("its initial metadata", seconds):
            return dict(await self._call.initial_metadata())

    async def next(self, seconds: float | None = None) -> M | None:
        """Return the next message; None at the end of the stream.

        Raises:
            CannotGoOnError: nothing came in time.
        """
        # Kept over a wait in vain: grpc.aio cancels the whole call with a read that is cancelled.
        reading = self._reading
        if reading is None:
            reading = asyncio.ensure_future(self._call.read())
            reading.add_done_callback(_looked_at)
        self._reading = reading
        seconds = self._patience if seconds is None else seconds
        await asyncio.wait({reading}, timeout=seconds)
        if not reading.done():
            raise CannotGoOnError(f"{self.name}: waited {seconds:g} s in vain for a message")
        self._reading = None
        if reading.cancelled():
            return None
        try:
            received = reading.result()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return None
        if received is grpc.aio.EOF:
            return None
        message = self._parsed(received)
        self.messages.append(message)
        self._transcript.received(f"{self.name}: {brief(message)}")
        return message

    async def end(self, seconds: float | None = None) -> Ended[M]:
        """Read to the end of the call, and return how it ended.

        Raises:
            CannotGoOnError: it did not end in time.
        """
        while await self.next(seconds) is not None:
            pass
        async with self._waiting("its end", seconds):
            try:
                code, details = await self._call.code(), await self._call.details()
                trailers = await self._call.trailing_metadata()
            except asyncio.CancelledError:
                if not self._call.cancelled():
                    raise
                code, details, trailers = grpc.StatusCode.CANCELLED, "cancelled here", ()
        ended = cast("Ended[M]", ended_with(code, details or "", trailers or ()))
        ended.messages = self.messages
        self._transcript.received(f"{self.name} ended: {ended}")
        return ended

    def _parsed(self, received: bytes) -> M:
        try:
            return self._answer.FromString(received)
        except DecodeError as error:
            raise CannotGoOnError(
                f"{self.name} sent no {self._answer.__name__}: {shown(received)}"
            ) from error

    @asynccontextmanager
    async def _waiting(self, what: str, seconds: float | None) -> AsyncGenerator[None]:
        seconds = self._patience if seconds is None else seconds
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise CannotGoOnError(f"{self.name}: waited {seconds:g} s in vain for {what}") from None


def _looked_at(reading: asyncio.Future[Any]) -> None:
    """A call that a case leaves may end by any status; asyncio need not complain that nobody asked for it."""
    if not reading.cancelled():
        reading.exception()


class Channel:
    """A connection of its own to a gateway.

    Args:
        endpoint: host and port.
        case_id: is sent with every call as `x-conformance-case`.
        transcript: of the case.
        options: of gRPC.
        patience: how long its calls wait for anything that should come at once, in seconds.
    """

    def __init__(
        self,
        endpoint: str,
        case_id: str,
        transcript: Transcript,
        options: Sequence[tuple[str, Any]] = (),
        *,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self.endpoint = endpoint
        self._patience = patience
        self._metadata = (("x-conformance-case", case_id),)
        self._transcript = transcript
        self._channel = grpc.aio.insecure_channel(
            endpoint,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                ("grpc.max_receive_message_length", 4 << 20),
                *options,
            ],
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that run are cancelled."""
        await self._channel.close(None)

    def open(
        self,
        method: str,
        *,
        token: str | None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
        wait_for_ready: bool = False,
    ) -> Call[Any]:
        """Begin a call of a method by its name, or by its whole path."""
        path = method if method.startswith("/") else f"{SERVICE}{method}"
        name = path.rsplit("/", 1)[1]
        bearer = () if token is None else (("authorization", f"Bearer {token}"),)
        call: Any = cast(Any, self._channel).stream_stream(path)
        answer = ANSWERS.get(name, openshell_pb2.HealthResponse)
        self._transcript.sent(f"{name}{'' if token else ' without a token'}")
        return Call(
            name,
            call(
                metadata=(*bearer, *self._metadata, *metadata), timeout=timeout, wait_for_ready=wait_for_ready
            ),
            answer,
            self._transcript,
            self._patience,
        )

    async def call(
        self,
        method: str,
        *messages: Message,
        token: str | None,
        seconds: float | None = None,
        **options: Any,
    ) -> Ended[Any]:
        """Call a method with messages and a half-close, and return how it ended."""
        call = self.open(method, token=token, **options)
        await call.send(*messages)
        await call.half_close()
        return await call.end(seconds)
