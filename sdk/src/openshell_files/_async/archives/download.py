"""Driver of a directory that is downloaded as an archive."""

from __future__ import annotations

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._async.download.download import Download
from openshell_files._async.download.sinks import FileSink, Sink, StreamSink, open_special
from openshell_files._async.rpc import Rpc
from openshell_files._core.archives.archive_check import ArchiveCheck
from openshell_files._core.archives.requests import packed, without_archives
from openshell_files._core.requests import SandboxAddress
from openshell_files._local.special_file import is_written_into
from openshell_files._local.target_file import TargetFile
from openshell_files._local.umask import current_umask
from openshell_files.archive_results import ArchiveResult
from openshell_files.errors import FilesError
from openshell_files.options import ReadOptions
from openshell_files.results import ProgressCallback


class ArchiveDownload:
    """One call of `download_archive`, over all its attempts.

    Args:
        rpc: the gateway.
        address: the sandbox.
        path: of the directory.
        options: `allow_changes` and `max_bytes` apply.
        deadline: end of the caller's time.
        progress: the caller's callback.
    """

    def __init__(
        self,
        rpc: Rpc,
        address: SandboxAddress,
        path: str,
        options: ReadOptions,
        *,
        deadline: Deadline,
        progress: ProgressCallback | None,
    ) -> None:
        self._check = ArchiveCheck(address, path, options, budget=rpc.budget())
        self._download = Download(rpc, address, path, options, deadline=deadline, check=self._check)
        self._deadline = deadline
        self._progress = progress

    async def into(self, sink: Sink) -> ArchiveResult:
        """Receive everything into a sink.

        Raises:
            FilesError: it was refused, or the retries are used up. The sink's content is then not verified.
        """
        began = _io.monotonic()
        try:
            await self._download.into(sink, self._progress)
        except FilesError as error:
            without_archives(error)
            raise
        check = self._check
        if check.archive is None or check.file is None:
            raise AssertionError("no trailer was accepted")
        return packed(
            check.archive,
            path=check.file.path,
            archive_bytes=check.received,
            digest=check.digest(),
            seconds=_io.monotonic() - began,
            attempts=check.attempts,
            changed=check.changed,
        )

    async def to_path(self, path: str, *, fsync: bool) -> ArchiveResult:
        """Receive into a local file, which appears when it is complete."""
        if await _io.in_thread(is_written_into, path):
            with await open_special(path, self._deadline) as file:
                return await self.into(StreamSink(file, self._deadline, path))
        target = TargetFile(path)
        try:
            await _io.in_thread(target.open)
            result = await self.into(FileSink(target))
            await _io.in_thread(
                target.publish,
                result.archive_bytes,
                mode=0o666 & ~await _io.in_thread(current_umask),
                modified_ns=None,
                fsync=fsync,
            )
            return result
        finally:
            await _io.in_thread(target.close)
