"""The RPCs of the protocol: tokens, deadlines and messages, one method per call."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from google.protobuf.message import Message
from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._async import _io
from openshell_files._async._calls import Connection, DownloadCall, UploadCall
from openshell_files._async.capabilities import KnownCapabilities
from openshell_files._async.credentials import TokenSource
from openshell_files._async.deadline import Deadline
from openshell_files._async.gate import Gate
from openshell_files._async.upload.lanes import UploadLanes
from openshell_files._core import answers
from openshell_files._core.answer_check import parsed
from openshell_files._core.capabilities import Capabilities, capabilities, casts_doubt
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.retry import Acquaintance, RetryBudget
from openshell_files._core.upload.cleanup import BACKGROUND_SECONDS
from openshell_files._core.upload.lanes import LaneChoice, lane_messages
from openshell_files.errors import FilesError
from openshell_files.options import RetryPolicy

_Answer = TypeVar("_Answer", bound=Message)

#: How fast a sandbox reads and hashes at the very least: a digest of n bytes
#: gets n / this more seconds.
_SLOWEST_DIGEST_BYTES_PER_SECOND: Final = 32 * 1024 * 1024


class Rpc:
    """The gateway as this client sees it.

    Args:
        connection: the channel.
        tokens: who is calling.
        timeout: for unary calls, in seconds.
        idle: how long a stream may stand still, in seconds.
        policy: how often to try.
    """

    def __init__(
        self,
        connection: Connection,
        tokens: TokenSource,
        *,
        timeout: float,
        idle: float,
        policy: RetryPolicy,
    ) -> None:
        self._connection = connection
        self._tokens = tokens
        self._timeout = timeout
        self._policy = policy
        self._gateway = Acquaintance()
        self._errands = _io.Errands()
        self._abandons = set[Callable[[], Awaitable[None]]]()
        #: Whether the client is being closed: what runs ends now.
        self.closing = False
        self.idle = idle
        self.lanes = LaneChoice(connection.most_lanes)
        self._gates: dict[SandboxAddress, Gate] = {}
        #: Sandboxes that refused WriteFile as a method that they do not have; None is the gateway itself.
        self._without_write = set[SandboxAddress | None]()
        self._capabilities: dict[SandboxAddress, KnownCapabilities] = {}
        self._refused_digests: set[DigestAlgorithm] = set()

    def digest_refused(self, algorithm: DigestAlgorithm) -> None:
        """Note that the gateway does not compute a digest, so that the next upload need not try it (DIG-8)."""
        self._refused_digests.add(algorithm)

    def promising(self, digests: Sequence[DigestAlgorithm]) -> Sequence[DigestAlgorithm]:
        """Return some algorithms without those that were refused before; all of them if none is left."""
        return [algorithm for algorithm in digests if algorithm not in self._refused_digests] or digests

    def gate(self, sandbox: SandboxAddress) -> Gate:
        """Return what holds transfers of this client in a sandbox back."""
        return self._gates.setdefault(sandbox, Gate())

    def capabilities(self, sandbox: SandboxAddress) -> KnownCapabilities:
        """Return what is known of what may be done in a sandbox."""
        if sandbox not in self._capabilities:

            async def ask(deadline: Deadline) -> Capabilities:
                request = files_pb2.GetTransferCapabilitiesRequest(sandbox=sandbox.ref())
                answer = await self._unary(
                    methods.GET_TRANSFER_CAPABILITIES,
                    request,
                    files_pb2.GetTransferCapabilitiesResponse,
                    deadline,
                )
                self.gate(sandbox).heard(answer.max_concurrent_transfers)
                return capabilities(answer)

            self._capabilities[sandbox] = KnownCapabilities(ask, self.in_background, self._timeout)
        return self._capabilities[sandbox]

    def refused(self, sandbox: SandboxAddress, error: FilesError) -> None:
        """Learn from what a call was refused with."""
        if error.reason == Reason.LANE_LOST.name:
            self.lanes.lost()
        if casts_doubt(error):
            may = self.capabilities(sandbox)
            may.doubt()
            may.begin()

    @property
    def connected(self) -> bool:
        """Whether there is a connection at this moment, as far as it can be told."""
        return self._connection.ready

    def has_write(self, sandbox: SandboxAddress) -> bool:
        """Return whether WriteFile is worth a try: neither gateway nor sandbox has refused the method (UPL-16)."""
        return self._without_write.isdisjoint({None, sandbox})

    def lacks_write(self, sandbox: SandboxAddress, error: FilesError) -> None:
        """Note who refused WriteFile: a gateway that does not know the error table, or perhaps the sandbox."""
        self._without_write.add(sandbox if error.reason == Reason.METHOD_UNSUPPORTED.name else None)

    def in_background(self, errand: Callable[[], Awaitable[None]]) -> None:
        """Begin something that nobody waits for; `close` waits for its end."""
        self._errands.start(errand)

    @contextmanager
    def running(self, abandon: Callable[[], Awaitable[None]]) -> Generator[None]:
        """Have `abandon` called if the client is closed meanwhile, before its connection is."""
        self._abandons.add(abandon)
        try:
            yield
        finally:
            self._abandons.discard(abandon)

    def budget(self) -> RetryBudget:
        """Return the tries of one transfer."""
        return RetryBudget(self._policy, self._gateway, random.random, may_refresh=self._tokens.refreshable)

    def answered(self) -> None:
        """Note that the gateway did what it was asked for."""
        self._gateway.answered = True

    def refuse_token(self) -> None:
        """Note that the gateway refused the token."""
        self._tokens.refuse()

    async def start_upload(
        self, request: files_pb2.StartUploadRequest, deadline: Deadline
    ) -> files_pb2.StartUploadResponse:
        """Call StartUpload once."""
        hashed = request.metadata.size_bytes if request.HasField("digest") else 0
        return await self._unary(
            methods.START_UPLOAD,
            request,
            files_pb2.StartUploadResponse,
            deadline,
            hashed,
            self.lanes.connect_after(request.metadata.size_bytes),
        )

    async def get_upload(
        self, request: files_pb2.GetUploadRequest, deadline: Deadline, *, hashed_bytes: int = 0
    ) -> files_pb2.GetUploadResponse:
        """Call GetUpload once."""
        return await self._unary(
            methods.GET_UPLOAD, request, files_pb2.GetUploadResponse, deadline, hashed_bytes
        )

    async def abort_upload(
        self, request: files_pb2.AbortUploadRequest, deadline: Deadline
    ) -> files_pb2.AbortUploadResponse:
        """Call AbortUpload once."""
        return await self._unary(methods.ABORT_UPLOAD, request, files_pb2.AbortUploadResponse, deadline)

    async def list_uploads(
        self, request: files_pb2.ListUploadsRequest, deadline: Deadline
    ) -> files_pb2.ListUploadsResponse:
        """Call ListUploads once."""
        return await self._unary(methods.LIST_UPLOADS, request, files_pb2.ListUploadsResponse, deadline)

    async def stat_file(
        self, request: files_pb2.StatFileRequest, deadline: Deadline, *, hashed_bytes: int = 0
    ) -> files_pb2.StatFileResponse:
        """Call StatFile once."""
        return await self._unary(
            methods.STAT_FILE, request, files_pb2.StatFileResponse, deadline, hashed_bytes
        )

    async def upload_file(
        self, metadata: files_pb2.UploadFileMetadata, deadline: Deadline
    ) -> UploadCall | UploadLanes:
        """Begin UploadFile, over as many streams as the upload's metadata say."""
        token = await self._tokens.metadata()
        calls = [
            self._connection.upload(methods.UPLOAD_FILE, token, self.idle, deadline.left(), lane)
            for lane in range(max(1, metadata.lanes))
        ]
        return calls[0] if len(calls) == 1 else UploadLanes(calls, lane_messages(metadata), self.idle)

    async def write_file(
        self, request: files_pb2.WriteFileRequest, deadline: Deadline
    ) -> files_pb2.UploadFileResponse:
        """Call WriteFile once."""
        answer = await self._connection.unary(
            methods.WRITE_FILE,
            request.SerializeToString(),
            await self._tokens.metadata(),
            deadline.cap(self.idle),
        )
        response = answers.written(parsed(files_pb2.WriteFileResponse, answer, methods.WRITE_FILE))
        self.answered()
        return response

    def uploaded(self, answer: bytes) -> files_pb2.UploadFileResponse:
        """Parse the answer to UploadFile."""
        response = parsed(files_pb2.UploadFileResponse, answer, methods.UPLOAD_FILE)
        self.answered()
        return response

    async def download_file(self, request: files_pb2.DownloadFileRequest, deadline: Deadline) -> DownloadCall:
        """Begin DownloadFile."""
        metadata = await self._tokens.metadata()
        message = request.SerializeToString()
        return self._connection.download(methods.DOWNLOAD_FILE, message, metadata, self.idle, deadline.left())

    async def pause(self, seconds: float, deadline: Deadline) -> None:
        """Wait before another try."""
        if seconds > 0:
            await _io.sleep(deadline.cap(seconds))

    async def close(self) -> None:
        """Close the channel, when transfers that run have freed what nobody can go on with (RSM-10)."""
        self.closing = True
        for abandon in list(self._abandons):
            self.in_background(abandon)
        await self._errands.done(BACKGROUND_SECONDS)
        await self._connection.close()

    async def _unary(
        self,
        path: str,
        request: Message,
        kind: type[_Answer],
        deadline: Deadline,
        hashed_bytes: int = 0,
        lanes_after: float | None = None,
    ) -> _Answer:
        metadata = await self._tokens.metadata()
        timeout = deadline.cap(self._timeout + hashed_bytes / _SLOWEST_DIGEST_BYTES_PER_SECOND)
        began = _io.monotonic()
        answer = await self._connection.unary(
            path, request.SerializeToString(), metadata, timeout, lanes_after
        )
        self.answered()
        if not hashed_bytes:
            self.lanes.answered(_io.monotonic() - began)
        return parsed(kind, answer, path)

    async def recover(self, error: FilesError, budget: RetryBudget, deadline: Deadline) -> None:
        """Wait until an idempotent call may be tried again.

        Raises:
            FilesError: `error`, if it must not be.
        """
        decision = budget.decide(error)
        if decision.restart:
            raise error
        if decision.refresh_token:
            self.refuse_token()
        await self.pause(decision.delay, deadline)
