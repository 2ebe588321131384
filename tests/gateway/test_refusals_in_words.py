"""What the command `openshell-files-gateway` says where it does not do what it was told."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from dev_command import command

SETTINGS = """
allow_unauthenticated_users = true
[server]
port = {port}
[tls]
disabled = true
[sandbox_tokens]
signing_key = "signing.pem"
[[sandboxes]]
id = "11111111-1111-4111-8111-111111111111"
name = "demo"
"""


def refused(directory: Path, *arguments: str, port: int = 0) -> str:
    """Run the command, which fails; returns its one line."""
    (directory / "gateway.toml").write_text(SETTINGS.format(port=port), "utf-8")
    done = subprocess.run(
        [command("openshell-files-gateway"), *arguments, "--config", "gateway.toml"],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if not name.startswith("OPENSHELL_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("demo", "give its id: 11111111-1111-4111-8111-111111111111"),
        ("other", "no sandbox has the id other"),
    ],
)
def test_a_token_is_for_an_id(tmp_path: Path, given: str, said: str) -> None:
    assert said in refused(tmp_path, "sandbox-token", given)


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    done = subprocess.run(
        [command("openshell-files-gateway"), "dev", "--root", "/proc/no"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("openshell-files-gateway dev: /proc/no")
    assert "Errno" not in done.stderr


def test_a_gateway_that_never_listened_has_no_end(tmp_path: Path) -> None:
    """Nothing but why it did not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen" in refused(tmp_path, "serve", port=taken.getsockname()[1])
