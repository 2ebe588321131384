"""DESIGN 2.4: our messages and the official SDK live in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest

OFFICIAL = """
import openshell
from openshell._proto import openshell_pb2
"""

#: All that a client needs. `framing` is not among it: it knows RelayFrame,
#: which is a message of the official SDK.
OURS = """
from openshell_files_protocol import chunks, error_docs, errors, limits, methods, reasons, varint
from openshell_files_protocol.pb.openshell.v1 import file_relay_pb2, files_pb2
"""

USE = """
sent = [
    files_pb2.UploadFileRequest(
        metadata=files_pb2.UploadFileMetadata(sandbox_id="s", remote_path="/a", size_bytes=3, explicit_finish=True)
    ),
    files_pb2.UploadFileRequest.FromString(b"".join(chunks.encode_chunk(0, b"abc", chunks.crc32c(b"abc")))),
    files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish(size_bytes=3, digest=files_pb2.Digest(value=bytes(32)))),
]
received = [files_pb2.UploadFileRequest.FromString(message.SerializeToString()) for message in sent]
assert received == sent
assert [message.WhichOneof("payload") for message in received] == ["metadata", "data", "finish"]
answer = files_pb2.UploadFileResponse(bytes_written=3, file=files_pb2.FileInfo(path="/a"))
assert files_pb2.UploadFileResponse.FromString(answer.SerializeToString()) == answer

# The official messages are still the official ones.
hello = openshell_pb2.SupervisorHello(sandbox_id="s", supports_config_push=True)
assert openshell_pb2.SupervisorHello.FromString(hello.SerializeToString()) == hello
assert "openshell_files_protocol.pb.openshell.v1.openshell_pb2" not in sys.modules
print("both work")
"""


@pytest.mark.parametrize("imports", [OFFICIAL + OURS, OURS + OFFICIAL], ids=["official first", "ours first"])
def test_both_can_be_imported(imports: str) -> None:
    program = subprocess.run(
        [sys.executable, "-c", f"import sys\n{imports}{USE}"], capture_output=True, check=False, text=True
    )
    assert program.stderr == ""
    assert (program.returncode, program.stdout) == (0, "both work\n")
