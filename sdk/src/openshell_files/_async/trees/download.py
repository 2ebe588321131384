"""Driver of a downloaded tree: hands what comes to the local receiver, and sends its replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ParamSpec, TypeVar

from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

from openshell_files._async import _io
from openshell_files._async._calls import CallEndedError
from openshell_files._async.deadline import Deadline
from openshell_files._async.reporting import Reporter
from openshell_files._async.rpc import Rpc
from openshell_files._async.trees.call import ReceivedAhead
from openshell_files._async.upload.waiting import ContentWriter
from openshell_files._core.requests import SandboxAddress
from openshell_files._core.trees import requests
from openshell_files._core.trees.account import AccountFaultError, TreeAccount
from openshell_files._core.trees.failures import nothing_matched, receiving_failure
from openshell_files._core.trees.outcome import TreeCourse
from openshell_files._core.trees.roles import ReceivingRole
from openshell_files._core.trees.stream import DOWNLOAD, DownloadAnswers, Incoming, broken
from openshell_files._local.trees.directories import LocalPlace, remove_if_empty
from openshell_files.errors import FilesError
from openshell_files.options import Durability, RemotePath
from openshell_files.tree_options import TreeOptions
from openshell_files.tree_results import TreeProgressCallback, TreeResult

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TreeDownload:
    """One call of `download_tree`, over all its attempts.

    Args:
        rpc: the gateway.
        address: the sandbox.
        source: the remote path.
        place: the local directory.
        options: of the call.
        make_receiver: returns a new receiver for digests of an algorithm; it blocks.
        digests: the accepted algorithms, best first.
        deadline: end of the caller's time.
        progress: the caller's callback.

    Attributes:
        course: what became of the entries.
    """

    def __init__(
        self,
        rpc: Rpc,
        address: SandboxAddress,
        source: RemotePath,
        place: LocalPlace,
        options: TreeOptions,
        make_receiver: Callable[[DigestAlgorithm], ReceivingRole],
        *,
        digests: Sequence[DigestAlgorithm],
        deadline: Deadline,
        progress: TreeProgressCallback | None,
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._source = source
        self._place = place
        self._options = options
        self._make_receiver = make_receiver
        self._digests = digests
        self._deadline = deadline
        self._reporter = Reporter(progress)
        self.course = TreeCourse(str(source), place.path, options.dry_run, _io.monotonic)
        self._answers = DownloadAnswers(digests)
        self._receiver: ReceivingRole | None = None
        self._created = False

    @property
    def started(self) -> bool:
        """True if the sandbox began the newest attempt."""
        return self._answers.started

    async def attempt(self) -> TreeResult:
        """Open a stream and receive the tree.

        Raises:
            FilesError: it failed. What is not in place was removed.
        """
        self._answers = DownloadAnswers(self._digests)
        account = self.course.begin()
        try:
            await self._receive(account)
            end = self._answers.ended()
            self._rpc.answered()
            if self._options.selects and account.selects_nothing:
                await self._close()
                if self._created and not self._options.dry_run:
                    await _io.in_thread(remove_if_empty, self._place.path)
                raise nothing_matched(str(self._source))
            account.complete = True
            receiver = await self._opened()
            await self._finish(receiver, end, account)
        finally:
            await self._close()
        self._report()
        durable = Durability.FSYNC if receiver.durable else Durability.RENAME
        return self.course.result(durability=durable, created=self._created, deleted=receiver.deleted_entries)

    async def _receive(self, account: TreeAccount) -> None:
        """Take everything up to the end of the stream, and reply."""
        start = requests.download_start(self._address, self._source, self._options, self._digests)
        capabilities = self._rpc.capabilities(self._address)
        capabilities.begin()
        known = capabilities.known
        waiting = None if known is None else known.waiting
        decided = 0
        async with (
            await self._rpc.tree(methods.DOWNLOAD_TREE, self._deadline) as call,
            ReceivedAhead(call, self._rpc.idle) as messages,
            ContentWriter(call, waiting, requests.DOWNLOAD_WAITING) as writer,
        ):
            # The server may end the call before it has read everything; its status counts.
            with suppress(CallEndedError):
                await writer.write(start)
            async for data in messages:
                self._deadline.left()
                message = self._answers.take(data)
                if self._answers.end is not None:
                    with suppress(CallEndedError):
                        await call.half_close()
                if message is None:
                    continue
                reply = await self._take(message, account)
                if reply.decided_entries > decided or reply.changed or reply.problems or reply.deleted:
                    decided = reply.decided_entries
                    with suppress(CallEndedError):
                        await writer.write(requests.reply(reply))
                self._report()

    async def _take(self, message: Incoming, account: TreeAccount) -> trees_pb2.TreeReply:
        """Let the receiver take a message."""
        receiver = await self._opened()
        if isinstance(message, trees_pb2.TreeManifest):
            account.announced(message)
        else:
            account.carried(message)
        reply = await self._disk(receiver.take, message)
        self._note(account, reply)
        return reply

    def _note(self, account: TreeAccount, reply: trees_pb2.TreeReply) -> None:
        try:
            account.replied(reply)
        except AccountFaultError as error:
            raise broken(DOWNLOAD, str(error)) from error

    async def _finish(self, receiver: ReceivingRole, end: trees_pb2.TreeEnd, account: TreeAccount) -> None:
        """Carry out the last steps: deletions, directories, flush, publication."""
        steps = receiver.finish(end)
        try:
            while (reply := await self._disk(next, steps, None)) is not None:
                self._note(account, reply)
                self._report()
                self._deadline.left()
        finally:
            await _io.in_thread(steps.close)

    async def _opened(self) -> ReceivingRole:
        """Return the receiver of this attempt."""
        if self._receiver is None:
            algorithm = self._answers.algorithm
            if algorithm is None:
                raise broken(DOWNLOAD, "it has no first message")
            self._receiver = await _io.in_thread(self._make_receiver, algorithm)
        return self._receiver

    async def _close(self) -> None:
        """Close the receiver of this attempt, which removes what is not in place."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._created = self._created or receiver.created
            await self._disk(receiver.close)

    async def _disk(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run work of the receiver."""
        try:
            return await _io.in_thread(function, *args, **kwargs)
        except TransferError as error:
            raise receiving_failure(error, self._place.path, DOWNLOAD) from error

    def _report(self) -> None:
        if self._reporter.wanted:
            self._reporter.report(self.course.progress())

    async def settled(self, error: FilesError) -> None:
        """Return None: a download is in place when it succeeds, and only then.

        Args:
            error: of the failed attempt.
        """

    def last(self, error: FilesError) -> FilesError:
        """Return the error of a transfer that is not repeated."""
        return error
