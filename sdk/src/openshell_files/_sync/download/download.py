# Written by sdk/unasync.py from _async/download/download.py. Change that file instead.
"""Driver of a download: carries out its attempts and hands verified content on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from openshell_files_protocol.digests import PREFERRED

from openshell_files._core import answers
from openshell_files._core.download.download_check import DownloadCheck
from openshell_files._core.download.events import Event, Piece, Restarted
from openshell_files._core.requests import SandboxAddress, stat_request
from openshell_files._sync import _io
from openshell_files._sync._calls import received_ahead
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.download.sinks import Sink
from openshell_files._sync.reporting import Reporter
from openshell_files._sync.rpc import Rpc
from openshell_files.errors import FilesError
from openshell_files.options import LeafLink, ReadOptions
from openshell_files.results import DownloadResult, Progress, ProgressCallback


class Download:
    """One call of `download`, over all its attempts.

    Args:
        rpc: the gateway.
        address: the sandbox.
        path: the remote path.
        options: part and version of the file.
        deadline: end of the caller's time.
        check: of the content; None makes the one of a file.
    """

    def __init__(
        self,
        rpc: Rpc,
        address: SandboxAddress,
        path: str,
        options: ReadOptions,
        *,
        deadline: Deadline,
        check: DownloadCheck | None = None,
    ) -> None:
        self._rpc = rpc
        self._address = address
        self._path = path
        self._leaf_link = options.leaf_link
        self._deadline = deadline
        self._check = check or DownloadCheck(address, path, options, budget=rpc.budget())
        self._began = _io.monotonic()

    def into(self, sink: Sink, progress: ProgressCallback | None) -> DownloadResult:
        """Receive everything into a sink.

        Raises:
            FilesError: it was refused, or the retries are used up. The sink's
                content is then not verified.
        """
        self._check.restartable = sink.restartable
        reporter = Reporter(progress)
        with closing(self.events(paced=not sink.restartable)) as events:
            for event in events:
                if isinstance(event, Piece):
                    sink.write(event)
                elif isinstance(event, Restarted):
                    sink.restart()
                reporter.report(self.progress())
        return self.result()

    def events(self, *, paced: bool = True) -> Generator[Event, None, None]:
        """Yield verified events until the download is complete.

        Args:
            paced: the caller's own code consumes the content (see `Gate`).

        Raises:
            FilesError: it was refused, or the retries are used up.
        """
        gate = self._rpc.gate(self._address)
        entered = gate.enter(self._deadline, paced=paced)
        try:
            with closing(self._attempts()) as events:
                yield from events
        finally:
            if entered:
                gate.leave(paced=paced)

    def _attempts(self) -> Generator[Event, None, None]:
        check = self._check
        while True:
            try:
                with closing(self._attempt()) as events:
                    yield from events
                if check.needs_confirmation:
                    self._confirm()
            except FilesError as error:
                self._rpc.refused(self._address, error)
                decision = check.on_error(error)
            else:
                return
            if decision.refresh_token:
                self._rpc.refuse_token()
            self._rpc.pause(decision.delay, self._deadline)
            if decision.restart:
                yield Restarted()

    def _attempt(self) -> Generator[Event, None, None]:
        check = self._check
        request = check.request()
        with (
            self._rpc.download_file(request, self._deadline) as call,
            received_ahead(call) as messages,
        ):
            for message in messages:
                event = _io.in_thread(check.take, message)
                if isinstance(event, Piece) and event.hole_bytes:
                    more = True
                    while more:
                        position = check.received
                        more = _io.in_thread(check.hash_hole)
                        yield Piece(position, b"", check.received - position)
                elif event is not None:
                    yield event
        self._rpc.answered()
        check.on_end()

    def _confirm(self) -> None:
        """Compare a resumed download with the digest of the whole file."""
        leaf_link = LeafLink.FOLLOW if self._leaf_link is LeafLink.FOLLOW else LeafLink.REFUSE
        own = self._check.digest().algorithm
        digests = sorted(PREFERRED, key=lambda algorithm: algorithm is not own)
        request = stat_request(self._address, self._path, digests=digests, leaf_link=leaf_link)
        answer = self._rpc.stat_file(request, self._deadline, hashed_bytes=self._check.file_size)
        self._check.confirm(answers.file_info(answer.file))

    def progress(self) -> Progress:
        """Return the progress so far."""
        return Progress(self._check.received, self._check.total, attempt=self._check.attempts)

    def result(self) -> DownloadResult:
        """Return the description of the received content."""
        check = self._check
        file = check.file
        if file is None:
            raise AssertionError("no header was accepted")
        return DownloadResult(
            path=file.path,
            size=check.received,
            digest=str(check.digest()),
            mode=file.mode,
            modified_ns=file.modified_ns,
            version=file.version,
            file_size=check.file_size,
            start_offset=check.start_offset,
            bytes_received=check.bytes_received,
            resumed_from=check.resumed_from,
            attempts=check.attempts,
            seconds=_io.monotonic() - self._began,
            whole_file=check.whole_file,
            changed=check.changed,
            digest_verified=check.digest_verified,
        )
