"""The reason that a caller gets for an errno: the one place that decides it."""

from __future__ import annotations

import errno
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from openshell_files_protocol.errors import FieldViolation, TransferError
from openshell_files_protocol.reasons import Code, Reason

_REASONS: Final[Mapping[int, Reason]] = {
    errno.ENOENT: Reason.FILE_NOT_FOUND,
    errno.ESTALE: Reason.FILE_NOT_FOUND,
    errno.ENOTDIR: Reason.NOT_A_DIRECTORY,
    errno.EISDIR: Reason.IS_A_DIRECTORY,
    errno.EEXIST: Reason.FILE_EXISTS,
    errno.ELOOP: Reason.INVALID_PATH,
    errno.ENAMETOOLONG: Reason.INVALID_PATH,
    errno.EILSEQ: Reason.INVALID_PATH,
    errno.EACCES: Reason.ACCESS_DENIED,
    errno.EPERM: Reason.ACCESS_DENIED,
    errno.ETXTBSY: Reason.ACCESS_DENIED,
    errno.ENOTEMPTY: Reason.DIRECTORY_NOT_EMPTY,
    errno.EXDEV: Reason.OTHER_FILE_SYSTEM,
    errno.EBUSY: Reason.MOUNT_POINT,
    errno.EROFS: Reason.READ_ONLY_FILE_SYSTEM,
    errno.ENXIO: Reason.NOT_A_REGULAR_FILE,
    errno.ENODEV: Reason.NOT_A_REGULAR_FILE,
    errno.ENOSPC: Reason.DISK_FULL,
    errno.EDQUOT: Reason.QUOTA_EXCEEDED,
    errno.EFBIG: Reason.FILE_TOO_LARGE,
    errno.EMFILE: Reason.TOO_MANY_TRANSFERS,
    errno.ENFILE: Reason.TOO_MANY_TRANSFERS,
    errno.ENOMEM: Reason.TOO_MANY_TRANSFERS,
}


def transfer_error(
    error: OSError, doing: str, *, missing: Reason = Reason.FILE_NOT_FOUND, field: str | None = None
) -> TransferError:
    """Turn a failed system call into a reason of the table.

    Args:
        error: from the system call.
        doing: the action with the path, for the message: "opening /a/b".
        missing: the reason for ENOENT.
        field: of the request, for reasons that name a field.
    """
    code = error.errno or errno.EIO
    reason = missing if code == errno.ENOENT else _REASONS.get(code, Reason.IO_ERROR)
    message = f"{doing}: {error.strerror or error}"
    violations = (
        (FieldViolation(field, message),) if field and reason.row.code is Code.INVALID_ARGUMENT else ()
    )
    return TransferError(
        reason, message, {"errno": errno.errorcode.get(code, str(code))}, field_violations=violations
    )


@contextmanager
def mapped(
    doing: str, *, missing: Reason = Reason.FILE_NOT_FOUND, field: str | None = None
) -> Generator[None]:
    """Turn every OSError of the block into a TransferError; see `transfer_error`."""
    try:
        yield
    except OSError as error:
        raise transfer_error(error, doing, missing=missing, field=field) from error
