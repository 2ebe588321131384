"""Trace points: named moments of a transfer, for fault injection.

The agent calls its `trace` hook with one of these from a disk thread, without holding a lock: a
hook may block the transfer there, or kill the process. Other transfers continue as long as disk
threads are free.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class TracePoint(StrEnum):
    """The moment of a call of the hook."""

    #: The upload has its staging file; `accepted` is not sent yet.
    UPLOAD_ADMITTED = "upload.admitted"
    #: The first chunk of this stream is in the staging file.
    UPLOAD_FIRST_CHUNK_STAGED = "upload.first_chunk_staged"
    #: A chunk (any) is in the staging file.
    UPLOAD_CHUNK_STAGED = "upload.chunk_staged"
    #: The finish has come; nothing was done about it.
    UPLOAD_FINISH_RECEIVED = "upload.finish_received"
    #: The state is VERIFYING; size, digest and condition are not checked yet.
    UPLOAD_VERIFYING = "upload.verifying"
    #: Mode, times and content are flushed; the destination is still the old.
    UPLOAD_FLUSHED = "upload.flushed"
    #: The destination is the new file; the directory is not flushed, and the journal does not have the result.
    UPLOAD_RENAMED = "upload.renamed"
    #: The journal has the result; the answer is not sent yet.
    UPLOAD_BEFORE_REPLY = "upload.before_reply"
    #: The file is open and its header is fixed; nothing is sent.
    DOWNLOAD_OPENED = "download.opened"
    #: The first piece was read; it is not sent yet.
    DOWNLOAD_FIRST_CHUNK = "download.first_chunk"
    #: A piece (any) was read; it is not sent yet.
    DOWNLOAD_CHUNK = "download.chunk"
    #: Everything was read; the agent has not looked yet whether the file changed.
    DOWNLOAD_BEFORE_TRAILER = "download.before_trailer"
    #: An entry below a directory was removed; others may be left.
    ENTRY_REMOVED = "directories.entry_removed"
    #: An entry is in the staged copy; others may be missing.
    ENTRY_COPIED = "directories.entry_copied"
    #: The staged copy is complete; the destination is still the old.
    COPY_STAGED = "directories.copy_staged"
    #: The destination is the copy; its directory is not flushed.
    COPY_RENAMED = "directories.copy_renamed"
    #: A received tree has its staging directory; no entry is in place.
    TREE_STARTED = "tree.started"
    #: A file or link of a received tree has its name; others may be missing.
    TREE_ENTRY_PLACED = "tree.entry_placed"
    #: The last entry has come; directories have no times, and an atomic tree is not published.
    TREE_ENDING = "tree.ending"
    #: The received tree is complete; its result is not sent yet.
    TREE_PUBLISHED = "tree.published"
    #: A manifest (any) of a sent tree was made; it is not sent yet.
    TREE_MANIFEST_READ = "tree.manifest_read"
    #: A message of content (any) was read; it is not sent yet.
    TREE_CONTENT_READ = "tree.content_read"
    #: Everything of a sent tree was read; the end is not sent yet.
    TREE_READ = "tree.read"


Trace = Callable[[str], None]


def no_trace(_point: str) -> None:
    """Do nothing; the default hook."""
