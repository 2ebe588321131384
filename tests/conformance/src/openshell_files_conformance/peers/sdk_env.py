"""What a case about an SDK has: the SDK's adapter, a gateway of its own, and a directory of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openshell_files_conformance.checks import CannotGoOnError, CaseContext, Env, shown
from openshell_files_conformance.peers.file_calls import Book, FaultPlan
from openshell_files_conformance.peers.file_gateway import FileGateway
from openshell_files_conformance.peers.file_sandbox import BLAKE3, SHA256, RemoteFile, digest_of, digest_text
from openshell_files_conformance.peers.token_endpoint import TokenEndpoint
from openshell_files_conformance.target.adapter import Adapter

#: Tries that cases allow where a call fails again and again, so that they end soon.
FEW_ATTEMPTS: Final = 2

#: What is right, in words, and whether a value is.
Expectation = tuple[str, Callable[[Any], object]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the adapter answered to one operation."""

    fields: Mapping[str, Any]

    @property
    def outcome(self) -> str:
        """`ok`, `error` or `cancelled`."""
        return str(self.fields["outcome"])

    @property
    def ok(self) -> bool:
        """Whether the SDK reported success."""
        return self.outcome == "ok"

    @property
    def reason(self) -> str:
        """Reason of the error, or its code; empty without an error."""
        return str(self.fields.get("reason") or self.fields.get("code") or "")

    @property
    def code(self) -> str:
        """The gRPC status; empty if the adapter named none."""
        return str(self.fields.get("code", ""))

    @property
    def message(self) -> str:
        """What the SDK says to people."""
        return str(self.fields.get("message", ""))

    @property
    def outcome_unknown(self) -> bool:
        """Whether the SDK said that it does not know whether the file was published."""
        return bool(self.fields.get("outcome_unknown", False))

    @property
    def problems(self) -> dict[str, str]:
        """Reasons of a tree's problems by their paths."""
        return {one["path"]: one.get("reason", "") for one in self.fields.get("problems", ())}

    def __str__(self) -> str:
        kept = {key: value for key, value in self.fields.items() if key not in {"id", "implementation"}}
        return shown(kept)


class SdkEnv(Env):
    """Environment of one case.

    Attributes:
        gateway: towards the SDK; a case changes its settings before it asks for an operation.
        directory: for local files.
        token: that the gateway accepts.
    """

    def __init__(self, context: CaseContext, adapter: Adapter, directory: Path) -> None:
        super().__init__(context)
        self._adapter = adapter
        self.directory = directory
        self.gateway = FileGateway(self.transcript)
        self.token = f"token-{context.token}"
        self._settle()

    def _settle(self) -> None:
        self.gateway.settings.tokens = {self.token}

    async def prepare(self) -> None:
        """Start the gateway."""
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.resources.enter_async_context(self.gateway)

    async def issuer(self) -> TokenEndpoint:
        """Start an issuer for this case. The gateway accepts none of its tokens yet."""
        endpoint = TokenEndpoint(self.transcript, self.token)
        return await self.resources.enter_async_context(endpoint)

    @property
    def book(self) -> Book:
        """What the SDK did."""
        return self.gateway.book

    @property
    def faults(self) -> FaultPlan:
        """What goes wrong."""
        return self.gateway.faults

    # Files

    def local(self, content: bytes, name: str = "") -> Path:
        """Write a local file and return its path."""
        path = self.directory / (name or self.fresh_name("local"))
        path.write_bytes(content)
        return path

    def content(self, size: int) -> bytes:
        """Return content that no other case has, in which every part differs."""
        block = b"".join(f"{self.context.token} {number:>9}\n".encode() for number in range(2048))
        whole = bytearray()
        while len(whole) < size:
            whole += f"{len(whole):>15}\n".encode() + block
        return bytes(whole[:size])

    @staticmethod
    def digests_of(content: bytes) -> tuple[str, ...]:
        """Return the digests of content as adapters write them, one for each algorithm."""
        return tuple(digest_text(digest_of(content, algorithm)) for algorithm in (SHA256, BLAKE3))

    def serve(self, content: bytes, path: str = "remote", **fields: Any) -> str:
        """Put a file into the sandbox and return its path."""
        self.gateway.sandbox.files[path] = RemoteFile(content, **fields)
        return path

    def published(self, path: str) -> bytes | None:
        """Return the content at a path of the sandbox; None if there is no file."""
        file = self.gateway.sandbox.files.get(path)
        return None if file is None else file.content

    def target(self) -> Path:
        """Return the path for a download, in an empty directory of its own."""
        place = self.directory / self.fresh_name("place")
        place.mkdir()
        return place / "target"

    # Operations

    async def ask(self, op: str, **fields: Any) -> Answer:
        """Ask the adapter for an operation in the gateway's sandbox.

        Raises:
            CannotGoOnError: it answers that the SDK does not have the operation, or an option of it.
        """
        settings = self.gateway.settings
        request = {
            "endpoint": self.gateway.endpoint,
            "sandbox": settings.sandbox,
            "sandbox_id": settings.sandbox_id,
            "auth": {"token": self.token},
            "metadata": {"x-conformance-case": self.case_id},
            **{key: value for key, value in fields.items() if value is not None},
        }
        self.transcript.note(f"asked for {op} {shown({key: str(value) for key, value in fields.items()})}")
        answer = Answer(await self._adapter.call(op, **request))
        self.transcript.note(f"the adapter answers {answer}")
        if answer.outcome == "unsupported":
            message = f"the adapter answers unsupported to {op} with {shown(fields)}"
            raise CannotGoOnError(message)
        return answer

    async def upload(self, content: bytes | Path, remote: str = "remote", **fields: Any) -> Answer:
        """Have a file uploaded."""
        path = content if isinstance(content, Path) else self.local(content)
        return await self.ask("upload", local=str(path), remote=remote, **_with_options(fields))

    async def download(self, local: Path, remote: str = "remote", **fields: Any) -> Answer:
        """Have a file downloaded."""
        return await self.ask("download", local=str(local), remote=remote, **_with_options(fields))

    async def settled(self) -> None:
        """Wait until the SDK left its calls, for what it does behind its answer."""
        await self.gateway.gone(self.scaled(3))

    # Checks that many cases make

    def well_formed(self, *clauses: str) -> None:
        """Check that the SDK broke none of some rules, and that it broke no other rule either."""
        for clause in clauses:
            self.check(
                f"keeps-{clause.lower()}",
                self.book.broken(clause),
                satisfies=("no call that breaks the rule", lambda broken: broken == []),
                clause=clause,
            )
        self.check(
            "keeps-other-rules",
            self.book.other_than(clauses),
            satisfies=("no call that breaks another rule", lambda broken: broken == []),
            clause=clauses[0],
        )

    def refused(
        self, answer: Answer, *, clause: str, reasons: Sequence[str] = (), name: str = "refused"
    ) -> None:
        """Check that the SDK reported an error, with one of some reasons if any are given."""
        self.check(name, answer.outcome, equals="error", clause=clause)
        if reasons:
            self.check(f"{name}-why", answer.reason, one_of=tuple(reasons), clause=clause)

    def nothing_left(self, target: Path, *, clause: str, name: str = "nothing-left") -> None:
        """Check that a download left nothing at its path nor beside it."""
        left = sorted(path.name for path in target.parent.iterdir())
        self.check(name, left, equals=[], clause=clause)

    async def wait_for(self, event: asyncio.Event) -> None:
        """Wait for something that the SDK does.

        Raises:
            CannotGoOnError: it did not come.
        """
        try:
            async with asyncio.timeout(self.scaled(8)):
                await event.wait()
        except TimeoutError:
            raise CannotGoOnError("the SDK did not get that far") from None


_OPTIONS: Final = frozenset(
    {
        "attempts",
        "timeout_ms",
        "mode",
        "modified_ns",
        "parents",
        "condition",
        "durability",
        "digest",
        "offset",
        "length",
        "tail",
        "if_version",
        "delete_others",
        "atomic",
        "dry_run",
        "compare_content",
    }
)


def _with_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Move options of the operation into their own object."""
    options = {key: value for key, value in fields.items() if key in _OPTIONS}
    rest = {key: value for key, value in fields.items() if key not in _OPTIONS}
    return {**rest, "options": options} if options else rest
