"""Logs whose reader is slow, gone, or never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress

import pytest
from conditions import block_until
from openshell_files_process.log_writer import LogWriter

LINE = "x" * 999 + "\n"


@pytest.fixture
def pipe() -> Generator[tuple[int, int]]:
    """A pipe: end to read, end to write."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        with suppress(OSError):
            os.close(end)


def _read_all(descriptor: int) -> str:
    parts = list[bytes]()
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts).decode()


def _notice(count: int) -> str:
    return f"{count} left out\n"


@pytest.mark.parametrize("non_blocking", [False, True], ids=["blocking", "non-blocking"])
def test_a_reader_that_waits(pipe: tuple[int, int], *, non_blocking: bool) -> None:
    """Nobody who logs waits; what found no room is counted, in its place, and everything else comes whole."""
    reading, writing = pipe
    os.set_blocking(writing, not non_blocking)
    writer = LogWriter(writing, _notice, max_bytes=200_000)
    writer.start()
    for _ in range(1000):
        writer.write(LINE)
    assert not writer.drain(0)
    said = b""
    os.set_blocking(reading, False)
    while not writer.drain(0.01):
        with suppress(BlockingIOError):
            said += os.read(reading, 1 << 16)
    os.set_blocking(reading, True)
    writer.write("after\n")
    assert writer.drain(60)
    os.close(writing)
    lines = (said.decode() + _read_all(reading)).splitlines(keepends=True)
    kept = lines.count(LINE)
    assert 200 <= kept < 1000
    assert lines == [LINE] * kept + [_notice(1000 - kept), "after\n"]


def test_lines_before_there_may_be_threads(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    writer = LogWriter(writing, _notice)
    writer.write("at once é\n")
    assert os.read(reading, 100).decode() == "at once é\n"


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    """What nobody can be told is no error of who tells it."""
    reading, writing = pipe
    os.close(reading)
    writer = LogWriter(writing, _notice)
    writer.write("to nobody\n")
    writer.start()
    writer.write("to nobody\n")
    assert writer.drain(60)


def test_no_standard_error() -> None:
    writer = LogWriter(None, _notice)
    writer.write("to nobody\n")
    writer.start()
    writer.write("to nobody\n")
    assert writer.drain(60)


PROCESS = """
import asyncio, logging, structlog
from openshell_files_process.server_process import configure_logs, wait_for_stop
configure_logs("json", "info")

async def run():
    stopping = asyncio.create_task(wait_for_stop())
    await asyncio.sleep(0)
    for number in range(3000):
        structlog.get_logger().info("line", number=number, much="x" * 1000)
        logging.getLogger("library").warning("line")
    print("ready", flush=True)
    print(await stopping, flush=True)

asyncio.run(run())
"""


def test_a_process_hears_its_signal_although_nobody_reads_its_errors() -> None:
    """Logs of the project and of libraries; the process ends in order."""
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "SIGTERM\n"
        block_until(lambda: process.poll() is not None, "the process ends")
        assert process.returncode == 0
        assert process.stderr is not None
        assert '"number": 0' in process.stderr.readline()


PRINTS = """
import threading, warnings
from openshell_files_process.server_process import configure_logs
configure_logs("json", "info")

def fail(*_):
    raise ValueError("é")

class Freed:
    __del__ = fail

warnings.warn("beware")
thread = threading.Thread(target=fail, name="one")
thread.start()
thread.join()
Freed()
"""


def test_what_python_prints_by_itself_is_logged() -> None:
    """Warnings, threads that fail, exceptions that nobody can catch: lines as all others."""
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True, timeout=60
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["level"] for event in events] == ["warning", "error", "error"]
    warned, thread, freed = events
    assert "beware" in warned["event"]
    assert thread["event"] == "thread one failed"
    assert "__del__" in freed["event"] or "fail" in freed["event"]
    assert all("ValueError: é" in event["exception"] for event in (thread, freed))
