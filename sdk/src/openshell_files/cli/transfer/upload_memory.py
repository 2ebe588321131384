"""Follows one upload of the command line: stores its id for `--resume`, and reports its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES

from openshell_files.cli.command import Hint
from openshell_files.cli.output.report import Report
from openshell_files.cli.transfer.resume_store import ResumeStore
from openshell_files.errors import FilesError, UnfinishedUpload, UploadUnknown, unfinished_upload
from openshell_files.results import Progress, ProgressCallback, UploadInfo, UploadResult, UploadState

if TYPE_CHECKING:
    from openshell_files import SandboxFiles

_UNFINISHED = frozenset({UploadState.RECEIVING, UploadState.VERIFYING})


class UploadMemory:
    """State of one upload of the command line.

    Args:
        store: stores the id; None for a source that cannot be resumed.
        out: prints notes.
        upload_id: id of the upload to resume, from the command line.
        resume: resume the stored upload.
    """

    def __init__(self, store: ResumeStore | None, out: Report, upload_id: str, *, resume: bool) -> None:
        self._store = store
        self._out = out
        self._resume = resume or bool(upload_id)
        self._is_named = bool(upload_id)
        # Without --resume, leave an upload alone that another process sends.
        foreign = store is not None and not self._resume and store.is_running()
        self._known: Sequence[str] = () if store is None or foreign else store.load()
        self._seen = ""
        self._last: Progress | None = None
        self._before: UploadInfo | None = None
        self._published = False
        self.upload_id = upload_id
        if resume and not upload_id and self._known:
            self.upload_id = self._known[0]

    def begin(self, sandbox: SandboxFiles, timeout: float | None) -> None:
        """Print a note about an earlier upload of this file.

        Raises:
            FilesError: the gateway cannot be called, or does not know the upload of `--upload-id`.
        """
        if self._resume and not self.upload_id:
            if self._store is None:
                self._out.note("--resume: a stream cannot be resumed; it is sent from its beginning")
            else:
                self._out.note(
                    "--resume: no unfinished upload of this file to this path is stored; it starts from "
                    "the beginning"
                )
        elif self._resume:
            self._before = self._earlier(sandbox, timeout)
        elif self._known and self._can_be_resumed(sandbox, timeout):
            self._out.note(
                f"an earlier upload of this file was not finished (upload {self._known[0]}); this one starts "
                "from the beginning, and --resume would resume that one"
            )

    def _earlier(self, sandbox: SandboxFiles, timeout: float | None) -> UploadInfo | None:
        """Return the state of the upload to resume; None for a stored one that is unknown, which starts over.

        Raises:
            UploadUnknown: the user named it with `--upload-id`. An id with a typing error must not send the
                whole file.
        """
        try:
            return sandbox.upload_status(self.upload_id, timeout=timeout)
        except UploadUnknown as error:
            if not self._is_named:
                return None
            error.reword(f"--upload-id: {error.message}")
            raise

    def _can_be_resumed(self, sandbox: SandboxFiles, timeout: float | None) -> bool:
        """Ask for the state of the stored upload; remove the entry of one that is over."""
        with suppress(UploadUnknown):
            if sandbox.upload_status(self._known[0], timeout=timeout).state in _UNFINISHED:
                return True
        if self._store is not None:
            self._touching(self._store.forget, "forget")
        self._known = self._known[1:]
        return False

    def close(self) -> None:
        """Release the store: this process does not send the upload any more."""
        if self._store is not None:
            self._store.release()

    def watching(self, bar: ProgressCallback | None) -> ProgressCallback:
        """Return the callback that stores the id and updates the bar."""

        def watch(progress: Progress) -> None:
            self._last = progress
            if progress.upload_id and progress.upload_id != self._seen and self._store is not None:
                store, self._seen = self._store, progress.upload_id
                older = [known for known in self._known if known != self._seen]
                self._touching(lambda: store.save(self._seen, older), "store")
            if bar is not None:
                bar(progress)

        return watch

    def finished(self, sandbox: SandboxFiles, result: UploadResult) -> None:
        """Remove the entry of the published upload; note whether it started over, and abort older uploads."""
        if self._store is not None:
            self._touching(self._store.forget, "forget")
        if result.started_over:
            self._out.note(
                f"upload {self.upload_id} could not be resumed, since {result.started_over_because}; "
                "all was sent again"
            )
        for known in self._known:
            if known not in {result.upload_id, self._seen}:
                try:
                    sandbox.abort_upload(known, timeout=5.0)
                except FilesError:
                    # It expires; the newer upload is published.
                    return

    def on_failure(self, error: FilesError) -> Hint:
        """Return a hint for an upload that can be resumed; remove the entry of another."""
        if isinstance(error, UploadUnknown) and self._is_named and not self._seen:
            return Hint("Leave --upload-id out to start a new upload.")
        if error.upload_id and self._store is not None:
            return (
                Hint() if "--resume" in error.fix else Hint("Repeat the command with --resume to resume it.")
            )
        if self._seen and self._store is not None:
            self._touching(self._store.forget, "forget")
        return Hint()

    def published(self) -> None:
        """Note that the file is published, which no later failure undoes."""
        self._published = True

    def left(self, told: BaseException) -> UnfinishedUpload | None:
        """Return the upload that can be resumed after an interruption."""
        if self._published:
            return None
        left, begun = unfinished_upload(told), self._last is not None and self._last.upload_id
        if left is None and self.upload_id and not begun:
            # The interruption came before it was resumed.
            left = UnfinishedUpload(self.upload_id, None, outcome_known=True)
        before = self._before
        if (
            left is not None
            and left.staged is None
            and before is not None
            and before.upload_id == left.upload_id
        ):
            return UnfinishedUpload(left.upload_id, before.staged, left.outcome_known)
        return left

    def on_interrupt(self, told: BaseException) -> str:
        """Return the state of the upload in words."""
        if self._published:
            return "the file was published"
        left = self.left(told)
        if left is not None and not left.outcome_known:
            return (
                f"upload {left.upload_id} was sent completely, and whether it was published is unknown; repeat "
                "the command with --resume, which finds out"
            )
        if left is not None and (self._store is not None or left.upload_id == self.upload_id):
            return f"upload {left.upload_id} can be resumed; repeat the command with --resume"
        if self._seen and self._store is not None:
            self._touching(self._store.forget, "forget")
        if self._may_be_published():
            return "whether the file was published is unknown; check with `openshell-files stat`"
        return "nothing was published"

    def _may_be_published(self) -> bool:
        """Return whether the finish may have been sent: a small file is one message."""
        last = self._last
        if last is None:
            return False
        if last.total is not None and last.transferred >= last.total:
            return True
        # A larger upload has an id, which the interruption carries.
        return not last.upload_id and (last.total is None or last.total <= MIN_CHUNK_LIMIT_BYTES)

    def _touching(self, change: Callable[[], None], verb: str) -> None:
        try:
            change()
        except OSError as error:
            # The upload continues; only a later --resume is impossible.
            self._out.note(f"cannot {verb} the upload: {error.strerror or error}")
