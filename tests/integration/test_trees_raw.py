"""UploadTree and DownloadTree message by message, through gateway and supervisor: ends at every stage (TRE-54, TRE-56, TRE-57)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agent.directory_calls import manifest, small_tree
from agent.tree_calls import receive_tree, send_tree
from conditions import until
from kill_scene import STAGING_PREFIX
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from openshell_files_protocol import methods
from openshell_files_protocol.limits import STREAM_OPTIONS
from openshell_files_protocol.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_supervisor_sim.relay.byte_stream import open_stream
from own_supervisor import OwnSupervisor, own_supervisor
from stack_client import StackClient, reason_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILES = 40
IDLE_SECONDS = 2.0

#: Where an upload stands, and how many files are in place there at least.
POINTS = (
    ("tree.started", 0),
    ("tree.entry_placed", 1),
    (f"tree.entry_placed#{FILES // 2}", FILES // 2),
    (f"tree.entry_placed#{FILES}", FILES),
    ("tree.ending", FILES),
    ("tree.published", FILES),
)
DOWNLOAD_POINTS = ("tree.manifest_read", "tree.content_read", "tree.read")


@dataclass
class RawTree:
    """One call, whose messages a test sends and reads."""

    call: Any
    upload: bool
    #: Whether `end` waits until the call is over, so that the receiver never has it.
    holds_end: bool = False
    told: list[Any] = field(default_factory=list[Any])

    async def say(self, **payload: Any) -> None:
        if self.holds_end and "end" in payload:
            await self.call.code()
        message = (
            trees_pb2.UploadTreeRequest(**payload)
            if self.upload
            else trees_pb2.DownloadTreeRequest(**payload)
        )
        # Not `call.write`: when the gateway ends the call, that replaces its status by one of its own. A reply to the
        # last content may come after the end; what is read says how the call ended.
        with suppress(grpc.aio.InternalError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.call._cython_call.send_serialized_message(message.SerializeToString())

    async def next(self) -> Any:
        """Return the next message that is not `working`; None at the end of a successful call."""
        while True:
            data = await self.call.read()
            if data is grpc.aio.EOF:
                assert await self.call.code() is grpc.StatusCode.OK
                return None
            kind = trees_pb2.UploadTreeResponse if self.upload else trees_pb2.DownloadTreeResponse
            message = kind.FromString(data)
            if message.WhichOneof("payload") != "working":
                self.told.append(message)
                return message

    async def started(self) -> trees_pb2.TreeStarted:
        message = await self.next()
        assert message.WhichOneof("payload") == "started"
        started: trees_pb2.TreeStarted = message.started
        return started

    async def reason(self) -> str:
        """Return why the call fails."""
        try:
            while await self.next() is not None:
                pass
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return "OK"


@dataclass
class Scene:
    """A stack whose first sandbox has a supervisor of each test's own."""

    stack: DevelopmentStack
    channel: Any
    client: StackClient

    @property
    def directory(self) -> Path:
        return Path(self.stack.sandboxes[0].root) / "sandbox"

    async def begin(self, path: str, *, upload: bool, **fields: Any) -> RawTree:
        """Start a call."""
        method = methods.UPLOAD_TREE if upload else methods.DOWNLOAD_TREE
        tree = RawTree(open_stream(self.channel, method, self.client.metadata()), upload)
        await tree.call.wait_for_connection()
        sandbox = files_pb2.SandboxRef(id=self.stack.sandboxes[0].id)
        kind: Any = trees_pb2.UploadTreeStart if upload else trees_pb2.DownloadTreeStart
        await tree.say(start=kind(sandbox=sandbox, path=path.encode(), **fields))
        return tree

    def supervisor(self, name: str, *faults: str) -> Any:
        return own_supervisor(self.stack, self.stack.sandboxes[0], name=name, faults=faults)

    def staged(self) -> list[Path]:
        """Return what is staged anywhere."""
        found = [
            Path(directory) / name
            for directory, below, files in os.walk(self.stack.sandboxes[0].root)
            for name in (*below, *files)
        ]
        return [path for path in found if path.name.startswith(STAGING_PREFIX)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Scene]:
    settings = StackSettings(
        root=tmp_path_factory.mktemp("raw-trees"),
        relay={"claim_timeout": 30.0, "session_wait_timeout": 30.0},
        limits={"idle_timeout": IDLE_SECONDS},
    )
    async with DevelopmentStack(settings) as stack:
        await stack.supervisors[0].stop()
        async with grpc.aio.insecure_channel(stack.endpoint, STREAM_OPTIONS) as channel:
            # Its connection outlives the tests, so it is there before the first.
            await channel.channel_ready()
            yield Scene(stack, channel, StackClient(channel, stack.describe().token))


def many_files(top: Path, text: str) -> Path:
    top.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (top / f"{number:03}").write_text(f"{text} {number}\n" * (number + 1))
    return top


def check_whole(top: Path) -> int:
    """Check that each file is the old one or the new one; return the number of new ones."""
    new = 0
    for number in range(FILES):
        path = top / f"{number:03}"
        if path.exists():
            text = path.read_text()
            assert text in [f"{word} {number}\n" * (number + 1) for word in ("old", "new")], path
            new += text.startswith("new")
    return new


async def test_up_and_down(scene: Scene, tmp_path: Path) -> None:
    """TRE-1, TRE-53, FRM-34: one after the other on one relay."""
    small_tree(tmp_path / "source")
    async with scene.supervisor("raw-both"):
        for number in range(2):
            tree = await scene.begin(f"both{number}", upload=True)
            result = await send_tree(tree, tmp_path / "source")
            assert result.directory.path == f"/sandbox/both{number}"
            assert manifest(scene.directory / f"both{number}") == manifest(tmp_path / "source")
            tree = await scene.begin(f"both{number}", upload=False)
            await receive_tree(tree, tmp_path / f"down{number}")
            assert manifest(tmp_path / f"down{number}") == manifest(tmp_path / "source")


@pytest.mark.parametrize("atomic", [False, True])
@pytest.mark.parametrize(("point", "placed"), POINTS)
async def test_an_upload_is_cancelled(
    scene: Scene, tmp_path: Path, point: str, placed: int, *, atomic: bool
) -> None:
    """TRE-54 to TRE-56: what is in place stays whole; what is staged goes; nothing atomic is shown before its end."""
    name = tmp_path.name
    if not atomic:
        many_files(scene.directory / name, "old")
    async with scene.supervisor(name, f"pause@{point}") as supervisor:
        tree = await scene.begin(name, upload=True, atomic=atomic)
        tree.holds_end = point not in {"tree.ending", "tree.published"}
        sending = asyncio.create_task(send_tree(tree, many_files(tmp_path / "source", "new")))
        await supervisor.wait_for_pause()
        tree.call.cancel()
        await asyncio.wait({sending})
        supervisor.release()
        await until(lambda: scene.staged() == [], "nothing is staged")
        if not atomic:
            assert check_whole(scene.directory / name) >= placed
        elif tree.holds_end:
            assert not (scene.directory / name).exists()
        # The same call again ends with the whole tree, unless `end` arrived before the cancellation.
        if not (scene.directory / name).exists() or not atomic:
            await send_tree(await scene.begin(name, upload=True, atomic=atomic), tmp_path / "source")
        else:
            again = await scene.begin(name, upload=True, atomic=atomic)
            assert await again.reason() == "FILE_EXISTS"
        assert manifest(scene.directory / name) == manifest(tmp_path / "source")


@pytest.mark.parametrize("point", DOWNLOAD_POINTS)
async def test_a_download_is_cancelled(scene: Scene, tmp_path: Path, point: str) -> None:
    """TRE-56: the agent ends, and serves the next call."""
    name = tmp_path.name
    many_files(scene.directory / name, "new")
    async with scene.supervisor(name, f"pause@{point}") as supervisor:
        tree = await scene.begin(name, upload=False)
        receiving = asyncio.create_task(receive_tree(tree, tmp_path / "down"))
        await supervisor.wait_for_pause()
        tree.call.cancel()
        await asyncio.wait({receiving})
        supervisor.release()
        assert check_whole(tmp_path / "down") <= FILES
        await receive_tree(await scene.begin(name, upload=False), tmp_path / "down")
    assert manifest(tmp_path / "down") == manifest(scene.directory / name)


@pytest.mark.parametrize("point", [point for point, _ in POINTS])
async def test_the_supervisor_is_killed_in_an_upload(scene: Scene, tmp_path: Path, point: str) -> None:
    """TRE-54, TRE-57: files are whole, and the next start removes what was staged."""
    name = tmp_path.name
    many_files(scene.directory / name, "old")
    async with scene.supervisor(name, f"pause@{point}") as supervisor:
        tree = await scene.begin(name, upload=True)
        sending = asyncio.create_task(send_tree(tree, many_files(tmp_path / "source", "new")))
        await supervisor.wait_for_pause()
        assert point == "tree.published" or scene.staged() != []
        new = check_whole(scene.directory / name)
        await _kill(supervisor)
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await sending
        assert reason_of(lost.value) == "RELAY_LOST"
        assert check_whole(scene.directory / name) == new
        await until(lambda: scene.staged() == [], "the next start removes what was staged")
        await send_tree(await scene.begin(name, upload=True), tmp_path / "source")
    assert manifest(scene.directory / name) == manifest(tmp_path / "source")


@pytest.mark.parametrize("point", DOWNLOAD_POINTS)
async def test_the_supervisor_is_killed_in_a_download(scene: Scene, tmp_path: Path, point: str) -> None:
    """TRE-53: no end, no success."""
    name = tmp_path.name
    many_files(scene.directory / name, "new")
    async with scene.supervisor(name, f"pause@{point}") as supervisor:
        receiving = asyncio.create_task(
            receive_tree(await scene.begin(name, upload=False), tmp_path / "down")
        )
        await supervisor.wait_for_pause()
        await _kill(supervisor)
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await receiving
        assert reason_of(lost.value) == "RELAY_LOST"
        await receive_tree(await scene.begin(name, upload=False), tmp_path / "down")
    assert manifest(tmp_path / "down") == manifest(scene.directory / name)


async def _kill(supervisor: OwnSupervisor) -> None:
    killed = supervisor.child.pid
    supervisor.signal(signal.SIGKILL)
    await until(lambda: supervisor.child.pid != killed, "the supervisor runs again")


@pytest.mark.parametrize("upload", [False, True])
async def test_a_caller_that_says_nothing(scene: Scene, tmp_path: Path, *, upload: bool) -> None:
    """TRE-19: neither the reading nor the writing side of a caller holds a slot for ever."""
    many_files(scene.directory / tmp_path.name, "new")
    async with scene.supervisor(tmp_path.name):
        tree = await scene.begin(tmp_path.name, upload=upload)
        await tree.started()
        assert await tree.reason() == "TRANSFER_IDLE"
        await until(lambda: scene.staged() == [], "nothing is staged")


async def test_a_caller_that_half_closes(scene: Scene, tmp_path: Path) -> None:
    """FRM-36."""
    many_files(scene.directory / tmp_path.name, "new")
    async with scene.supervisor(tmp_path.name):
        tree = await scene.begin(tmp_path.name, upload=True)
        await tree.call.done_writing()
        assert await tree.reason() == "UPLOAD_INCOMPLETE"
        tree = await scene.begin(tmp_path.name, upload=False)
        await tree.call.done_writing()
        assert await tree.reason() == "INVALID_REQUEST"
