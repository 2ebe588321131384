"""Calls that the gateway towards an SDK records, and the faults that it is told to have."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from google.protobuf.message import Message

from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.peers.file_status import Status

#: Methods of the RFC. All others, and what carries fields above 5, are extensions.
RFC_METHODS: Final = ("UploadFile", "DownloadFile")


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule for callers that a call broke."""

    clause: str
    text: str

    def __str__(self) -> str:
        return f"{self.clause}: {self.text}"


@dataclass
class Call:
    """One call that came.

    Attributes:
        method: its name, without the service.
        number: of the call among those of the method, from 1.
        metadata: what the caller sent.
        began: when it came, by the monotonic clock.
        messages: what came on it, parsed.
        peer: address of the connection.
        ended: OK, the reason or code of the gateway's refusal, or `left` if the caller ended it; empty while it runs.
    """

    method: str
    number: int
    metadata: Mapping[str, str]
    began: float = field(default_factory=time.monotonic)
    messages: list[Message] = field(default_factory=list[Message])
    ended: str = ""
    peer: str = ""

    @property
    def name(self) -> str:
        """Name of the call in transcripts."""
        return f"{self.method} #{self.number}"

    @property
    def token(self) -> str | None:
        """The bearer token; None if there is none."""
        word, _, token = self.metadata.get("authorization", "").partition(" ")
        return token if word.lower() == "bearer" and token else None

    @property
    def request(self) -> Any:
        """The first message.

        Raises:
            CannotGoOnError: the call ended before it came.
        """
        if not self.messages:
            message = f"{self.name} has no message"
            raise CannotGoOnError(message)
        return self.messages[0]

    def payloads(self, kind: str) -> list[Any]:
        """Return the messages of a kind of a stream: `data`, `finish` or `manifest`, for example."""
        return [
            getattr(message, kind)
            for message in self.messages
            if "payload" in message.DESCRIPTOR.oneofs_by_name and message.WhichOneof("payload") == kind
        ]

    @property
    def content_bytes(self) -> int:
        """Bytes of content that came, holes not counted."""
        streamed = sum(len(chunk.data) for chunk in self.payloads("data"))
        written = sum(
            len(getattr(message, "content", b"")) for message in self.messages if self.method == "WriteFile"
        )
        return streamed + sum(map(len, self.payloads("chunk"))) + written


#: Where in a call a fault strikes: before anything is done; when the metadata of an upload came (a lane has none); when so much content
#: was taken or sent; when the finish came and before it is carried out; after the work, instead of the answer.
Moment = Literal["begin", "metadata", "content", "finish", "answer"]
#: Turns one honest message of the gateway into those that are sent.
Change = Callable[[Any], Iterable["Message | bytes"]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in one call.

    Attributes:
        at: when.
        after_bytes: of content, for `content`.
        status: what the call ends with at that moment. Without it the call goes on.
        then: is called at that moment with the upload of the call, if it has one, before the status is sent.
        answers: makes an answer from the upload of the call; the call ends with it, and with the status OK.
        hang: say nothing more until the caller leaves.
        disconnect: close the connection, and take new ones at once.
        change: of each message that the gateway sends in this call.
        metadata: initial metadata that the gateway sends.
        delay: seconds before the call is answered.
        slow: seconds that the gateway takes for each message from then on.
        of_received: `content` counts what comes, where content goes both ways.
    """

    at: Moment = "begin"
    after_bytes: int = 0
    status: Status | None = None
    then: Callable[[Any], object] | None = None
    answers: Callable[[Any], Message] | None = None
    hang: bool = False
    disconnect: bool = False
    change: Change | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0
    of_received: bool = False
    slow: float = 0.0

    @property
    def strikes(self) -> bool:
        """Whether something happens at its moment."""
        return bool(self.status or self.then or self.answers or self.hang or self.disconnect or self.slow)


class Answered(Exception):  # noqa: N818 - it ends a call well
    """Raised by a fault, or by a change: the call ends with this answer."""

    def __init__(self, message: Message) -> None:
        super().__init__()
        self.message = message


HONEST: Final = Fault()


def answer(change: Callable[[Any], object]) -> Fault:
    """Return a fault that changes each message of the answer in place."""

    def changed(message: Any) -> Iterable[Message]:
        change(message)
        return (message,)

    return Fault(change=changed)


class FaultPlan:
    """What goes wrong in which call of which method; calls without a plan are honest."""

    def __init__(self) -> None:
        self._next = defaultdict[str, deque[Fault]](deque)
        self._always = dict[str, Fault]()

    def add(self, method: str, *faults: Fault) -> None:
        """Plan the next calls of a method, one fault for each."""
        self._next[method].extend(faults)

    def always(self, method: str, fault: Fault) -> None:
        """Plan all calls of a method that are not planned by `add`."""
        self._always[method] = fault

    def take(self, method: str) -> Fault:
        """Return the fault of the call that begins."""
        planned = self._next[method]
        return planned.popleft() if planned else self._always.get(method, HONEST)


class Book:
    """What callers did: calls, in their order, and rules that they broke."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.violations: list[Violation] = []

    def of(self, *methods: str) -> list[Call]:
        """Return the calls of some methods, in their order."""
        return [call for call in self.calls if call.method in methods]

    def begun(self, *methods: str) -> list[Call]:
        """Return the calls of some methods of which a message came, in their order."""
        return [call for call in self.of(*methods) if call.messages]

    def broken(self, *clauses: str) -> list[str]:
        """Return the violations of some clauses."""
        return [one.text for one in self.violations if one.clause in clauses]

    def other_than(self, clauses: Sequence[str]) -> list[str]:
        """Return the violations of all other clauses."""
        return [str(one) for one in self.violations if one.clause not in clauses]
