"""Launchers and adapters: what they may say, and what becomes of those that say something else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conditions import until
from openshell_files_conformance.config import TargetConfig
from openshell_files_conformance.target import launch
from openshell_files_conformance.target.adapter import AdapterError, adapter_started
from openshell_files_conformance.target.attach import attached
from openshell_files_conformance.target.launch import (
    Ready,
    TargetNotReadyError,
    UnsupportedLaunchError,
    launched,
)
from openshell_files_conformance.target.messages import problem

MESSAGE: dict[str, Any] = {"role": "gateway", "run_dir": "/", "settings": {}}
NOTHING = [sys.executable, "-m"]


def script(tmp_path: Path, body: str) -> list[str]:
    """Return the command of a program that answers lines."""
    file = tmp_path / "program.py"
    head = "import json, sys\ndef say(**fields):\n    sys.stdout.write(json.dumps(fields) + '\\n'); sys.stdout.flush()\n"
    file.write_text(head + body)
    return [sys.executable, "-u", str(file)]


def launcher(tmp_path: Path, answer: str) -> list[str]:
    return script(tmp_path, f"sys.stdin.readline()\n{answer}\nsys.stdin.read()\n")


async def ready_of(tmp_path: Path, command: list[str], seconds: float = 20) -> Ready:
    async with launched(command, MESSAGE, log=tmp_path / "log", ready_timeout=seconds) as target:
        return target.ready


async def test_a_launcher_gets_the_message_and_says_what_it_has(tmp_path: Path) -> None:
    command = launcher(
        tmp_path,
        "say(type='ready', endpoint='127.0.0.1:1', capabilities=['lanes'], sandboxes={'a': {'id': '1'}})",
    )
    ready = await ready_of(tmp_path, command)
    assert ready.endpoint == "127.0.0.1:1"
    assert ready.capabilities == {"lanes"}
    assert ready.sandboxes["a"]["id"] == "1"
    echo = script(tmp_path, "say(type='ready', said=json.loads(sys.stdin.readline()))\nsys.stdin.read()")
    ready = await ready_of(tmp_path, echo)
    assert ready.facts["said"] == {"type": "launch", "protocol": 1, **MESSAGE}
    assert problem("launch", ready.facts["said"]) == ""


async def test_the_end_of_stdin_stops_it(tmp_path: Path) -> None:
    command = launcher(tmp_path, "say(type='ready')")
    async with launched(command, MESSAGE, log=tmp_path / "log") as target:
        assert target.process.returncode is None
    assert target.process.returncode == 0


async def test_one_that_stays_is_killed_with_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "STOP_SECONDS", 0.2)
    body = """
import os, subprocess, time
target = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
sys.stdin.readline()
say(type='ready', pid=target.pid)
time.sleep(600)
"""
    async with launched(script(tmp_path, body), MESSAGE, log=tmp_path / "log") as target:
        os.kill(target.pid, 0)
    assert target.process.returncode == -signal.SIGKILL
    await until(lambda: not _lives(target.pid), "the target is gone")


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("answer", "about"),
    [
        ("say(type='reddy')", "reddy"),
        ("say(type='ready', capabilities='lanes')", "capabilities"),
        ("say(type='ready', endpoint=5)", "endpoint"),
        ("say(type='ready', sandboxes={'a': {}})", "sandboxes"),
        ("print('listening')", "listening"),
        ("print('[1]')", "1"),
        ("sys.exit(1)", "ready"),
    ],
)
async def test_what_is_no_answer_is_not_ready(tmp_path: Path, answer: str, about: str) -> None:
    with pytest.raises(TargetNotReadyError, match=about):
        await ready_of(tmp_path, launcher(tmp_path, answer))


async def test_silence_and_a_program_that_is_not_there_are_not_ready(tmp_path: Path) -> None:
    with pytest.raises(TargetNotReadyError, match="within"):
        await ready_of(tmp_path, launcher(tmp_path, ""), seconds=0.3)
    with pytest.raises(TargetNotReadyError, match="cannot be started"):
        await ready_of(tmp_path, [str(tmp_path / "none")])


async def test_a_refusal_says_what_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedLaunchError, match="everything"):
        await ready_of(tmp_path, [*NOTHING, "openshell_files_conformance.nothing.refusing", "gateway"])


async def test_standard_error_is_kept(tmp_path: Path) -> None:
    with pytest.raises(TargetNotReadyError):
        await ready_of(tmp_path, launcher(tmp_path, "sys.exit('no port is free')"))
    assert "no port is free" in (tmp_path / "log").read_text()


HELLO = """
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "hello":
        say(id=request["id"], outcome="ok", capabilities=["resume"], implementation={"name": "toy"})
"""


async def test_an_adapter_answers_out_of_order(tmp_path: Path) -> None:
    body = f"""
held = None
{HELLO}
    elif request["op"] == "first":
        held = request["id"]
    elif request["op"] == "second":
        say(id=request["id"], outcome="ok", bytes=2)
        say(id=held, outcome="ok", bytes=1)
    else:
        say(id=request["id"], outcome="unsupported")
"""
    async with adapter_started(script(tmp_path, body), log=tmp_path / "log") as adapter:
        assert adapter.capabilities == {"resume"}
        assert adapter.implementation == {"name": "toy"}
        first, second = await asyncio.gather(adapter.call("first"), adapter.call("second"))
        assert (first["bytes"], second["bytes"]) == (1, 2)


async def test_an_adapter_that_agrees_to_everything_is_not_believed(tmp_path: Path) -> None:
    command = [*NOTHING, "openshell_files_conformance.nothing.agreeing", "sdk"]
    with pytest.raises(TargetNotReadyError, match="honesty probe"):
        async with adapter_started(command, log=tmp_path / "log"):
            pass


@pytest.mark.parametrize(
    "answer",
    [
        "say(id=request['id'], outcome='fine')",
        "say(id=request['id'])",
        "say(id=request['id'], outcome='error')",
        "say(id=request['id'], outcome='ok', capabilities='all')",
        "print('no json')",
        "sys.exit(1)",
    ],
)
async def test_what_is_no_answer_of_an_adapter_breaks_it(tmp_path: Path, answer: str) -> None:
    body = f"""{HELLO}
    elif request["op"] == "upload":
        {answer}
    else:
        say(id=request["id"], outcome="unsupported")
"""
    async with adapter_started(script(tmp_path, body), log=tmp_path / "log") as adapter:
        with pytest.raises(AdapterError):
            await adapter.call("upload", local="/a")
        with pytest.raises(AdapterError):
            await adapter.call("upload", local="/a")


def attach(table: Mapping[str, Any]) -> TargetConfig:
    return TargetConfig(endpoint="127.0.0.1:1", table={"attach": table})


def test_an_attached_target_has_its_facts_from_the_file() -> None:
    table = {"capabilities": ["resume"], "settings": {"idle_timeout_s": 2}, "sandboxes": {"a": {"id": "1"}}}
    ready = attached(attach(table), {"idle_timeout_s": 2})
    assert ready.endpoint == "127.0.0.1:1"
    assert ready.capabilities == {"resume"}
    assert ready.sandboxes == {"a": {"id": "1"}}
    with pytest.raises(UnsupportedLaunchError, match="idle_timeout_s"):
        attached(attach(table), {"idle_timeout_s": 1})
    with pytest.raises(UnsupportedLaunchError):
        attached(attach({}), {"made_up": 1})
    with pytest.raises(TargetNotReadyError):
        attached(attach({"capabilities": "resume"}), {})
