"""`from_sandbox_client` of both flavours: the connection and the identity are the official SDK's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self, cast

import grpc
import pytest
from fake_file_gateway import FakeFile, FakeGateway, PlainStatus, Stall
from no_gateway import Refusing
from official_stand_in import SandboxClient, SandboxRef, SandboxSession
from openshell_files import NO_RETRY, AsyncFilesClient, FilesClient, SandboxFiles, errors
from openshell_files._async.rpc import Rpc as AsyncRpc
from openshell_files._sync.rpc import Rpc as SyncRpc
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import QUICK, BlockingView, big_content

Token = str | Callable[[], str] | None


@pytest.fixture
def official(gateway: FakeGateway) -> Iterator[SandboxClient]:
    numbers = iter(range(1, 1000))
    client = SandboxClient(gateway.address, bearer_token=lambda: f"official-{next(numbers)}")
    yield client
    client.close()


class AsyncView:
    """An asynchronous client with the face of a blocking one."""

    def __init__(self, client: AsyncFilesClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def sandbox(self, *args: Any, **kwargs: Any) -> SandboxFiles:
        return cast("SandboxFiles", BlockingView(self._runner, self._client.sandbox(*args, **kwargs)))

    def close(self) -> None:
        self._runner.run(self._client.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Borrow = Callable[..., "FilesClient | AsyncView"]


@pytest.fixture(params=["sync", "async"])
def borrow(request: pytest.FixtureRequest) -> Iterator[Borrow]:
    """Return a function that makes a client on an official client's connection."""
    with asyncio.Runner() as runner:

        def make(official: object, **options: Any) -> FilesClient | AsyncView:
            if request.param == "sync":
                return FilesClient.from_sandbox_client(official, **options)
            return AsyncView(AsyncFilesClient.from_sandbox_client(official, **options), runner)

        yield make


@pytest.fixture
def files(official: SandboxClient, borrow: Borrow) -> Iterator[FilesClient | AsyncView]:
    client = borrow(official, retry=QUICK)
    yield client
    client.close()


def test_every_kind_of_call(files: FilesClient | AsyncView, gateway: FakeGateway) -> None:
    """Unary calls and streams of both directions; each call requests the official client's token."""
    demo = files.sandbox("demo")
    demo.write_bytes("big", big_content())
    assert demo.read_bytes("big") == big_content()
    assert demo.stat("big").size == len(big_content())
    assert len(gateway.tokens) == len(gateway.calls) > 3
    # Two of them run side by side (CAP-1), so they may arrive in any order.
    assert set(gateway.tokens) == {
        f"Bearer official-{number}" for number in range(1, len(gateway.tokens) + 1)
    }


def test_broken_upload_goes_on(files: FilesClient | AsyncView, gateway: FakeGateway) -> None:
    """RSM-4: what the official client leaves raw is mapped, so it is tried again like anywhere."""
    gateway.failures[methods.UPLOAD_FILE].append(PlainStatus(grpc.StatusCode.UNAVAILABLE, "gone"))
    files.sandbox("demo").write_bytes("big", big_content())
    assert gateway.files["big"].content == big_content()


def test_small_files_in_one_message(files: FilesClient | AsyncView, gateway: FakeGateway) -> None:
    """UPL-16, on a channel below the official client's interceptors."""
    for name in ("a", "b"):
        files.sandbox("demo").write_bytes(name, name.encode())
        assert gateway.files[name].content == name.encode()
    assert gateway.calls[-1][0] == methods.WRITE_FILE


@pytest.mark.parametrize("state", ["nobody", "closes", "silent"])
@pytest.mark.parametrize("size", [0, 5, 1_000_000])
def test_a_finish_that_never_left_is_a_plain_failure(borrow: Borrow, state: str, size: int) -> None:
    """RSM-25: also on a channel that does not wait for its connection, new or after a failure."""
    where = Refusing(state)
    client = SandboxClient(where.address, bearer_token="t")
    files = borrow(client, retry=NO_RETRY, timeout=0.3, idle_timeout=0.3)
    try:
        for _ in range(3 if state == "silent" else 10):
            with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as caught:
                files.sandbox("demo").write_bytes("x", bytes(size))
            assert not isinstance(caught.value, errors.OutcomeUnknown)
    finally:
        files.close()
        client.close()
        where.close()


@pytest.mark.parametrize("state", ["nobody", "closes", "silent"])
def test_a_finish_of_a_stream_that_never_left_is_a_plain_failure(
    borrow: Borrow, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """RSM-25: the gateway went away after the question that comes before a stream."""

    async def answered(*_: object) -> None:
        pass

    def answered_blocking(*_: object) -> None:
        pass

    monkeypatch.setattr(AsyncRpc, "check_extensions", answered)
    monkeypatch.setattr(SyncRpc, "check_extensions", answered_blocking)
    where = Refusing(state)
    client = SandboxClient(where.address, bearer_token="t")
    files = borrow(client, retry=NO_RETRY, timeout=0.3, idle_timeout=0.3)
    try:
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)) as caught:
            files.sandbox("demo").write_bytes("x", b"")
        assert not isinstance(caught.value, errors.OutcomeUnknown)
    finally:
        files.close()
        client.close()
        where.close()


@pytest.mark.parametrize("has_write", [False, True])
def test_a_gateway_that_went_away_between_two_files(
    official: SandboxClient, borrow: Borrow, gateway: FakeGateway, *, has_write: bool
) -> None:
    gateway.has_write = has_write
    with borrow(official, retry=NO_RETRY) as files:
        files.sandbox("demo").write_bytes("first", b"1")
        gateway.stop()
        # A call under way with the end of the connection may have reached the gateway, for all that its caller knows.
        with pytest.raises(errors.Unavailable):
            files.sandbox("demo").stat("first")
        for _ in range(20):
            with pytest.raises(errors.Unavailable):
                files.sandbox("demo").write_bytes("x", b"2")


@pytest.mark.parametrize("call", ["upload", "download", "stat"])
def test_errors_are_mapped(files: FilesClient | AsyncView, gateway: FakeGateway, call: str) -> None:
    """The official SDK's interceptors neither hide an error's reason nor add a class of theirs."""
    refused = TransferError(Reason.SANDBOX_NOT_FOUND, "no such sandbox")
    for method in (methods.UPLOAD_FILE, methods.DOWNLOAD_FILE, methods.STAT_FILE):
        gateway.failures[method].append(refused)
    demo = files.sandbox("demo")
    made: dict[str, Callable[[], object]] = {
        "upload": lambda: demo.write_bytes("x", b"x"),
        "download": lambda: demo.read_bytes("x"),
        "stat": lambda: demo.stat("x"),
    }
    with pytest.raises(errors.SandboxNotFound) as caught:
        made[call]()
    assert caught.value.reason == "SANDBOX_NOT_FOUND"


def test_closing_ours_leaves_theirs(
    files: FilesClient | AsyncView, official: SandboxClient, borrow: Borrow
) -> None:
    files.sandbox("demo").write_bytes("x", b"1")
    files.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        files.sandbox("demo").stat("x")
    with borrow(official) as second:
        assert second.sandbox("demo").read_bytes("x") == b"1"


def test_closing_ours_ends_what_runs(official: SandboxClient, gateway: FakeGateway) -> None:
    """Without closing the channel: its own calls are cancelled one by one."""
    files = FilesClient.from_sandbox_client(official)
    gateway.files["x"] = FakeFile(b"1")
    stalled = threading.Event()

    def stall(_number: int, _answers: object) -> Iterator[files_pb2.DownloadFileResponse]:
        stalled.set()
        raise Stall
        yield

    gateway.on_download = stall
    ended: list[Exception] = []

    def download() -> None:
        try:
            files.sandbox("demo").read_bytes("x")
        except (RuntimeError, errors.FilesError) as error:
            ended.append(error)

    running = threading.Thread(target=download)
    running.start()
    assert stalled.wait(30)
    files.close()
    running.join(30)
    assert not running.is_alive()
    assert "closed" in str(ended[0]) or isinstance(ended[0], errors.Unavailable)
    gateway.on_download = None
    with FilesClient.from_sandbox_client(official) as second:
        assert second.sandbox("demo").read_bytes("x") == b"1"


async def test_closing_ours_ends_what_runs_in_a_loop(official: SandboxClient, gateway: FakeGateway) -> None:
    """Uploads whose source waits, and downloads that bring nothing."""
    gateway.files["x"] = FakeFile(b"1")
    stalled, taken = threading.Event(), asyncio.Event()

    def stall(_number: int, _answers: object) -> Iterator[files_pb2.DownloadFileResponse]:
        stalled.set()
        raise Stall
        yield

    async def source() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        taken.set()
        await asyncio.Event().wait()

    gateway.on_download = stall
    files = AsyncFilesClient.from_sandbox_client(official, retry=NO_RETRY)
    running: list[asyncio.Task[Any]] = [
        asyncio.create_task(files.sandbox("demo").read_bytes("x")),
        asyncio.create_task(files.sandbox("demo").upload(source(), "y")),
    ]
    await taken.wait()
    assert await asyncio.to_thread(stalled.wait, 30)
    await files.aclose()
    # The source of the upload yields nothing more: only its own end can end it.
    running[1].cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    assert isinstance(ended[0], errors.Unavailable), ended
    assert isinstance(ended[1], asyncio.CancelledError | errors.Unavailable), ended
    gateway.on_download = None
    async with AsyncFilesClient.from_sandbox_client(official) as second:
        assert await second.sandbox("demo").read_bytes("x") == b"1"


async def test_the_loop_goes_on_while_a_token_is_fetched(gateway: FakeGateway) -> None:
    """The owner's function blocks; other transfers and timers do not wait for it."""
    asked, given = threading.Event(), threading.Event()

    def slow() -> str:
        asked.set()
        assert given.wait(30), "the loop stood still"
        return "late"

    with SandboxClient(gateway.address, bearer_token=slow) as official:
        async with AsyncFilesClient.from_sandbox_client(official) as files:
            upload = asyncio.create_task(files.sandbox("demo").write_bytes("x", b"1"))
            assert await asyncio.to_thread(asked.wait, 30)
            given.set()
            await upload
    assert gateway.tokens == ["Bearer late"]


async def test_a_cancelled_transfer_ends_its_call(official: SandboxClient, gateway: FakeGateway) -> None:
    reached = threading.Event()

    def stall(_number: int, _upload: object, _request: object) -> None:
        reached.set()
        raise Stall

    gateway.on_upload_message = stall
    async with AsyncFilesClient.from_sandbox_client(official) as files:
        upload = asyncio.create_task(files.sandbox("demo").write_bytes("x", big_content()))
        assert await asyncio.to_thread(reached.wait, 30)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        gateway.on_upload_message = None
        many = [files.sandbox("demo").write_bytes(f"x{n}", big_content()) for n in range(6)]
        await asyncio.gather(*many)
        found = await asyncio.gather(*(files.sandbox("demo").read_bytes(f"x{n}") for n in range(6)))
    assert set(found) == {big_content()}


async def test_nothing_moves(official: SandboxClient, gateway: FakeGateway) -> None:
    """The idle timeout applies to a borrowed channel."""
    gateway.files["x"] = FakeFile(b"1")

    def stall(_number: int, _answers: object) -> Iterator[files_pb2.DownloadFileResponse]:
        raise Stall
        yield

    gateway.on_download = stall
    files = AsyncFilesClient.from_sandbox_client(official, retry=NO_RETRY, idle_timeout=0.2)
    with pytest.raises(errors.DeadlineExceeded, match="nothing was received"):
        await files.sandbox("demo").read_bytes("x")
    await files.aclose()


@pytest.mark.parametrize("token", ["token", None], ids=["with a token", "without"])
@pytest.mark.parametrize("call", ["upload", "download", "stat"])
def test_theirs_was_closed_first(gateway: FakeGateway, borrow: Borrow, token: Token, call: str) -> None:
    """gRPC raises `ValueError: Cannot invoke RPC`, at different moments."""
    official = SandboxClient(gateway.address, bearer_token=token)
    with borrow(official) as files:
        demo = files.sandbox("demo")
        official.close()
        made: dict[str, Callable[[], object]] = {
            "upload": lambda: demo.write_bytes("x", b"x"),
            "download": lambda: demo.read_bytes("x"),
            "stat": lambda: demo.stat("x"),
        }
        with pytest.raises(RuntimeError, match="closed, or the one whose connection it uses"):
            made[call]()
    assert gateway.calls == []


@pytest.mark.parametrize("call", ["upload", "download", "stat"])
def test_their_token_cannot_be_had(gateway: FakeGateway, borrow: Borrow, call: str) -> None:
    def expired() -> str:
        raise RuntimeError("OIDC token has expired. Re-authenticate with: openshell gateway login")

    with (
        SandboxClient(gateway.address, bearer_token=expired) as official,
        borrow(official) as files,
    ):
        demo = files.sandbox("demo")
        made: dict[str, Callable[[], object]] = {
            "upload": lambda: demo.write_bytes("x", b"x"),
            "download": lambda: demo.read_bytes("x"),
            "stat": lambda: demo.stat("x"),
        }
        with pytest.raises(errors.CredentialsError, match="openshell gateway login"):
            made[call]()
    assert gateway.calls == []


@pytest.mark.parametrize("wrong", [None, "127.0.0.1:1", object()])
def test_what_is_no_client(borrow: Borrow, wrong: object) -> None:
    with pytest.raises(TypeError, match=r"openshell\.SandboxClient is expected"):
        borrow(wrong)


def test_limits_are_checked(official: SandboxClient, borrow: Borrow) -> None:
    with pytest.raises(ValueError, match="timeout: must be positive"):
        borrow(official, timeout=0)


def test_sandboxes_as_the_official_sdk_has_them(files: FilesClient | AsyncView, gateway: FakeGateway) -> None:
    """A `SandboxRef` and what has one are as good as a name, and bring their workspace."""
    ref = SandboxRef(id="sb-1", name="demo", workspace="team")
    for target in (ref, SandboxSession(ref)):
        files.sandbox(target).write_bytes("x", b"1")
        files.sandbox(target, workspace="team").write_bytes("x", b"1")
    addresses = {
        (call.sandbox, call.workspace)
        for call in (
            message.metadata
            for _, message in gateway.calls
            if isinstance(message, files_pb2.UploadFileRequest)
        )
    }
    assert addresses == {("demo", "team")}
    with pytest.raises(ValueError, match="is in workspace 'team', not in 'other'"):
        files.sandbox(ref, workspace="other")
    with pytest.raises(ValueError, match="and not both"):
        files.sandbox(ref, id="sb-1")
