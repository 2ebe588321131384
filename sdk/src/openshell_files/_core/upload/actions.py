"""Actions of an upload: the plan names the next one, the driver in `_async` carries it out."""

from __future__ import annotations

from dataclasses import dataclass

from openshell_files_protocol.digests import Digest
from openshell_files_protocol.pb.openshell.v1 import files_pb2


@dataclass(frozen=True, slots=True)
class Start:
    """Call StartUpload, then `on_started`."""

    request: files_pb2.StartUploadRequest


@dataclass(frozen=True, slots=True)
class Look:
    """Call GetUpload, then `on_status`.

    Attributes:
        request: the request.
        hashed_bytes: bytes that the sandbox has to read for the answer.
    """

    request: files_pb2.GetUploadRequest
    hashed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ComparePrefix:
    """Compare the digest of the source's first `length` bytes, then `on_prefix` (RSM-15)."""

    length: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class CompareWhole:
    """Compare size and digest of the whole source, then `on_whole`. Without a digest they differ."""

    size: int
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class HashSource:
    """Compute the digest of the whole source, then `on_source_hashed`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Open UploadFile and send from `offset` to the finish, then `on_sent`.

    Attributes:
        metadata: the first message, for one stream.
        offset: first byte to send.
        chunk_bytes: size of the chunks.
        lanes: most streams that the upload may have (LAN-1).
        waiting: seconds without content after which to send `waiting`
            (WAI-2); None if the server does not take that message.
    """

    metadata: files_pb2.UploadFileMetadata
    offset: int
    chunk_bytes: int
    lanes: int = 1
    waiting: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait `seconds`, get a new token if `refresh_token` is set, then `on_waited`."""

    seconds: float
    refresh_token: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """Call AbortUpload, then `on_aborted`, without an answer if the call failed: the upload then expires."""

    request: files_pb2.AbortUploadRequest


@dataclass(frozen=True, slots=True)
class Finished:
    """The file is published; nothing follows."""

    response: files_pb2.UploadFileResponse


Action = Start | Look | ComparePrefix | CompareWhole | HashSource | Send | Wait | Abort | Finished
