"""Move files in and out of OpenShell sandboxes.

    from openshell_files import FilesClient, OidcAuth

    with FilesClient("127.0.0.1:17670", auth=OidcAuth(token=...)) as client:
        sandbox = client.sandbox("demo")
        sandbox.upload_path("model.bin", "model.bin")
        sandbox.download_path("out/report.pdf", "report.pdf")

`AsyncFilesClient` is the same with `await`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openshell_files._async.file_objects import AsyncRemoteReader, AsyncRemoteWriter
    from openshell_files._async.sandbox import AsyncSandboxFiles
    from openshell_files._official.asynchronous import AsyncFilesClient
    from openshell_files._official.blocking import FilesClient
    from openshell_files._sync.file_objects import RemoteReader, RemoteWriter
    from openshell_files._sync.sandbox import SandboxFiles
    from openshell_files.archive_results import ArchiveResult
    from openshell_files.auth import ClientCredentials, OidcAuth
    from openshell_files.errors import FilesError
    from openshell_files.options import (
        NO_RETRY,
        Condition,
        DigestChoice,
        Durability,
        LeafLink,
        ReadOptions,
        RemotePath,
        RetryPolicy,
        TlsConfig,
        WriteOptions,
    )
    from openshell_files.results import (
        CopyResult,
        DirectoryEntry,
        DownloadResult,
        FileInfo,
        FileType,
        MakeDirectoryResult,
        MoveResult,
        Progress,
        RemoveResult,
        UploadInfo,
        UploadResult,
        UploadState,
    )
    from openshell_files.tree_options import Links, TreeOptions
    from openshell_files.tree_results import TreeLoss, TreeProblem, TreeProgress, TreeResult, tree_so_far

__all__ = [
    "NO_RETRY",
    "ArchiveResult",
    "AsyncFilesClient",
    "AsyncRemoteReader",
    "AsyncRemoteWriter",
    "AsyncSandboxFiles",
    "ClientCredentials",
    "Condition",
    "CopyResult",
    "DigestChoice",
    "DirectoryEntry",
    "DownloadResult",
    "Durability",
    "FileInfo",
    "FileType",
    "FilesClient",
    "FilesError",
    "LeafLink",
    "Links",
    "MakeDirectoryResult",
    "MoveResult",
    "OidcAuth",
    "Progress",
    "ReadOptions",
    "RemotePath",
    "RemoteReader",
    "RemoteWriter",
    "RemoveResult",
    "RetryPolicy",
    "SandboxFiles",
    "TlsConfig",
    "TreeLoss",
    "TreeOptions",
    "TreeProblem",
    "TreeProgress",
    "TreeResult",
    "UploadInfo",
    "UploadResult",
    "UploadState",
    "WriteOptions",
    "tree_so_far",
]

#: Module of each name.
_HOMES: Final = {
    "AsyncRemoteReader": "openshell_files._async.file_objects",
    "AsyncRemoteWriter": "openshell_files._async.file_objects",
    "RemoteReader": "openshell_files._sync.file_objects",
    "RemoteWriter": "openshell_files._sync.file_objects",
    "ArchiveResult": "openshell_files.archive_results",
    "AsyncFilesClient": "openshell_files._official.asynchronous",
    "AsyncSandboxFiles": "openshell_files._async.sandbox",
    "ClientCredentials": "openshell_files.auth",
    "Condition": "openshell_files.options",
    "DigestChoice": "openshell_files.options",
    "DownloadResult": "openshell_files.results",
    "Durability": "openshell_files.options",
    "FileInfo": "openshell_files.results",
    "FileType": "openshell_files.results",
    "FilesClient": "openshell_files._official.blocking",
    "FilesError": "openshell_files.errors",
    "LeafLink": "openshell_files.options",
    "NO_RETRY": "openshell_files.options",
    "OidcAuth": "openshell_files.auth",
    "Progress": "openshell_files.results",
    "ReadOptions": "openshell_files.options",
    "RemotePath": "openshell_files.options",
    "RetryPolicy": "openshell_files.options",
    "SandboxFiles": "openshell_files._sync.sandbox",
    "TlsConfig": "openshell_files.options",
    "UploadInfo": "openshell_files.results",
    "UploadResult": "openshell_files.results",
    "UploadState": "openshell_files.results",
    "WriteOptions": "openshell_files.options",
    "CopyResult": "openshell_files.results",
    "DirectoryEntry": "openshell_files.results",
    "MakeDirectoryResult": "openshell_files.results",
    "MoveResult": "openshell_files.results",
    "RemoveResult": "openshell_files.results",
    "Links": "openshell_files.tree_options",
    "TreeOptions": "openshell_files.tree_options",
    "TreeLoss": "openshell_files.tree_results",
    "TreeProblem": "openshell_files.tree_results",
    "TreeProgress": "openshell_files.tree_results",
    "TreeResult": "openshell_files.tree_results",
    "tree_so_far": "openshell_files.tree_results",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562; the types are those of the imports above
    """Import a name when it is first used.

    Each flavour and gRPC take a good part of a second. The command line, which is
    part of this package, imports them when it connects.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
