"""Headers of tar: a block of 512 bytes, and the extended headers of pax and GNU tar before it (ARC-2).

`tarfile` parses a block. It is not used for more: it reads extended headers of any size into
memory, and rounds times to floating-point numbers.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field
from typing import Final

from openshell_files_disk.archives.limits import invalid_archive

BLOCK: Final = tarfile.BLOCKSIZE

#: Types of extended headers, which describe the member after them.
PAX_LOCAL: Final = frozenset({tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE})
PAX_GLOBAL: Final = tarfile.XGLTYPE
GNU_LONG: Final = {tarfile.GNUTYPE_LONGNAME: b"path", tarfile.GNUTYPE_LONGLINK: b"linkpath"}

#: Label of a volume by GNU tar; no member.
GNU_LABEL: Final = b"V"

#: Types of regular files; NUL is that of tar before POSIX.
REGULAR: Final = frozenset({tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE})

_NOT_UNPACKED: Final = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file in GNU tar's form",
    b"D": "a directory in GNU tar's form of an incremental backup",
    b"M": "a part of a file from another volume",
}

#: Records of pax that describe a member.
_USED_RECORDS: Final = frozenset({b"path", b"linkpath", b"size", b"mtime"})
#: Beginning of the records of a sparse file (GNU tar); stands for all of them.
_SPARSE_RECORD: Final = b"GNU.sparse."

_POSIX_MAGIC: Final = b"ustar\0"
_NANOS: Final = 1_000_000_000
#: The kernel has no larger files.
_MAX_SIZE: Final = 1 << 63
#: Times beyond this many seconds do not fit on the wire.
_MAX_SECONDS: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of an archive, as its headers describe it.

    Attributes:
        name: as stored.
        type: of tarfile's constants.
        size: bytes of content that follow.
        mode: permission bits.
        modified_ns: nanoseconds since 1970.
        target: of a link, as stored.
        not_unpacked: what the member is, if it cannot be unpacked; empty otherwise.
    """

    name: bytes
    type: bytes
    size: int
    mode: int
    modified_ns: int
    target: bytes
    not_unpacked: str = ""


@dataclass(slots=True)
class Extensions:
    """Records of extended headers: those for the rest of the archive, and those for the next member."""

    all_members: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    next_member: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])

    def take(self) -> dict[bytes, bytes]:
        """Return the records of the member that begins now."""
        records = {**self.all_members, **self.next_member}
        self.next_member = {}
        return records


@dataclass(frozen=True, slots=True)
class Block:
    """The fields of one header block."""

    info: tarfile.TarInfo
    raw: bytes

    @property
    def type(self) -> bytes:
        """The type, one of tarfile's constants."""
        return self.info.type

    @property
    def size(self) -> int:
        """The size field."""
        return self.info.size

    @property
    def name(self) -> bytes:
        """The name. tarfile's decoding would change names of GNU tar, whose blocks have no prefix."""
        name = _text(self.raw[:100])
        prefix = _text(self.raw[345:500]) if self.raw[257:263] == _POSIX_MAGIC else b""
        return prefix + b"/" + name if prefix else name

    @property
    def target(self) -> bytes:
        """The link's target."""
        return _text(self.raw[157:257])

    @property
    def more_sparse_blocks(self) -> bool:
        """True if blocks with the map of a sparse file follow (GNU)."""
        return self.type == tarfile.GNUTYPE_SPARSE and bool(self.raw[482])


def parse_block(raw: bytes, position: int) -> Block:
    """Parse a header block.

    Args:
        raw: 512 bytes that are not all zero.
        position: of the block in the archive, for the error.

    Raises:
        TransferError: ARCHIVE_INVALID.
    """
    try:
        info = tarfile.TarInfo.frombuf(raw, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        what = "it is no tar archive" if position == 0 else "it is damaged"
        raise invalid_archive(f"{what}: the block at byte {position} is no header ({error})") from error
    if not 0 <= info.size < _MAX_SIZE:
        raise invalid_archive(f"it is damaged: the size of the member at byte {position} is {info.size}")
    return Block(info, raw)


def pax_records(data: bytes, position: int) -> dict[bytes, bytes]:
    """Parse the records of a pax header: length, space, key=value, line end. Return those that a member needs.

    Raises:
        TransferError: ARCHIVE_INVALID.
    """
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(data) or not equals or data[end - 1 : end] != b"\n":
            raise invalid_archive(f"it is damaged: the pax header before byte {position} cannot be read")
        if key in _USED_RECORDS:
            records[key] = value
        elif key.startswith(_SPARSE_RECORD):
            records.setdefault(_SPARSE_RECORD, b"")
        at = end
    return records


def member(block: Block, records: dict[bytes, bytes], position: int) -> Member:
    """Return the member of a block and of the extended headers before it.

    Raises:
        TransferError: ARCHIVE_INVALID.
    """
    name = records.get(b"path") or block.name
    kind = block.type
    if kind == tarfile.AREGTYPE and name.endswith(b"/"):
        # Before POSIX, a slash at the end was what made a directory.
        kind = tarfile.DIRTYPE
    not_unpacked = _NOT_UNPACKED.get(kind, "")
    if _SPARSE_RECORD in records:
        not_unpacked = _NOT_UNPACKED[tarfile.GNUTYPE_SPARSE]
    known = kind in REGULAR or kind in {tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE}
    if not known and not not_unpacked:
        not_unpacked = f"a member of the unknown type {kind!r}"
    size = _decimal(records, b"size", block.size, position)
    # As tar reads them: links, directories and devices have no content, whatever their size field says.
    has_content = kind in REGULAR or not (
        known or kind in {tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}
    )
    return Member(
        name=name,
        type=kind,
        size=size if has_content else 0,
        mode=block.info.mode & 0o7777,
        modified_ns=_modified_ns(records, int(block.info.mtime), position),
        target=records.get(b"linkpath") or block.target,
        not_unpacked=not_unpacked,
    )


def _decimal(records: dict[bytes, bytes], key: bytes, default: int, position: int) -> int:
    value = records.get(key)
    if not value:
        return default
    if not value.isdigit() or len(value) > 19 or int(value) >= _MAX_SIZE:
        raise _bad_record(key, value, position)
    return int(value)


def _modified_ns(records: dict[bytes, bytes], default: int, position: int) -> int:
    value = records.get(b"mtime")
    seconds, nanos = default, 0
    if value:
        sign = -1 if value.startswith(b"-") else 1
        whole, _, fraction = value.lstrip(b"-").partition(b".")
        if not whole.isdigit() or len(whole) > 19 or not (fraction or b"0").isdigit():
            raise _bad_record(b"mtime", value, position)
        nanos = sign * int(fraction[:9].ljust(9, b"0"))
        seconds = sign * int(whole)
    if abs(seconds) >= _MAX_SECONDS:
        raise _bad_record(b"mtime", b"%d" % seconds, position)
    return seconds * _NANOS + nanos


def _bad_record(key: bytes, value: bytes, position: int) -> Exception:
    return invalid_archive(
        f"it is damaged: the member at byte {position} has the {key.decode()} {value[:40].decode('ascii', 'replace')}"
    )


def _text(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]
