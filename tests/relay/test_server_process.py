"""What ends a process, and what refuses to start one."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from openshell_files_gateway.server.server import authority
from openshell_supervisor_sim.faults import Fault
from openshell_supervisor_sim.session.token_file import TokenFile

WAIT = (
    "import asyncio; from openshell_files_process.server_process import wait_for_stop;"
    "print(asyncio.run(wait_for_stop(stdin_closes=True)))"
)


@pytest.mark.parametrize(
    "options",
    [{"stdin": subprocess.DEVNULL}, {"input": "said before the end\n"}, {"stdin": None}],
    ids=["/dev/null", "pipe", "closed"],
)
def test_standard_input_that_ends(options: dict[str, Any]) -> None:
    """/dev/null cannot be waited for, and a process may be started without standard input."""
    closing = options.get("stdin", 0) is None
    # The shell closes it: between fork and exec, gRPC's threads of this process would be hit.
    start = ["/bin/sh", "-c", 'exec "$@" <&-' if closing else 'exec "$@"', "sh"]
    done = subprocess.run(
        [*start, sys.executable, "-c", WAIT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("stdin\n", "", 0)


@pytest.mark.parametrize(
    ("option", "value"), [("--log-level", "loud"), ("--tls-ca", "/nowhere.pem"), ("--fault", "kill@x#0")]
)
def test_a_wrong_option_is_refused_with_a_message(tmp_path: Path, option: str, value: str) -> None:
    token = tmp_path / "token"
    token.write_text("token", "ascii")
    assert TokenFile(token).read() == "token"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("openshell-supervisor-sim"), "run", "--endpoint", "127.0.0.1:1",
            "--sandbox-id", "s", "--token-file", token, "--root", tmp_path, option, value,
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"openshell-supervisor-sim: {option}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("count", ["0", "-1", "²", "x"])
def test_a_fault_that_would_never_strike(count: str) -> None:
    with pytest.raises(ValueError, match="ACTION@POINT"):
        Fault.parse(f"kill@upload.renamed#{count}")


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1", "127.0.0.1:5"), ("::1", "[::1]:5")])
def test_an_endpoint_can_be_given_to_a_client(address: str, said: str) -> None:
    assert authority(ip_address(address), 5) == said
