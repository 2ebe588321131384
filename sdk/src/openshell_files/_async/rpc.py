"""RPCs of the protocol with tokens and deadlines, one method per RPC."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from google.protobuf.message import Message
from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_protocol.reasons import Reason

from openshell_files._async import _io
from openshell_files._async._calls import Connection, DownloadCall, UploadCall
from openshell_files._async.capabilities import KnownCapabilities
from openshell_files._async.deadline import Deadline
from openshell_files._async.gate import Gate
from openshell_files._async.tokens.source import TokenSource
from openshell_files._async.trees.call import TreeCall
from openshell_files._async.upload.lane_calls import UploadLanes
from openshell_files._core import answers
from openshell_files._core.answer_check import parsed
from openshell_files._core.capabilities import Capabilities, capabilities, casts_doubt
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.retry import GatewayHistory, RetryBudget
from openshell_files._core.upload.cleanup import BACKGROUND_SECONDS
from openshell_files._core.upload.lane_choice import LaneChoice, lane_messages
from openshell_files._error_mapping import name_method
from openshell_files.errors import DeadlineExceeded, FilesError
from openshell_files.options import RetryPolicy

_Answer = TypeVar("_Answer", bound=Message)

#: Least speed at which a sandbox reads and hashes: the timeout of a digest of
#: n bytes grows by n / this.
_SLOWEST_DIGEST_BYTES_PER_SECOND: Final = 32 * 1024 * 1024

#: Timeout of work in the sandbox that is as long as its files are many.
_LONGEST_WORK_SECONDS: Final = 24 * 3600.0

#: Longest wait for a connection before a call that begins without one, and the pauses of the wait.
_CONNECT_SECONDS: Final = 5.0
_FIRST_CONNECT_PAUSE_SECONDS: Final = 0.001
_LONGEST_CONNECT_PAUSE_SECONDS: Final = 0.05


class Rpc:
    """The gateway, and what this client knows of it.

    Args:
        connection: the channel.
        tokens: source of the bearer token.
        timeout: of unary calls, in seconds.
        idle: seconds without movement after which a stream fails.
        policy: retries of each call.

    Attributes:
        closing: the client is being closed: running transfers end.
        idle: as the argument.
        lanes: chooses the number of an upload's streams.
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
        self._gateway = GatewayHistory()
        self._background = _io.BackgroundWork()
        self._abandons = set[Callable[[], Awaitable[None]]]()
        self.closing = False
        self.idle = idle
        self.lanes = LaneChoice(connection.most_lanes)
        self._gates: dict[SandboxAddress, Gate] = {}
        # Sandboxes that lack the method WriteFile; None stands for the gateway.
        self._without_write = set[SandboxAddress | None]()
        self._capabilities: dict[SandboxAddress, KnownCapabilities] = {}
        self._refused_digests: set[DigestAlgorithm] = set()
        # The gateway has answered a method that the RFC does not have.
        self._extended = False

    def digest_refused(self, algorithm: DigestAlgorithm) -> None:
        """Note that the gateway does not compute a digest, so that the next upload names another (DIG-8)."""
        self._refused_digests.add(algorithm)

    def promising(self, digests: Sequence[DigestAlgorithm]) -> Sequence[DigestAlgorithm]:
        """Return the algorithms without those that the gateway refused; all of them if it refused all."""
        return [algorithm for algorithm in digests if algorithm not in self._refused_digests] or digests

    def gate(self, sandbox: SandboxAddress) -> Gate:
        """Return the gate that limits this client's transfers in a sandbox."""
        return self._gates.setdefault(sandbox, Gate())

    def capabilities(self, sandbox: SandboxAddress) -> KnownCapabilities:
        """Return the known capabilities of a sandbox."""
        if sandbox not in self._capabilities:

            async def ask(deadline: Deadline) -> Capabilities:
                return await self._ask_capabilities(sandbox, deadline)

            self._capabilities[sandbox] = KnownCapabilities(ask, self.in_background, self._timeout)
        return self._capabilities[sandbox]

    async def _ask_capabilities(self, sandbox: SandboxAddress, deadline: Deadline) -> Capabilities:
        request = files_pb2.GetTransferCapabilitiesRequest(sandbox=sandbox.ref())
        answer = await self._unary(
            methods.GET_TRANSFER_CAPABILITIES, request, files_pb2.GetTransferCapabilitiesResponse, deadline
        )
        self.gate(sandbox).heard(answer.max_concurrent_transfers)
        return capabilities(answer)

    async def connect(self, deadline: Deadline) -> bool:
        """Wait until there is a connection or none can be made; return whether there is one."""
        end, pause = _io.monotonic() + deadline.cap(_CONNECT_SECONDS), _FIRST_CONNECT_PAUSE_SECONDS
        while self._connection.connecting() and _io.monotonic() < end:
            await _io.sleep(pause)
            pause = min(2 * pause, _LONGEST_CONNECT_PAUSE_SECONDS)
        return self.connected

    async def check_extensions(self, sandbox: SandboxAddress, deadline: Deadline) -> None:
        """Check that the gateway has the extensions, before UploadFile is called without StartUpload (RFC-8).

        A gateway of the RFC alone ignores messages of the extensions, and may
        publish an empty file. A client that has got an answer of an extension
        does not ask.

        Raises:
            Unsupported: it has not.
        """
        if not self._extended:
            self.capabilities(sandbox).learn(await self._ask_capabilities(sandbox, deadline))

    def refused(self, sandbox: SandboxAddress, error: FilesError) -> None:
        """Learn from the error of a call."""
        if error.reason == Reason.LANE_LOST.name:
            self.lanes.lost()
        if casts_doubt(error):
            may = self.capabilities(sandbox)
            may.doubt()
            may.begin()

    @property
    def connected(self) -> bool:
        """True if there is a connection at this moment, as far as gRPC reports it."""
        return self._connection.ready

    def has_write(self, sandbox: SandboxAddress) -> bool:
        """Return whether neither gateway nor sandbox is known to lack WriteFile (UPL-58)."""
        return self._without_write.isdisjoint({None, sandbox})

    def lacks_write(self, sandbox: SandboxAddress, error: FilesError) -> None:
        """Note that the sandbox lacks WriteFile, or the gateway if its error has no reason of the table."""
        self._extended = self._extended or error.reason == Reason.METHOD_UNSUPPORTED.name
        self._without_write.add(sandbox if error.reason == Reason.METHOD_UNSUPPORTED.name else None)

    def in_background(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start background work; `close` waits for its end."""
        self._background.start(work)

    @contextmanager
    def running(self, abandon: Callable[[], Awaitable[None]]) -> Generator[None]:
        """Call `abandon` if the client is closed meanwhile, before its connection is closed."""
        self._abandons.add(abandon)
        try:
            yield
        finally:
            self._abandons.discard(abandon)

    def budget(self) -> RetryBudget:
        """Return the retry budget of one call."""
        return RetryBudget(self._policy, self._gateway, random.random, may_refresh=self._tokens.refreshable)

    def answered(self) -> None:
        """Note that the gateway answered a call."""
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

    async def list_directory(
        self, request: directories_pb2.ListDirectoryRequest, deadline: Deadline
    ) -> directories_pb2.ListDirectoryResponse:
        """Call ListDirectory once."""
        return await self._unary(
            methods.LIST_DIRECTORY, request, directories_pb2.ListDirectoryResponse, deadline
        )

    async def change(
        self, path: str, request: Message, kind: type[_Answer], deadline: Deadline, *, lasts: bool
    ) -> _Answer:
        """Call a method that changes the sandbox once.

        Args:
            path: of the method.
            request: its request.
            kind: type of its answer.
            deadline: end of the caller's time.
            lasts: the work may take long; the gateway ends the call if nothing moves.
        """
        return await self._unary(path, request, kind, deadline, longest=_LONGEST_WORK_SECONDS if lasts else 0)

    async def reach(self, sandbox: SandboxAddress, deadline: Deadline) -> None:
        """Reach a gateway and a sandbox that could not be reached a moment ago.

        Raises:
            FilesError: they cannot be reached. Nothing was changed.
        """
        self.capabilities(sandbox).learn(await self._ask_capabilities(sandbox, deadline))

    async def upload_file(
        self, metadata: files_pb2.UploadFileMetadata, deadline: Deadline
    ) -> UploadCall | UploadLanes:
        """Begin UploadFile, over the number of streams in the metadata."""
        token = await self._tokens.metadata()
        calls = [
            self._connection.upload(methods.UPLOAD_FILE, token, self.idle, deadline.left(), lane)
            for lane in range(max(1, metadata.lanes))
        ]
        return calls[0] if len(calls) == 1 else UploadLanes(calls, lane_messages(metadata), self.idle)

    async def write_file(
        self, request: files_pb2.WriteFileRequest, deadline: Deadline, on_sending: Callable[[], None]
    ) -> files_pb2.UploadFileResponse:
        """Call WriteFile once.

        Args:
            request: the file.
            deadline: end of the caller's time.
            on_sending: called before the request can leave this process, but
                not if there is no token or no time.
        """
        metadata, timeout = await self._tokens.metadata(), deadline.cap(self.idle)
        on_sending()
        answer = await self._connection.unary(
            methods.WRITE_FILE, request.SerializeToString(), metadata, timeout
        )
        response = answers.written(parsed(files_pb2.WriteFileResponse, answer, methods.WRITE_FILE))
        self.answered()
        self._extended = True
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

    async def tree(self, path: str, deadline: Deadline) -> TreeCall:
        """Begin UploadTree or DownloadTree.

        Args:
            path: of the method.
            deadline: end of the caller's time.
        """
        metadata = await self._tokens.metadata()
        return TreeCall(self._connection, path, metadata, self.idle, deadline.left())

    async def pause(self, seconds: float, deadline: Deadline) -> None:
        """Wait before a retry."""
        if seconds > 0:
            await _io.sleep(deadline.cap(seconds))

    async def close(self) -> None:
        """Free what no caller can resume of the running uploads (RSM-37), then close the channel."""
        self.closing = True
        for abandon in list(self._abandons):
            self.in_background(abandon)
        await self._background.done(BACKGROUND_SECONDS)
        await self._connection.close()

    async def _unary(
        self,
        path: str,
        request: Message,
        kind: type[_Answer],
        deadline: Deadline,
        hashed_bytes: int = 0,
        lanes_after: float | None = None,
        longest: float = 0,
    ) -> _Answer:
        metadata = await self._tokens.metadata()
        usual = self._timeout + hashed_bytes / _SLOWEST_DIGEST_BYTES_PER_SECOND
        timeout = deadline.cap(max(usual, longest))
        began = _io.monotonic()
        try:
            answer = await self._connection.unary(
                path, request.SerializeToString(), metadata, timeout, lanes_after
            )
        except FilesError as error:
            name_method(error, path)
            raise
        self.answered()
        self._extended = True
        if not hashed_bytes and not longest:
            self.lanes.answered(_io.monotonic() - began)
        return parsed(kind, answer, path)

    async def recover(self, error: FilesError, budget: RetryBudget, deadline: Deadline) -> None:
        """Wait until an idempotent call may be retried.

        Raises:
            FilesError: `error`, if it must not be retried; if the time is over, its cause.
        """
        if isinstance(error, DeadlineExceeded) and deadline.over():
            raise budget.cause(error)
        decision = budget.decide(error)
        if decision.restart:
            raise error
        if decision.refresh_token:
            self.refuse_token()
        await self.pause(decision.delay, deadline)
