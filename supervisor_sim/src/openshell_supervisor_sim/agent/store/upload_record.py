"""A row of the journal, checked value by value.

An earlier agent wrote the row, on a disk that may have damaged it since. Its values become paths of
files that are removed, numbers in messages, and states; so each value is checked before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeGuard

from google.protobuf.message import DecodeError
from openshell_files_protocol.digests import Digest, DigestAlgorithm
from openshell_files_protocol.limits import DIGEST_BYTES, STAGING_PREFIX
from openshell_files_protocol.pb.openshell.v1 import files_pb2


class NonsenseError(Exception):
    """A row with values that no agent writes, or that this agent cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadRecord:
    """A row of `uploads`.

    Attributes:
        upload_id: the agent's name of the upload.
        request_id: the caller's name of it, or empty.
        principal: that started the upload (RSM-2).
        fingerprint: of the request (RSM-11).
        metadata: the request, a serialized UploadFileMetadata.
        parent: real path of the destination's directory inside the root.
        name: of the destination in that directory.
        staging: name of the staging file, in the same directory.
        epoch: of the latest attempt (RSM-5).
        state: an `UploadState` of files.proto.
        created: seconds since 1970.
        updated: time of the last byte or change, seconds since 1970.
        expiry: seconds without a byte after which it ends.
        durable: bytes flushed to the device.
        inode: of the staging file, once the finish has come.
        finish_size: size of the content that is being, or was, published.
        finish_digest: digest of that content; empty if there is none.
        failure_reason: why the finish was refused.
        result: a serialized UploadFileResponse, once published.
        digest_algorithm: a `DigestAlgorithm` of files.proto (DIG-4).
    """

    upload_id: str
    request_id: str
    principal: str
    fingerprint: bytes
    metadata: bytes
    parent: bytes
    name: bytes
    staging: bytes
    epoch: int
    state: files_pb2.UploadState.ValueType
    created: float
    updated: float
    expiry: float
    durable: int = 0
    inode: int = 0
    finish_size: int = 0
    finish_digest: bytes = b""
    failure_reason: str = ""
    result: bytes = b""
    digest_algorithm: int = files_pb2.DIGEST_ALGORITHM_SHA256

    @property
    def algorithm(self) -> DigestAlgorithm:
        """The algorithm of the upload's digest. An upload with a row always has a digest (DIG-9)."""
        return DigestAlgorithm(self.digest_algorithm)

    @property
    def finish(self) -> Digest | None:
        """Digest of the content that is being, or was, published; None before the finish."""
        return Digest(self.algorithm, self.finish_digest) if self.finish_digest else None


_TYPES: Final[Mapping[str, type]] = {"str": str, "bytes": bytes, "float": float, "int": int}
#: Type of each column; a state is a number.
_COLUMNS: Final = {field.name: _TYPES.get(str(field.type), int) for field in fields(UploadRecord)}
_NOT_NEGATIVE: Final = ("epoch", "durable", "finish_size")


def record_of(values: Mapping[str, Any]) -> UploadRecord:
    """Make a record of a row's values.

    Args:
        values: by column; a text as its bytes.

    Raises:
        NonsenseError: no agent writes such values.
    """
    typed: dict[str, Any] = {
        column: _typed(column, values[column], kind) for column, kind in _COLUMNS.items()
    }
    record = UploadRecord(**typed)
    _require_possible(record)
    return record


def require_text(value: object) -> str:
    """Return a text of the journal from its bytes.

    Raises:
        NonsenseError: the value is not a text.
    """
    if not isinstance(value, bytes):
        raise NonsenseError(f"{value!r} is no text")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NonsenseError(f"{value!r} is no text: {error}") from error


def is_staging_place(parent: object, name: object) -> bool:
    """Return whether a directory and a name have the form of a staging file's, so that it may be removed."""
    return _is_directory(parent) and _is_name(name) and name.startswith(STAGING_PREFIX)


def _typed(column: str, value: object, kind: type) -> object:
    if kind is str:
        return require_text(value)
    if not isinstance(value, kind):
        raise NonsenseError(f"{column} is {value!r}")
    return value


def _require_possible(record: UploadRecord) -> None:
    if not is_staging_place(record.parent, record.staging) or not _is_name(record.name):
        raise NonsenseError(f"{record.parent!r}, {record.name!r} and {record.staging!r} are no places")
    if record.state not in files_pb2.UploadState.values():
        raise NonsenseError(f"there is no state {record.state}")
    for column in _NOT_NEGATIVE:
        if getattr(record, column) < 0:
            raise NonsenseError(f"{column} is negative")
    if not all(math.isfinite(time) for time in (record.created, record.updated, record.expiry)):
        raise NonsenseError("its times are no times")
    if len(record.finish_digest) not in {0, DIGEST_BYTES}:
        raise NonsenseError(f"a digest of {len(record.finish_digest)} bytes")
    try:
        DigestAlgorithm(record.digest_algorithm)
        files_pb2.UploadFileMetadata.FromString(record.metadata)
        files_pb2.UploadFileResponse.FromString(record.result)
    except (ValueError, DecodeError) as error:
        raise NonsenseError(str(error)) from error


def _is_directory(path: object) -> TypeGuard[bytes]:
    """Return whether a value has the form of a real path inside the root."""
    if not isinstance(path, bytes) or not path.startswith(b"/"):
        return False
    return path == b"/" or all(_is_name(part) for part in path[1:].split(b"/"))


def _is_name(name: object) -> TypeGuard[bytes]:
    """Return whether a value has the form of one component of a path."""
    return (
        isinstance(name, bytes) and name not in {b"", b".", b".."} and b"/" not in name and b"\0" not in name
    )
