"""`openshell-files-gateway dev` and `demo`, as a person and a script run them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cli_command import cli_result, run_cli
from conditions import block_until
from dev_command import STOP_SECONDS, DevStack, command, descendants, dev_stack, is_exec_host
from openshell_files import FilesClient, OidcAuth, RetryPolicy

FIELDS = {
    "endpoint", "issuer", "audience", "token_endpoint", "client_id", "client_secret", "token", "workspace",
    "sandboxes", "pids",
}  # fmt: skip


@pytest.fixture
def own() -> Generator[DevStack, None, None]:
    """A stack that the test may stop or break."""
    with dev_stack() as running:
        yield running


def test_the_line_has_everything(stack: DevStack) -> None:
    """`--json`: one line with endpoint, issuer, tokens, sandboxes and process ids."""
    assert set(stack.line) == FIELDS
    host, _, port = stack.endpoint.rpartition(":")
    assert (host, int(port) > 0) == ("127.0.0.1", True)
    assert stack.line["token_endpoint"].startswith(stack.line["issuer"])
    assert [sandbox.name for sandbox in stack.sandboxes] == ["demo", "demo-2", "demo-3", "demo-4"]
    assert len({sandbox.id for sandbox in stack.sandboxes}) == 4
    for sandbox in stack.sandboxes:
        assert sandbox.workdir == "/sandbox"
        assert sandbox.directory.is_dir()
    commands = {
        process.pid: " ".join(process.cmdline())
        for process in descendants(stack.process.pid)
        if not is_exec_host(process)
    }
    assert set(commands) == {stack.gateway_pid, *stack.supervisor_pids}
    assert "openshell-files-gateway serve" in commands[stack.gateway_pid]
    for pid, sandbox in zip(stack.supervisor_pids, stack.sandboxes, strict=True):
        assert "openshell-supervisor-sim run" in commands[pid]
        assert sandbox.id in commands[pid]


def test_everything_listens_on_loopback_only(stack: DevStack) -> None:
    """Nobody else on the network reaches a development stack."""
    pids = [stack.process.pid, stack.gateway_pid, *stack.supervisor_pids]
    listening = [
        ip_address(connection.laddr.ip.removeprefix("::ffff:"))
        for pid in pids
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 2
    assert all(address.is_loopback for address in listening)


def test_no_token_is_on_a_command_line(stack: DevStack) -> None:
    """Command lines are for everybody to read."""
    secrets = [stack.token, str(stack.line["client_secret"])]
    for process in descendants(stack.process.pid):
        shown = " ".join(process.cmdline())
        assert not [secret for secret in secrets if secret in shown]


def test_the_token_is_usable_at_once(own: DevStack) -> None:
    """Ready means ready: the first call after the line succeeds."""
    with FilesClient(own.endpoint, auth=OidcAuth(own.token), timeout=5) as client:
        client.sandbox("demo").write_bytes("first", b"first")
    assert (own.sandboxes[0].directory / "first").read_bytes() == b"first"


def test_client_credentials(stack: DevStack) -> None:
    """A script gets its own token, by hand or through the SDK."""
    line = stack.line
    with httpx.Client(trust_env=False) as http:
        configuration = http.get(f"{line['issuer']}/.well-known/openid-configuration").json()
        assert configuration["token_endpoint"] == line["token_endpoint"]
        answer = http.post(
            line["token_endpoint"],
            data={"grant_type": "client_credentials"},
            auth=(line["client_id"], line["client_secret"]),
        ).json()
        refused = http.post(
            line["token_endpoint"],
            data={"grant_type": "client_credentials"},
            auth=(line["client_id"], "wrong"),
        )
    assert refused.status_code == 401
    for auth in (
        OidcAuth(answer["access_token"]),
        OidcAuth.client_credentials(line["issuer"], line["client_id"], line["client_secret"]),
    ):
        with FilesClient(stack.endpoint, auth=auth) as client:
            client.sandbox("demo").write_bytes("by-credentials", b"mine")
            assert client.sandbox("demo").read_bytes("by-credentials") == b"mine"


def test_the_cli_from_the_environment(stack: DevStack, tmp_path: Path) -> None:
    """The three variables are all that `upload NAME LOCAL` and `download NAME SRC` need."""
    (tmp_path / "note.txt").write_text("a note\n", "utf-8")
    up = cli_result(stack, "upload", "demo", "note.txt", "--json", cwd=tmp_path)
    assert up["path"] == "/sandbox/note.txt"
    down = cli_result(stack, "download", "demo", "note.txt", "back.txt", "--json", cwd=tmp_path)
    assert (tmp_path / "back.txt").read_text("utf-8") == "a note\n"
    for result, count in ((up, "bytes_sent"), (down, "bytes_received")):
        assert {"path", "size", "digest", count, "seconds"} <= set(result)
        assert (result["size"], result[count]) == (7, 7)
    missing = run_cli(stack, "download", "demo", "no-such-file", cwd=tmp_path)
    assert missing.returncode == 4
    assert missing.stdout == ""
    assert missing.stderr.count("\n") == 1
    assert "no-such-file" in missing.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(temporary_directory: Path, number: signal.Signals) -> None:
    """Exit 0; no process and no temporary directory is left."""
    before = set(os.listdir(temporary_directory))
    with dev_stack() as running:
        assert set(os.listdir(temporary_directory)) > before
        processes = descendants(running.process.pid)
        assert running.stop(number) == 0
        assert not [process for process in processes if process.is_running()]
        assert set(os.listdir(temporary_directory)) == before


def test_a_signal_while_it_starts(temporary_directory: Path) -> None:
    """Ctrl-C before the stack is ready leaves as little."""
    before = set(os.listdir(temporary_directory))
    process = subprocess.Popen(
        [command("openshell-files-gateway"), "dev", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        block_until(lambda: descendants(process.pid), "a child is there")
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=STOP_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, output) == (0, "")
    assert not [child for child in children if child.is_running()]
    assert set(os.listdir(temporary_directory)) == before


def test_a_killed_stack_takes_its_children_along(tmp_path: Path) -> None:
    """SIGKILL of the stack: gateway and supervisors see that nobody is there any more."""
    with dev_stack("--root", str(tmp_path / "root")) as running:
        children = descendants(running.process.pid)
        assert len([child for child in children if not is_exec_host(child)]) == 2
        running.process.kill()
        running.process.communicate()
        block_until(lambda: not [child for child in children if child.is_running()], "the children have gone")


def test_what_dies_is_started_again(own: DevStack) -> None:
    """A killed gateway and a killed supervisor come back, at the same address and with the same files."""
    patient = RetryPolicy(attempts=60, max_delay=1.0)
    with FilesClient(own.endpoint, auth=OidcAuth(own.token), retry=patient) as client:
        sandbox = client.sandbox("demo")
        sandbox.write_bytes("kept", b"kept")
        for pid in (own.gateway_pid, own.supervisor_pids[0]):
            os.kill(pid, signal.SIGKILL)
            assert sandbox.read_bytes("kept") == b"kept"
    assert own.stop() == 0


def test_a_root_is_kept(tmp_path: Path) -> None:
    """`--root DIR`: files and the sandboxes' ids survive; old tokens' secrets do not matter."""
    root = tmp_path / "kept"
    with dev_stack("--root", str(root)) as first:
        with FilesClient(first.endpoint, auth=OidcAuth(first.token)) as client:
            client.sandbox("demo").write_bytes("kept", b"kept")
        assert first.stop() == 0
    assert first.sandboxes[0].root.is_relative_to(root)
    with dev_stack("--root", str(root)) as second:
        assert second.sandboxes == first.sandboxes
        with FilesClient(second.endpoint, auth=OidcAuth(second.token)) as client:
            assert client.sandbox("demo").read_bytes("kept") == b"kept"
        assert second.stop() == 0


def test_the_port_can_be_chosen(tmp_path: Path) -> None:
    """`--port N`; a port that is taken is an error that says so, and nothing is left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = subprocess.run(
            [command("openshell-files-gateway"), "dev", "--port", str(port), "--root", str(tmp_path)],
            capture_output=True, text=True, check=False, timeout=STOP_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert run.returncode == 1
    assert run.stdout == ""
    assert str(port) in run.stderr
    with dev_stack("--port", str(port)) as running:
        assert running.endpoint == f"127.0.0.1:{port}"


def test_for_people() -> None:
    """Without `--json` it says what to type next."""
    process = subprocess.Popen([command("openshell-files-gateway"), "dev"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        words = ""
        while "Ctrl-C" not in words:
            line = process.stdout.readline()
            assert line
            words += line
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0
    for name in ("OPENSHELL_FILES_ENDPOINT", "OPENSHELL_FILES_TOKEN", "OPENSHELL_FILES_WORKSPACE"):
        assert f"export {name}=" in words


def _demo(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [command("openshell-files-gateway"), "demo", "--size-mib", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_the_demo(temporary_directory: Path) -> None:
    """Last line `demo: ok` with the figures, exit 0, nothing left."""
    before = set(os.listdir(temporary_directory))
    process = _demo("8")
    output, errors = process.communicate(timeout=STOP_SECONDS)
    assert (process.returncode, errors) == (0, "")
    last = output.splitlines()[-1]
    assert re.fullmatch(r"demo: ok: 8 MiB up \d+ MiB/s, down \d+ MiB/s; content identical", last)
    assert set(os.listdir(temporary_directory)) == before


@pytest.mark.parametrize("moment", ["starting identity provider", "small.txt"])
def test_the_demo_is_interrupted(temporary_directory: Path, moment: str) -> None:
    """Ctrl-C, which a terminal sends to the whole group: exit 130, and nothing is left."""
    before = set(os.listdir(temporary_directory))
    process = _demo("512", start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        while moment not in process.stdout.readline():
            assert process.poll() is None
        children = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=STOP_SECONDS)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert errors == "demo: interrupted, everything is stopped and removed\n"
    block_until(lambda: not [child for child in children if child.is_running()], "the children have gone")
    assert set(os.listdir(temporary_directory)) == before


def test_the_demo_without_its_commands(tmp_path: Path) -> None:
    """An installation that is not whole is said to be so, in one line."""
    broken = tmp_path / "bin"
    broken.mkdir()
    shutil.copy(command("openshell-files-gateway"), broken)
    (broken / "python").symlink_to(sys.executable)
    program = "from openshell_files_gateway.cli import main; main()"
    run = subprocess.run(
        [str(broken / "python"), "-c", program, "demo"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False, timeout=STOP_SECONDS,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("demo: failed: openshell-supervisor-sim is not installed")
    assert "make setup" in run.stderr
    assert "demo: ok" not in run.stdout
