"""Builds the messages of UploadTree and DownloadTree."""

from __future__ import annotations

from collections.abc import Sequence

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2, trees_pb2

from openshell_files._core.directories.requests import path_bytes
from openshell_files._core.requests import DURABILITY, SandboxAddress
from openshell_files.options import RemotePath
from openshell_files.tree_options import Links, TreeOptions

#: What the sender of a tree makes.
Outgoing = trees_pb2.TreeManifest | trees_pb2.TreeContent | trees_pb2.TreeEnd

UPLOAD_WAITING = trees_pb2.UploadTreeRequest(waiting=file_options_pb2.UploadWaiting()).SerializeToString()
DOWNLOAD_WAITING = trees_pb2.DownloadTreeRequest(waiting=file_options_pb2.UploadWaiting()).SerializeToString()


def upload_start(
    address: SandboxAddress, path: RemotePath, options: TreeOptions, digests: Sequence[DigestAlgorithm]
) -> bytes:
    """Serialize the first message of UploadTree."""
    start = trees_pb2.UploadTreeStart(
        sandbox=address.ref(),
        path=path_bytes("destination", path),
        parents=files_pb2.PARENT_POLICY_CREATE if options.parents else files_pb2.PARENT_POLICY_FAIL,
        delete_others=options.delete,
        atomic=options.atomic,
        dry_run=options.dry_run,
        compare_content=options.checksum,
        durability=DURABILITY[options.durability],
        accepted_digests=[algorithm.wire for algorithm in digests],
    )
    return trees_pb2.UploadTreeRequest(start=start).SerializeToString()


def download_start(
    address: SandboxAddress, path: RemotePath, options: TreeOptions, digests: Sequence[DigestAlgorithm]
) -> bytes:
    """Serialize the first message of DownloadTree."""
    start = trees_pb2.DownloadTreeStart(
        sandbox=address.ref(),
        path=path_bytes("source", path),
        exclude=options.exclude,
        include=options.include,
        skip_links=options.links is Links.SKIP,
        compare_content=options.checksum,
        accepted_digests=[algorithm.wire for algorithm in digests],
    )
    return trees_pb2.DownloadTreeRequest(start=start).SerializeToString()


def outgoing(message: Outgoing) -> bytes:
    """Serialize what the sender of an upload made."""
    if isinstance(message, trees_pb2.TreeManifest):
        return trees_pb2.UploadTreeRequest(manifest=message).SerializeToString()
    if isinstance(message, trees_pb2.TreeContent):
        return trees_pb2.UploadTreeRequest(content=message).SerializeToString()
    return trees_pb2.UploadTreeRequest(end=message).SerializeToString()


def reply(message: trees_pb2.TreeReply) -> bytes:
    """Serialize a reply of the receiver of a download."""
    return trees_pb2.DownloadTreeRequest(reply=message).SerializeToString()
