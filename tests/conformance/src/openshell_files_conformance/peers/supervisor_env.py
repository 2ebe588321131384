"""What a case has against a supervisor: its session, relays to its agent, and the files of its sandbox."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from openshell_files_conformance.checks import CannotGoOnError, CaseContext, Env
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2, openshell_pb2
from openshell_files_conformance.peers.gateway import FakeGateway
from openshell_files_conformance.peers.gateway_streams import ANSWER_SECONDS, GatewayRelay, GatewaySession
from openshell_files_conformance.peers.operation import (
    SHA256,
    FileRelay,
    Outcome,
    Request,
    crc,
    data,
    digest,
    finish,
)
from openshell_files_conformance.peers.sandbox_root import SandboxFiles

#: Content of a chunk, unless a case is about chunks.
CHUNK_BYTES = 256 << 10


class RunningSupervisor(Protocol):
    """The target, and what is around it."""

    @property
    def gateway(self) -> FakeGateway:
        """The gateway that it is connected to."""
        ...

    @property
    def files(self) -> SandboxFiles:
        """The files of its sandbox."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it said when it was ready."""
        ...

    @property
    def uid(self) -> int | None:
        """The user that it runs as, if the suite can see its process."""
        ...

    @property
    def sandbox_id(self) -> str:
        """The sandbox that it was told to serve."""
        ...

    @property
    def token(self) -> str:
        """The sandbox's token."""
        ...

    @property
    def workdir(self) -> str:
        """Where relative paths start."""
        ...

    async def session(self) -> GatewaySession:
        """Return the session, or wait for the next."""
        ...

    async def kill(self) -> None:
        """End it at once, as a crash does."""
        ...

    async def relaunch(self) -> None:
        """Start it again on the same root and state."""
        ...

    async def second(self, seconds: float) -> bool:
        """Start another one beside it, on the same root and state; whether it becomes ready in time."""
        ...


@dataclass
class Downloaded:
    """What a download brought.

    Attributes:
        content: of chunks, with zeros for holes.
        sizes: of the chunks with content.
        holes: offset and size of each hole.
    """

    outcome: Outcome
    header: files_pb2.DownloadFileHeader | None = None
    trailer: files_pb2.DownloadTrailer | None = None
    content: bytes = b""
    sizes: list[int] = field(default_factory=list[int])
    holes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    kinds: list[str] = field(default_factory=list[str])

    @property
    def reason(self) -> str:
        """How the operation ended."""
        return self.outcome.reason

    @classmethod
    def of(cls, outcome: Outcome) -> Downloaded:
        """Put the messages of a download together."""
        found = cls(outcome)
        content = bytearray()
        for message in outcome.downloaded:
            kind = str(message.WhichOneof("payload"))
            found.kinds.append(kind)
            match kind:
                case "header":
                    found.header = message.header
                case "chunk":
                    content += message.chunk
                    found.sizes.append(len(message.chunk))
                case "data" if message.data.hole_bytes:
                    found.holes.append((message.data.offset, message.data.hole_bytes))
                    content += bytes(message.data.hole_bytes)
                case "data":
                    content += message.data.data
                    found.sizes.append(len(message.data.data))
                case "trailer":
                    found.trailer = message.trailer
                case _:
                    pass
        found.content = bytes(content)
        return found


_transfers = itertools.count(1)


class SupervisorEnv(Env):
    """The environment of one case against a supervisor.

    Each case has a directory of its own (`home`) and is a caller of its own (`principal`), so cases may run beside each other.

    Attributes:
        target: the supervisor, and what is around it.
        session: its control stream when the case began.
        home: the case's directory in the sandbox.
    """

    def __init__(self, context: CaseContext, target: RunningSupervisor) -> None:
        super().__init__(context)
        self.target = target
        self.home = f"{target.workdir.rstrip('/')}/{self.fresh_name('case')}"
        self.principal = f"https://issuer.example#{self.fresh_name('caller')}"
        self._session: GatewaySession | None = None

    async def prepare(self) -> None:
        """Wait for the session, and make the case's directory."""
        self._session = await self.target.session()
        await self.files.mkdir(self.home)
        self.resources.push_async_callback(self._clean)

    async def _clean(self) -> None:
        with suppress(CannotGoOnError):
            await self.files.remove(self.home)

    @property
    def gateway(self) -> FakeGateway:
        """The gateway that the supervisor is connected to."""
        return self.target.gateway

    @property
    def session(self) -> GatewaySession:
        """The control stream."""
        assert self._session is not None
        return self._session

    async def new_session(self) -> GatewaySession:
        """Wait for a session that is not over, and use it from now on."""
        self._session = await self.target.session()
        return self._session

    @property
    def capability(self) -> file_relay_pb2.FileTransferCapability:
        """What the supervisor's hello says of files."""
        return self.session.hello.file_transfer

    @property
    def files(self) -> SandboxFiles:
        """The sandbox's files, beside the agent."""
        return self.target.files

    def path(self, name: str = "file") -> str:
        """The path of a name in the case's directory."""
        return f"{self.home}/{name}"

    async def relay(self) -> FileRelay:
        """Open a relay to the file agent; it ends with the case.

        Raises:
            RelayRefusedError: the supervisor does not take it up.
            CannotGoOnError: it does not answer.
        """
        target = file_relay_pb2.FileRelayTarget(transfer_id=self._transfer_id())
        relay = await self.byte_relay(openshell_pb2.RelayOpen(file=target))
        return FileRelay(relay, self.transcript, self.scaled(ANSWER_SECONDS))

    async def byte_relay(self, opened: openshell_pb2.RelayOpen) -> GatewayRelay:
        """Open any relay; it ends with the case."""
        relay = await self.gateway.open_relay(
            self.session, opened, self.transcript, self.scaled(ANSWER_SECONDS)
        )
        self.resources.callback(relay.end)
        return relay

    def _transfer_id(self) -> str:
        return f"{self.case_id.replace('/', '.')}-{self.context.token}-{next(_transfers)}"

    def opening(
        self,
        *,
        principal: str | None = None,
        keep_relay: bool = False,
        max_chunk_bytes: int = 512 << 10,
        digests: Sequence[files_pb2.DigestAlgorithm.ValueType] = (),
        limits: Mapping[str, int] | None = None,
        idle_timeout: float = 60.0,
        upload_expiry: float = 0.0,
        **operation: Any,
    ) -> file_relay_pb2.FileRelayOpen:
        """Build the first frame of an operation.

        Args:
            principal: another caller than the case's own.
            keep_relay: the agent is to wait for another operation.
            max_chunk_bytes: of the gateway.
            digests: that the gateway's operator allows.
            limits: of the gateway, by field.
            idle_timeout: of the gateway, in seconds.
            upload_expiry: of the gateway, in seconds.
            operation: the one field of the operation.
        """
        opened = file_relay_pb2.FileRelayOpen(
            protocol_version=1,
            transfer_id=self._transfer_id(),
            principal=self.principal if principal is None else principal,
            max_chunk_bytes=max_chunk_bytes,
            keep_relay=keep_relay,
            digests=digests,
            limits=file_relay_pb2.FileRelayLimits(**cast(dict[str, Any], limits or {})),
            **operation,
        )
        opened.limits.idle_timeout.FromNanoseconds(int(idle_timeout * 1e9))
        if upload_expiry:
            opened.limits.upload_expiry.FromNanoseconds(int(upload_expiry * 1e9))
        return opened

    async def call(self, **fields: Any) -> Outcome:
        """Carry out an operation whose caller sends one message; the fields are those of `opening`."""
        relay = await self.relay()
        await relay.begin(self.opening(**fields), Request(input_end=file_relay_pb2.FileRelayInputEnd()))
        return await relay.outcome(self.scaled(ANSWER_SECONDS))

    def metadata(self, path: str, **fields: Any) -> files_pb2.UploadFileMetadata:
        """Build the metadata of an upload to a path, with `explicit_finish` unless it says otherwise."""
        fields.setdefault("explicit_finish", True)
        return files_pb2.UploadFileMetadata(sandbox_id=self.target.sandbox_id, remote_path=path, **fields)

    async def begin_upload(
        self, path: str, *, opening: Mapping[str, Any] | None = None, **fields: Any
    ) -> FileRelay:
        """Open the stream of an upload, without any content."""
        relay = await self.relay()
        await relay.begin(self.opening(upload=self.metadata(path, **fields), **(opening or {})))
        return relay

    async def upload(
        self, path: str, content: bytes, *, opening: Mapping[str, Any] | None = None, **fields: Any
    ) -> Outcome:
        """Upload a file with an explicit finish; the fields are those of its metadata."""
        relay = await self.begin_upload(path, opening=opening, **fields)
        accepted: Sequence[files_pb2.DigestAlgorithm.ValueType] = fields.get("accepted_digests", ())
        with suppress(CannotGoOnError):
            # A refusal may end the relay before everything was sent; the outcome tells.
            for offset in range(0, len(content), CHUNK_BYTES):
                await relay.upload(data(offset, content[offset : offset + CHUNK_BYTES]))
            await relay.upload(finish(content, accepted[0] if accepted else SHA256))
            await relay.input_end()
        return await relay.outcome(self.scaled(ANSWER_SECONDS))

    async def start_upload(
        self,
        path: str,
        *,
        opening: Mapping[str, Any] | None = None,
        source: files_pb2.Digest | None = None,
        **fields: Any,
    ) -> Outcome:
        """Admit or resume an upload."""
        request = files_pb2.StartUploadRequest(metadata=self.metadata(path, **fields), digest=source)
        return await self.call(start_upload=request, **(opening or {}))

    async def get_upload(self, *, principal: str | None = None, **fields: Any) -> Outcome:
        """Ask for the state of an upload."""
        return await self.call(principal=principal, get_upload=files_pb2.GetUploadRequest(**fields))

    async def abort_upload(self, upload_id: str, *, principal: str | None = None) -> Outcome:
        """Give an upload up."""
        return await self.call(
            principal=principal, abort_upload=files_pb2.AbortUploadRequest(upload_id=upload_id)
        )

    async def write_file(
        self, path: str, content: bytes, *, opening: Mapping[str, Any] | None = None, **fields: Any
    ) -> Outcome:
        """Write a small file in one message."""
        request = files_pb2.WriteFileRequest(
            metadata=self.metadata(path, **fields),
            content=content,
            crc32c=crc(content),
            digest=digest(content),
        )
        return await self.call(write_file=request, **(opening or {}))

    async def download(
        self, path: str, *, opening: Mapping[str, Any] | None = None, **fields: Any
    ) -> Downloaded:
        """Download a file, checked unless it says otherwise."""
        fields.setdefault("checked", True)
        request = files_pb2.DownloadFileRequest(sandbox_id=self.target.sandbox_id, remote_path=path, **fields)
        return Downloaded.of(await self.call(download=request, **(opening or {})))

    async def stat(self, path: str, **fields: Any) -> Outcome:
        """Describe a path."""
        return await self.call(stat_file=files_pb2.StatFileRequest(remote_path=path, **fields))

    async def agent_uid(self) -> int | None:
        """Return the user that the agent runs as: of its process, or else of its working directory."""
        if self.target.uid is not None:
            return self.target.uid
        entry = await self.files.entry(self.target.workdir)
        return entry.uid if entry else None

    async def left(self, path: str | None = None) -> list[bytes]:
        """Return staging files that are left in the case's directory."""
        return await self.files.staging(path or self.home)
