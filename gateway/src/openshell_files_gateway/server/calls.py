"""What every call goes through: a name in the logs, authentication, errors."""

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
from openshell_files_gateway.server.core.older_sdk import refusal_of_older_sdk
from openshell_files_gateway.server.core.pace import PaceTable
from openshell_files_gateway.server.headers import send_headers
from openshell_files_gateway.server.status import abort
from openshell_files_gateway.server.strangers import Strangers

log = structlog.get_logger("openshell_files_gateway.calls")

#: A caller may name its call; anything that could forge a log line may not.
_CALLER_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

#: Of a path, an id or a message that a peer made up; they can be 1 MiB long.
_MAX_LOGGED_CHARACTERS: Final = 1000

#: All metadata of a call: the largest token that is looked at, and as much as gRPC allows by itself for the rest.
MAX_METADATA_BYTES: Final = MAX_TOKEN_BYTES + 8 * KIB
_HEADER_OVERHEAD: Final = 32

#: Calls of one sandbox's supervisor: more than relays can be opened into it.
_SANDBOX_CALLS_PER_SECOND: Final = 500.0
_SANDBOX_CALLS_AT_ONCE: Final = 500

#: What a call of a supervisor that is refused counts for. An honest one has
#: few of those, and each costs more than it looks: the error's details, a line
#: in the log.
_REFUSED_CALL_COST: Final = 10.0

#: Outcome of a call whose caller cancelled it, went away or let its deadline pass.
_CANCELLED: Final = "CANCELLED"

TRANSFER_ID_METADATA: Final = "x-request-id"

Context = grpc.aio.ServicerContext[Any, Any]


class CallAuthenticator(Protocol):
    """Tells who is calling."""

    async def authenticate(self, authorization: list[str]) -> Principal:
        """Return the caller, given the values of the `authorization` metadata.

        Raises:
            TransferError: UNAUTHENTICATED for one of the TOKEN_* reasons, or
                ISSUER_UNAVAILABLE.
        """
        ...


class Policy(Protocol):
    """Tells what a method demands."""

    def is_public(self, path: str) -> bool:
        """Whether the method asks for no token."""
        ...

    def authorize(self, path: str, principal: Principal) -> None:
        """Refuse a caller who may not call the method.

        Raises:
            TransferError: PERMISSION_DENIED with one of its reasons.
        """
        ...


@dataclass(slots=True)
class Call:
    """One call, once it is known who makes it.

    Attributes:
        context: of grpc.aio.
        path: of the method.
        transfer_id: on every log line of every party, and in every error.
        peer: the caller's address. gRPC forgets it when the call is cancelled.
        principal: the caller; None for a public method.
        facts: for the line that is logged at the end.
    """

    context: Context
    path: str
    transfer_id: str
    peer: str
    principal: Principal | None = None
    facts: dict[str, object] = field(default_factory=dict[str, object])
    _has_headers: bool = False

    async def write(self, message: bytes) -> None:
        """Send the caller a message; may be cut off, and the call refused after.

        Raises:
            BaseError: of grpc.aio; the call is over.
        """
        if not self._has_headers:
            self._has_headers = True
            await send_headers(self.context)
        await self.context.write(message)

    def rename(self, transfer_id: str) -> None:
        """Log this call from now on as part of a transfer that another call began."""
        self.transfer_id = transfer_id
        structlog.contextvars.bind_contextvars(transfer_id=transfer_id)

    @property
    def user(self) -> User:
        """The caller of a method that the policy gives to users."""
        if not isinstance(self.principal, User):
            raise TypeError(f"{self.path} was called by {self.principal}")  # the policy let a wrong one in
        return self.principal

    @property
    def sandbox_id(self) -> str:
        """The caller of a method that the policy gives to sandboxes."""
        if not isinstance(self.principal, SandboxPrincipal):
            raise TypeError(f"{self.path} was called by {self.principal}")
        return self.principal.sandbox_id


Implementation = Callable[[Any, Call], Awaitable[Any]]


class CallGuard:
    """Wraps the implementations of all methods.

    An implementation gets the request (the iterator is not used: streams are
    read through the context) and the `Call`, and raises TransferError.
    """

    def __init__(self, authenticator: CallAuthenticator, policy: Policy) -> None:
        self._authenticator = authenticator
        self._policy = policy
        self._strangers = Strangers()
        #: Of sandboxes that called lately; they run code that nobody trusts.
        self._paces = PaceTable(per_second=_SANDBOX_CALLS_PER_SECOND, at_once=_SANDBOX_CALLS_AT_ONCE)

    def wrap(self, path: str, implementation: Implementation) -> Callable[[Any, Context], Awaitable[Any]]:
        """Return the handler of a method."""

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
        """Wait with a sandbox that calls so often that others would feel it."""
        now = asyncio.get_running_loop().time()
        if (pause := self._paces.of(sandbox_id, now).take(now)) > 0:
            await asyncio.sleep(pause)

    def _count_refusal(self, call: Call) -> None:
        """Let a sandbox whose call was refused wait longer with the next ones."""
        if isinstance(call.principal, SandboxPrincipal):
            now = asyncio.get_running_loop().time()
            self._paces.of(call.principal.sandbox_id, now).take(now, _REFUSED_CALL_COST - 1)

    def _log_end(self, call: Call, outcome: str, seconds: float) -> None:
        who = call.principal
        told = {key: _bounded(value) for key, value in call.facts.items()}
        facts = told | {"seconds": round(seconds, 3), "peer": call.peer}
        if isinstance(who, User):
            facts["user"] = who.key
        elif who is not None:
            facts["sandbox_id"] = who.sandbox_id
        if who is None and outcome != Reason.INTERNAL.name:
            left_out = self._strangers.line(asyncio.get_running_loop().time())
            if left_out is None:
                return
            facts |= left_out
        level = log.error if outcome == Reason.INTERNAL.name else log.info
        level("call ended", outcome=outcome, **facts)


async def _refused(call: Call, error: TransferError) -> bool:
    """End a call with an error; False if its caller is gone and hears nothing.

    Raises:
        AbortError: the call has ended with the error; grpc.aio wants to see it.
    """
    try:
        await abort(call.context, error, call.transfer_id)
    except grpc.aio.InternalError:
        return False


def _shows_cancellation(error: Exception) -> bool:
    """Tell whether gRPC refused something because the call is over.

    A caller that goes away makes reads and writes fail first; the task of the
    call is cancelled a moment later. What the gateway does wrong is a
    UsageError, and no sign of that.
    """
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)


def parse_request(message_type: Callable[[], Message], data: bytes) -> Any:  # noqa: ANN401 - as asked for
    """Parse a caller's message.

    Raises:
        TransferError: INVALID_REQUEST if it is no such message, or one of an
            SDK before 0.1.
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
    """Return the name that the caller gave its call, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == TRANSFER_ID_METADATA and _CALLER_ID.fullmatch(_text(value)):
            return _text(value)
    return uuid.uuid4().hex


def require_bounded(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Refuse metadata that is larger than the gateway said it takes.

    gRPC hands such a call on, whether it refuses it a moment later or not at all.

    Raises:
        TransferError: INVALID_REQUEST.
    """
    # As HTTP/2 counts a list of headers (RFC 9113 §6.5.2).
    size = sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in metadata)
    if size > MAX_METADATA_BYTES:
        raise invalid("metadata", f"{size} bytes of metadata, at most {MAX_METADATA_BYTES} are taken")


def _bounded(fact: object) -> object:
    return fact[:_MAX_LOGGED_CHARACTERS] if isinstance(fact, str) else fact


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
