"""The development stack when its start fails or is interrupted: nothing is left behind."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from openshell_files_gateway.dev.process import Child, ChildFailedError
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings


async def test_a_failed_child_whose_log_is_gone(tmp_path: Path) -> None:
    """What failed is the child, and not the reading of its log."""
    log_file = tmp_path / "log"
    child = Child("one", lambda: [sys.executable, "-c", f"import os; os.remove({str(log_file)!r})"],
                  log_file=log_file, restart=False)  # fmt: skip
    with pytest.raises(ChildFailedError, match="one ended with status 0"):
        await child.start(ready_line=True)
    await child.stop()


async def test_a_child_that_cannot_be_started_for_a_while(tmp_path: Path) -> None:
    """The one who starts it again does not give up because a command was missing once."""
    said = "print('ready', flush=True); import sys; sys.stdin.read()"
    command_lines: list[Sequence[str]] = [
        [sys.executable, "-c", "print('ready', flush=True)"],
        [str(tmp_path / "missing")],
        [sys.executable, "-c", said],
    ]
    tried = asyncio.Event()

    def next_line() -> Sequence[str]:
        if len(command_lines) == 1:
            tried.set()
            return command_lines[0]
        return command_lines.pop(0)

    child = Child("one", next_line, log_file=None, restart=True)
    await child.start(ready_line=True)
    await asyncio.wait_for(tried.wait(), 30)
    await child.stop()


async def test_an_interrupted_start_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be cancelled: what it still makes is waited for, and removed."""
    entered, go_on = threading.Event(), threading.Event()
    made = tmp_path / "stack"

    def mkdtemp(**_: object) -> str:
        entered.set()
        assert go_on.wait(30)
        made.mkdir()
        return str(made)

    stopped_while_made: list[bool] = []
    original_stop = DevelopmentStack.stop

    async def stop(stack: DevelopmentStack) -> None:
        stopped_while_made.append(not go_on.is_set())
        await original_stop(stack)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(DevelopmentStack, "stop", stop)
    starting = asyncio.create_task(DevelopmentStack(StackSettings()).start())
    assert await asyncio.to_thread(entered.wait, 30)
    starting.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert stopped_while_made == [False]
    assert not made.exists()


async def test_when_one_supervisor_fails_no_other_starts_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest would start after everything was stopped, and nobody would stop it."""

    async def start(child: Child, *, ready_line: bool = False) -> str:
        assert ready_line
        if child.name == "gateway":
            return '{"endpoint": "127.0.0.1:1"}'
        if child.name == "supervisor demo":
            raise ChildFailedError("no")
        await asyncio.Event().wait()
        raise AssertionError("nothing sets it")

    monkeypatch.setattr(Child, "start", start)
    before = asyncio.all_tasks()
    with pytest.raises(ChildFailedError):
        await DevelopmentStack(StackSettings(sandboxes=3)).start()
    assert asyncio.all_tasks() == before
