"""Request and answers of archives (ARC-8 to ARC-11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from openshell_files_protocol.digests import PREFERRED, Digest, DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Code, Reason

from openshell_files._core import answers
from openshell_files._core.requests import DURABILITY, SandboxAddress
from openshell_files._core.upload.finish_outcome import is_verdict, refused_before_the_sandbox
from openshell_files._values import remote_path
from openshell_files.archive_results import ArchiveResult
from openshell_files.errors import ErrorFacts, FilesError, LocalReason, OutcomeUnknown
from openshell_files.options import Durability, RemotePath
from openshell_files.tree_results import TreeProblem

_WITHOUT_ARCHIVES: Final = "Use a gateway and a supervisor with archives; upload_tree and download_tree transfer a directory without one."


def archive_metadata(
    address: SandboxAddress,
    path: RemotePath,
    size: int | None,
    *,
    parents: bool,
    durability: Durability,
    algorithm: DigestAlgorithm,
) -> files_pb2.UploadFileMetadata:
    """Return the first message of an upload that is unpacked (ARC-8)."""
    return files_pb2.UploadFileMetadata(
        sandbox_id=address.id,
        sandbox=address.name,
        workspace=address.workspace if address.name else "",
        remote_path=remote_path("destination", path),
        size_bytes=size or 0,
        is_archive=True,
        explicit_finish=True,
        parents=files_pb2.PARENT_POLICY_CREATE if parents else files_pb2.PARENT_POLICY_FAIL,
        durability=DURABILITY[durability],
        accepted_digests=[algorithm.wire],
    )


def digest_for(supported: Sequence[DigestAlgorithm]) -> DigestAlgorithm:
    """Return the best algorithm that gateway and sandbox have; SHA-256 if they do not tell (DIG-3)."""
    return next((one for one in PREFERRED if one in supported), DigestAlgorithm.SHA256)


def unpacked(
    response: files_pb2.UploadFileResponse, digest: Digest, *, seconds: float, attempts: int
) -> ArchiveResult:
    """Return the result of an upload.

    Args:
        response: the checked answer.
        digest: of the archive, which the sandbox compared.
        seconds: duration of the call.
        attempts: streams opened by the call.
    """
    return _result(
        response.archive,
        path=response.file.path,
        archive_bytes=response.bytes_written,
        digest=digest,
        seconds=seconds,
        attempts=attempts,
        durability=answers.durability(response.durability),
    )


def packed(
    result: files_pb2.ArchiveResult,
    *,
    path: str,
    archive_bytes: int,
    digest: Digest,
    seconds: float,
    attempts: int,
    changed: bool,
) -> ArchiveResult:
    """Return the result of a download; see `unpacked`."""
    return _result(
        result,
        path=path,
        archive_bytes=archive_bytes,
        digest=digest,
        seconds=seconds,
        attempts=attempts,
        durability=None,
        changed=changed,
    )


def _result(
    result: files_pb2.ArchiveResult,
    *,
    path: str,
    archive_bytes: int,
    digest: Digest,
    seconds: float,
    attempts: int,
    durability: Durability | None,
    changed: bool = False,
) -> ArchiveResult:
    return ArchiveResult(
        path=path,
        entries=result.entries,
        placed=result.placed_entries,
        files=result.files,
        content_bytes=result.content_bytes,
        archive_bytes=archive_bytes,
        digest=str(digest),
        seconds=seconds,
        attempts=attempts,
        durability=durability,
        changed=changed,
        problems=tuple(
            TreeProblem(problem.path.decode("utf-8", "surrogateescape"), problem.reason, problem.message)
            for problem in result.problems
        ),
        more_problems=result.more_problems,
    )


def without_archives(error: FilesError) -> None:
    """Name the alternatives in the error of a gateway or a sandbox without archives (RFC-7)."""
    if error.reason in {Reason.ARCHIVE_UNSUPPORTED.name, Code.UNIMPLEMENTED.name}:
        error.facts = replace(error.facts, fix=_WITHOUT_ARCHIVES)


def leaves_open(error: FilesError) -> bool:
    """Return whether everything may have been unpacked although the call failed with `error` after its finish."""
    return not is_verdict(error, of_finish=True) and not refused_before_the_sandbox(error)


def outcome_unknown(error: FilesError, path: str) -> OutcomeUnknown:
    """Return the error of an archive of which it is unknown whether all of it was unpacked."""
    return OutcomeUnknown(
        f"the whole archive was sent, but whether all of it was unpacked is unknown: {error.message}",
        ErrorFacts(
            LocalReason.OUTCOME_UNKNOWN,
            fix="Look at the directory in the sandbox, or send the archive again.",
        ),
        path=path,
    )
