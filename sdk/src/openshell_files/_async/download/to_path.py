"""Downloads to a local path: beside it and by a rename, or into a device or FIFO."""

from __future__ import annotations

from openshell_files._async import _io
from openshell_files._async.deadline import Deadline
from openshell_files._async.download.download import Download
from openshell_files._async.download.sinks import FileSink, StreamSink, open_special
from openshell_files._local.special_file import is_written_into
from openshell_files._local.target_file import TargetFile
from openshell_files._local.umask import current_umask
from openshell_files.results import DownloadResult, ProgressCallback


async def download_to_path(
    transfer: Download,
    path: str,
    deadline: Deadline,
    progress: ProgressCallback | None,
    *,
    mode: int | None,
    preserve_mode: bool,
    preserve_mtime: bool,
    fsync: bool,
) -> DownloadResult:
    """Download to a local path; for the arguments see `AsyncSandboxFiles.download_path`."""
    if await _io.in_thread(is_written_into, path):
        with await open_special(path, deadline) as file:
            return await transfer.into(StreamSink(file, deadline, path), progress)
    target = TargetFile(path)
    try:
        await _io.in_thread(target.open)
        result = await transfer.into(FileSink(target), progress)
        masked = result.mode if preserve_mode else result.mode & ~await _io.in_thread(current_umask)
        await _io.in_thread(
            target.publish,
            result.size,
            mode=masked if mode is None else mode,
            modified_ns=result.modified_ns if preserve_mtime else None,
            fsync=fsync,
        )
        return result
    finally:
        await _io.in_thread(target.close)
