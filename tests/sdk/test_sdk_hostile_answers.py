"""Answers that break the protocol: one check, for every message, field and method."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_file_gateway import FakeFile, FakeGateway
from google.protobuf.message import Message
from openshell_files import NO_RETRY, SandboxFiles, errors
from openshell_files._core.answer_check import fault_of
from openshell_files_protocol import methods
from openshell_files_protocol.limits import MIB, MIN_CHUNK_LIMIT_BYTES
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from sdk_flavours import Connect, big_content

#: Seconds and nanoseconds that are no time: year 5138 counted in milliseconds, year 0, nanos out of range.
NO_TIMES = [
    (253_402_300_800, 0), (-62_135_596_801, 0), ((1 << 63) - 1, 0), (-(1 << 63), 0),
    (0, -1), (0, 1_000_000_000), (0, (1 << 31) - 1), (0, -(1 << 31)),
]  # fmt: skip
SIZES = [1 << 63, (1 << 64) - 1]

#: A field of an answer, by its path, and values that it must not have.
HOSTILE: list[tuple[str, list[Any]]] = [
    ("file.modified_time", NO_TIMES),
    ("file.size_bytes", SIZES),
    ("file.allocated_bytes", SIZES),
    ("file.digest.value", [b"", b"x", b"x" * 31, b"x" * 33, b"x" * 4096]),
    ("file.digest.algorithm", [0, 99]),
    ("upload.created_time", NO_TIMES),
    ("upload.updated_time", NO_TIMES),
    ("upload.expiration_time", NO_TIMES),
    ("upload.size_bytes", SIZES),
    ("upload.staged_bytes", SIZES),
    ("upload.durable_bytes", SIZES),
    ("upload.epoch", SIZES),
    ("upload.staged_digest.value", [b"x"]),
    ("upload.staged_digest.algorithm", [99]),
    ("upload.result.file.modified_time", NO_TIMES),
    ("upload.result.bytes_written", SIZES),
    ("max_chunk_bytes", [1, 64, MIN_CHUNK_LIMIT_BYTES - 1]),
    ("max_file_bytes", SIZES),
    ("idle_timeout", [(-1, 0), (315_576_000_001, 0), (0, -1), (0, 1_000_000_000), ((1 << 63) - 1, 0)]),
    ("waiting.max_pause", [(-1, 0), (315_576_000_001, 0), (0, -1), (0, 1_000_000_000), ((1 << 63) - 1, 0)]),
    ("upload_expiry", [(-(1 << 63), 0)]),
    ("bytes_written", SIZES),
    ("resumed_from", SIZES),
    ("staged_bytes", SIZES),
    ("archive.entries", SIZES),
    ("archive.placed_entries", SIZES),
    ("archive.files", SIZES),
    ("archive.content_bytes", SIZES),
    ("archive.more_problems", SIZES),
    ("trees.max_entries", SIZES),
    ("archives.max_entries", SIZES),
    ("archives.max_extracted_bytes", SIZES),
    ("uploads.updated_time", NO_TIMES),
]

#: Every method with an answer of its own, and how a caller calls it.
Call = Callable[[SandboxFiles], object]
CALLS: dict[str, tuple[type[Message], Call]] = {
    methods.STAT_FILE: (files_pb2.StatFileResponse, lambda demo: demo.stat("x")),
    methods.LIST_UPLOADS: (files_pb2.ListUploadsResponse, lambda demo: demo.uploads()),
    methods.GET_UPLOAD: (files_pb2.GetUploadResponse, lambda demo: demo.upload_status("u")),
    methods.ABORT_UPLOAD: (files_pb2.AbortUploadResponse, lambda demo: demo.abort_upload("u")),
    methods.START_UPLOAD: (files_pb2.StartUploadResponse, lambda demo: demo.write_bytes("y", big_content())),
    methods.UPLOAD_FILE: (files_pb2.UploadFileResponse, lambda demo: demo.write_bytes("y", big_content())),
    methods.WRITE_FILE: (files_pb2.WriteFileResponse, lambda demo: demo.write_bytes("y", b"1")),
    methods.GET_TRANSFER_CAPABILITIES: (
        files_pb2.GetTransferCapabilitiesResponse,
        lambda demo: demo.write_bytes("y", big_content()),
    ),
}

#: One answer of each method that says all that it has to, and no more.
FILE = files_pb2.FileInfo(path="/x", type=files_pb2.FILE_TYPE_REGULAR, version="v1")
PUBLISHED = files_pb2.UploadFileResponse(file=files_pb2.FileInfo(path="/x", type=FILE.type))
RECEIVING = files_pb2.UploadStatus(upload_id="u", epoch=1, state=files_pb2.UPLOAD_STATE_RECEIVING)
DONE = files_pb2.UploadStatus(state=files_pb2.UPLOAD_STATE_PUBLISHED, result=PUBLISHED)
HONEST: dict[str, Message] = {
    methods.STAT_FILE: files_pb2.StatFileResponse(file=FILE),
    methods.LIST_UPLOADS: files_pb2.ListUploadsResponse(
        uploads=[files_pb2.UploadStatus(upload_id="u", state=RECEIVING.state)]
    ),
    methods.GET_UPLOAD: files_pb2.GetUploadResponse(upload=DONE),
    methods.ABORT_UPLOAD: files_pb2.AbortUploadResponse(upload=DONE),
    methods.START_UPLOAD: files_pb2.StartUploadResponse(upload=RECEIVING),
    methods.GET_TRANSFER_CAPABILITIES: files_pb2.GetTransferCapabilitiesResponse(
        max_chunk_bytes=MIN_CHUNK_LIMIT_BYTES
    ),
    methods.UPLOAD_FILE: PUBLISHED,
    methods.WRITE_FILE: files_pb2.WriteFileResponse(file=PUBLISHED.file),
}
HONEST_HEADER = files_pb2.DownloadFileHeader(file=PUBLISHED.file)


def honest(method: str) -> Message:
    copy = CALLS[method][0]()
    copy.CopyFrom(HONEST[method])
    return copy


def set_field(message: Message, path: str, value: Any) -> bool:
    """Set a field by its path, of the first element where it is repeated; False where there is no such field."""
    target: Any = message
    *way, name = path.split(".")
    for step in way:
        if step not in target.DESCRIPTOR.fields_by_name:
            return False
        target = getattr(target, step)
        if not isinstance(target, Message):
            target = target[0] if target else target.add()
    if name not in target.DESCRIPTOR.fields_by_name:
        return False
    if isinstance(value, tuple):
        getattr(target, name).seconds, getattr(target, name).nanos = value
    else:
        setattr(target, name, value)
    return True


TABLE = [
    pytest.param(method, path, value, id=f"{method.rpartition('/')[2]}-{path}-{str(value)[:40]}")
    for method, (kind, _) in CALLS.items()
    for path, values in HOSTILE
    for value in values
    if set_field(kind(), path, value)
]


def test_every_time_and_size_is_in_the_table() -> None:
    """A field that is added to an answer needs a row."""
    known = {path for path, _ in HOSTILE}
    for kind, _ in CALLS.values():
        for path in _checked_fields(kind.DESCRIPTOR, ""):
            one = re.sub("^uploads[.]", "upload.", path)
            assert {path, one, re.sub("^(upload[.])?result[.]", "", one)} & known, path


def _checked_fields(descriptor: Any, prefix: str) -> Iterator[str]:
    for field in descriptor.fields:
        name = f"{prefix}{field.name}"
        inner = field.message_type
        if inner is not None and inner.full_name.startswith("google."):
            yield name
        elif inner is not None:
            yield from _checked_fields(inner, f"{name}.")
        elif field.type == field.TYPE_UINT64 or name.endswith(
            ("digest.value", "digest.algorithm", "max_chunk_bytes")
        ):
            yield name


@pytest.mark.parametrize(("method", "path", "value"), TABLE)
def test_what_no_answer_may_say(method: str, path: str, value: Any) -> None:
    """CAP-7 among others: a limit of chunks below 256 KiB would be one message a byte, for hours."""
    answer = honest(method)
    set_field(answer, path, value)
    assert fault_of(answer).startswith(path.split(".", maxsplit=1)[0])


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("damage", ["a value", "no message", "a gap"])
def test_it_is_the_gateway_s_fault(connect: Connect, gateway: FakeGateway, method: str, damage: str) -> None:
    """One try, one error that names method and field, in both flavours and by every method."""
    call = CALLS[method][1]
    answer = honest(method)
    for path, values in HOSTILE:
        if set_field(answer, path, values[0]):
            break
    # Nothing at all is an answer of ListUploads.
    gap = b"" if method != methods.LIST_UPLOADS else b"\x0a\x00"
    data = {"a value": answer.SerializeToString(), "no message": b"\xff\xff", "a gap": gap}[damage]
    demo = connect(retry=NO_RETRY)
    gateway.answers[method] = data
    # After a finish the outcome is unknown (RSM-25).
    behind = method in {methods.UPLOAD_FILE, methods.WRITE_FILE}
    kind_of_error = errors.OutcomeUnknown if behind else errors.InternalError
    with pytest.raises(kind_of_error, match="breaks the protocol") as caught:
        call(demo)
    error = caught.value.__cause__ if behind else caught.value
    assert isinstance(error, errors.InternalError)
    assert error.reason == "AGENT_PROTOCOL_ERROR"
    assert method.rpartition("/")[2] in caught.value.message


def test_honest_extremes() -> None:
    """The ends of each range are of the protocol."""
    answer = files_pb2.StatFileResponse(file=FILE)
    for seconds, nanos in ((253_402_300_799, 999_999_999), (-62_135_596_800, 0)):
        answer.file.modified_time.seconds, answer.file.modified_time.nanos = seconds, nanos
        answer.file.size_bytes = answer.file.allocated_bytes = (1 << 63) - 1
        assert not fault_of(answer)
    for limit in (MIN_CHUNK_LIMIT_BYTES, 4 * MIB):
        assert not fault_of(files_pb2.GetTransferCapabilitiesResponse(max_chunk_bytes=limit))


def paths_of(message: Message, prefix: str = "") -> Iterator[str]:
    """Return every field that a message has, and those of the messages in it."""
    for field, value in message.ListFields():
        yield f"{prefix}{field.name}"
        for inner in value if field.is_repeated else (value,):
            if isinstance(inner, Message):
                yield from paths_of(inner, f"{prefix}{field.name}.")


def clear_field(message: Message, path: str) -> None:
    target: Any = message
    *way, name = path.split(".")
    for step in way:
        inner = getattr(target, step)
        target = inner if isinstance(inner, Message) else inner[0]
    target.ClearField(name)


GAPS = [
    pytest.param(message, path, id=f"{type(message).__name__}-{path}")
    for message in [*HONEST.values(), HONEST_HEADER]
    for path in paths_of(message)
    # A caller has no unfinished uploads, mostly.
    if path != "uploads"
]


@pytest.mark.parametrize(("message", "path"), GAPS)
def test_what_no_answer_may_leave_out(message: Message, path: str) -> None:
    """The honest answers say only what they must: without any one field, each breaks the protocol."""
    answer = type(message)()
    answer.CopyFrom(message)
    assert not fault_of(answer)
    clear_field(answer, path)
    assert fault_of(answer).endswith(f"{path.rpartition('.')[2]} is missing")


@pytest.mark.parametrize("path", ["epoch", "upload_id"])
def test_what_an_upload_without_a_name_leaves_out(path: str) -> None:
    """It was sent without StartUpload, and is asked for by its request id."""
    answer = files_pb2.GetUploadResponse(upload=RECEIVING)
    clear_field(answer.upload, path)
    assert not fault_of(answer)


@pytest.mark.parametrize("field", ["file", "file.version", "file.path", "file.type"])
def test_nothing_is_read_by_an_answer_with_a_gap(connect: Connect, gateway: FakeGateway, field: str) -> None:
    """A file object would give no bytes, or a mix of two versions, and say nothing."""
    gateway.files["x"] = FakeFile(b"content")
    answer = honest(methods.STAT_FILE)
    set_field(answer, "file.size_bytes", 7)
    clear_field(answer, field)
    gateway.answers[methods.STAT_FILE] = answer.SerializeToString()
    with pytest.raises(errors.InternalError, match="is missing") as caught:
        connect(retry=NO_RETRY).stat("x")
    assert caught.value.reason == "AGENT_PROTOCOL_ERROR"


def test_a_digest_that_was_asked_for(connect: Connect, gateway: FakeGateway) -> None:
    gateway.answers[methods.STAT_FILE] = HONEST[methods.STAT_FILE].SerializeToString()
    assert connect(retry=NO_RETRY).stat("x").digest is None
    with pytest.raises(errors.InternalError, match="digest was requested and is missing") as caught:
        connect(retry=NO_RETRY).stat("x", digest=True)
    assert caught.value.reason == "AGENT_PROTOCOL_ERROR"


@pytest.mark.parametrize("version", ["", "v2"])
def test_another_version_comes_than_was_asked_for(
    connect: Connect, gateway: FakeGateway, version: str
) -> None:
    """A file object requests one version with every part; a server that ignores it would mix versions."""
    gateway.files["x"] = FakeFile(b"content")

    def change(_: int, messages: Iterator[Any]) -> list[Any]:
        found = list(messages)
        found[0].header.file.version = version
        return found

    gateway.on_download = change
    with pytest.raises(errors.IntegrityError, match="version") as caught:
        connect(retry=NO_RETRY).read_bytes("x", if_version="v1")
    assert caught.value.reason == "DOWNLOAD_CORRUPT"


@pytest.mark.parametrize("lanes", [1 << 31, (1 << 32) - 1])
def test_lanes_without_end(sandbox: SandboxFiles, gateway: FakeGateway, lanes: int) -> None:
    """What a server allows is not what a client does: no thousand streams."""
    gateway.upload_lanes = lanes
    for name in ("a", "b"):
        sandbox.write_bytes(name, big_content())
        assert gateway.files[name].content == big_content()


HeaderChange = Callable[[files_pb2.DownloadFileHeader], object]
HEADERS: dict[str, HeaderChange] = {
    "archive": lambda header: setattr(header, "is_archive", True),
    "no file": lambda header: header.ClearField("file"),
    "nanos": lambda header: setattr(header.file.modified_time, "nanos", -5),
    "year": lambda header: setattr(header.file.modified_time, "seconds", 1 << 40),
    "size": lambda header: setattr(header, "size_bytes", (1 << 64) - 1),
    "start": lambda header: setattr(header, "start_offset", 1 << 63),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(connect: Connect, gateway: FakeGateway, case: str) -> None:
    gateway.files["x"] = FakeFile(b"content")

    def change(_: int, messages: Iterator[Any]) -> list[Any]:
        found = list(messages)
        HEADERS[case](found[0].header)
        return found

    gateway.on_download = change
    with pytest.raises(errors.IntegrityError) as caught:
        connect(retry=NO_RETRY).read_bytes("x")
    assert caught.value.reason == "DOWNLOAD_CORRUPT"
