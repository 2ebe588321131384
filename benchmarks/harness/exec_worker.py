"""A client process: what integrations do today, with the official SDK and nothing of ours.

`slices` and `base64` are how NeMo Gym's provider moves files, `python` is how
LangChain's adapter does it.
"""

from __future__ import annotations

import base64
import os
import shlex
import time
from pathlib import Path, PurePosixPath
from typing import Any

from openshell import SandboxClient, TlsConfig

from harness.answering import serve
from harness.connection import AUTHORITY, WORKSPACE

SLICE = 512 * 1024

_WRITE = "import base64,sys;open(sys.argv[1],sys.argv[2]).write(base64.b64decode(sys.stdin.buffer.read()))"
_READ = (
    "import base64,sys;f=open(sys.argv[1],'rb');f.seek(int(sys.argv[2]));"
    "sys.stdout.write(base64.b64encode(f.read(int(sys.argv[3]))).decode())"
)

client = SandboxClient(
    os.environ["OPENSHELL_FILES_ENDPOINT"],
    tls=TlsConfig(ca_path=Path(AUTHORITY)) if AUTHORITY else None,
    bearer_token=os.environ["OPENSHELL_FILES_TOKEN"],
)


def run(sandbox: str, command: list[str], stdin: bytes = b"") -> str:
    result = client.exec(sandbox, command, workspace=WORKSPACE, stdin=stdin, timeout_seconds=180)
    if result.exit_code != 0:
        raise RuntimeError(f"{command[:3]} ended with {result.exit_code}: {result.stderr[:200]}")
    return result.stdout


def put(sandbox: str, content: bytes, remote: str) -> None:
    target, parent = shlex.quote(remote), shlex.quote(str(PurePosixPath(remote).parent))
    command = f"mkdir -p {parent} && cat > {target}"
    for begin in range(0, max(1, len(content)), SLICE):
        run(sandbox, ["/bin/sh", "-c", command], content[begin : begin + SLICE])
        command = f"cat >> {target}"


def upload_slices(sandbox: str, source: str, remote: str) -> None:
    put(sandbox, Path(source).read_bytes(), remote)


def download_base64(sandbox: str, remote: str, target: str) -> None:
    Path(target).write_bytes(
        base64.b64decode(run(sandbox, ["base64", remote]).replace("\n", ""), validate=True)
    )


def upload_python(sandbox: str, source: str, remote: str) -> None:
    content, mode = Path(source).read_bytes(), "wb"
    for begin in range(0, max(1, len(content)), SLICE):
        piece = base64.b64encode(content[begin : begin + SLICE])
        run(sandbox, ["python3", "-c", _WRITE, remote, mode], piece)
        mode = "ab"


def download_python(sandbox: str, remote: str, target: str, size: int) -> None:
    with open(target, "wb") as file:
        file.writelines(
            base64.b64decode(run(sandbox, ["python3", "-c", _READ, remote, str(begin), str(SLICE)]))
            for begin in range(0, max(1, size), SLICE)
        )


def write_many(sandbox: str, remote: str, size: int, count: int) -> dict[str, Any]:
    """Write a small file again and again; each call's time."""
    content, seconds = bytes(size), list[float]()
    for number in range(count):
        began = time.perf_counter()
        put(sandbox, content, f"{remote}-{number}")
        seconds.append(time.perf_counter() - began)
    return {"each": seconds}


if __name__ == "__main__":
    serve(
        {
            "upload_slices": upload_slices,
            "download_base64": download_base64,
            "upload_python": upload_python,
            "download_python": download_python,
            "write_many": write_many,
        }
    )
