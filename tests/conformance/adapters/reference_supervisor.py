#!/usr/bin/env python3
"""Launches the simulated supervisor for the conformance suite.

[supervisor]
command = ["python", "adapters/reference_supervisor.py"]
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SUPERVISOR = str(Path(sys.executable).with_name("openshell-supervisor-sim"))

#: Settings that a launch may ask for, and the option for each.
OPTIONS = {
    "max_tree_entries": "--max-tree-entries",
    "max_archive_entries": "--max-archive-entries",
    "max_extracted_bytes": "--max-extracted-bytes",
    "max_expansion_ratio": "--max-expansion-ratio",
}


def main() -> int:
    """Launch what the first line asks for, until standard input ends or the supervisor does."""
    launch = json.loads(sys.stdin.readline())
    settings: Mapping[str, Any] = launch["settings"]
    unknown = sorted(settings.keys() - OPTIONS.keys() - {"agent_port", "guarded_inside", "exec"})
    if launch["role"] != "supervisor" or unknown:
        say({"type": "unsupported", "what": ", ".join(unknown) or launch["role"]})
        return 0
    home = Path(launch["run_dir"])
    token, state = home / "token", home / "state"
    guarded: list[str] = []
    if settings.get("guarded_inside"):
        # The token and the agent's state are in the sandbox, so callers can name them.
        token, state = Path(launch["root"], "run/token"), Path(launch["root"], "var/lib/openshell-files")
        token.parent.mkdir(exist_ok=True)
        guarded = ["/run/token", "/var/lib/openshell-files"]
    common = ["--root", launch["root"], "--workdir", launch["workdir"]]
    started: list[subprocess.Popen[bytes]] = []
    try:
        supervisor = start(
            "run",
            *("--endpoint", launch["endpoint"], "--sandbox-id", launch["sandbox"]["id"]),
            *("--token-file", str(token_file(token, launch["sandbox"]["token"]))),
            *("--state-dir", str(state), "--max-backoff", "0.2", "--drain-timeout", "1"),
            *(
                text
                for name, value in settings.items()
                if name in OPTIONS
                for text in (OPTIONS[name], str(value))
            ),
            *(["--no-exec"] if settings.get("exec") is False else []),
            *common,
        )
        started.append(supervisor)
        facts: dict[str, Any] = {
            "type": "ready",
            "pid": supervisor.pid,
            "capabilities": ["tcp"],
            "guarded": guarded,
        }
        line = supervisor.stdout.readline() if supervisor.stdout else b""
        if not line:
            return 1
        if json.loads(line)["confinement"].get("exec", {}).get("view") == "sandbox":
            facts["capabilities"].append("exec-view")
        if settings.get("agent_port"):
            agent, facts["agent"] = start_agent(home, common)
            started.append(agent)
        say(facts)
        watch_input(started)
        return supervisor.wait()
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait()


def start_agent(home: Path, common: list[str]) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start an agent behind a port, and return what the suite has to know of it."""
    secret = secrets.token_hex(32)
    file = token_file(home / "agent-secret", secret)
    options = (
        "--state-dir",
        str(home / "agent-state"),
        "--listen",
        "127.0.0.1:0",
        "--secret-file",
        str(file),
    )
    agent = start("agent", *options, *common)
    assert agent.stdout is not None
    listening: str = json.loads(agent.stdout.readline())["listening"]
    return agent, {"port": int(listening.rpartition(":")[2]), "secret": secret}


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start the supervisor's program; it says in one line of JSON that it is ready."""
    command = [SUPERVISOR, *arguments, "--json", "--log-format", "json"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def token_file(path: Path, text: str) -> Path:
    """Write a secret that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text, "ascii")
    return path


def watch_input(started: list[subprocess.Popen[bytes]]) -> None:
    """Stop what was started as soon as standard input ends."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def say(message: Mapping[str, Any]) -> None:
    """Send one line to the suite."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
