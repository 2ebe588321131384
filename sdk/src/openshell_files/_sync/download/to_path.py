# Written by sdk/unasync.py from _async/download/to_path.py. Change that file instead.
"""Downloads to a local path: beside it and by a rename, or into a device or FIFO."""

from __future__ import annotations

from openshell_files._local.special_file import is_written_into
from openshell_files._local.target_file import TargetFile
from openshell_files._local.umask import current_umask
from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.download.download import Download
from openshell_files._sync.download.sinks import FileSink, StreamSink, open_special
from openshell_files.results import DownloadResult, ProgressCallback


def download_to_path(
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
    """Download to a local path; for the arguments see `SandboxFiles.download_path`."""
    if _io.in_thread(is_written_into, path):
        with open_special(path, deadline) as file:
            return transfer.into(StreamSink(file, deadline, path), progress)
    target = TargetFile(path)
    try:
        _io.in_thread(target.open)
        result = transfer.into(FileSink(target), progress)
        masked = result.mode if preserve_mode else result.mode & ~_io.in_thread(current_umask)
        _io.in_thread(
            target.publish,
            result.size,
            mode=masked if mode is None else mode,
            modified_ns=result.modified_ns if preserve_mtime else None,
            fsync=fsync,
        )
        return result
    finally:
        _io.in_thread(target.close)
