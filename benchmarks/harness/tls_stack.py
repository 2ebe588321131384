"""The same sandboxes behind a second gateway that serves with TLS; the development stack's has none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import trustme

from harness.stack import Stack


@contextmanager
def with_tls(stack: Stack) -> Generator[Stack]:
    """Run a gateway with a certificate, and a supervisor of the first sandbox that knows it.

    Args:
        stack: made by `own_stack`; its configuration, keys and files are used.
    """
    home = stack.scratch.parent
    directory = home / "tls"
    directory.mkdir()
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(directory / "key.pem"))
    for part in certificate.cert_chain_pems:
        part.write_to_path(str(directory / "chain.pem"), append=True)
    settings = {
        "OPENSHELL_DISABLE_TLS": "false",
        "OPENSHELL_TLS_CERT": str(directory / "chain.pem"),
        "OPENSHELL_TLS_KEY": str(directory / "key.pem"),
        "OPENSHELL_COMPUTE_DIRECTORY": str(directory / "made"),
    }
    sandbox = stack.sandboxes[0]
    assert sandbox.directory is not None
    root = Path(str(sandbox.directory)[: -len(sandbox.workdir)])
    with ExitStack() as running:
        gateway, said = _start(
            running,
            directory / "gateway.log",
            ["openshell-files-gateway", "serve", "--json", "--config", str(home / "stack/gateway.toml"),
             "--port", "0"],
            settings,
        )  # fmt: skip
        endpoint = json.loads(said)["endpoint"]
        supervisor, _ = _start(
            running,
            directory / "supervisor.log",
            ["openshell-supervisor-sim", "run", "--json", "--endpoint", endpoint, "--sandbox-id", sandbox.id,
             "--token-file", str(root.parent / "token"), "--root", str(root), "--workdir", sandbox.workdir,
             "--state-dir", str(directory / "state"), "--tls-ca", str(directory / "ca.pem")],
            {},
        )  # fmt: skip
        yield replace(
            stack,
            endpoint=endpoint,
            environment=dict(stack.environment)
            | {"OPENSHELL_FILES_ENDPOINT": endpoint, "OPENSHELL_FILES_TLS_CA": str(directory / "ca.pem")},
            sandboxes=(sandbox,),
            pids={"gateway": [gateway], "supervisor": [supervisor]},
        )


def _start(
    running: ExitStack, log: Path, command: Sequence[str], environment: dict[str, str]
) -> tuple[int, str]:
    """Start a program; return its process id and its first line once it is ready."""
    program = str(Path(sys.executable).with_name(command[0]))
    file = running.enter_context(log.open("wb"))
    process = subprocess.Popen(
        [program, *command[1:]], stdout=subprocess.PIPE, stderr=file, text=True,
        stdin=subprocess.DEVNULL, env=os.environ | environment,
    )  # fmt: skip
    running.callback(process.communicate)
    running.callback(process.terminate)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{command[0]} does not start: {log.read_text()[-500:]}")
    return process.pid, line
