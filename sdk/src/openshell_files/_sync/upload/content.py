# Written by sdk/unasync.py from _async/upload/content.py. Change that file instead.
"""Content of an upload: the interface of every source, its digest, and its messages."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Protocol

from openshell_files._core.digests import ContentDigest
from openshell_files._core.upload.outgoing import Sealed, Span, seal
from openshell_files._local import source_file
from openshell_files._sync import _io
from openshell_files._sync.deadline import Deadline

#: Size of a read that only the digest needs.
_HASH_READ_BYTES = 1024 * 1024


class Content(Protocol):
    """Bytes that can be read from a given position."""

    #: For messages: a path, or the kind of source.
    name: str
    #: None for a stream whose end is unknown.
    size: int | None

    @property
    def spent(self) -> bool:
        """True if bytes were read that cannot be read again."""
        ...

    def spans(self, start: int, chunk_bytes: int) -> Generator[Span, None, None]:
        """Yield everything from `start` on, in chunks and holes.

        Raises:
            SourceNotReplayable: the bytes at `start` cannot be read again.
            LocalFileError: the source cannot be read.
        """
        ...

    def check_unchanged(self) -> None:
        """Check that the source still has the bytes that were read.

        Raises:
            LocalFileChanged: it has not.
        """
        ...


class SourceFailedError(Exception):
    """A caller's object failed while it was read; the cause is the exception that it raised."""


def sealed(
    content: Content, digest: ContentDigest, start: int, chunk_bytes: int, deadline: Deadline
) -> Generator[Sealed, None, None]:
    """Yield the messages that carry the content from `start` on.

    Args:
        content: the source.
        digest: digest of the bytes before `start`; brought there first if it is elsewhere.
        start: first byte.
        chunk_bytes: largest content of a message.
        deadline: end of the caller's time.
    """
    if not digest.rewind(start):
        hash_up_to(content, digest, start, deadline)
    if digest.position != start:
        raise source_file.changed(content.name)
    with closing(content.spans(start, chunk_bytes)) as spans:
        for span in spans:
            deadline.left()
            yield _io.in_thread(seal, digest, span)


def hash_up_to(content: Content, digest: ContentDigest, end: int, deadline: Deadline) -> None:
    """Hash the content from the digest's position to `end`, or to the content's end if that comes first.

    Raises:
        DeadlineExceeded: the caller's time is used up.
    """
    if digest.position >= end:
        return
    with closing(content.spans(digest.position, _HASH_READ_BYTES)) as spans:
        for span in spans:
            deadline.left()
            left = end - digest.position
            if span.hole_bytes:
                _io.in_thread(digest.update_zeros, min(left, span.hole_bytes))
            else:
                _io.in_thread(digest.update, span.data[:left])
            if digest.position == end:
                return
