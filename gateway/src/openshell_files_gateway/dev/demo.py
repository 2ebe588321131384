"""`make demo`: uploads and downloads files with the command line client, against a development stack."""

from __future__ import annotations

import asyncio
import contextlib
import filecmp
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from openshell_files_process.server_process import wait_for_stop
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.limits import MIB

from openshell_files_gateway.dev.process import ChildFailedError, stop_process
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_gateway.installed import command

_TEXT: Final = "A small text file, to show that size does not matter.\n"

#: Exit status of a command that Ctrl-C ended, as in a shell.
_INTERRUPTED: Final = 130


class DemoFailedError(Exception):
    """A transfer failed, or a file came back different."""


async def run_demo(size_mib: int) -> int:
    """Run the demo.

    Args:
        size_mib: size of the large file in MiB.

    Returns:
        The exit status.
    """
    async with TaskScope() as tasks:
        stopping = tasks.start(wait_for_stop(), "stop-signal")
        running = tasks.start(_demo(size_mib), "demo")
        await asyncio.wait({stopping, running}, return_when=asyncio.FIRST_COMPLETED)
        interrupted = not running.done()
    if interrupted:
        print("demo: interrupted, everything is stopped and removed", file=sys.stderr)
        return _INTERRUPTED
    try:
        running.result()
    except (DemoFailedError, ChildFailedError, OSError) as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    return 0


async def _demo(size_mib: int) -> None:
    with contextlib.ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="openshell-files-demo-")))
        print("demo: starting identity provider, gateway and one supervisor", flush=True)
        async with DevelopmentStack(StackSettings()) as stack:
            token = await asyncio.to_thread(stack.identity_provider.fetch_token)
            environment = os.environ | {
                "OPENSHELL_FILES_ENDPOINT": stack.endpoint,
                "OPENSHELL_FILES_TOKEN": token,
            }
            print(f"demo: got a token from {stack.identity_provider.token_endpoint}", flush=True)
            large = directory / "large.bin"
            small = directory / "small.txt"
            await asyncio.to_thread(_write_random, large, size_mib)
            small.write_text(_TEXT, "utf-8")
            speeds: list[str] = []
            for source in (small, large):
                speeds += await _round_trip(source, environment)
    print(f"demo: ok: {size_mib} MiB " + ", ".join(speeds[-2:]) + "; content identical", flush=True)


async def _round_trip(source: Path, environment: dict[str, str]) -> list[str]:
    """Upload a file, download it again, compare; return the speeds."""
    back = source.with_name(f"{source.name}.back")
    up = await _transfer(environment, "upload", "demo", str(source))
    down = await _transfer(environment, "download", "demo", source.name, str(back))
    same = await asyncio.to_thread(filecmp.cmp, source, back, shallow=False)
    if not same or up["digest"] != down["digest"]:
        raise DemoFailedError(f"{source.name} came back changed")
    size = up["size"]
    print(f"demo: {source.name}, {size} bytes, identical: {up['digest']}", flush=True)
    return [
        f"{way} {size / MIB / max(result['seconds'], 1e-6):.0f} MiB/s"
        for way, result in (("up", up), ("down", down))
    ]


async def _transfer(environment: dict[str, str], *arguments: str) -> dict[str, Any]:
    """Run the CLI; its progress bar shows on this terminal."""
    process = await asyncio.create_subprocess_exec(
        command("openshell-files"), *arguments, "--json",
        stdout=asyncio.subprocess.PIPE,
        env=environment,
        # Ctrl-C reaches only the demo, which stops everything in order.
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    finally:
        await stop_process(process, arguments[0])
    if process.returncode != 0:
        raise DemoFailedError(f"openshell-files {' '.join(arguments)} ended with status {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result


def _write_random(path: Path, size_mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
