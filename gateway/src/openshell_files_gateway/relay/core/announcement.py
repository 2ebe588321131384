"""Reads the file transfer limits in a supervisor's hello, and ignores values out of range (CAP-14).

The hello is untrusted input, and callers rely on its values. A value counts as
not announced if it would make every transfer fail, or would take the gateway
long to process.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from openshell_files_protocol.digests import DigestAlgorithm
from openshell_files_protocol.durations import seconds_of
from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2

#: Algorithms that are looked at; a message can list a million.
_MAX_DIGESTS: Final = 16

#: Shorter times keep every transfer from ending well.
_MIN_SECONDS: Final = 1.0


def believable(announced: file_relay_pb2.FileTransferCapability) -> file_relay_pb2.FileTransferCapability:
    """Return a copy without the limits and digests that no honest agent announces.

    Args:
        announced: from the hello.
    """
    digests = list(islice(announced.digests, _MAX_DIGESTS))
    told = file_relay_pb2.FileTransferCapability()
    told.CopyFrom(announced)
    known = DigestAlgorithm.all_known(dict.fromkeys(digests))
    told.digests[:] = [algorithm.wire for algorithm in known]
    if told.max_chunk_bytes < MIN_CHUNK_LIMIT_BYTES:
        told.ClearField("max_chunk_bytes")
    if seconds_of(told.idle_timeout) < _MIN_SECONDS:
        told.ClearField("idle_timeout")
    if seconds_of(told.upload_expiry) < _MIN_SECONDS:
        told.ClearField("upload_expiry")
    return told
