"""The files of the suite's own sandbox, in memory: names, conditions, uploads and what became of them.

A gateway without sandboxes of its own is judged with this one behind it. It has directories, and neither links nor special files.
"""

from __future__ import annotations

import hashlib
import itertools
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import blake3
import google_crc32c

from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2

SHA256: Final = files_pb2.DIGEST_ALGORITHM_SHA256
BLAKE3: Final = files_pb2.DIGEST_ALGORITHM_BLAKE3
WORKDIR: Final = "/sandbox"
_STAGING_PREFIX: Final = ".openshell-upload-"
_FREE: Final = (
    "upload_id",
    "request_id",
    "epoch",
    "lanes",
    "accepted_digests",
    "explicit_finish",
    "sandbox",
    "sandbox_id",
    "workspace",
)


class Refused(Exception):  # noqa: N818 - an outcome, and no error of the suite
    """How an operation ends that is refused."""

    def __init__(
        self, reason: str, message: str = "", *, fields: Sequence[str] = (), **metadata: object
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.frame = file_relay_pb2.FileRelayError(
            reason=reason,
            message=message or reason,
            metadata={name: str(value) for name, value in metadata.items()},
            field_violations=[
                file_relay_pb2.FileRelayFieldViolation(field=name, description="wrong") for name in fields
            ],
        )
        self.reason = reason


def invalid(name: str) -> Refused:
    """Return the refusal of a field."""
    return Refused("INVALID_REQUEST", f"{name} is wrong", fields=[name])


def digest_value(content: bytes, algorithm: int) -> bytes:
    """Return the 32 bytes of a digest."""
    return blake3.blake3(content).digest() if algorithm == BLAKE3 else hashlib.sha256(content).digest()


def digest_of(content: bytes, algorithm: int = SHA256) -> files_pb2.Digest:
    """Return a digest as messages have it."""
    return files_pb2.Digest(algorithm=algorithm, value=digest_value(content, algorithm))  # type: ignore[arg-type]


def crc32c(content: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    return cast(int, cast(Any, google_crc32c).value(content))


def chosen(accepted: Iterable[int], allowed: Iterable[int]) -> int:
    """Return the algorithm that a server takes (DIG-2).

    Raises:
        Refused: none is left, or there are too many.
    """
    wanted, usable = list(accepted), list(allowed) or [SHA256, BLAKE3]
    if len(wanted) > 16:
        raise invalid("accepted_digests")
    for one in wanted or [SHA256]:
        if one in usable and one in {SHA256, BLAKE3}:
            return one
    raise Refused("DIGEST_UNSUPPORTED", "none of the accepted digests is computed here")


@dataclass
class File:
    """A file."""

    content: bytes
    mode: int
    modified_ns: int
    version: str

    def info(self, path: str, algorithm: int | None = None) -> files_pb2.FileInfo:
        """Describe it, with a digest if an algorithm is given."""
        found = files_pb2.FileInfo(
            path=path,
            type=files_pb2.FILE_TYPE_REGULAR,
            size_bytes=len(self.content),
            mode=self.mode,
            version=self.version,
            digest=None if algorithm is None else digest_of(self.content, algorithm),
            allocated_bytes=len(self.content),
        )
        found.modified_time.FromNanoseconds(self.modified_ns)
        return found


def _check_digest(there: File | None, wanted: files_pb2.Digest, allowed: Sequence[int]) -> None:
    if not wanted.algorithm:
        raise invalid("metadata.condition.digest.algorithm")
    if len(wanted.value) != 32:
        raise invalid("metadata.condition.digest.value")
    if wanted.algorithm not in allowed:
        raise Refused("DIGEST_UNSUPPORTED", "that digest is not computed here")
    if there is None or digest_value(there.content, wanted.algorithm) != wanted.value:
        raise Refused("CONDITION_FAILED", "the destination has another digest")


@dataclass
class Upload:
    """An upload that the sandbox remembers.

    Attributes:
        named: it has an id of its own or one of its caller, so it outlives its stream.
    """

    principal: str
    first: files_pb2.UploadFileMetadata
    path: str
    algorithm: int
    named: bool
    upload_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    epoch: int = 0
    state: int = files_pb2.UPLOAD_STATE_RECEIVING
    failure: str = ""
    staged: bytearray = field(default_factory=bytearray)
    finish: files_pb2.UploadFinish | None = None
    result: files_pb2.UploadFileResponse | None = None
    updated: float = field(default_factory=time.monotonic)
    created_ns: int = field(default_factory=time.time_ns)
    streams: int = 0

    def end(self, state: int, failure: str = "") -> None:
        """Free what was staged."""
        self.state, self.failure = state, failure
        self.staged.clear()

    def status(self, *, with_digest: bool) -> files_pb2.UploadStatus:
        """Describe it."""
        published = self.state == files_pb2.UPLOAD_STATE_PUBLISHED
        found = files_pb2.UploadStatus(
            upload_id=self.upload_id,
            request_id=self.first.request_id,
            state=self.state,  # type: ignore[arg-type]
            path=self.path,
            size_bytes=self.first.size_bytes,
            staged_bytes=self.result.bytes_written if published and self.result else len(self.staged),
            durable_bytes=len(self.staged),
            epoch=self.epoch,
            failure_reason=self.failure,
            digest_algorithm=self.algorithm,  # type: ignore[arg-type]
            result=self.result,
        )
        found.created_time.FromNanoseconds(self.created_ns)
        found.updated_time.FromNanoseconds(self.created_ns)
        if published and self.result is not None:
            found.staged_digest.CopyFrom(self.result.file.digest)
        elif with_digest:
            found.staged_digest.CopyFrom(digest_of(bytes(self.staged), self.algorithm))
        return found


class ModelFiles:
    """Files and uploads of one sandbox."""

    def __init__(self) -> None:
        self.files = dict[str, File]()
        self.directories = {"/", WORKDIR, "/tmp"}
        self.uploads = list[Upload]()
        self._versions = itertools.count(1)

    # Names

    def resolved(self, path: str, *, field_name: str, parents: int = 0, absent: bool = False) -> str:
        """Return the absolute path of a file that may be missing.

        Raises:
            Refused: the path cannot name a file, or there is no such directory.
        """
        whole = path if path.startswith("/") else f"{WORKDIR}/{path}"
        parts = [part for part in whole.split("/")[1:] if part]
        if (
            not path
            or path.endswith("/")
            or "\0" in path
            or len(whole.encode("utf-8", "surrogateescape")) > 4095
            or any(
                part in {".", ".."} or len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts
            )
        ):
            raise Refused("INVALID_PATH", "the path cannot name a file", fields=[field_name])
        if any(part.startswith(_STAGING_PREFIX) for part in parts):
            raise Refused("PATH_FORBIDDEN", "the name is one of staging files")
        above = ""
        for part in parts[:-1]:
            above += f"/{part}"
            if above in self.files:
                raise Refused("NOT_A_DIRECTORY", f"{above} is no directory")
            if above not in self.directories and parents != files_pb2.PARENT_POLICY_CREATE:
                raise Refused("PARENT_NOT_FOUND", f"there is no directory {above}")
        found = f"{above}/{parts[-1]}" if parts else "/"
        if found in self.directories and not absent:
            raise Refused("IS_A_DIRECTORY", f"{found} is a directory")
        return found

    def file(self, path: str, *, field_name: str = "remote_path") -> tuple[str, File]:
        """Return a file with its path.

        Raises:
            Refused: there is none.
        """
        found = self.resolved(path, field_name=field_name)
        if found not in self.files:
            raise Refused("FILE_NOT_FOUND", f"there is no file {found}")
        return found, self.files[found]

    def check_condition(
        self, path: str, condition: files_pb2.UploadCondition, allowed: Iterable[int]
    ) -> None:
        """Compare what is at a path with a condition (CND).

        Raises:
            Refused: it does not hold.
        """
        there = self.files.get(path)
        match condition.WhichOneof("condition"):
            case "absent":
                if there is not None or path in self.directories:
                    raise Refused("FILE_EXISTS", "the destination exists")
            case "present":
                if there is None:
                    raise Refused("CONDITION_FAILED", "there is nothing at the destination")
            case "version":
                if not 0 < len(condition.version) <= 128:
                    raise invalid("metadata.condition.version")
                if there is None or there.version != condition.version:
                    raise Refused("CONDITION_FAILED", "the destination has another version")
            case "digest":
                _check_digest(there, condition.digest, list(allowed) or [SHA256, BLAKE3])
            case _:
                raise invalid("metadata.condition")

    # Uploads

    def find(self, principal: str, upload_id: str, request_id: str) -> Upload | None:
        """Return a caller's upload by one of its ids; an id of another caller's names nothing (RSM-2)."""
        for one in self.uploads:
            named = (
                one.upload_id == upload_id
                if upload_id
                else bool(request_id) and one.first.request_id == request_id
            )
            if named and one.principal == principal and one.named:
                return one
        return None

    def admit(self, upload: Upload, per_principal: int) -> None:
        """Take a new upload in, and expire the caller's oldest if there are too many (RSM-27).

        Raises:
            Refused: all of them have streams.
        """
        mine = [
            one
            for one in self.uploads
            if one.principal == upload.principal
            and one.named
            and one.state == files_pb2.UPLOAD_STATE_RECEIVING
        ]
        if upload.named and per_principal and len(mine) >= per_principal:
            idle = sorted((one for one in mine if not one.streams), key=lambda one: one.updated)
            if not idle:
                raise Refused("TOO_MANY_UPLOADS", "the caller has too many unfinished uploads")
            idle[0].end(files_pb2.UPLOAD_STATE_EXPIRED, "TOO_MANY_UPLOADS")
        self.uploads.append(upload)

    def expire(self, seconds: float) -> None:
        """End uploads of which no byte came for so long (RSM-8)."""
        for one in self.uploads:
            if (
                seconds
                and one.state == files_pb2.UPLOAD_STATE_RECEIVING
                and not one.streams
                and time.monotonic() - one.updated > seconds
            ):
                one.end(files_pb2.UPLOAD_STATE_EXPIRED)

    def publish(self, upload: Upload, content: bytes, *, with_digest: bool) -> files_pb2.UploadFileResponse:
        """Give content its name."""
        first, before = upload.first, self.files.get(upload.path)
        above = upload.path
        while above := above.rpartition("/")[0]:
            self.directories.add(above)
        mode = first.mode & 0o777 if first.mode else before.mode if before else 0o644
        modified = first.modified_time.ToNanoseconds() if first.HasField("modified_time") else time.time_ns()
        file = File(content, mode, modified, f"v{next(self._versions)}")
        self.files[upload.path] = file
        upload.staged.clear()
        upload.state = files_pb2.UPLOAD_STATE_PUBLISHED
        upload.result = files_pb2.UploadFileResponse(
            bytes_written=len(content),
            file=file.info(upload.path, upload.algorithm if with_digest else None),
            upload_id=upload.upload_id if upload.named else "",
            durability=first.durability or files_pb2.DURABILITY_FSYNC,
        )
        return upload.result


def differences(first: files_pb2.UploadFileMetadata, now: files_pb2.UploadFileMetadata) -> list[str]:
    """Return the fields in which a request differs from the first one of its upload (RSM-11)."""
    copies: list[Any] = [files_pb2.UploadFileMetadata(), files_pb2.UploadFileMetadata()]
    for copy, given in zip(copies, (first, now), strict=True):
        copy.CopyFrom(given)
        for name in _FREE:
            copy.ClearField(name)
    return [
        one.name
        for one in files_pb2.UploadFileMetadata.DESCRIPTOR.fields
        if getattr(copies[0], one.name) != getattr(copies[1], one.name)
    ]
