"""Driver of an uploaded tree: sends what the local sender makes, and hands it the replies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from functools import partial

from openshell_files_protocol import methods
from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_OPEN_ENTRIES
from openshell_files_protocol.pb.openshell.v1 import trees_pb2

from openshell_files._async import _io
from openshell_files._async._calls import CallEndedError
from openshell_files._async.deadline import Deadline
from openshell_files._async.reporting import Reporter
from openshell_files._async.rpc import Rpc
from openshell_files._async.trees.beside import Bell, Beside
from openshell_files._async.trees.call import TreeCall
from openshell_files._async.upload.waiting import ContentWriter
from openshell_files._core import answers
from openshell_files._core.requests import SandboxAddress, stat_request
from openshell_files._core.trees import requests
from openshell_files._core.trees.account import AccountFaultError, TreeAccount
from openshell_files._core.trees.failures import (
    local_failure,
    nothing_matched,
    outcome_unknown,
    proves_nothing,
)
from openshell_files._core.trees.outcome import TreeCourse
from openshell_files._core.trees.roles import SendingRole
from openshell_files._core.trees.stream import UPLOAD, UploadAnswers, broken
from openshell_files.errors import FileExists, FileNotFound, FilesError
from openshell_files.options import LeafLink, RemotePath
from openshell_files.results import FileInfo, FileType
from openshell_files.tree_options import TreeOptions
from openshell_files.tree_results import TreeProgressCallback, TreeResult


class TreeUpload:
    """One call of `upload_tree`, over all its attempts.

    Args:
        rpc: the gateway.
        address: the sandbox.
        source: the local directory.
        destination: the remote path.
        options: of the call.
        make_sender: returns a new sender of the directory; it blocks.
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
        source: str,
        destination: RemotePath,
        options: TreeOptions,
        make_sender: Callable[[], SendingRole],
        *,
        digests: Sequence[DigestAlgorithm],
        deadline: Deadline,
        progress: TreeProgressCallback | None,
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._source = source
        self._destination = destination
        self._options = options
        self._make_sender = make_sender
        self._digests = digests
        self._deadline = deadline
        self._reporter = Reporter(progress)
        self.course = TreeCourse(source, str(destination), options.dry_run, _io.monotonic)
        self._answers = UploadAnswers(digests, dry_run=options.dry_run)
        # The reader of replies and the writer use the account.
        self._lock = _io.Guard()
        self._bell = Bell()
        #: Account of the newest attempt whose end was given to the connection.
        self._ended: TreeAccount | None = None

    @property
    def started(self) -> bool:
        """True if the sandbox began the newest attempt."""
        return self._answers.started

    async def attempt(self) -> TreeResult:
        """Open a stream and send the tree.

        Raises:
            FilesError: it failed.
        """
        self._answers = UploadAnswers(self._digests, dry_run=self._options.dry_run)
        self._bell = Bell()
        account = self.course.begin()
        sender = await _io.in_thread(self._make_sender)
        try:
            async with await self._rpc.tree(methods.UPLOAD_TREE, self._deadline) as call:
                receiving = partial(self._receive, call, sender, account)
                async with Beside(receiving, call.cancel, self._bell) as replies:
                    with suppress(CallEndedError):
                        # The server may answer before everything was sent; its status counts.
                        await self._send(call, sender, account, replies)
                    while not replies.over():
                        await self._bell.wait(call.idle_left())
                        self._report()
        finally:
            await _io.in_thread(sender.close)
        return self._result(self._answers.ended(), account)

    async def _send(self, call: TreeCall, sender: SendingRole, account: TreeAccount, replies: Beside) -> None:
        """Send everything up to the end of the tree."""
        await call.write(
            requests.upload_start(self._address, self._destination, self._options, self._digests)
        )
        messages = self._messages(call, sender, account, replies)
        async with (
            _io.produced_ahead(messages) as ready,
            ContentWriter(call, await self._waiting(), requests.UPLOAD_WAITING) as writer,
        ):
            async for message in ready:
                await writer.write(message)
                self._report()
        await call.half_close()

    async def _waiting(self) -> float | None:
        """Return the interval of `waiting` messages; None if the server is not known to take them."""
        capabilities = self._rpc.capabilities(self._address)
        capabilities.begin()
        if self._options.checksum:
            # To read every file before the first message takes long.
            return (await capabilities.told(self._deadline)).waiting
        return None if capabilities.known is None else capabilities.known.waiting

    async def _messages(
        self, call: TreeCall, sender: SendingRole, account: TreeAccount, replies: Beside
    ) -> AsyncGenerator[bytes, None]:
        """Yield what the sender makes, serialized, up to the end of the tree or of the call."""
        while self._options.checksum and not self._answers.started:
            # Before that message the algorithm of the digests is not known (TRE-3).
            if replies.over():
                return
            await self._bell.wait(call.idle_left())
        # Held back while patterns have left nothing of the tree: a receiver would make the top directory.
        held = list[bytes]()
        while True:
            self._deadline.left()
            made = await _io.in_thread(self._make, sender)
            if made is not None:
                message, data = made
                with self._lock:
                    self._note(account, message)
                held.append(data)
                if self._options.selects and account.selects_nothing:
                    continue
            elif held and account.entries < MAX_OPEN_ENTRIES:
                # The sender waits although it may announce more: there is no more.
                raise nothing_matched(self._source)
            while held:
                yield held.pop(0)
            if made is None:
                if replies.over():
                    return
                await self._bell.wait(call.idle_left())
            elif isinstance(made[0], trees_pb2.TreeEnd):
                return

    def _make(self, sender: SendingRole) -> tuple[requests.Outgoing, bytes] | None:
        """Let the sender make a message, and serialize it."""
        try:
            message = sender.next()
        except TransferError as error:
            raise local_failure(error, self._source, "cannot read") from error
        return None if message is None else (message, requests.outgoing(message))

    def _note(self, account: TreeAccount, message: requests.Outgoing) -> None:
        match message:
            case trees_pb2.TreeManifest():
                account.announced(message)
            case trees_pb2.TreeContent():
                account.carried(message)
            case _:
                if self._options.selects and account.selects_nothing:
                    raise nothing_matched(self._source)
                account.complete = True
                self._ended = account

    async def _receive(self, call: TreeCall, sender: SendingRole, account: TreeAccount) -> None:
        """Take the answers up to the end of the call; run beside the writer, and never wait for it."""
        async for data in call.messages():
            begun = self._answers.started
            reply = self._answers.take(data)
            if not begun and self._answers.algorithm is not None:
                sender.algorithm = self._answers.algorithm
                self.course.path = self._answers.path
            if reply is not None:
                try:
                    sender.reply(reply)
                    with self._lock:
                        account.replied(reply)
                except TransferError as error:
                    raise broken(UPLOAD, error.message) from error
                except AccountFaultError as error:
                    raise broken(UPLOAD, str(error)) from error
            self._bell.ring()

    def _report(self) -> None:
        if self._reporter.wanted:
            with self._lock:
                progress = self.course.progress()
            self._reporter.report(progress)

    def _result(self, result: trees_pb2.UploadTreeResult, account: TreeAccount) -> TreeResult:
        """Return the result of a stream that ended with status OK.

        Raises:
            InternalError: the tree was not sent completely, or an entry was not decided.
        """
        self._rpc.answered()
        if not account.complete or account.unsettled:
            raise broken(
                UPLOAD,
                f"a result before the end; {account.unsettled} of {account.entries} entries are undecided",
            )
        self.course.path = result.directory.path or self._answers.path
        self._report()
        return self.course.result(
            durability=answers.durability(result.durability),
            created=result.created,
            deleted=result.deleted_entries,
        )

    async def settled(self, error: FilesError) -> TreeResult | None:
        """Look whether an atomic tree was published although its stream failed after the end was sent.

        Raises:
            OutcomeUnknown: that cannot be found out.
        """
        if not self._may_be_published(error):
            return None
        found = await self._find(error)
        ended = self._ended
        if found is None or ended is None:
            return None
        if (found.type, found.mode, found.modified_ns) != (
            FileType.DIRECTORY,
            ended.top_mode,
            ended.top_modified_ns,
        ):
            if isinstance(error, FileExists):
                # It is another program's.
                return None
            raise outcome_unknown(error, self.course.path) from error
        ended.published()
        self.course.resume(ended)
        return self.course.result(created=True)

    def last(self, error: FilesError) -> FilesError:
        """Return the error of a transfer that is not repeated: a path that was free may be taken a moment later."""
        if self._may_be_published(error) and not isinstance(error, FileExists):
            return outcome_unknown(error, self.course.path)
        return error

    def _may_be_published(self, error: FilesError) -> bool:
        """Return whether an atomic tree may be at its path after a failed attempt."""
        if self._ended is None or not self._options.atomic or self._options.dry_run:
            return False
        # A later attempt finds the path taken if an earlier one published it after all.
        return proves_nothing(error) or (
            isinstance(error, FileExists) and self._ended is not self.course.account
        )

    async def _find(self, error: FilesError) -> FileInfo | None:
        """Describe what is at the path; None if there is nothing."""
        budget = self._rpc.budget()
        while True:
            try:
                # Bytes that are not UTF-8 cannot be asked for.
                request = stat_request(
                    self._address, self.course.path, digests=(), leaf_link=LeafLink.NOFOLLOW
                )
                return answers.file_info((await self._rpc.stat_file(request, self._deadline)).file)
            except FileNotFound:
                return None
            except FilesError as second:
                try:
                    await self._rpc.recover(second, budget, self._deadline)
                except FilesError:
                    raise outcome_unknown(error, self.course.path) from second
