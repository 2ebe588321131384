"""Callers that know only the RFC, send all bytes of an upload, and then break off.

Every caller is a process that carries an order out: uploads one after the
other, each broken off in one way, so many milliseconds after its last byte. It
prints which of them it broke off later than it was told, since the machine was
busy.
"""

from __future__ import annotations

import base64
import functools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import rfc_messages
from cancellation.raw_caller import WAYS as RAW_WAYS
from dev_command import DevSandbox, DevStack

HERE = Path(__file__).parent
NODE = HERE / "node"

#: A caller resets its stream up to so long after its last byte.
MOST_DELAY_MS = 20

#: Empty, one message, several.
SIZES = (0, 1000, 9000)
_CHUNK_BYTES = 4000
_OLD = b"what was there"


@dataclass(frozen=True)
class Way:
    """How a caller breaks off."""

    client: str
    name: str

    def __str__(self) -> str:
        return f"{self.client}: {self.name}"

    @property
    def one_each(self) -> bool:
        """Whether every upload needs a process of its own."""
        return self.name == "kill"


WAYS = tuple(
    [Way("raw", name) for name in RAW_WAYS]
    + [Way(client, name) for client in ("python", "node") for name in ("cancel", "deadline", "kill")]
)


def _messages(sandbox_id: str, remote: str, size: int) -> Iterator[bytes]:
    metadata = rfc_messages.UploadFileMetadata(sandbox_id=sandbox_id, remote_path=remote, size_bytes=size)
    yield rfc_messages.UploadFileRequest(metadata=metadata).SerializeToString()
    for offset in range(0, size, _CHUNK_BYTES):
        content = bytes(min(_CHUNK_BYTES, size - offset))
        yield rfc_messages.UploadFileRequest(chunk=content).SerializeToString()


def _command(client: str) -> list[str]:
    if client == "node":
        return [str(shutil.which("node")), str(NODE / "caller.js")]
    return [sys.executable, str(HERE / f"{client}_caller.py")]


@functools.cache
def why_no_node() -> str:
    """Return why there is no caller in JavaScript; empty if there is one."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    install = [
        str(shutil.which("npm")), "ci", "--silent", "--no-audit", "--no-fund", "--prefix", str(NODE),
    ]  # fmt: skip
    if not (NODE / "node_modules/@grpc/grpc-js/package.json").exists():
        installed = subprocess.run(install, capture_output=True, text=True, timeout=100, check=False)
        if installed.returncode:
            return f"npm cannot install grpc-js: {installed.stderr.strip()[:200]}"
    return ""


@dataclass(frozen=True)
class Outcome:
    """What became of the uploads that were broken off in time."""

    published: int
    uploads: int


def broken_off(stack: DevStack, sandbox: DevSandbox, way: Way, count: int) -> Outcome:
    """Break so many uploads off, over files that are there, and return how many of these changed."""
    remotes = [f"cancelled-{way.client}-{way.name}-{number}".replace(" ", "-") for number in range(count)]
    for remote in remotes:
        (sandbox.directory / remote).write_bytes(_OLD)
    uploads = [
        {
            "messages": [
                base64.b64encode(message).decode()
                for message in _messages(sandbox.id, remote, SIZES[number % len(SIZES)])
            ],
            "delay_ms": number * 7 % (MOST_DELAY_MS + 1),
        }
        for number, remote in enumerate(remotes)
    ]
    late: list[int] = []
    at_once = 1 if way.one_each else len(uploads)
    for start in range(0, len(uploads), at_once):
        order = {
            "endpoint": stack.endpoint,
            "token": stack.token,
            "method": rfc_messages.UPLOAD_FILE,
            "way": way.name,
            "most_delay_ms": MOST_DELAY_MS,
            "uploads": uploads[start : start + at_once],
        }
        done = subprocess.run(
            _command(way.client), input=json.dumps(order),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert way.one_each or not done.returncode, f"{way}: {done.stderr}"
        late += json.loads(done.stdout or "[]")
    _wait_for_quiet(sandbox)
    in_time = [remote for number, remote in enumerate(remotes) if number not in late]
    return Outcome(sum((sandbox.directory / remote).read_bytes() != _OLD for remote in in_time), len(in_time))


def _wait_for_quiet(sandbox: DevSandbox) -> None:
    """Wait until no upload is staged, and none begins for longer than a wait for a reset takes."""
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < 0.5:
        if any(sandbox.directory.glob(".openshell-upload-*")):
            quiet_since = time.monotonic()
        time.sleep(0.02)
