"""Uploads over several streams (LAN-1): when, and what becomes of them when something breaks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import grpc
import pytest
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus, UploadHook
from openshell_files import NO_RETRY, AsyncFilesClient, OidcAuth, SandboxFiles
from openshell_files._core.upload import lane_choice
from openshell_files.errors import DiskFull, ErrorFacts, FilesError, InternalError
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIB
from openshell_files_protocol.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect, big_content

NEAR, FAR = 0.005, 0.1


def chosen(answers: list[float], allowed: int, left: int | None, most: int = 8) -> int:
    choice = lane_choice.LaneChoice(most)
    for seconds in answers:
        choice.answered(seconds)
    return choice.choose(allowed, left)


@pytest.mark.parametrize(
    ("answers", "allowed", "left", "wanted"),
    [
        ([FAR], 8, 16 * MIB, 8),
        ([FAR], 5, 16 * MIB, 5),
        ([FAR], 100, 16 * MIB, 8),
        ([FAR], 0, 16 * MIB, 1),
        ([FAR], 1, 16 * MIB, 1),
        ([FAR], 8, 16 * MIB - 1, 1),
        ([FAR], 8, None, 1),
        ([], 8, 16 * MIB, 1),
        ([NEAR, NEAR], 8, 16 * MIB, 1),
        # The quickest counts: the others waited for something else.
        ([FAR, FAR, NEAR], 8, 16 * MIB, 1),
        # The first one waited for the connection, too.
        ([0.039], 8, 16 * MIB, 1),
        ([0.041], 8, 16 * MIB, 8),
        ([0.039, 0.021], 8, 16 * MIB, 1),
        ([0.05, 0.019], 8, 16 * MIB, 1),
        ([0.05, 0.021], 8, 16 * MIB, 8),
    ],
)
def test_when_lanes_pay(answers: list[float], allowed: int, left: int | None, wanted: int) -> None:
    """LAN-1: over a long way, for a lot of content, and no more than are allowed."""
    assert chosen(answers, allowed, left) == wanted


def test_one_connection_has_one_lane() -> None:
    """LAN-11: the streams of one connection share its window."""
    assert chosen([FAR], 8, 16 * MIB, most=1) == 1


def test_after_one_was_lost_there_are_none() -> None:
    choice = lane_choice.LaneChoice()
    choice.answered(FAR)
    choice.lost()
    assert choice.choose(8, 16 * MIB) == 1
    assert choice.connect_after(16 * MIB) is None


@pytest.mark.parametrize(
    ("answers", "size", "wanted"),
    [
        ([], 16 * MIB, True),
        ([FAR], 16 * MIB, True),
        ([NEAR], 16 * MIB, False),
        ([], 16 * MIB - 1, False),
        ([], 0, False),
    ],
)
def test_when_lanes_are_connected_ahead(answers: list[float], size: int, wanted: bool) -> None:  # noqa: FBT001
    choice = lane_choice.LaneChoice()
    for seconds in answers:
        choice.answered(seconds)
    assert (choice.connect_after(size) is not None) == wanted


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch, gateway: FakeGateway) -> None:
    """Every file is large and every gateway far away, and this one allows lanes."""
    monkeypatch.setattr(lane_choice, "LEAST_BYTES", 0)
    monkeypatch.setattr(lane_choice, "LEAST_ROUND_TRIP_SECONDS", 0.0)
    gateway.upload_lanes = 3


def main_calls(gateway: FakeGateway) -> list[files_pb2.UploadFileMetadata]:
    calls = cast("list[files_pb2.UploadFileRequest]", gateway.method_calls(methods.UPLOAD_FILE))
    return [call.metadata for call in calls]


def lane_calls(gateway: FakeGateway) -> list[file_options_pb2.UploadLane]:
    calls = cast("list[files_pb2.UploadFileRequest]", gateway.method_calls("lane"))
    return sorted((call.lane for call in calls), key=lambda lane: (lane.epoch, lane.index))


@pytest.mark.usefixtures("far")
def test_messages_go_to_each_stream_in_turn(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    """LAN-2, LAN-3: the first stream has the metadata, the others say whose they are; the gateway gets all in order."""
    result = sandbox.upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    (metadata,) = main_calls(gateway)
    assert metadata.lanes == 3
    assert [(lane.index, lane.upload_id, lane.epoch) for lane in lane_calls(gateway)] == [
        (1, metadata.upload_id, metadata.epoch),
        (2, metadata.upload_id, metadata.epoch),
    ]
    assert {(lane.sandbox, lane.workspace) for lane in lane_calls(gateway)} == {("demo", "default")}
    assert set(gateway.tokens) == {"Bearer token"}
    assert (result.size, result.attempts) == (big.stat().st_size, 1)


@pytest.mark.usefixtures("far")
def test_another_upload_uses_the_same_connections(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    for name in ("one", "two"):
        sandbox.upload_path(big, name)
        assert gateway.files[name].content == big.read_bytes()
    assert [metadata.lanes for metadata in main_calls(gateway)] == [3, 3]


def test_a_near_gateway_gets_one_stream(gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path) -> None:
    """LAN-1: as does what is small, whatever is allowed. Nothing on the wire tells of lanes then."""
    gateway.upload_lanes = 8
    gateway.keep_messages = False
    (tmp_path / "large").write_bytes(bytes(17 * MIB))
    # Of several answers one comes quickly, also on a busy machine.
    for _ in range(5):
        sandbox.write_bytes("x", big_content())
    sandbox.upload_path(tmp_path / "large", "large")
    assert {metadata.lanes for metadata in main_calls(gateway)} == {0}
    assert lane_calls(gateway) == []


@pytest.mark.usefixtures("far")
def test_a_gateway_that_knows_no_lanes(gateway: FakeGateway, sandbox: SandboxFiles, big: Path) -> None:
    gateway.upload_lanes = 0
    sandbox.upload_path(big, "big")
    assert {metadata.lanes for metadata in main_calls(gateway)} == {0}


@pytest.mark.usefixtures("far")
def test_an_upload_without_admission_has_one_stream(gateway: FakeGateway, sandbox: SandboxFiles) -> None:
    """LAN-13: it has no upload_id."""
    gateway.has_write = False
    sandbox.write_bytes("big", big_content())
    sandbox.write_bytes("small", b"small")
    assert [metadata.lanes for metadata in main_calls(gateway)] == [3, 0]


REFUSED = TransferError(Reason.TOO_MANY_LANES, "others were quicker", {"lanes": "2"})


@pytest.mark.usefixtures("far")
def test_a_refusal_of_lanes_is_no_try(connect: Connect, gateway: FakeGateway, big: Path) -> None:
    """LAN-9, LAN-10: the upload continues at once with the number of lanes in the refusal, even without retries."""
    gateway.failures[methods.UPLOAD_FILE].append(REFUSED)
    connect(retry=NO_RETRY).upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert [metadata.lanes for metadata in main_calls(gateway)] == [3, 2]
    # As a new attempt, whose streams are not those of the refused one.
    assert [metadata.epoch for metadata in main_calls(gateway)] == [1, 2]
    assert len(gateway.method_calls(methods.START_UPLOAD)) == 2


@pytest.mark.parametrize(
    ("said", "free"),
    [
        ("2", 2),
        ("1", 1),
        ("8", 8),
        ("9", 8),
        ("999", 8),
        ("0", 1),
        ("", 1),
        ("-1", 1),
        ("x", 1),
        ("9" * 5000, 1),
        ("²", 1),
    ],
)
def test_how_many_are_free(said: str, free: int) -> None:
    """LAN-9: a number that means nothing is one stream, which is always free."""
    assert (
        lane_choice.free_lanes(FilesError("too many", ErrorFacts("TOO_MANY_LANES", metadata={"lanes": said})))
        == free
    )


@pytest.mark.usefixtures("far")
def test_after_two_refusals_one_stream_is_enough(connect: Connect, gateway: FakeGateway, big: Path) -> None:
    """LAN-9: an upload ends even if others take the lanes again and again."""
    gateway.failures[methods.UPLOAD_FILE].extend([REFUSED, REFUSED])
    connect(retry=NO_RETRY).upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert [metadata.lanes for metadata in main_calls(gateway)] == [3, 2, 0]


@pytest.mark.usefixtures("far")
def test_a_gateway_that_refuses_for_ever(connect: Connect, gateway: FakeGateway, big: Path) -> None:
    gateway.failures[methods.UPLOAD_FILE].extend([REFUSED] * 20)
    with pytest.raises(Exception, match="others were quicker"):
        connect(retry=NO_RETRY).upload_path(big, "big")
    assert len(main_calls(gateway)) == 3


def break_at(offset: int, error: Exception) -> UploadHook:
    """Return a hook that breaks the first attempt at a chunk."""

    def hook(number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if number == 1 and request.data.offset == offset:
            raise error

    return hook


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_broken_upload_goes_on_with_lanes(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path, chunk: int
) -> None:
    """LAN-17, RSM-4: from what is staged, with the streams of a new attempt."""
    gateway.on_upload_message = break_at(chunk * MAX_CHUNK_BYTES, TransferError(Reason.RELAY_LOST, "broke"))
    result = sandbox.upload_path(big, "big")
    assert gateway.files["big"].content == big.read_bytes()
    assert (result.attempts, result.resumed_from) == (2, chunk * MAX_CHUNK_BYTES)
    assert [(metadata.epoch, metadata.lanes) for metadata in main_calls(gateway)] == [(1, 3), (2, 3)]


@pytest.mark.usefixtures("far")
def test_after_a_lost_lane_there_is_one_stream(
    gateway: FakeGateway, sandbox: SandboxFiles, big: Path
) -> None:
    """LAN-8: for this upload and all others of the client, for something on the way takes streams apart."""
    gateway.on_upload_message = break_at(0, TransferError(Reason.LANE_LOST, "stream 1 did not come"))
    sandbox.upload_path(big, "one")
    sandbox.upload_path(big, "two")
    assert gateway.files["one"].content == gateway.files["two"].content == big.read_bytes()
    assert [metadata.lanes for metadata in main_calls(gateway)] == [3, 0, 0]


@pytest.mark.usefixtures("far")
@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_the_first_streams_words_count(connect: Connect, gateway: FakeGateway, big: Path, chunk: int) -> None:
    """UPL-13, LAN-8: whichever stream was being written to."""
    gateway.on_upload_message = break_at(
        chunk * MAX_CHUNK_BYTES, TransferError(Reason.DISK_FULL, "the disk is full")
    )
    with pytest.raises(DiskFull, match="the disk is full"):
        connect(retry=NO_RETRY).upload_path(big, "big")


@pytest.mark.usefixtures("far")
def test_a_lane_that_is_refused_by_itself(
    connect: Connect, gateway: FakeGateway, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LAN-8: without an error of the first stream, the error of the lane is raised."""
    for flavour in ("_sync", "_async"):
        monkeypatch.setattr(f"openshell_files.{flavour}.upload.lane_calls._LAST_WORDS_SECONDS", 0.05)
    gateway.failures["lane"].append(PlainStatus(grpc.StatusCode.UNKNOWN, "a proxy does not like it"))
    with pytest.raises(InternalError, match="a proxy does not like it"):
        connect(retry=NO_RETRY).upload_path(big, "big")
    assert "big" not in gateway.files


@pytest.mark.usefixtures("far")
async def test_an_upload_that_is_cancelled_cancels_all(gateway: FakeGateway, big: Path) -> None:
    """LAN-7: no stream is left behind."""
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hook(_number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.data.offset:
            loop.call_soon_threadsafe(reached.set)
            raise PlainStatus(grpc.StatusCode.UNAVAILABLE) if gateway.stopping.wait(20) else AssertionError

    gateway.on_upload_message = hook
    async with AsyncFilesClient(gateway.address, auth=OidcAuth("token"), retry=NO_RETRY) as client:
        uploading = asyncio.create_task(client.sandbox("demo").upload_path(big, "big"))
        await reached.wait()
        uploading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await uploading
    gateway.stopping.set()
    assert "big" not in gateway.files
