"""Reads a tar archive that arrives in pieces (ARC-2)."""

from __future__ import annotations

from enum import Enum
from functools import partial
from typing import Final, Protocol

from openshell_files_disk.archives.limits import MAX_EXTENDED_HEADER_BYTES, invalid_archive
from openshell_files_disk.archives.tar_headers import (
    BLOCK,
    GNU_LABEL,
    GNU_LONG,
    PAX_GLOBAL,
    PAX_LOCAL,
    Block,
    Extensions,
    Member,
    member,
    parse_block,
    pax_records,
)

_ZEROS: Final = bytes(BLOCK)


class TakesMembers(Protocol):
    """Takes the members of an archive, in their order."""

    def member(self, member: Member) -> None:
        """Take a member; its content follows."""
        ...

    def content(self, data: memoryview) -> None:
        """Take content of the last member; the view is only valid during the call."""
        ...

    def member_end(self) -> None:
        """Take the end of the last member's content."""
        ...


class _Part(Enum):
    """What the next bytes are."""

    HEADERS = "headers"
    CONTENT = "content"
    PADDING = "padding"
    END = "end"


class TarReader:
    """Turns the bytes of an archive into its members.

    An archive ends with a block of zeros, after which only zeros may follow: without that block it
    may have been cut off, and other bytes behind it would be lost without a word.

    Args:
        taker: takes the members. It may raise.
    """

    def __init__(self, taker: TakesMembers) -> None:
        self._taker = taker
        self._part = _Part.HEADERS
        #: Size of the block or extended header that comes next, and what takes it.
        self._size, self._then = BLOCK, self._header
        #: What has arrived of it.
        self._partial = bytearray()
        #: Bytes of content or padding that have not arrived.
        self._left = 0
        self._padding = 0
        self._position = 0
        self._extensions = Extensions()
        #: Bytes of extended headers since the last member.
        self._extended_bytes = 0

    def feed(self, data: memoryview) -> None:
        """Take the next bytes.

        Raises:
            TransferError: ARCHIVE_INVALID, or an error of the taker.
        """
        at = 0
        while at < len(data):
            at += self._take(data[at:])

    def finish(self) -> None:
        """Take the end of the archive.

        Raises:
            TransferError: ARCHIVE_INVALID; it is not complete.
        """
        if self._part is not _Part.END:
            if self._position == 0 and not self._partial:
                raise invalid_archive("it is empty")
            raise invalid_archive("it has no end: it was cut off")

    def _take(self, data: memoryview) -> int:
        """Take bytes of the current part; return their number."""
        match self._part:
            case _Part.CONTENT:
                return self._content(data)
            case _Part.PADDING:
                return self._skip(data)
            case _Part.END:
                if bytes(data).strip(b"\0"):
                    raise invalid_archive("other bytes follow its end, for example of a second archive")
                return len(data)
            case _Part.HEADERS:
                return self._gather(data)

    def _gather(self, data: memoryview) -> int:
        """Take bytes until the next block or extended header is complete."""
        size = self._size
        if not self._partial and len(data) >= size:
            whole, taken = bytes(data[:size]), size
        else:
            taken = min(len(data), size - len(self._partial))
            self._partial += data[:taken]
            if len(self._partial) < size:
                return taken
            whole = bytes(self._partial)
            self._partial.clear()
        then, self._size, self._then = self._then, BLOCK, self._header
        then(whole)
        self._position += size
        return taken

    def _header(self, raw: bytes) -> None:
        if raw == _ZEROS:
            self._part = _Part.END
            return
        block = parse_block(raw, self._position)
        if block.type in PAX_LOCAL or block.type == PAX_GLOBAL or block.type in GNU_LONG:
            self._begin_extended(block)
        elif block.type == GNU_LABEL:
            self._skip_next(block.size + -block.size % BLOCK)
        elif block.more_sparse_blocks:
            self._then = partial(self._sparse_map, block)
        else:
            self._begin(block)

    def _begin_extended(self, block: Block) -> None:
        self._extended_bytes += max(block.size, BLOCK)
        if self._extended_bytes > MAX_EXTENDED_HEADER_BYTES:
            raise invalid_archive(
                f"the extended headers of the member at byte {self._position} have more than "
                f"{MAX_EXTENDED_HEADER_BYTES} bytes"
            )
        if block.size:
            self._size, self._then = block.size, partial(self._extended, block.type)

    def _extended(self, kind: bytes, data: bytes) -> None:
        if kind in GNU_LONG:
            self._extensions.next_member[GNU_LONG[kind]] = data.partition(b"\0")[0]
        elif kind == PAX_GLOBAL:
            self._extensions.all_members.update(pax_records(data, self._position))
        else:
            self._extensions.next_member.update(pax_records(data, self._position))
        self._skip_next(-len(data) % BLOCK)

    def _sparse_map(self, block: Block, raw: bytes) -> None:
        # The blocks only have to be passed over: GNU's sparse files are not unpacked.
        if raw[504]:
            self._then = partial(self._sparse_map, block)
        else:
            self._begin(block)

    def _begin(self, block: Block) -> None:
        self._extended_bytes = 0
        begun = member(block, self._extensions.take(), self._position)
        self._taker.member(begun)
        self._left, self._padding = begun.size, -begun.size % BLOCK
        self._part = _Part.CONTENT
        if not self._left:
            self._end_content()

    def _content(self, data: memoryview) -> int:
        taken = min(len(data), self._left)
        self._taker.content(data[:taken])
        self._left -= taken
        self._position += taken
        if not self._left:
            self._end_content()
        return taken

    def _end_content(self) -> None:
        self._taker.member_end()
        self._skip_next(self._padding)

    def _skip_next(self, size: int) -> None:
        self._left = size
        self._part = _Part.PADDING if size else _Part.HEADERS

    def _skip(self, data: memoryview) -> int:
        taken = min(len(data), self._left)
        self._left -= taken
        self._position += taken
        if not self._left:
            self._part = _Part.HEADERS
        return taken
