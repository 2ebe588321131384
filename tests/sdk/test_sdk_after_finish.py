"""Every error that can come after the finish was sent: certain that nothing was published, or unknown (RSM-25)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import grpc
import pytest
from _pytest.mark.structures import ParameterSet
from digest_values import UNKNOWN
from fake_file_gateway import FakeGateway, FakeUpload, PlainStatus
from openshell_files import NO_RETRY, RetryPolicy, SandboxFiles
from openshell_files.errors import FilesError, IntegrityError, InternalError, OutcomeUnknown, PermissionDenied
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import Connect

#: What refuses the finish, or what the stream carried before.
CERTAIN: Final = [
    "INVALID_REQUEST",
    "INVALID_PATH",
    "ARCHIVE_UNSUPPORTED",
    "ARCHIVE_INVALID",
    "ARCHIVE_TOO_LARGE",
    "ARCHIVE_INCOMPLETE",
    "CHUNK_TOO_LARGE",
    "FILE_TOO_LARGE",
    "FILE_NOT_FOUND",
    "PARENT_NOT_FOUND",
    "IS_A_DIRECTORY",
    "NOT_A_DIRECTORY",
    "NOT_A_REGULAR_FILE",
    "LEAF_IS_LINK",
    "PATH_FORBIDDEN",
    "ACCESS_DENIED",
    "READ_ONLY_FILE_SYSTEM",
    "FILE_EXISTS",
    "CONDITION_FAILED",
    "DISK_FULL",
    "QUOTA_EXCEEDED",
    "OFFSET_MISMATCH",
    "CHUNK_CHECKSUM",
    "SIZE_MISMATCH",
    "DIGEST_MISMATCH",
    "UPLOAD_UNKNOWN",
    "UPLOAD_EXPIRED",
    "UPLOAD_ABORTED",
    "UPLOAD_CONFLICT",
    "FINISH_CONFLICT",
    "SUPERSEDED",
    "TOO_MANY_UPLOADS",
]

#: What refuses the digest: the upload is sent again with another one (DIG-8).
OF_THE_DIGEST: Final = ["DIGEST_UNSUPPORTED"]

#: What refuses a call before the sandbox hears of it.
AT_THE_DOOR: Final = [
    "METHOD_UNSUPPORTED",
    "TOKEN_MISSING",
    "TOKEN_MALFORMED",
    "TOKEN_EXPIRED",
    "TOKEN_NOT_YET_VALID",
    "TOKEN_WRONG_AUDIENCE",
    "TOKEN_WRONG_ISSUER",
    "TOKEN_UNKNOWN_KEY",
    "TOKEN_BAD_ALGORITHM",
    "TOKEN_BAD_SIGNATURE",
    "TOKEN_CLAIM_INVALID",
    "ISSUER_UNAVAILABLE",
    "ROLE_REQUIRED",
    "SCOPE_REQUIRED",
    "PRINCIPAL_NOT_ALLOWED",
    "SANDBOX_MISMATCH",
    "SANDBOX_NOT_FOUND",
    "SANDBOX_NOT_READY",
    "SUPERVISOR_NOT_CONNECTED",
    "FILES_UNSUPPORTED",
    "WORKSPACE_NOT_FOUND",
    "RELAY_REFUSED",
    "RELAY_TIMEOUT",
    "AGENT_UNAUTHENTICATED",
    "TOO_MANY_TRANSFERS",
    "TOO_MANY_CALLS",
    "TOO_MANY_LANES",
]

#: What says nothing of the finish: the way there, its ends, bugs, a peer that breaks the protocol.
OPEN: Final = [
    "SESSION_OUTDATED",
    "RELAY_LOST",
    "RELAY_UNKNOWN",
    "RELAY_REQUESTER_GONE",
    "AGENT_PROTOCOL_ERROR",
    "TRANSFER_IDLE",
    "GATEWAY_SHUTTING_DOWN",
    "IO_ERROR",
    "UPLOAD_INCOMPLETE",
    "SUPERVISOR_FLOODS",
    "LANE_LOST",
    "INTERNAL",
]

#: Of other methods. Should a gateway answer so, it says nothing either.
ELSEWHERE: Final = [
    "EXEC_UNSUPPORTED",
    "SANDBOX_EXISTS",
    "SANDBOX_NOT_MANAGED",
    "COMPUTE_UNAVAILABLE",
    "TOO_MANY_SANDBOXES",
    "REQUEST_ID_PAYLOAD_MISMATCH",
    "RANGE_INVALID",
    "FILE_CHANGED",
    "VERSION_MISMATCH",
    "DIRECTORY_NOT_EMPTY",
    "OTHER_FILE_SYSTEM",
    "MOUNT_POINT",
    "TREE_TOO_LARGE",
    "TREE_INCOMPLETE",
    "COMMAND_NOT_STARTED",
    "COMMAND_LOST",
    "TOO_MANY_COMMANDS",
]

#: Sent message by message, begun with StartUpload, all in one request.
SIZES: Final = {"messages": 5, "started": 1_000_000, "write": 50}

LOST = TransferError(Reason.RELAY_LOST, "the relay broke")
ASKED = (methods.GET_UPLOAD, methods.START_UPLOAD)


#: Each reason in each way takes minutes; the one with the most content is left to `make test-long`.
WAYS: Final = ["messages", "write", pytest.param("started", marks=pytest.mark.long)]


@pytest.fixture(params=WAYS)
def size(request: pytest.FixtureRequest, gateway: FakeGateway) -> Iterator[int]:
    """Return how large a file is that is sent in each of the ways.

    Afterwards the gateway answers again, so that a client that is closed frees what it left at once.
    """
    gateway.has_write = request.param == "write"
    yield SIZES[request.param]
    gateway.failures.clear()


def acquainted(connect: Connect) -> SandboxFiles:
    """Return a client without retries that knows what the gateway offers."""
    sandbox = connect(retry=NO_RETRY)
    sandbox.write_bytes("first", b"1")
    return sandbox


def nobody_tells(gateway: FakeGateway, size: int, error: Exception = LOST) -> None:
    """Let every question about the upload fail."""
    gateway.failures[methods.GET_UPLOAD].extend([error] * 20)
    starts = [None] if size == SIZES["started"] else []
    gateway.failures[methods.START_UPLOAD].extend([*starts, *[error] * 20])


def after_publishing(gateway: FakeGateway, error: Exception) -> None:
    """Let the answer to the next finish be an error."""

    def fail(_number: int) -> None:
        raise error

    gateway.after_publish = fail


def test_each_reason_is_in_one_list() -> None:
    assert sorted(CERTAIN + OF_THE_DIGEST + AT_THE_DOOR + OPEN + ELSEWHERE) == sorted(Reason.__members__)


@pytest.mark.parametrize("reason", CERTAIN)
def test_a_refused_finish_is_a_failure(
    gateway: FakeGateway, connect: Connect, size: int, reason: str
) -> None:
    """Nothing was published, and the error is the sandbox's own, even if no later question is answered."""
    # Smaller chunks than these would not help.
    gateway.max_chunk_bytes = MIN_CHUNK_LIMIT_BYTES
    sandbox = acquainted(connect)

    def refuse(_number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.HasField("finish"):
            raise TransferError(Reason[reason], "refused")

    gateway.on_upload_message = refuse
    nobody_tells(gateway, size)
    with pytest.raises(FilesError) as caught:
        sandbox.write_bytes("x", bytes(size))
    assert caught.value.reason == reason
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("reason", AT_THE_DOOR)
def test_refused_at_the_door_is_a_failure(
    gateway: FakeGateway, connect: Connect, size: int, reason: str
) -> None:
    sandbox = acquainted(connect)
    error = TransferError(Reason[reason], "at the door")
    gateway.failures[methods.UPLOAD_FILE].extend([error] * 9)
    nobody_tells(gateway, size, error)
    with pytest.raises(FilesError) as caught:
        sandbox.write_bytes("x", bytes(size))
    assert caught.value.reason == reason


def test_a_method_that_is_not_there_is_a_failure(gateway: FakeGateway, connect: Connect, size: int) -> None:
    """UPL-57: so gRPC answers for a gateway without it, even when all of a small file has been sent."""
    sandbox = acquainted(connect)
    missing = PlainStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    def refuse(_number: int, _upload: FakeUpload, request: files_pb2.UploadFileRequest) -> None:
        if request.HasField("finish"):
            raise missing

    gateway.on_upload_message = refuse
    nobody_tells(gateway, size, missing)
    with pytest.raises(FilesError) as caught:
        sandbox.write_bytes("x", bytes(size))
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize("reason", OPEN + ELSEWHERE)
def test_what_says_nothing_of_the_finish_is_unknown(
    gateway: FakeGateway, connect: Connect, size: int, reason: str
) -> None:
    """The file is published, the error hides that, and no later question is answered."""
    sandbox = acquainted(connect)
    after_publishing(gateway, TransferError(Reason[reason], "behind the rename"))
    nobody_tells(gateway, size)
    with pytest.raises(OutcomeUnknown):
        sandbox.write_bytes("x", bytes(size))
    assert gateway.files["x"].content == bytes(size)


@pytest.mark.parametrize("forgotten", [False, True], ids=["on its way", "forgotten"])
def test_an_upload_that_nobody_knows_is_no_failure(
    gateway: FakeGateway, connect: Connect, size: int, *, forgotten: bool
) -> None:
    """RSM-25: behind a finish UPLOAD_UNKNOWN says nothing, whatever the next attempt is refused with."""
    sandbox = connect(retry=RetryPolicy(attempts=5, initial_delay=0))
    sandbox.write_bytes("first", b"1")
    refused = TransferError(Reason.ROLE_REQUIRED, "not you")

    def lose(_number: int) -> None:
        if forgotten:
            gateway.uploads.clear()
        starts = size == SIZES["started"]
        gateway.failures[methods.START_UPLOAD if starts else methods.UPLOAD_FILE].append(refused)
        if not forgotten:
            gateway.failures[methods.GET_UPLOAD].extend([TransferError(Reason.UPLOAD_UNKNOWN, "none")] * 2)
        raise LOST

    gateway.after_publish = lose
    with pytest.raises(OutcomeUnknown) as caught:
        sandbox.write_bytes("x", bytes(size))
    assert isinstance(caught.value.__cause__, PermissionDenied)
    assert gateway.files["x"].content == bytes(size)


def _questions() -> Iterator[ParameterSet]:
    """Every reason that says nothing; one of each status and retry now, the rest in the long run."""
    seen = set[object]()
    for reason in Reason:
        if reason.name.startswith("UPLOAD_"):
            continue
        kind = (reason.row.code, reason.row.retry)
        yield pytest.param(reason.name, marks=pytest.mark.long if kind in seen else ())
        seen.add(kind)


@pytest.mark.parametrize("reason", list(_questions()))
def test_a_question_that_is_refused_says_nothing(
    gateway: FakeGateway, connect: Connect, size: int, reason: str
) -> None:
    """A refused question is no verdict on the finish."""
    sandbox = acquainted(connect)
    after_publishing(gateway, LOST)
    nobody_tells(gateway, size, TransferError(Reason[reason], "no answer to you"))
    with pytest.raises(OutcomeUnknown):
        sandbox.write_bytes("x", bytes(size))


@pytest.mark.parametrize("damage", [b"\xff\xff", b"", b"\x08\x05"], ids=["no message", "nothing", "no file"])
def test_an_answer_that_breaks_the_protocol(
    gateway: FakeGateway, connect: Connect, size: int, damage: bytes
) -> None:
    """It is no success, no failure, and no reason to believe the next answer."""
    sandbox = acquainted(connect)
    asked = len(gateway.method_calls(methods.GET_UPLOAD))
    gateway.answers[methods.UPLOAD_FILE] = gateway.answers[methods.WRITE_FILE] = damage
    with pytest.raises(OutcomeUnknown, match="breaks the protocol") as caught:
        sandbox.write_bytes("x", bytes(size))
    assert isinstance(caught.value.__cause__, InternalError)
    assert len(gateway.method_calls(methods.GET_UPLOAD)) == asked


def test_a_status_of_nothing(gateway: FakeGateway, connect: Connect) -> None:
    """An empty status is no UPLOAD_UNKNOWN, which would prove a failure."""
    sandbox = acquainted(connect)
    after_publishing(gateway, LOST)
    gateway.answers[methods.GET_UPLOAD] = b""
    with pytest.raises(OutcomeUnknown, match="upload is missing"):
        sandbox.write_bytes("x", bytes(1_000_000))
    assert gateway.files["x"].content == bytes(1_000_000)


def test_a_published_file_without_a_digest(gateway: FakeGateway, connect: Connect, size: int) -> None:
    """What it does not say was published is not the source."""
    sandbox = acquainted(connect)
    file = files_pb2.FileInfo(path="/x", type=files_pb2.FILE_TYPE_REGULAR, size_bytes=size)
    gateway.answers[methods.UPLOAD_FILE] = files_pb2.UploadFileResponse(
        bytes_written=size, file=file
    ).SerializeToString()
    gateway.answers[methods.WRITE_FILE] = files_pb2.WriteFileResponse(file=file).SerializeToString()
    with pytest.raises(IntegrityError):
        sandbox.write_bytes("x", bytes(size))


def test_a_status_that_breaks_the_protocol(gateway: FakeGateway, connect: Connect) -> None:
    """After a lost answer the status has a digest that was not requested."""
    sandbox = acquainted(connect)
    after_publishing(gateway, LOST)
    gateway.answers[methods.GET_UPLOAD] = files_pb2.GetUploadResponse(
        upload=files_pb2.UploadStatus(
            state=files_pb2.UPLOAD_STATE_PUBLISHED,
            result=files_pb2.UploadFileResponse(
                file=files_pb2.FileInfo(path="/x", type=files_pb2.FILE_TYPE_REGULAR)
            ),
            digest_algorithm=UNKNOWN,
        )
    ).SerializeToString()
    with pytest.raises(OutcomeUnknown, match="not requested"):
        sandbox.write_bytes("x", bytes(1_000_000))
