"""A small file that comes whole in its upload's first message (UPL-16)."""

from __future__ import annotations

from typing import Final

from openshell_files_protocol.errors import TransferError, invalid
from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

#: What every agent takes as one chunk (UPL-6). It is held until there is a
#: relay, as what is read ahead of a stream is.
MAX_WHOLE_BYTES: Final = MIN_CHUNK_LIMIT_BYTES


def take_whole(metadata: files_pb2.UploadFileMetadata) -> list[bytes] | None:
    """Take the file out of an upload's first message.

    Args:
        metadata: of the upload; afterwards as the agent gets it.

    Returns:
        The callers' messages that the file stands for, or None if there is
        none.

    Raises:
        TransferError: INVALID_REQUEST if something is missing or excluded,
            CHUNK_TOO_LARGE.
    """
    if not metadata.HasField("whole"):
        return None
    whole = metadata.whole
    if not metadata.explicit_finish:
        raise invalid("metadata.explicit_finish", "must be set if the file is in metadata.whole")
    if metadata.lanes > 1:
        raise invalid("metadata.lanes", "a file in metadata.whole has one stream")
    if not whole.HasField("finish"):
        raise invalid("metadata.whole.finish", "is missing; only a finish publishes")
    if len(whole.data.data) > MAX_WHOLE_BYTES:
        raise TransferError(
            Reason.CHUNK_TOO_LARGE,
            f"metadata.whole has {len(whole.data.data)} bytes, at most {MAX_WHOLE_BYTES} may come so",
            metadata={"max_whole_bytes": str(MAX_WHOLE_BYTES)},
        )
    messages: list[bytes] = []
    if whole.HasField("data"):
        messages.append(files_pb2.UploadFileRequest(data=whole.data).SerializeToString())
    messages.append(files_pb2.UploadFileRequest(finish=whole.finish).SerializeToString())
    metadata.ClearField("whole")
    return messages
