# Written by sdk/unasync.py from _async/download/methods.py. Change that file instead.
"""Public methods that download."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing
from typing import BinaryIO, Final, Unpack

from openshell_files_protocol.limits import MIB

from openshell_files._arguments import checked
from openshell_files._core.download.events import Piece
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.download.download import Download
from openshell_files._sync.download.sinks import MemorySink, Sink, StreamSink
from openshell_files._sync.download.to_path import download_to_path
from openshell_files._sync.sandbox_methods import SandboxMethods
from openshell_files.options import (
    READ_DEFAULTS,
    RangeArguments,
    ReadArguments,
    ReadOptions,
    RemotePath,
    with_arguments,
)
from openshell_files.results import DownloadResult, ProgressCallback

#: Longest hole that `iter_download` yields as one piece of zeros.
_HOLE_PIECE_BYTES: Final = MIB

#: Default of `max_bytes` in `read_bytes`.
DEFAULT_READ_LIMIT: Final = 64 * MIB


class DownloadMethods(SandboxMethods):
    """Methods of `SandboxFiles` for downloads."""

    @checked
    def download_path(
        self,
        remote: RemotePath,
        local: str | os.PathLike[str],
        *,
        options: ReadOptions | None = None,
        mode: int | None = None,
        preserve_mode: bool = False,
        preserve_mtime: bool = True,
        fsync: bool = True,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
        **read: Unpack[ReadArguments],
    ) -> DownloadResult:
        """Download to a local file.

        The content is received into a temporary file beside `local`, verified
        to the last byte, and renamed. Until then, and after any failure, an
        older file at `local` is untouched. A symbolic link there is replaced.
        A character device or a FIFO there, or a link to one, is written into,
        as by `download`; mode, time and flush do not apply to it. A block
        device or a socket is refused.

        Args:
            remote: path in the sandbox.
            local: path of the file itself; its directory must exist.
            options: see `ReadOptions`.
            mode: permission bits, exactly; None takes the remote file's less the
                umask, as for every new file.
            preserve_mode: take the remote file's permission bits without regard
                to the umask (never set-id bits).
            preserve_mtime: keep the modification time.
            fsync: flush the local file and its directory.
            timeout: seconds for the whole call, with retries; None for no limit.
            progress: called after each step.
            **read: fields of `ReadOptions`.

        Returns:
            A description of the received content.

        Raises:
            LocalIsADirectory: `local` is a directory.
            LocalFileError: it cannot be written.
            IncompleteDownload: the stream ended early at each try.
            IntegrityError: the content was damaged at each try.
            FileTooLarge: the content exceeds `max_bytes`.
            FilesError: anything else, by the error table.
        """
        deadline = Deadline(timeout)
        return download_to_path(
            self._download(remote, with_arguments(options or READ_DEFAULTS, read), deadline),
            os.fsdecode(local),
            deadline,
            progress,
            mode=mode,
            preserve_mode=preserve_mode,
            preserve_mtime=preserve_mtime,
            fsync=fsync,
        )

    @checked
    def download(
        self,
        remote: RemotePath,
        sink: BinaryIO | Callable[[bytes], object],
        *,
        options: ReadOptions | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
        **read: Unpack[ReadArguments],
    ) -> DownloadResult:
        """Download into a binary file object or a function that takes bytes.

        Every piece is verified before the sink gets it, the whole at the end:
        the content is right only when this returns. The sink cannot give
        content back, so a file that changes during the download is an error
        and not a restart.

        Args:
            remote: path in the sandbox.
            sink: takes the bytes in order. `timeout` includes the time in
                which it takes nothing, but cannot interrupt a plain function
                or method of the caller that blocks.
            options: see `ReadOptions`.
            timeout: as in `download_path`.
            progress: as in `download_path`.
            **read: fields of `ReadOptions`.

        Returns:
            A description of the received content.

        Raises:
            FilesError: as in `download_path`.
        """
        deadline = Deadline(timeout)
        chosen = with_arguments(options or READ_DEFAULTS, read)
        return self._download(remote, chosen, deadline).into(StreamSink(sink, deadline), progress)

    @checked
    def iter_download(
        self,
        remote: RemotePath,
        *,
        options: ReadOptions | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
        **read: Unpack[ReadArguments],
    ) -> Generator[bytes, None, None]:
        """Return a generator of a file's content, piece by piece; see `download`.

        The content is right only if the iteration ends without an error. Close
        the generator if you leave it early.

        Raises:
            FilesError: as in `download_path`, while it is iterated.
        """
        chosen = with_arguments(options or READ_DEFAULTS, read)
        return self._pieces(self._download(remote, chosen, Deadline(timeout)), progress)

    @checked
    def read_bytes(
        self,
        remote: RemotePath,
        *,
        options: ReadOptions | None = None,
        max_bytes: int | None = DEFAULT_READ_LIMIT,
        timeout: float | None = None,
        **read: Unpack[RangeArguments],
    ) -> bytes:
        """Return a file's content.

        Args:
            remote: path in the sandbox.
            options: see `ReadOptions`; the smaller of two `max_bytes` applies.
            max_bytes: refuse to receive more, since memory holds the content;
                None for no limit.
            timeout: as in `download_path`.
            **read: fields of `ReadOptions`.

        Raises:
            FileTooLarge: the content exceeds `max_bytes`.
            FilesError: as in `download_path`.
        """
        chosen = with_arguments(options or READ_DEFAULTS, read)
        if max_bytes is not None and (chosen.max_bytes is None or max_bytes < chosen.max_bytes):
            chosen = with_arguments(chosen, {"max_bytes": max_bytes})
        sink = MemorySink()
        self._receive(remote, sink, chosen, Deadline(timeout))
        return sink.content()

    def _download(self, remote: RemotePath, options: ReadOptions, deadline: Deadline) -> Download:
        return Download(self._rpc, self._address, str(remote), options, deadline=deadline)

    def _receive(
        self, remote: RemotePath, sink: Sink, options: ReadOptions, deadline: Deadline
    ) -> DownloadResult:
        return self._download(remote, options, deadline).into(sink, None)

    def _pieces(self, transfer: Download, progress: ProgressCallback | None) -> Generator[bytes, None, None]:
        with closing(transfer.events()) as events:
            for event in events:
                if not isinstance(event, Piece):
                    continue
                if progress is not None:
                    progress(transfer.progress())
                for start in range(0, event.hole_bytes, _HOLE_PIECE_BYTES):
                    yield bytes(min(_HOLE_PIECE_BYTES, event.hole_bytes - start))
                if len(event.data):
                    yield bytes(event.data)
