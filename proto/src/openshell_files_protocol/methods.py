"""Names of the service: the paths of its RPCs, and the workspace that an empty name stands for.

Clients call RPCs by path because the service's symbol in protobuf's default
pool belongs to the official SDK (docs/adr/0003).
"""

from __future__ import annotations

from typing import Final

SERVICE: Final = "openshell.v1.OpenShell"

#: Every gateway has this workspace; an empty name in a request stands for it.
DEFAULT_WORKSPACE: Final = "default"


def path(method: str) -> str:
    """Return the HTTP/2 path of a method of the service."""
    return f"/{SERVICE}/{method}"


HEALTH: Final = path("Health")
CREATE_SANDBOX: Final = path("CreateSandbox")
GET_SANDBOX: Final = path("GetSandbox")
LIST_SANDBOXES: Final = path("ListSandboxes")
DELETE_SANDBOX: Final = path("DeleteSandbox")
STOP_SANDBOX: Final = path("StopSandbox")
START_SANDBOX: Final = path("StartSandbox")
EXEC_SANDBOX: Final = path("ExecSandbox")
CONNECT_SUPERVISOR: Final = path("ConnectSupervisor")
RELAY_STREAM: Final = path("RelayStream")
REFRESH_SANDBOX_TOKEN: Final = path("RefreshSandboxToken")
UPLOAD_FILE: Final = path("UploadFile")
WRITE_FILE: Final = path("WriteFile")
DOWNLOAD_FILE: Final = path("DownloadFile")
START_UPLOAD: Final = path("StartUpload")
GET_UPLOAD: Final = path("GetUpload")
LIST_UPLOADS: Final = path("ListUploads")
ABORT_UPLOAD: Final = path("AbortUpload")
STAT_FILE: Final = path("StatFile")
GET_TRANSFER_CAPABILITIES: Final = path("GetTransferCapabilities")
LIST_DIRECTORY: Final = path("ListDirectory")
MAKE_DIRECTORY: Final = path("MakeDirectory")
REMOVE_PATH: Final = path("RemovePath")
MOVE_PATH: Final = path("MovePath")
COPY_PATH: Final = path("CopyPath")
UPLOAD_TREE: Final = path("UploadTree")
DOWNLOAD_TREE: Final = path("DownloadTree")
