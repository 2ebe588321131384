"""The form of a path in a request (PTH-1, PTH-2)."""

from __future__ import annotations

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import MAX_NAME_BYTES, MAX_PATH_BYTES, STAGING_PREFIX
from openshell_files_protocol.reasons import Reason


def absolute_components(
    path: str, workdir: str, field: str, *, directories: bool = False
) -> tuple[bytes, ...]:
    """Split a path of a request into names, starting at the sandbox's root.

    Args:
        path: as the caller gave it.
        workdir: where relative paths start.
        field: name of the request's field, for the error.
        directories: the path may name a directory: `/`, which has no names, `.`, and a path that
            ends with a slash (PTH-23, PTH-24).

    Raises:
        TransferError: INVALID_PATH (PTH-2).
    """
    raw = path.encode("utf-8", "surrogateescape")
    if not raw:
        raise invalid(field, "is empty", Reason.INVALID_PATH)
    if b"\0" in raw:
        raise invalid(field, "contains a NUL byte", Reason.INVALID_PATH)
    if raw.endswith(b"/") and not directories:
        raise invalid(field, "ends with a slash; name the file itself", Reason.INVALID_PATH)
    given = [name for name in raw.split(b"/") if name and not (directories and name == b".")]
    for name in given:
        if name in {b".", b".."}:
            raise invalid(field, f"has the component {name.decode()!r}", Reason.INVALID_PATH)
        if len(name) > MAX_NAME_BYTES:
            raise invalid(
                field, f"has a component of {len(name)} bytes, at most {MAX_NAME_BYTES}", Reason.INVALID_PATH
            )
    if not raw.startswith(b"/"):
        given = [name for name in workdir.encode().split(b"/") if name] + given
    # Counted with the working directory in front: the kernel gets that path.
    if max(len(raw), len(b"/".join([b"", *given]))) > MAX_PATH_BYTES:
        raise invalid(field, f"is longer than {MAX_PATH_BYTES} bytes", Reason.INVALID_PATH)
    return tuple(given)


def refuse_staging_name(name: bytes, path: str) -> None:
    """Refuse a name that is reserved for staging files, in every method (PTH-20).

    Only the uploader may read staged bytes (RSM-2), and the reserved name keeps other callers away.

    Args:
        name: last component of a path, after links.
        path: for the error.

    Raises:
        TransferError: PATH_FORBIDDEN.
    """
    if name.startswith(STAGING_PREFIX):
        raise TransferError(
            Reason.PATH_FORBIDDEN,
            f"{path}: names that begin with {STAGING_PREFIX.decode()} are reserved for unfinished uploads",
        )
