"""The steps around every method: call id, authentication, authorization, error statuses, one log line."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import KIB
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.principals import Principal, SandboxPrincipal, User
from openshell_files_gateway.auth.tokens import MAX_TOKEN_BYTES
from openshell_files_gateway.concurrency.stream_reads import StreamReads
from openshell_files_gateway.server.core.older_sdk import refusal_of_older_sdk
from openshell_files_gateway.server.core.pace import PaceTable
from openshell_files_gateway.server.headers import send_headers
from openshell_files_gateway.server.status import abort
from openshell_files_gateway.server.strangers import Strangers

log = structlog.get_logger("openshell_files_gateway.calls")

#: Call ids that a caller may choose; other characters could forge a log line.
_CALLER_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

#: Longest logged part of a value that a peer chose (path, id, message); such values can have 1 MiB.
_MAX_LOGGED_CHARACTERS: Final = 1000

#: All metadata of a call: the largest accepted token, and gRPC's own default limit for the rest.
MAX_METADATA_BYTES: Final = MAX_TOKEN_BYTES + 8 * KIB
_HEADER_OVERHEAD: Final = 32

#: Rate limit on the calls of one supervisor: above the rate at which relays can be opened into its sandbox.
_SANDBOX_CALLS_PER_SECOND: Final = 500.0
_SANDBOX_CALLS_AT_ONCE: Final = 500

#: Cost of a refused call in a supervisor's rate limit. A correct supervisor has
#: few refused calls, and each is expensive: error details and a log line.
_REFUSED_CALL_COST: Final = 10.0

#: Outcome of a call whose caller cancelled it, went away or let its deadline pass.
_CANCELLED: Final = "CANCELLED"

TRANSFER_ID_METADATA: Final = "x-request-id"

Context = grpc.aio.ServicerContext[Any, Any]


class CallAuthenticator(Protocol):
    """Turns the credentials of a call into its principal."""

    async def authenticate(self, authorization: list[str]) -> Principal:
        """Return the principal of a call.

        Args:
            authorization: all values of the metadata key `authorization`.

        Raises:
            TransferError: one of the TOKEN_* reasons, or ISSUER_UNAVAILABLE.
        """
        ...


class Policy(Protocol):
    """Decides which principals may call a method."""

    def is_public(self, path: str) -> bool:
        """Return True if the method needs no token."""
        ...

    def authorize(self, path: str, principal: Principal) -> None:
        """Check that a principal may call the method.

        Raises:
            TransferError: PRINCIPAL_NOT_ALLOWED, ROLE_REQUIRED or SCOPE_REQUIRED.
        """
        ...


@dataclass(slots=True)
class Call:
    """One call, with the values that its steps share.

    Attributes:
        context: the call's context in grpc.aio.
        path: path of the method.
        transfer_id: the call's id, in every log line of every party and in every error.
        peer: the caller's address, read early because gRPC drops it when the call is cancelled.
        principal: the caller; None until it is authenticated, and for a public method.
        facts: values for the log line at the end of the call.
    """

    context: Context
    path: str
    transfer_id: str
    peer: str
    principal: Principal | None = None
    facts: dict[str, object] = field(default_factory=dict[str, object])
    _has_headers: bool = False
    _reads: StreamReads | None = None

    async def read(self) -> Any:  # noqa: ANN401 - a message, or grpc.aio.EOF
        """Return the caller's next message, or grpc.aio.EOF. See `StreamReads` for cancelled reads.

        Raises:
            BaseError: of grpc.aio; the call has ended.
        """
        if self._reads is None:
            self._reads = StreamReads(self.context.read)
        return await self._reads.next()

    async def write(self, message: bytes) -> None:
        """Send the caller a message. A cancelled write leaves a call that can still be refused.

        Raises:
            BaseError: of grpc.aio; the call has ended.
        """
        if not self._has_headers:
            self._has_headers = True
            await send_headers(self.context)
        await self.context.write(message)

    def rename(self, transfer_id: str) -> None:
        """Take over the id of another call, of whose transfer this call is a part."""
        self.transfer_id = transfer_id
        structlog.contextvars.bind_contextvars(transfer_id=transfer_id)

    @property
    def user(self) -> User:
        """The principal of a method that only users may call."""
        if not isinstance(self.principal, User):
            raise TypeError(f"{self.path} was called by {self.principal}")  # a bug of the policy
        return self.principal

    @property
    def sandbox_id(self) -> str:
        """The sandbox of the supervisor that calls a method which only supervisors may call."""
        if not isinstance(self.principal, SandboxPrincipal):
            raise TypeError(f"{self.path} was called by {self.principal}")
        return self.principal.sandbox_id


Implementation = Callable[[Any, Call], Awaitable[Any]]


class CallGuard:
    """Wraps the implementation of every method in the steps of a call.

    An implementation receives the request and the `Call`, reads streams
    through the call's context, and raises TransferError.
    """

    def __init__(self, authenticator: CallAuthenticator, policy: Policy) -> None:
        self._authenticator = authenticator
        self._policy = policy
        self._strangers = Strangers()
        #: Rate limits of the sandboxes that called lately; sandboxes run untrusted code.
        self._paces = PaceTable(per_second=_SANDBOX_CALLS_PER_SECOND, at_once=_SANDBOX_CALLS_AT_ONCE)

    def wrap(self, path: str, implementation: Implementation) -> Callable[[Any, Context], Awaitable[Any]]:
        """Return the gRPC handler of a method."""

        async def handle(request: Any, context: Context) -> Any:  # noqa: ANN401 - request type varies by method
            call = Call(context, path, transfer_id_of(context), context.peer())
            started = time.monotonic()
            outcome = _CANCELLED
            with structlog.contextvars.bound_contextvars(
                transfer_id=call.transfer_id, method=path.rpartition("/")[2]
            ):
                try:
                    require_bounded(context.invocation_metadata() or ())
                    await self._admit(call)
                    response = await implementation(request, call)
                    outcome = "OK"
                    return response  # noqa: TRY300 - an else would hide what the finally logs
                except TransferError as error:
                    outcome = error.reason.name
                    call.facts["error"] = error.message
                    self._count_refusal(call)
                    if not await _refused(call, error):
                        outcome = _CANCELLED
                        raise asyncio.CancelledError from error
                except asyncio.CancelledError:
                    raise
                except Exception as error:
                    if _shows_cancellation(error):
                        raise asyncio.CancelledError from error
                    outcome = Reason.INTERNAL.name
                    log.exception("call failed unexpectedly")
                    await _refused(call, TransferError(Reason.INTERNAL, "internal error of the gateway"))
                    raise asyncio.CancelledError from error
                finally:
                    self._log_end(call, outcome, time.monotonic() - started)

        return handle

    async def _admit(self, call: Call) -> None:
        if self._policy.is_public(call.path):
            return
        metadata = call.context.invocation_metadata() or ()
        values = [value for key, value in metadata if key == "authorization"]
        with self._strangers.authenticating():
            call.principal = await self._authenticator.authenticate([_text(value) for value in values])
        self._policy.authorize(call.path, call.principal)
        if isinstance(call.principal, SandboxPrincipal):
            await self._keep_pace(call.principal.sandbox_id)

    async def _keep_pace(self, sandbox_id: str) -> None:
        """Delay the call of a sandbox that exceeds its rate limit."""
        now = asyncio.get_running_loop().time()
        if (pause := self._paces.of(sandbox_id, now).take(now)) > 0:
            await asyncio.sleep(pause)

    def _count_refusal(self, call: Call) -> None:
        """Charge a sandbox for a refused call, so that its next calls are delayed."""
        if isinstance(call.principal, SandboxPrincipal):
            now = asyncio.get_running_loop().time()
            self._paces.of(call.principal.sandbox_id, now).take(now, _REFUSED_CALL_COST - 1)

    def _log_end(self, call: Call, outcome: str, seconds: float) -> None:
        principal = call.principal
        bounded = {key: _bounded(value) for key, value in call.facts.items()}
        facts = bounded | {"seconds": round(seconds, 3), "peer": call.peer}
        if isinstance(principal, User):
            facts["user"] = principal.key
        elif principal is not None:
            facts["sandbox_id"] = principal.sandbox_id
        if principal is None and outcome != Reason.INTERNAL.name:
            left_out = self._strangers.line(asyncio.get_running_loop().time())
            if left_out is None:
                return
            facts |= left_out
        # A bug of the gateway has its own line, of level error. INTERNAL can also be an agent's word.
        log.info("call ended", outcome=outcome, **facts)


async def _refused(call: Call, error: TransferError) -> bool:
    """End a call with an error; return False if the caller has already left.

    Raises:
        AbortError: the call has ended with the error; grpc.aio expects this exception.
    """
    try:
        await abort(call.context, error, call.transfer_id)
    except grpc.aio.InternalError:
        return False


def _shows_cancellation(error: Exception) -> bool:
    """Return True if an error of gRPC shows that the call has ended.

    When a caller leaves, reads and writes fail first, and the task of the call
    is cancelled a moment later. A UsageError is a bug of the gateway instead.
    """
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)


def parse_request(message_type: Callable[[], Message], data: bytes) -> Any:  # noqa: ANN401 - as asked for
    """Parse a caller's message.

    Raises:
        TransferError: INVALID_REQUEST if `data` is not such a message, or is
            the message of an official SDK before 0.1.
    """
    message = message_type()
    if (refusal := refusal_of_older_sdk(message, data)) is not None:
        raise refusal
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise invalid("request", f"not a {message.DESCRIPTOR.name}: {error}") from error
    return message


def transfer_id_of(context: Context) -> str:
    """Return the id that the caller chose for its call, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == TRANSFER_ID_METADATA and _CALLER_ID.fullmatch(_text(value)):
            return _text(value)
    return uuid.uuid4().hex


def require_bounded(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Check that a call's metadata is within the announced limit.

    gRPC delivers calls with more, even if it refuses them a moment later.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    # As HTTP/2 counts a list of headers (RFC 9113 §6.5.2).
    size = sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in metadata)
    if size > MAX_METADATA_BYTES:
        raise invalid("metadata", f"{size} bytes of metadata; send at most {MAX_METADATA_BYTES}")


def _bounded(fact: object) -> object:
    return fact[:_MAX_LOGGED_CHARACTERS] if isinstance(fact, str) else fact


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
