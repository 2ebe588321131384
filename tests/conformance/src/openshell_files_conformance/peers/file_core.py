"""What all methods of the gateway towards an SDK share: settings, one call at a time, admission, faults."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from openshell_files_conformance.checks import Transcript, shown
from openshell_files_conformance.peers.file_calls import Answered, Book, Call, Fault, FaultPlan, Violation
from openshell_files_conformance.peers.file_sandbox import BLAKE3, KIB, SHA256, Algorithm, Sandbox
from openshell_files_conformance.peers.file_status import Status, refusal

_Message = TypeVar("_Message", bound=Message)
#: Context of a call that carries bytes.
Context = grpc.aio.ServicerContext[bytes, bytes]


@dataclass
class Settings:
    """What the gateway is like. A case changes it before the SDK calls.

    Attributes:
        sandbox: name of the only sandbox.
        sandbox_id: its id.
        tokens: accepted bearer tokens; None accepts calls without one.
        lacks: methods that it does not have.
        rfc_only: it knows only fields 1 to 5 of the RFC's two methods, and ignores everything else.
        digests: algorithms that it computes.
        max_lanes: most streams of an upload; 0 does not offer the option.
        unknown_fields: it sets fields that no client knows yet.
    """

    sandbox: str = "conformance"
    sandbox_id: str = "sandbox-1"
    tokens: set[str] | None = None
    lacks: set[str] = field(default_factory=set[str])
    rfc_only: bool = False
    digests: tuple[Algorithm, ...] = (BLAKE3, SHA256)
    max_chunk_bytes: int = 512 * KIB
    download_chunk_bytes: int = 64 * KIB
    max_lanes: int = 0
    trees: bool = True
    directories: bool = True
    unknown_fields: bool = False


class Core:
    """State of the gateway.

    Attributes:
        answered_extension: a method of an extension was answered, so that callers know that the gateway has them (RFC-8).
        knows_limits: an answer with the limits was given (CAP-5).
        disconnect: closes all connections, and takes new ones.
    """

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript
        self.settings = Settings()
        self.sandbox = Sandbox()
        self.faults = FaultPlan()
        self.book = Book()
        self.answered_extension = False
        self.knows_limits = False
        self.disconnect: Callable[[], None] = lambda: None
        self._numbers = Counter[str]()
        self._begun = defaultdict[str, asyncio.Event](asyncio.Event)
        self._running = 0
        #: No call runs.
        self.quiet = asyncio.Event()
        self.quiet.set()

    def begin(self, method: str, context_metadata: Iterable[tuple[str, str | bytes]]) -> Call:
        """Record a call."""
        self._numbers[method] += 1
        self._begun[method].set()
        metadata = {key: value if isinstance(value, str) else value.hex() for key, value in context_metadata}
        call = Call(method, self._numbers[method], metadata)
        self.book.calls.append(call)
        self.transcript.received(f"{call.name}{'' if call.token else ' without a token'}")
        return call

    async def called(self, method: str, seconds: float) -> bool:
        """Wait for the first call of a method; return whether it came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._begun[method].wait()
        return self._begun[method].is_set()

    def running(self, change: int) -> None:
        """Count the calls that run."""
        self._running += change
        if self._running:
            self.quiet.clear()
        else:
            self.quiet.set()

    def violates(self, clause: str, text: str) -> None:
        """Record that a caller broke a rule."""
        self.book.violations.append(Violation(clause, text))
        self.transcript.note(f"broken {clause}: {text}")

    def refuse(self, clause: str, reason: str, text: str, **metadata: str) -> Status:
        """Record that a caller broke a rule, and return the refusal that it gets."""
        self.violates(clause, text)
        return refusal(reason, text, metadata=metadata)

    def admit(self, call: Call) -> None:
        """Refuse a call without an accepted token.

        Raises:
            Status: the refusal.
        """
        tokens = self.settings.tokens
        if tokens is None:
            return
        if call.token is None:
            raise self.refuse("AUT-1", "TOKEN_MISSING", f"{call.name} has no bearer token")
        if call.token not in tokens:
            raise refusal("TOKEN_EXPIRED", "the token has expired")

    def admit_sandbox(self, sandbox_id: str, name: str) -> None:
        """Refuse another sandbox than the only one.

        Raises:
            Status: the refusal.
        """
        settings = self.settings
        if sandbox_id != settings.sandbox_id and (sandbox_id or name != settings.sandbox):
            raise refusal("SANDBOX_NOT_FOUND", f"there is no sandbox {sandbox_id or name!r}")


@dataclass
class Live:
    """A call that runs.

    Attributes:
        requests: raw messages of the caller.
    """

    core: Core
    call: Call
    fault: Fault
    context: Context
    requests: AsyncIterator[bytes]

    async def messages(self, kind: type[_Message]) -> AsyncGenerator[_Message]:
        """Yield the caller's messages, parsed and recorded."""
        async for data in self.requests:
            try:
                message = kind.FromString(data)
            except DecodeError:
                raise self.core.refuse(
                    "UPL-4", "INVALID_REQUEST", f"{self.call.name}: no {kind.__name__}"
                ) from None
            self.call.messages.append(message)
            self.core.transcript.received(f"{self.call.name}: {described(message)}")
            yield message

    async def only(self, kind: type[_Message]) -> _Message:
        """Return the only message of the caller."""
        async for message in self.messages(kind):
            return message
        raise asyncio.CancelledError

    async def strike(self, moment: str, upload: object = None, *, content: int = 0) -> None:
        """Let the fault happen if this is its moment.

        Raises:
            Status: the fault ends the call.
        """
        fault = self.fault
        if fault.at != moment or not fault.strikes or (moment == "content" and content < fault.after_bytes):
            return
        if moment == "content":
            # It happens once; only slowness stays.
            self.fault = Fault(at="content", change=fault.change, slow=fault.slow)
        if fault.then is not None:
            fault.then(upload)
        if fault.disconnect:
            self.core.transcript.sent(f"{self.call.name}: the connection is closed")
            self.core.disconnect()
        if fault.slow:
            await asyncio.sleep(fault.slow)
        if fault.hang or fault.disconnect:
            # Until the caller leaves or the connection is closed: both cancel this task.
            await asyncio.Event().wait()
        if fault.answers is not None:
            raise Answered(fault.answers(upload))
        if fault.status is not None:
            raise fault.status

    def changed(self, message: Message) -> Iterable[Message | bytes]:
        """Return what is sent in place of an honest message."""
        if self.core.settings.unknown_fields:
            message.MergeFromString(_UNKNOWN_FIELD)
        return (message,) if self.fault.change is None else self.fault.change(message)


#: Field 9999, a text, which no message has.
_UNKNOWN_FIELD = b"\xfa\xf0\x04\x03new"


def described(message: Message) -> str:
    """Return a message in a line: its kind, and what it has but content."""
    kind = message.WhichOneof("payload") if "payload" in message.DESCRIPTOR.oneofs_by_name else None
    inner: Any = getattr(message, kind) if kind else message
    if isinstance(inner, bytes):
        return f"{kind} of {len(inner)} bytes"
    parts = [f"{field.name}={_value(value)}" for field, value in inner.ListFields()]
    return f"{kind or message.DESCRIPTOR.name} {' '.join(parts)}".rstrip()


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if len(value) > 40 else repr(value)
    if isinstance(value, Message):
        small = value.ByteSize() <= _SHOWN_BYTES
        return shown(" ".join(str(value).split()), 120) if small else f"{value.ByteSize()} bytes"
    if isinstance(value, Sequence) and not isinstance(value, str):
        items: list[Any] = [*value]
        return f"[{', '.join(_value(item) for item in items[:4])}{', …' if len(items) > 4 else ''}] ({len(items)})"
    return shown(value, 120)


#: Larger messages are not written out in transcripts.
_SHOWN_BYTES = 1000


Single = Callable[[Live], Awaitable["Message | bytes"]]
Streamed = Callable[[Live], AsyncIterator["Message | bytes"]]


class Served:
    """Turns methods into handlers of gRPC, with admission, faults and a record around each."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def single(self, method: str, body: Single) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the handler of a method with one answer; the caller may stream."""

        async def handler(requests: AsyncIterator[bytes], context: Context) -> bytes:
            live = self._live(method, requests, context)
            async with self._ending(live):
                await self._open(live)
                message = await self._answer(live, body)
                answers = [message] if isinstance(message, bytes) else list(live.changed(message))
                self._sent(live, answers[0])
                return serialized(answers[0])
            raise AssertionError

        return cast(
            "grpc.RpcMethodHandler[bytes, bytes]", cast(Any, grpc).stream_unary_rpc_method_handler(handler)
        )

    def streamed(self, method: str, body: Streamed) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Return the handler of a method with a stream of answers; the caller may stream."""

        async def handler(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            live = self._live(method, requests, context)
            async with self._ending(live):
                await self._open(live)
                sent = 0
                try:
                    async with contextlib.aclosing(cast(AsyncGenerator[Any], body(live))) as honest:
                        async for message in honest:
                            if not live.fault.of_received:
                                await live.strike("content", content=sent)
                            for one in (message,) if isinstance(message, bytes) else live.changed(message):
                                self._sent(live, one)
                                yield serialized(one)
                            sent += _content(message)
                    await live.strike("answer")
                except Answered as early:
                    self._sent(live, early.message)
                    yield serialized(early.message)

        return cast(
            "grpc.RpcMethodHandler[bytes, bytes]", cast(Any, grpc).stream_stream_rpc_method_handler(handler)
        )

    @staticmethod
    async def _answer(live: Live, body: Single) -> Message | bytes:
        try:
            message = await body(live)
            await live.strike("answer")
        except Answered as early:
            return early.message
        return message

    def _live(self, method: str, requests: AsyncIterator[bytes], context: Context) -> Live:
        call = self._core.begin(method, cast(Any, context).invocation_metadata() or ())
        call.peer = str(cast(Any, context).peer())
        return Live(self._core, call, self._core.faults.take(method), context, requests)

    async def _open(self, live: Live) -> None:
        if live.fault.metadata:
            await cast(Any, live.context).send_initial_metadata(live.fault.metadata)
        if live.fault.delay:
            await asyncio.sleep(live.fault.delay)
        self._core.admit(live.call)
        await live.strike("begin")

    def _sent(self, live: Live, message: Message | bytes) -> None:
        text = f"{len(message)} raw bytes" if isinstance(message, bytes) else described(message)
        self._core.transcript.sent(f"{live.call.name}: {text}")
        if live.call.method not in {"UploadFile", "DownloadFile"}:
            self._core.answered_extension = True

    @contextlib.asynccontextmanager
    async def _ending(self, live: Live) -> AsyncGenerator[None]:
        call = live.call
        self._core.running(1)
        try:
            yield
        except Status as status:
            call.ended = status.name
            if status.reason and call.method not in {"UploadFile", "DownloadFile"}:
                self._core.answered_extension = True
            self._core.transcript.sent(f"{call.name}: {status.code.name} {status.reason} {status.message}")
            await cast(Any, live.context).abort(status.code, status.message, status.trailing_metadata())
        except (asyncio.CancelledError, GeneratorExit):
            call.ended = "left"
            self._core.transcript.received(f"{call.name}: the caller left")
            raise
        else:
            call.ended = "OK"
        finally:
            self._core.running(-1)


def serialized(message: Message | bytes) -> bytes:
    """Return a message as it is sent."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _content(message: Any) -> int:
    """Return the bytes of content in a message of a download."""
    if isinstance(message, bytes) or "payload" not in message.DESCRIPTOR.oneofs_by_name:
        return 0
    match message.WhichOneof("payload"):
        case "data":
            return len(message.data.data)
        case "chunk":
            return len(message.chunk)
        case "content":
            return sum(len(part.data) for part in message.content.parts)
        case _:
            return 0
