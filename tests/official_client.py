"""What an unmodified user of the official SDK does, as a program of its own.

It runs in an environment that has the official wheel and nothing of ours, and
ends with status 0 if all went as that SDK documents it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openshell
from openshell import Sandbox, SandboxClient

ENDPOINT, TOKEN, WORKSPACE = (
    os.environ[f"OPENSHELL_FILES_{name}"] for name in ("ENDPOINT", "TOKEN", "WORKSPACE")
)
NAME = "official"


def refused(call: Callable[[], object], code: str, reason: str) -> None:
    """Check that a call fails as the SDK's errors show it."""
    caught: Any = None
    try:
        call()
    except openshell.GatewayError as error:
        caught = error
    assert caught is not None, f"nothing was refused, {reason} expected"
    assert caught.code().name == code, caught
    info = caught.error_info
    assert info is not None, caught
    assert (info.reason, info.domain) == (reason, "openshell.nvidia.com"), caught
    assert info.metadata["transfer_id"]


def times(a: int, b: int) -> int:
    """Run in the sandbox."""
    return a * b


def lifecycle(client: SandboxClient) -> None:
    health = client.health()
    assert health.status == 1, health
    assert health.version

    made = client.create(workspace=WORKSPACE, name=NAME, labels={"team": "files"})
    assert made.id
    assert (made.name, made.workspace, dict(made.labels)) == (NAME, WORKSPACE, {"team": "files"})
    refused(lambda: client.create(workspace=WORKSPACE, name=NAME), "ALREADY_EXISTS", "SANDBOX_EXISTS")
    ready = client.wait_ready(NAME, workspace=WORKSPACE)
    assert ready.id == made.id
    assert [condition.status for condition in ready.conditions if condition.type == "Ready"] == ["True"]
    assert client.get(NAME, workspace=WORKSPACE).id == made.id

    assert made.id in client.list_ids(workspace=WORKSPACE)
    selected = client.list_all(workspace=WORKSPACE, label_selector="team=files")
    assert [sandbox.name for sandbox in selected] == [NAME]
    assert not client.list_all(workspace=WORKSPACE, label_selector="team=others")
    everywhere = client.list_all_for_all_workspaces()
    assert made.id in {sandbox.id for sandbox in everywhere}
    pages = list(client.list(workspace=WORKSPACE, page_size=1))
    assert len(pages) > 1
    assert all(len(page.items) == 1 for page in pages)

    commands(client)

    stopped = client.stop(NAME, workspace=WORKSPACE)
    assert stopped.id == made.id
    client.wait_stopped(NAME, workspace=WORKSPACE)
    refused(
        lambda: client.exec(NAME, ["true"], workspace=WORKSPACE), "FAILED_PRECONDITION", "SANDBOX_NOT_READY"
    )
    client.start(NAME, workspace=WORKSPACE)
    client.wait_ready(NAME, workspace=WORKSPACE)
    kept = client.exec(NAME, ["cat", "kept"], workspace=WORKSPACE)
    assert kept.stdout == "over a stop", kept

    deleted = client.delete(NAME, workspace=WORKSPACE)
    assert (deleted.outcome.name, deleted.sandbox_id) == ("COMPLETED", made.id)
    client.wait_deleted(NAME, workspace=WORKSPACE, expected_sandbox_id=made.id)
    absent = client.delete(NAME, workspace=WORKSPACE, allow_missing=True)
    assert absent.outcome.name == "ALREADY_ABSENT"
    refused(lambda: client.get(NAME, workspace=WORKSPACE), "NOT_FOUND", "SANDBOX_NOT_FOUND")
    refused(lambda: client.delete(NAME, workspace=WORKSPACE), "NOT_FOUND", "SANDBOX_NOT_FOUND")


def commands(client: SandboxClient) -> None:
    def run(*command: str, **options: Any) -> Any:
        return client.exec(NAME, list(command), workspace=WORKSPACE, **options)

    plain = run("printf", "%s|", "a b", "$HOME", "*", ";", "")
    assert (plain.exit_code, plain.stdout, plain.stderr) == (0, "a b|$HOME|*|;||", ""), plain
    both = run("sh", "-c", "echo out; echo err >&2; exit 7")
    assert (both.exit_code, both.stdout, both.stderr) == (7, "out\n", "err\n"), both
    content = bytes(range(256)) * 2000
    put = run("sh", "-c", "cat > sent && wc -c < sent", stdin=content)
    assert put.stdout.strip() == str(len(content)), put
    got = run("base64", "-w0", "sent")
    assert len(got.stdout) == -(-len(content) // 3) * 4
    variables = run("sh", "-c", 'echo "$A"; pwd', env={"A": "a value"}, workdir="/tmp")
    assert variables.stdout == "a value\n/tmp\n", variables
    slow = run("sleep", "60", timeout_seconds=1)
    assert slow.exit_code == 124, slow
    missing = run("no-such-program")
    assert missing.exit_code == 127, missing
    assert "no-such-program" in missing.stderr
    run("sh", "-c", "printf 'over a stop' > kept")

    pieces: list[Any] = list(
        client.exec_stream(NAME, ["sh", "-c", "echo one; echo two >&2"], workspace=WORKSPACE)
    )
    assert {(piece.stream, piece.data) for piece in pieces[:-1]} == {
        ("stdout", b"one\n"),
        ("stderr", b"two\n"),
    }
    assert pieces[-1].exit_code == 0

    answer = client.exec_python(NAME, times, workspace=WORKSPACE, args=(6,), kwargs={"b": 7})
    assert (answer.exit_code, answer.stdout) == (0, "42\n"), answer


def context_manager(config: Path) -> None:
    """`with Sandbox(...)` finds the gateway by the files that `openshell gateway login` writes."""
    gateway = config / "openshell" / "gateways" / "test"
    gateway.mkdir(parents=True)
    (config / "openshell" / "active_gateway").write_text("test")
    metadata = {"gateway_endpoint": f"http://{ENDPOINT}", "auth_mode": "oidc"}
    (gateway / "metadata.json").write_text(json.dumps(metadata))
    (gateway / "oidc_token.json").write_text(json.dumps({"access_token": TOKEN}))
    os.environ["XDG_CONFIG_HOME"] = str(config)
    with Sandbox(workspace=WORKSPACE, labels={"made": "by with"}) as sandbox:
        assert sandbox.exec(["echo", "hello"]).stdout == "hello\n"
        assert sandbox.exec_python(lambda: "python").stdout == "python\n"
        name = sandbox.sandbox.name
    with SandboxClient(ENDPOINT, bearer_token=TOKEN) as client:
        refused(lambda: client.get(name, workspace=WORKSPACE), "NOT_FOUND", "SANDBOX_NOT_FOUND")


if __name__ == "__main__":
    with SandboxClient(ENDPOINT, bearer_token=lambda: TOKEN) as official:
        lifecycle(official)
    context_manager(Path(sys.argv[1]))
    ours = [name for name in sys.modules if name.startswith(("openshell_files", "openshell_supervisor"))]
    assert not ours, ours
    print("all as documented")
