"""The command line against the fake gateway: in this process, or as a process of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from fake_file_gateway import FakeGateway, FakeUpload
from openshell_files.cli.app import run
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.process import TRACEBACK_VARIABLE
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason

COMMAND = [sys.executable, "-W", "error", "-c", "from openshell_files.cli import main; main()"]


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out.count("\n") == 1, "exactly one line"
        return json.loads(self.out)


class HasAddress(Protocol):
    """A gateway that listens somewhere."""

    @property
    def address(self) -> str: ...


class Cli:
    """Runs the command against the fake gateway, with a home of its own."""

    def __init__(self, gateway: HasAddress, home: Path) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "OPENSHELL_FILES_ENDPOINT": gateway.address,
            "OPENSHELL_FILES_TOKEN": "token",
        }

    def __call__(self, *args: str | Path) -> Outcome:
        """Run in this process, which is quicker."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape") for _ in range(2))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "environ", self.env)
            patch.chdir(self.home)
            patch.setattr(sys, "argv", ["openshell-files", *map(str, args)])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = run(TRACEBACK_VARIABLE)
        return Outcome(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

    def process(self, *args: str | Path, stdin: bytes = b"") -> Outcome:
        """Run as users do."""
        done = subprocess.run(
            [*COMMAND, *map(str, args)],
            cwd=self.home,
            env=self.env,
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Outcome(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "replace"),
        )

    def redirected(
        self, redirect: str, *args: str | Path | bytes, environment: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run with descriptors as a shell redirects them, e.g. `>&-`."""
        return self.shell(f'exec "$@" {redirect}', *args, environment=environment)

    def shell(
        self, script: str, *args: str | Path | bytes, environment: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run a shell script in which `"$@"` is the command."""
        done = subprocess.run(
            ["sh", "-c", script, "sh", *COMMAND, *args],
            cwd=self.home,
            env=self.env | dict(environment or {}),
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Outcome(
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "replace"),
        )

    def programmed(self, program: str, *args: str | Path, seconds: float = 60) -> Outcome:
        """Run a program that prepares something and then calls `main`."""
        done = subprocess.run(
            [sys.executable, "-c", program, *map(str, args)],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
        return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *args: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*COMMAND, *map(str, args)],
            cwd=self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )


def failed(outcome: Outcome, code: ExitCode, *words: str) -> None:
    assert outcome.status == code, outcome
    assert outcome.err.count("\n") == 1, "one line"
    assert outcome.err.startswith("openshell-files: error: ")
    for word in words:
        assert word in outcome.err
    assert outcome.out == ""


def break_uploads(gateway: FakeGateway, after: int, streams: int = 1, error: Exception | None = None) -> None:
    lost = error or TransferError(Reason.RELAY_LOST, "the relay broke")
    counts: dict[int, int] = {}

    def hook(number: int, _upload: FakeUpload, _request: files_pb2.UploadFileRequest) -> None:
        counts[number] = counts.get(number, 0) + 1
        if number <= streams and counts[number] > after:
            raise lost

    gateway.on_upload_message = hook
