"""`FilesClient.from_sandbox_client`: the connection and the identity are the official SDK's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from fake_file_gateway import FakeFile, FakeGateway, PlainStatus, Stall
from official_stand_in import SandboxClient, SandboxRef, SandboxSession
from openshell_files import FilesClient, errors
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import QUICK, big_content

Token = str | Callable[[], str] | None


@pytest.fixture
def official(gateway: FakeGateway) -> Iterator[SandboxClient]:
    numbers = iter(range(1, 1000))
    client = SandboxClient(gateway.address, bearer_token=lambda: f"official-{next(numbers)}")
    yield client
    client.close()


@pytest.fixture
def files(official: SandboxClient) -> Iterator[FilesClient]:
    client = FilesClient.from_sandbox_client(official, retry=QUICK)
    yield client
    client.close()


def test_every_kind_of_call(files: FilesClient, gateway: FakeGateway) -> None:
    """Unary calls, streams in and streams out; each asks the official client's token anew."""
    demo = files.sandbox("demo")
    demo.write_bytes("big", big_content())
    assert demo.read_bytes("big") == big_content()
    assert demo.stat("big").size == len(big_content())
    assert len(gateway.tokens) == len(gateway.calls) > 3
    assert gateway.tokens == [f"Bearer official-{number}" for number in range(1, len(gateway.tokens) + 1)]


def test_broken_upload_goes_on(files: FilesClient, gateway: FakeGateway) -> None:
    """RSM-4: what the official client leaves raw is mapped, so it is tried again like anywhere."""
    gateway.failures[methods.UPLOAD_FILE].append(PlainStatus(grpc.StatusCode.UNAVAILABLE, "gone"))
    files.sandbox("demo").write_bytes("big", big_content())
    assert gateway.files["big"].content == big_content()


@pytest.mark.parametrize("call", ["upload", "download", "stat"])
def test_errors_are_mapped(files: FilesClient, gateway: FakeGateway, call: str) -> None:
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


def test_closing_ours_leaves_theirs(files: FilesClient, official: SandboxClient) -> None:
    files.sandbox("demo").write_bytes("x", b"1")
    files.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        files.sandbox("demo").stat("x")
    with FilesClient.from_sandbox_client(official) as second:
        assert second.sandbox("demo").read_bytes("x") == b"1"


def test_closing_ours_ends_what_runs(
    files: FilesClient, official: SandboxClient, gateway: FakeGateway
) -> None:
    """Without closing the channel: its own calls are cancelled one by one."""
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


@pytest.mark.parametrize("token", ["token", None], ids=["with a token", "without"])
@pytest.mark.parametrize("call", ["upload", "download", "stat"])
def test_theirs_was_closed_first(gateway: FakeGateway, token: Token, call: str) -> None:
    """gRPC's own words are `ValueError: Cannot invoke RPC`, and come at different moments."""
    official = SandboxClient(gateway.address, bearer_token=token)
    with FilesClient.from_sandbox_client(official) as files:
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
def test_their_token_cannot_be_had(gateway: FakeGateway, call: str) -> None:
    def expired() -> str:
        raise RuntimeError("OIDC token has expired. Re-authenticate with: openshell gateway login")

    with (
        SandboxClient(gateway.address, bearer_token=expired) as official,
        FilesClient.from_sandbox_client(official) as files,
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
def test_what_is_no_client(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"openshell\.SandboxClient is expected"):
        FilesClient.from_sandbox_client(wrong)


def test_limits_are_checked(official: SandboxClient) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        FilesClient.from_sandbox_client(official, timeout=0)


def test_sandboxes_as_the_official_sdk_has_them(files: FilesClient, gateway: FakeGateway) -> None:
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
