# Written by sdk/unasync.py from _async/sandbox.py. Change that file instead.
"""Files of one sandbox: the object with all methods, file objects and `stat`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, overload

from openshell_files._arguments import checked
from openshell_files._core import answers
from openshell_files._core.requests import accepted_digests, stat_request
from openshell_files._sync import file_objects
from openshell_files._sync.archives.methods import ArchiveMethods
from openshell_files._sync.deadline import Deadline
from openshell_files._sync.directories.methods import DirectoryMethods
from openshell_files._sync.download.methods import DownloadMethods
from openshell_files._sync.download.sinks import MemorySink
from openshell_files._sync.file_objects import RemoteReader, RemoteWriter
from openshell_files._sync.trees.methods import TreeMethods
from openshell_files._sync.unary import call_with_retries
from openshell_files._sync.upload.methods import UploadMethods
from openshell_files._values import wrong_value
from openshell_files.options import (
    Condition,
    DigestChoice,
    Durability,
    LeafLink,
    ReadOptions,
    RemotePath,
    WriteOptions,
)
from openshell_files.results import FileInfo, FileType


class SandboxFiles(UploadMethods, DownloadMethods, DirectoryMethods, TreeMethods, ArchiveMethods):
    """Moves files in and out of one sandbox. Made by `FilesClient.sandbox`.

    Every method raises a subclass of `FilesError`. A wrong argument raises
    `TypeError` or `ValueError` with the argument's name before anything is
    sent. Errors that the error table marks as retryable are retried within the
    client's `RetryPolicy`; an upload or download resumes where it stopped.

    Methods that upload take the fields of `WriteOptions`, methods that
    download those of `ReadOptions`: as keyword arguments, together as
    `options`, or both; a keyword argument then overrides the field.

    A remote path names the file itself, as a `str` or a `PurePosixPath`.
    Absolute paths start at the sandbox's root, others at its working directory
    (PTH-10). `./x`, `a//b` and `a/./b` are simplified. `a/../b` is refused: if
    `a` is a link, only the sandbox's disk knows the target.

    An upload replaces the file at its path by a new one. It needs the right to
    write to the directory, not to the old file: a read-only file is replaced.
    `condition=Condition.absent()` refuses to replace anything. `move` and
    `copy` replace nothing unless `replace` is given.
    """

    @overload
    def open(
        self,
        remote: RemotePath,
        mode: Literal["rb"] = "rb",
        *,
        leaf_link: LeafLink = LeafLink.REFUSE,
        if_version: str = "",
        timeout: float | None = None,
    ) -> RemoteReader: ...

    @overload
    def open(
        self,
        remote: RemotePath,
        mode: Literal["wb", "xb"],
        *,
        permissions: int | None = None,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        timeout: float | None = None,
    ) -> RemoteWriter: ...

    @checked
    def open(
        self,
        remote: RemotePath,
        mode: Literal["rb", "wb", "xb"] = "rb",
        *,
        permissions: int | None = None,
        parents: bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        condition: Condition | None = None,
        durability: Durability = Durability.FSYNC,
        if_version: str = "",
        timeout: float | None = None,
    ) -> RemoteReader | RemoteWriter:
        """Return a file object.

        A written file is published when it is closed, whole or not at all; an
        exception in its `with` block publishes nothing. A file object for
        reading can seek, and verifies every byte before it returns it.

        Args:
            remote: path in the sandbox.
            mode: "rb" reads; "wb" writes; "xb" writes only if the path does not exist.
            permissions: permission bits of a written file, as `mode` of `upload`.
            parents: see `WriteOptions`; for writing.
            leaf_link: see `WriteOptions` or `ReadOptions`.
            condition: see `WriteOptions`; for writing.
            durability: see `WriteOptions`; for writing.
            if_version: see `ReadOptions`; for reading.
            timeout: seconds for the whole upload, or for each part that is
                read; None for no limit.

        Raises:
            FileNotFound: there is no file to read. The asynchronous flavour
                raises it when the file is entered or first read.
            FilesError: as in `upload` and `download`, from the file object, too.
        """
        if mode == "rb":
            if permissions is not None or parents or condition is not None:
                wrong_value("mode", '"rb" takes no permissions, parents or condition, which are for writing')
            reading = ReadOptions(if_version=if_version, leaf_link=leaf_link)

            def fetch(version: str, offset: int, length: int) -> tuple[bytes, int]:
                part = replace(reading, offset=offset, length=length, max_bytes=length)
                part = replace(part, if_version=if_version or version)
                sink = MemorySink()
                result = self._receive(remote, sink, part, Deadline(timeout))
                return sink.content(), result.file_size

            def look() -> FileInfo:
                return self._file_to_read(remote, reading, timeout)

            return file_objects.reader(look, fetch, str(remote))
        if if_version:
            wrong_value("if_version", "is for reading; for writing give condition=Condition.version(...)")
        if mode == "xb":
            if condition is not None:
                wrong_value("condition", '"xb" is the condition that the path does not exist: give no other')
            condition = Condition.absent()
        writing = WriteOptions(
            mode=permissions,
            parents=parents,
            leaf_link=leaf_link,
            condition=condition,
            durability=durability,
        )
        uploading = partial(self.upload, remote=remote, options=writing, timeout=timeout)
        return file_objects.writer(uploading, str(remote), mode)

    def _file_to_read(self, remote: RemotePath, options: ReadOptions, timeout: float | None) -> FileInfo:
        """Describe a file before its first byte is read.

        Raises:
            FilesError: as `download` would.
        """
        info = self.stat(remote, leaf_link=options.leaf_link, timeout=timeout)
        if info.type is not FileType.REGULAR or (options.if_version and info.version != options.if_version):
            # A download of no bytes raises the proper error.
            self.read_bytes(remote, options=options, length=0, timeout=timeout)
        return info

    @checked
    def stat(
        self,
        remote: RemotePath,
        *,
        digest: DigestChoice | bool = False,
        leaf_link: LeafLink = LeafLink.REFUSE,
        timeout: float | None = None,
    ) -> FileInfo:
        """Describe a file, a directory, `/`, `.`, or a link (PTH-9, PTH-23).

        Args:
            remote: path in the sandbox.
            digest: compute a digest: True and "auto" choose as uploads do,
                "sha256" and "blake3" accept that algorithm only. The sandbox
                reads the whole file; give a `timeout` that suits its size.
            leaf_link: REFUSE or FOLLOW a symbolic link at `remote`, or
                describe the link itself with NOFOLLOW; its target is then
                in `FileInfo.link_target`.
            timeout: seconds for all tries; None limits each try by the client's `timeout`.

        Raises:
            FileNotFound: the path does not exist.
            FilesError: anything else, by the error table.
        """
        choice: DigestChoice = "auto" if isinstance(digest, bool) else digest
        digests = accepted_digests(choice) if digest else ()
        request = stat_request(self._address, remote, digests=digests, leaf_link=leaf_link)
        answer = call_with_retries(
            self._rpc, self._address, self._rpc.stat_file, request, timeout, str(remote)
        )
        return answers.hashed_file_info(answer.file) if digest else answers.file_info(answer.file)
