"""The first messages of UploadTree and DownloadTree, checked field by field (TRE-17, TRE-18, TRE-29)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.errors import invalid
from openshell_files_protocol.limits import MAX_PATH_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2

from openshell_supervisor_sim.agent.core.digest_choice import accepted_digests, choose
from openshell_supervisor_sim.agent.core.directory_requests import text_of
from openshell_supervisor_sim.agent.core.field_checks import check_enum

#: Field of the accepted digests, for errors.
_DIGESTS: Final = "start.accepted_digests"

#: Patterns of one field. Each is compared with every path of the tree.
_MOST_PATTERNS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveRequest:
    """A tree to receive (UploadTree).

    Attributes:
        path: of the top directory.
        create_parents: make missing directories above it.
        delete_others: delete what the tree does not have.
        atomic: publish the tree by one rename.
        dry_run: change nothing.
        compare_content: compare digests, and not size and modified time.
        fsync: flush before answering.
        algorithm: of all digests.
    """

    path: str
    create_parents: bool
    delete_others: bool
    atomic: bool
    dry_run: bool
    compare_content: bool
    fsync: bool
    algorithm: DigestAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class SendRequest:
    """A tree to send (DownloadTree).

    Attributes:
        path: of the top directory.
        exclude: patterns of what is left out.
        include: patterns of the files that are sent; empty for all.
        skip_links: announce links as excluded.
        compare_content: send digests in the manifest.
        algorithm: of all digests.
    """

    path: str
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    skip_links: bool
    compare_content: bool
    algorithm: DigestAlgorithm


def receive_request(start: trees_pb2.UploadTreeStart, allowed: Sequence[DigestAlgorithm]) -> ReceiveRequest:
    """Check the first message of UploadTree.

    Args:
        start: the message.
        allowed: algorithms that the operators allow.

    Raises:
        TransferError: INVALID_REQUEST, DIGEST_UNSUPPORTED.
    """
    check_enum("start.parents", start.parents, files_pb2.ParentPolicy.values())
    check_enum("start.durability", start.durability, files_pb2.Durability.values())
    return ReceiveRequest(
        path=text_of(start.path),
        create_parents=start.parents == files_pb2.PARENT_POLICY_CREATE,
        delete_others=start.delete_others,
        atomic=start.atomic,
        dry_run=start.dry_run,
        compare_content=start.compare_content,
        fsync=start.durability != files_pb2.DURABILITY_RENAME,
        algorithm=_algorithm(start.accepted_digests, allowed),
    )


def send_request(start: trees_pb2.DownloadTreeStart, allowed: Sequence[DigestAlgorithm]) -> SendRequest:
    """Check the first message of DownloadTree.

    Args:
        start: the message.
        allowed: algorithms that the operators allow.

    Raises:
        TransferError: INVALID_REQUEST, DIGEST_UNSUPPORTED.
    """
    return SendRequest(
        path=text_of(start.path),
        exclude=_patterns("start.exclude", start.exclude),
        include=_patterns("start.include", start.include),
        skip_links=start.skip_links,
        compare_content=start.compare_content,
        algorithm=_algorithm(start.accepted_digests, allowed),
    )


def _algorithm(accepted: Sequence[int], allowed: Sequence[DigestAlgorithm]) -> DigestAlgorithm:
    return choose(_DIGESTS, accepted_digests(_DIGESTS, accepted), allowed)


def _patterns(field: str, patterns: Sequence[str]) -> tuple[str, ...]:
    if len(patterns) > _MOST_PATTERNS:
        raise invalid(field, f"has {len(patterns)} patterns, at most {_MOST_PATTERNS} are allowed")
    for pattern in patterns:
        if len(pattern.encode()) > MAX_PATH_BYTES:
            raise invalid(field, f"has a pattern of more than {MAX_PATH_BYTES} bytes")
    return tuple(patterns)
