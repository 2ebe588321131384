"""Trees on the official SDK's connection, and calls that are cancelled or whose client is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_file_gateway import FakeGateway, PlainStatus, Stall
from fake_trees import STARTED, TREE, Down, DownAnswer, Up, UpAnswer
from no_gateway import Refusing
from official_stand_in import SandboxClient
from openshell_files import (
    NO_RETRY,
    AsyncFilesClient,
    AsyncSandboxFiles,
    FilesClient,
    OidcAuth,
    TreeResult,
    errors,
    tree_so_far,
)
from openshell_files._async import _calls as asynchronous
from openshell_files._async.trees.call import TreeCall as AsyncCall
from openshell_files._sync import _calls as blocking
from openshell_files._sync.trees.call import TreeCall as BlockingCall
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import trees_pb2
from sdk_flavours import QUICK, BlockingView

Client = Any


@pytest.fixture
def official(gateway: FakeGateway) -> Iterator[SandboxClient]:
    numbers = iter(range(1, 1000))
    client = SandboxClient(gateway.address, bearer_token=lambda: f"official-{next(numbers)}")
    yield client
    client.close()


@pytest.fixture(params=["sync", "async"])
def borrow(request: pytest.FixtureRequest) -> Iterator[Callable[..., Client]]:
    """Return a function that gives a sandbox on an official client's connection."""
    with asyncio.Runner() as runner:
        made: list[Any] = []

        def make(client: SandboxClient, **options: Any) -> Client:
            kind = FilesClient if request.param == "sync" else AsyncFilesClient
            made.append(kind.from_sandbox_client(client, **options))
            files = made[-1].sandbox("demo")
            return files if request.param == "sync" else BlockingView(runner, files)

        yield make
        for client in made:
            if isinstance(client, FilesClient):
                client.close()
            else:
                runner.run(client.aclose())


@pytest.fixture
def local(gateway: FakeGateway, tmp_path: Path) -> Path:
    """Return a tree, and a place for the sandbox's."""
    gateway.tree_place = tmp_path / "sandbox"
    gateway.tree_place.mkdir()
    (tmp_path / "local/sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (tmp_path / "local" / name).write_text(name)
    return tmp_path / "local"


def test_a_borrowed_connection(
    official: SandboxClient, borrow: Callable[..., Client], gateway: FakeGateway, local: Path, tmp_path: Path
) -> None:
    """Both directions, with the official client's token."""
    files = borrow(official, retry=QUICK)
    assert files.upload_tree(local, "t").sent == 3
    assert (gateway.tree_place / "t/sub/c").read_text() == "sub/c"
    assert files.download_tree("tree", tmp_path / "back").entries == len(TREE)
    assert set(gateway.tokens) == {
        f"Bearer official-{number}" for number in range(1, len(gateway.tokens) + 1)
    }


def test_a_borrowed_connection_that_breaks(
    official: SandboxClient, borrow: Callable[..., Client], gateway: FakeGateway, local: Path
) -> None:
    """Errors are mapped as on an own connection, so that the call goes on."""

    def once(number: int, start: trees_pb2.UploadTreeStart, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        if number == 1:
            raise PlainStatus(grpc.StatusCode.UNAVAILABLE, "lost")
        yield from gateway.receive(start, requests)

    gateway.on_upload_tree = once
    assert borrow(official, retry=QUICK).upload_tree(local, "t").attempts == 2


@pytest.mark.parametrize("state", ["nobody", "closes", "silent"])
@pytest.mark.parametrize("call", ["upload_tree", "download_tree"])
def test_nobody_there(
    borrow: Callable[..., Client], local: Path, tmp_path: Path, state: str, call: str
) -> None:
    where = Refusing(state)
    client = SandboxClient(where.address, bearer_token="t")
    try:
        files = borrow(client, retry=NO_RETRY, timeout=0.3, idle_timeout=0.3)
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as caught:
            getattr(files, call)(*((local, "t") if call == "upload_tree" else ("t", tmp_path / "back")))
        assert not isinstance(caught.value, errors.OutcomeUnknown)
        assert not (tmp_path / "back").exists()
    finally:
        client.close()
        where.close()


# Cancelled calls


def stalling(gateway: FakeGateway) -> threading.Event:
    """Let both directions stop in the middle; return what is set when they do."""
    stopped = threading.Event()

    def up(_number: int, start: trees_pb2.UploadTreeStart, requests: Iterator[Up]) -> Iterable[UpAnswer]:
        for answer in gateway.receive(start, requests):
            yield answer
            if answer.reply.needed:
                stopped.set()
                raise Stall

    def down(_number: int, _start: object, requests: Iterator[Down]) -> Iterable[DownAnswer]:
        for answer in gateway.send(TREE, requests):
            yield answer
            if answer.HasField("content"):
                stopped.set()
                raise Stall

    gateway.on_upload_tree, gateway.on_download_tree = up, down
    return stopped


@asynccontextmanager
async def sandbox_of(gateway: FakeGateway) -> AsyncGenerator[AsyncSandboxFiles]:
    async with AsyncFilesClient(gateway.address, auth=OidcAuth("token"), retry=QUICK) as client:
        yield client.sandbox("demo")


def call(files: Any, direction: str, local: Path) -> Any:
    if direction == "up":
        return files.upload_tree(local, "t")
    return files.download_tree("tree", local.parent / "back")


def staged(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.name.startswith(".openshell-upload-")]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_a_cancelled_call(gateway: FakeGateway, local: Path, direction: str, how: str) -> None:
    """The error is asyncio's own, tells what has arrived, and nothing staged is left on this side."""
    stopped = stalling(gateway)
    async with sandbox_of(gateway) as files:
        task = asyncio.ensure_future(call(files, direction, local))
        await asyncio.to_thread(stopped.wait, 10)
        if how == "cancelled":
            task.cancel()
        with pytest.raises((asyncio.CancelledError, TimeoutError)) as caught:
            await asyncio.wait_for(task, 0.1)
    result = tree_so_far(caught.value)
    assert isinstance(result, TreeResult)
    assert not result.complete
    assert result.entries == (5 if direction == "up" else len(TREE))
    assert staged(local.parent / "back") == []


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_client_that_is_closed_meanwhile(gateway: FakeGateway, local: Path, direction: str) -> None:
    """The call ends at once, and its error names the closed client."""
    stopped = stalling(gateway)
    client = FilesClient(gateway.address, auth=OidcAuth("token"), retry=QUICK)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            call(client.sandbox("demo"), direction, local)
        except (RuntimeError, errors.FilesError) as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert stopped.wait(10)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in str(ended[0])
    assert staged(local.parent / "back") == []


# Calls that are over

IDLE = 5.0


def test_writes_after_the_end(gateway: FakeGateway) -> None:
    """A receiver has replies left when the sender has ended the call: each write says so, and none waits."""
    gateway.on_download_tree = lambda _number, _start, _requests: iter([DownAnswer(started=STARTED)])
    start = Down(start=trees_pb2.DownloadTreeStart(path=b"tree")).SerializeToString()
    connection = blocking.Connection(gateway.address, None, ())
    try:
        with BlockingCall(connection, methods.DOWNLOAD_TREE, (), IDLE, None) as call:
            call.write(start)
            assert len(list(call.messages())) == 1
            for _ in range(8):
                with pytest.raises(blocking.CallEndedError):
                    call.write(b"")
    finally:
        connection.close()


async def test_writes_after_the_end_in_an_event_loop(gateway: FakeGateway) -> None:
    gateway.on_download_tree = lambda _number, _start, _requests: iter([DownAnswer(started=STARTED)])
    start = Down(start=trees_pb2.DownloadTreeStart(path=b"tree")).SerializeToString()
    connection = asynchronous.Connection(gateway.address, None, ())
    try:
        async with AsyncCall(connection, methods.DOWNLOAD_TREE, (), IDLE, None) as call:
            await call.write(start)
            assert len([message async for message in call.messages()]) == 1
            for _ in range(8):
                with pytest.raises(asynchronous.CallEndedError):
                    await call.write(b"")
    finally:
        await connection.close()
