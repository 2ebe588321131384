"""Move files in and out of OpenShell sandboxes.

    from openshell_files import FilesClient, OidcAuth

    with FilesClient("127.0.0.1:17670", auth=OidcAuth(token=...)) as client:
        sandbox = client.sandbox("demo")
        sandbox.upload_path("model.bin", "model.bin")
        sandbox.download_path("out/report.pdf", "report.pdf")

`AsyncFilesClient` is the same with `await`.
"""

from openshell_files._async.file_objects import AsyncRemoteReader, AsyncRemoteWriter
from openshell_files._async.sandbox import AsyncSandboxFiles
from openshell_files._official import AsyncFilesClient, FilesClient
from openshell_files._sync.file_objects import RemoteReader, RemoteWriter
from openshell_files._sync.sandbox import SandboxFiles
from openshell_files.auth import ClientCredentials, OidcAuth
from openshell_files.errors import FilesError
from openshell_files.options import (
    NO_RETRY,
    Condition,
    DigestChoice,
    Durability,
    LeafLink,
    RemotePath,
    RetryPolicy,
    TlsConfig,
)
from openshell_files.results import (
    DownloadResult,
    FileInfo,
    FileType,
    Progress,
    UploadInfo,
    UploadResult,
    UploadState,
)

__all__ = [
    "NO_RETRY",
    "AsyncFilesClient",
    "AsyncRemoteReader",
    "AsyncRemoteWriter",
    "AsyncSandboxFiles",
    "ClientCredentials",
    "Condition",
    "DigestChoice",
    "DownloadResult",
    "Durability",
    "FileInfo",
    "FileType",
    "FilesClient",
    "FilesError",
    "LeafLink",
    "OidcAuth",
    "Progress",
    "RemotePath",
    "RemoteReader",
    "RemoteWriter",
    "RetryPolicy",
    "SandboxFiles",
    "TlsConfig",
    "UploadInfo",
    "UploadResult",
    "UploadState",
]
