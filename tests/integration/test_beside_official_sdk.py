"""DESIGN 2.4: the official SDK and ours, imported and used in one process."""

from __future__ import annotations

import subprocess
import sys

import pytest
from dev_command import DevStack

OFFICIAL = "from openshell import SandboxClient\n"
OURS = "from openshell_files import FilesClient, OidcAuth\n"

USE = """
import os
import sys

endpoint, token = os.environ["OPENSHELL_FILES_ENDPOINT"], os.environ["OPENSHELL_FILES_TOKEN"]
official = SandboxClient(endpoint, bearer_token=token)
with FilesClient(endpoint, auth=OidcAuth(token)) as files:
    before = official.health()
    demo = files.sandbox("demo")
    content = bytes(range(256)) * 4096
    uploaded = demo.write_bytes("beside", content)
    assert demo.read_bytes("beside") == content
    assert demo.stat("beside").size == len(content)
    after = official.health()
official.close()
from openshell._proto import openshell_pb2

assert type(before) is type(after) is openshell_pb2.HealthResponse
assert "openshell_files_protocol.pb.openshell.v1.openshell_pb2" not in sys.modules
assert "openshell_files_gateway" not in sys.modules
print(openshell_pb2.ServiceStatus.Name(after.status), after.version, uploaded.size)
"""


@pytest.mark.parametrize("imports", [OFFICIAL + OURS, OURS + OFFICIAL], ids=["official first", "ours first"])
def test_both_are_used(stack: DevStack, imports: str) -> None:
    """`openshell` 0.1.5 asks our gateway for its health, before and after our SDK moved a file."""
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", imports + USE],
        env=stack.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert program.stderr == ""
    assert program.returncode == 0
    status, version, size = program.stdout.split()
    assert (status, size) == ("SERVICE_STATUS_HEALTHY", str(256 * 4096))
    assert version
