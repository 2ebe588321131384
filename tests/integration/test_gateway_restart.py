"""A gateway that is killed, or told to stop, while fifty transfers run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from conditions import block_until, until
from dev_command import DevStack, descendants, dev_stack
from kill_client import content_of
from kill_scene import STAGING_PREFIX
from openshell_files import AsyncFilesClient, OidcAuth, RetryPolicy
from openshell_files.results import Progress, UploadResult
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sandbox_calls import SandboxCalls
from stack_client import CHUNK_BYTES, stack_client

TRANSFERS = 50
SIZE = 8 * 1024 * 1024


@pytest.fixture
def kept(tmp_path: Path) -> Generator[tuple[DevStack, Path], None, None]:
    """A stack whose logs can be read, and where they are."""
    root = tmp_path / "stack"
    with dev_stack("--sandboxes", "4", "--root", str(root)) as running:
        yield running, root


@asynccontextmanager
async def calls_of(stack: DevStack) -> AsyncGenerator[SandboxCalls]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
    async with grpc.aio.insecure_channel(stack.endpoint, options) as channel:
        yield SandboxCalls(channel, stack.token)


def gateway_of(stack: DevStack) -> psutil.Process:
    """Return the gateway that runs now."""

    def found() -> list[psutil.Process]:
        return [
            process
            for process in descendants(stack.process.pid)
            if "openshell-files-gateway" in " ".join(process.cmdline()) and "serve" in process.cmdline()
        ]

    block_until(found, "a gateway runs")
    return found()[0]


def supervisors_of(stack: DevStack) -> dict[str, int]:
    """Return the supervisors that run, by sandbox id."""
    found: dict[str, int] = {}
    for process in psutil.process_iter(["cmdline"]):
        line: list[str] = process.info["cmdline"] or []
        if "--sandbox-id" in line and stack.endpoint in line:
            found[line[line.index("--sandbox-id") + 1]] = process.pid
    return found


class Meter:
    """Watches what the sandboxes have staged, and acts once, when most uploads are under way."""

    def __init__(self, roots: list[Path], act: Callable[[], object]) -> None:
        self._roots = roots
        self._act = act
        self._lock = threading.Lock()
        #: Uploads of which something was staged, when it acted.
        self.under_way: set[str] = set()

    def watch(self, _: Progress) -> None:
        with self._lock:
            if self.under_way:
                return
            staged = {
                path.name.removeprefix(STAGING_PREFIX)
                for root in self._roots
                for path in (root / "sandbox").glob(f"{STAGING_PREFIX}*")
                if 0 < _size(path) < SIZE
            }
            if len(staged) > TRANSFERS // 2:
                self.under_way = staged
                self._act()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def logged(root: Path, event: str) -> list[dict[str, object]]:
    """Return the gateway's log lines of an event."""
    lines = (root / "gateway.log").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry.get("event") == event]


async def upload_all(
    stack: DevStack, names: list[str], sources: list[Path], meter: Meter
) -> list[UploadResult]:
    """Upload every source at once, a few to each sandbox."""
    patient = RetryPolicy(attempts=60, max_delay=1.0)
    async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token), retry=patient) as client:
        return await asyncio.gather(
            *(
                client.sandbox(names[number % len(names)]).upload_path(
                    source, f"many-{number}", progress=meter.watch
                )
                for number, source in enumerate(sources)
            )
        )


def sources_in(directory: Path) -> list[Path]:
    sources = [directory / f"source-{number}" for number in range(TRANSFERS)]
    for number, source in enumerate(sources):
        source.write_bytes(content_of(f"many {number}", SIZE))
    return sources


async def test_a_gateway_killed_during_fifty_transfers(kept: tuple[DevStack, Path], tmp_path: Path) -> None:
    """RSM-3, RSM-4, SBX-2: the next gateway has every supervisor and sandbox, and no upload is lost or sent twice as a whole."""
    stack, root = kept
    first = gateway_of(stack)
    async with calls_of(stack) as calls:
        await calls.create("made-one")
        await calls.create("made-two")
        await calls.ready("made-one")
        await calls.ready("made-two")
        names = [*(sandbox.name for sandbox in stack.sandboxes), "made-one", "made-two"]
        supervisors = supervisors_of(stack)
        assert len(supervisors) == len(names)

        sources = sources_in(tmp_path)
        made = [root / "made" / (await calls.get(name)).metadata.id / "root" for name in names[4:]]
        roots = [*(sandbox.root for sandbox in stack.sandboxes), *made]
        meter = Meter(roots, lambda: os.kill(first.pid, signal.SIGKILL))
        results = await upload_all(stack, names, sources, meter)

        assert meter.under_way
        begun = [result for result in results if result.upload_id in meter.under_way]
        assert len(begun) == len(meter.under_way)
        # What was staged was not sent again; those that ended in that moment had one attempt.
        assert all(result.resumed_from > 0 or result.attempts == 1 for result in begun)
        assert any(result.resumed_from > 0 for result in begun)
        for number, source in enumerate(sources):
            uploaded = roots[number % len(roots)] / "sandbox" / f"many-{number}"
            assert uploaded.read_bytes() == source.read_bytes(), number
        # The same processes: what a gateway dies of does not touch them.
        assert supervisors_of(stack) == supervisors
        assert gateway_of(stack).pid != first.pid
        await calls.ready("made-one")
        await calls.ready("made-two")
        assert len(logged(root, "supervisor taken over")) == 2
        for name in ("made-one", "made-two"):
            await calls.delete(name)
    assert {entry for entry in os.listdir(root / "made") if not entry.startswith("gateway.db")} == set()


async def test_a_gateway_told_to_stop_during_fifty_transfers(
    kept: tuple[DevStack, Path], tmp_path: Path
) -> None:
    """RLY-20, RLY-21: what runs is finished, what is new goes to the next gateway, and the old one ends with status 0."""
    stack, root = kept
    first = gateway_of(stack)
    names = [sandbox.name for sandbox in stack.sandboxes]
    sources = sources_in(tmp_path)
    meter = Meter([sandbox.root for sandbox in stack.sandboxes], first.terminate)
    await upload_all(stack, names, sources, meter)
    assert meter.under_way
    for number, source in enumerate(sources):
        sandbox = stack.sandboxes[number % len(names)]
        assert (sandbox.directory / f"many-{number}").read_bytes() == source.read_bytes(), number
    await until(lambda: not first.is_running(), "the old gateway has ended")
    [ending] = logged(root, "gateway stopped")
    assert ending["cut"] == 0
    assert int(str(ending["running"])) > TRANSFERS // 4, "some were running when it was told"
    calls = [entry for entry in logged(root, "call ended") if entry["method"] == "UploadFile"]
    ended = [entry for entry in calls if str(entry["timestamp"]) <= str(ending["timestamp"])]
    assert {entry["outcome"] for entry in ended} <= {"OK", "GATEWAY_SHUTTING_DOWN"}
    # Those it refused had not begun.
    assert not any(entry.get("content_bytes") for entry in ended if entry["outcome"] != "OK")
    assert gateway_of(stack).pid != first.pid


async def test_what_is_cut_at_the_end_can_be_resumed(tmp_path: Path) -> None:
    """RLY-21, RSM-3, CRS-2: a caller that stands still does not keep a gateway for ever."""
    root = tmp_path / "stack"
    environment = os.environ | {"OPENSHELL_STOP_TIMEOUT": "1"}
    with dev_stack("--root", str(root), environment=environment) as stack:
        first, sandbox = gateway_of(stack), stack.sandboxes[0]
        content = content_of("cut", 2 * CHUNK_BYTES)
        metadata = files_pb2.UploadFileMetadata(
            sandbox_id=sandbox.id, remote_path="cut", size_bytes=len(content), request_id="cut"
        )
        async with stack_client(stack.endpoint, stack.token) as client:
            uploading = asyncio.create_task(client.upload(metadata, content, stop_after=1))
            async with asyncio.timeout(60):
                while (await client.status(sandbox.id, "cut")).staged_bytes < CHUNK_BYTES:
                    pass
            first.terminate()
            with pytest.raises(grpc.aio.AioRpcError) as cut:
                await uploading
            assert cut.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
            await until(lambda: not first.is_running(), "the old gateway has ended")
            [ending] = logged(root, "gateway stopped")
            assert (ending["running"], ending["cut"]) == (1, 1)
            status = await client.status(sandbox.id, "cut", digest=True)
            assert status.staged_bytes == CHUNK_BYTES
            answer = await client.upload(metadata, content)
            assert answer.file.size_bytes == len(content)
            assert await client.unfinished(sandbox.id) == []
