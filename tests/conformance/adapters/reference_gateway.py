#!/usr/bin/env python3
"""Launches the reference gateway for the conformance suite, with a simulated supervisor behind the sandbox where content is judged.

[gateway]
command = ["python", "adapters/reference_gateway.py"]

`--supervisor suite` leaves every sandbox to the suite's own supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openshell_files_gateway.auth.sandbox_tokens import SandboxTokenIssuer
from openshell_files_gateway.config.signing_key import load_or_create_signing_key

#: Settings that a launch may ask for, and the gateway's own for each.
SETTINGS = {
    "idle_timeout_s": "limits.idle_timeout",
    "max_pause_s": "limits.max_pause",
    "upload_expiry_s": "limits.upload_expiry",
    "max_file_bytes": "limits.max_file_bytes",
    "max_chunk_bytes": "limits.max_chunk_bytes",
    "digests": "limits.digests",
    "max_uploads_per_principal": "limits.max_uploads_per_principal",
    "max_uploads_per_sandbox": "limits.max_uploads_per_sandbox",
    "max_transfers": "limits.max_transfers",
    "max_transfers_per_sandbox": "limits.max_transfers_per_sandbox",
    "principal_share": "limits.principal_share",
    "transfer_wait_s": "limits.transfer_wait",
    "max_upload_lanes": "limits.max_upload_lanes",
    "max_commands_per_sandbox": "limits.max_commands_per_sandbox",
    "session_wait_s": "relay.session_wait_timeout",
    "claim_timeout_s": "relay.claim_timeout",
    "heartbeat_interval_s": "relay.heartbeat_interval",
    "silence_timeout_s": "relay.silence_timeout",
    "stop_timeout_s": "server.stop_timeout",
    "scopes_claim": "oidc.scopes_claim",
}
#: Those that make files in the sandbox, which the supervisor has options for.
OF_THE_SANDBOX = {
    "max_tree_entries": "--max-tree-entries",
    "max_archive_entries": "--max-archive-entries",
    "max_extracted_bytes": "--max-extracted-bytes",
}
CAPABILITIES = [
    "agent-port",
    "archives",
    "blake3",
    "compute",
    "directories",
    "exec",
    "health",
    "keeps-relays",
    "lanes",
    "reflection",
    "resume",
    "scopes",
    "trees",
    "waiting",
    "workspaces",
    "write-file",
]
#: The user of the sandbox, where the launcher may choose one: no user of the machine.
SANDBOX_USER = 54321
GATEWAY_ID = "conformance"


def main() -> int:
    """Launch what the first line asks for, until standard input ends or the gateway does."""
    launch = json.loads(sys.stdin.readline())
    settings: Mapping[str, Any] = launch["settings"]
    unknown = sorted(settings.keys() - SETTINGS.keys() - OF_THE_SANDBOX.keys() - {"agent_secret", "compute"})
    if launch["role"] != "gateway" or unknown:
        say({"type": "unsupported", "what": ", ".join(unknown) or launch["role"]})
        return 0
    home = Path(launch["run_dir"])
    ids = {one["name"]: str(uuid.uuid4()) for one in launch["sandboxes"]}
    key = home / "signing-key.pem"
    tokens = SandboxTokenIssuer(load_or_create_signing_key(key, None), gateway_id=GATEWAY_ID)
    config = home / "gateway.toml"
    config.write_text(configuration(launch, ids, key, home), "utf-8")
    own = (
        []
        if "suite" in sys.argv[1:]
        else [one["name"] for one in launch["sandboxes"] if one.get("supervisor") == "own"]
    )
    started: list[subprocess.Popen[bytes]] = []
    roots: list[str] = []
    try:
        gateway = start("openshell-files-gateway", "serve", "--config", str(config), "--port", "0")
        started.append(gateway)
        endpoint = said_by(gateway)["endpoint"].removeprefix("http://")
        for name in own:
            roots.append(tempfile.mkdtemp(prefix="conformance-"))
            token = tokens.mint(ids[name]).token
            started.append(supervisor(home, Path(roots[-1]), endpoint, ids[name], token, settings))
        for process in started[1:]:
            said_by(process)
        sandboxes = {
            name: {"id": sandbox_id}
            if name in own
            else {"id": sandbox_id, "supervisor_token": tokens.mint(sandbox_id).token}
            for name, sandbox_id in ids.items()
        }
        say(
            {
                "type": "ready",
                "endpoint": endpoint,
                "pid": gateway.pid,
                "capabilities": CAPABILITIES,
                "sandboxes": sandboxes,
            }
        )
        stop_with_input(started)
        return gateway.wait()
    finally:
        stop(started)
        for process in started:
            process.wait()
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def configuration(launch: Mapping[str, Any], ids: Mapping[str, str], key: Path, home: Path) -> str:
    """Return the gateway's configuration, in TOML."""
    tables: dict[str, dict[str, Any]] = {
        "server": {"stop_timeout": 5.0},
        "tls": {"disabled": True},
        "oidc": {
            "issuer": launch["oidc"]["issuer"],
            "audience": launch["oidc"]["audience"],
            "dangerously_allow_insecure_http": True,
        },
        "sandbox_tokens": {"signing_key": str(key)},
    }
    if launch["settings"].get("compute"):
        tables["compute"] = {"directory": str(home / "compute"), "stop_with_gateway": True}
    for name, value in launch["settings"].items():
        if name in SETTINGS:
            table, _, setting = SETTINGS[name].partition(".")
            # Times are floating numbers in this gateway's file.
            tables.setdefault(table, {})[setting] = float(value) if name.endswith("_s") else value
    lines = [f'gateway_id = "{GATEWAY_ID}"']
    for table, values in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    secret = launch["settings"].get("agent_secret")
    for one in launch["sandboxes"]:
        lines += ["[[sandboxes]]", f'id = "{ids[one["name"]]}"', f'name = "{one["name"]}"']
        lines.append(f'workspace = "{one.get("workspace", "default")}"')
        if secret and one.get("supervisor") == "suite":
            file = home / "agent-secret"
            file.touch(mode=0o600)
            file.write_text(secret, "ascii")
            lines += ["agent_port = 7070", f'agent_secret = "{file}"']
    for workspace in launch.get("workspaces", []):
        members = ", ".join(f'{{ subject = "{subject}" }}' for subject in workspace["members"])
        lines += ["[[workspaces]]", f'name = "{workspace["name"]}"', f"members = [{members}]"]
    return "\n".join(lines) + "\n"


def supervisor(
    home: Path, root: Path, endpoint: str, sandbox_id: str, token: str, settings: Mapping[str, Any]
) -> subprocess.Popen[bytes]:
    """Start a simulated supervisor with a root of its own."""
    # The sandbox's user must reach it.
    root.chmod(0o755)
    for place in (root / "sandbox", root / "tmp"):
        place.mkdir()
    if os.geteuid() == 0:
        for place in (root, root / "sandbox", root / "tmp"):
            os.chown(place, SANDBOX_USER, SANDBOX_USER)
    file = home / "sandbox-token"
    file.touch(mode=0o600)
    file.write_text(token, "ascii")
    return start(
        "openshell-supervisor-sim", "run", "--endpoint", endpoint, "--sandbox-id", sandbox_id,
        "--token-file", str(file), "--state-dir", str(home / "state"), "--root", str(root), "--workdir", "/sandbox",
        "--max-backoff", "0.2", "--drain-timeout", "1", "--log-format", "json",
        *(text for name, option in OF_THE_SANDBOX.items() if name in settings for text in (option, str(settings[name]))),
    )  # fmt: skip


def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start one of the reference's programs; it says in one line of JSON that it is ready."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENSHELL_")}
    command = [str(Path(sys.executable).with_name(program)), *arguments, "--json"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment)


def said_by(process: subprocess.Popen[bytes]) -> Mapping[str, Any]:
    """Return the line that a program prints when it is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a program of the reference ended before it was ready")
    said: Mapping[str, Any] = json.loads(line)
    return said


def stop(started: list[subprocess.Popen[bytes]]) -> None:
    """Ask every program to stop."""
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)


def stop_with_input(started: list[subprocess.Popen[bytes]]) -> None:
    """Stop what was started as soon as standard input ends."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        stop(started)

    threading.Thread(target=watch, daemon=True).start()


def say(message: Mapping[str, Any]) -> None:
    """Send one line to the suite."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
