"""Headers of the members of a tar archive (ARC-12): pax where a plain header cannot say it."""

from __future__ import annotations

import tarfile
from typing import Final

from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

BLOCK: Final = tarfile.BLOCKSIZE

#: The end of an archive: two blocks of zeros.
END: Final = bytes(2 * BLOCK)

#: Times that a plain header can say: seconds from 1970, of eleven octal digits.
_MAX_PLAIN_SECONDS: Final = 8**11 - 1

_TYPES: Final = {
    files_pb2.FILE_TYPE_REGULAR: tarfile.REGTYPE,
    files_pb2.FILE_TYPE_DIRECTORY: tarfile.DIRTYPE,
    files_pb2.FILE_TYPE_SYMLINK: tarfile.SYMTYPE,
}


def member_header(entry: trees_pb2.TreeEntry) -> bytes:
    """Return the header of an entry: one block, or three and more with a pax header.

    Names that are not UTF-8 are stored as their bytes (`hdrcharset=BINARY`), which GNU tar, bsdtar
    and tarfile understand. The owner is root's, as far as the reader's rights go: an unprivileged
    reader owns what it unpacks, and names of the sandbox's users mean nothing elsewhere.
    """
    info = tarfile.TarInfo(_text(entry.path or b"."))
    info.type = _TYPES[entry.type]
    info.mode = entry.mode & 0o777
    info.size = 0
    if entry.hard_link:
        info.type = tarfile.LNKTYPE
        info.linkname = _text(entry.hard_link)
    elif entry.type == files_pb2.FILE_TYPE_SYMLINK:
        info.linkname = _text(entry.link_target)
    elif entry.type == files_pb2.FILE_TYPE_REGULAR:
        info.size = entry.size_bytes
    records: dict[str, str] = {}
    if entry.modified_nanos or not 0 <= entry.modified_seconds <= _MAX_PLAIN_SECONDS:
        records["mtime"] = _pax_time(entry.modified_seconds, entry.modified_nanos)
    info.mtime = min(max(entry.modified_seconds, 0), _MAX_PLAIN_SECONDS)
    info.pax_headers = records
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Return the zeros between content of that size and the next header."""
    return bytes(-size % BLOCK)


def _pax_time(seconds: int, nanos: int) -> str:
    """Return a time as a decimal fraction; nanoseconds count forward from the second."""
    if seconds < 0 and nanos:
        seconds, nanos = seconds + 1, 1_000_000_000 - nanos
        sign = "-" if not seconds else ""
        return f"{sign}{seconds}.{nanos:09}"
    return f"{seconds}.{nanos:09}" if nanos else str(seconds)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
