"""The gateway towards an SDK: it carries out what an honest server does, notices broken rules, and fails as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from openshell_files_conformance.checks import Transcript
from openshell_files_conformance.pb.openshell.v1 import files_pb2, trees_pb2
from openshell_files_conformance.peers.file_calls import Answered, Fault, answer
from openshell_files_conformance.peers.file_gateway import FileGateway
from openshell_files_conformance.peers.file_sandbox import SHA256, RemoteFile, crc32c, digest_of
from openshell_files_conformance.peers.file_status import LOST, refusal

CONTENT = b"content of a file"
SANDBOX = files_pb2.SandboxRef(name="conformance")


@pytest.fixture
async def gateway() -> AsyncGenerator[FileGateway]:
    async with FileGateway(Transcript()) as running:
        yield running


def metadata(**fields: Any) -> files_pb2.UploadFileRequest:
    given: dict[str, Any] = {"sandbox": "conformance", "remote_path": "path", **fields}
    return files_pb2.UploadFileRequest(metadata=files_pb2.UploadFileMetadata(**given))


def data(content: bytes = CONTENT, offset: int = 0, **fields: Any) -> files_pb2.UploadFileRequest:
    given: dict[str, Any] = {"offset": offset, "data": content, "crc32c": crc32c(content), **fields}
    return files_pb2.UploadFileRequest(data=files_pb2.FileChunk(**given))


def finish(content: bytes = CONTENT, **fields: Any) -> files_pb2.UploadFileRequest:
    given: dict[str, Any] = {"size_bytes": len(content), "digest": digest_of(content, SHA256), **fields}
    return files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish(**given))


FIRST = metadata(explicit_finish=True)
UPLOAD = [FIRST, data(), finish()]


async def called(gateway: FileGateway, method: str, requests: Sequence[Any], kind: Any) -> list[Any]:
    """Call any method with messages and return its answers."""
    async with grpc.aio.insecure_channel(gateway.endpoint) as channel:
        name = f"/openshell.v1.OpenShell/{method}"
        call = cast(Any, channel).stream_stream(name)(iter([one.SerializeToString() for one in requests]))
        answers = [kind.FromString(message) async for message in call]
    await gateway.gone(5)
    return answers


async def uploaded(gateway: FileGateway, requests: Sequence[Any]) -> str:
    """Upload and return how the gateway ended the call.

    The client's status would not do: gRPC replaces it if the refusal comes while a message is written.
    """
    gateway.answered_extension = True
    with contextlib.suppress(grpc.aio.AioRpcError):
        await called(gateway, "UploadFile", requests, files_pb2.UploadFileResponse)
    await gateway.gone(5)
    return gateway.book.of("UploadFile")[-1].ended


async def test_an_honest_upload(gateway: FileGateway) -> None:
    assert await uploaded(gateway, UPLOAD) == "OK"
    assert gateway.sandbox.files["path"].content == CONTENT
    assert gateway.book.violations == []
    assert [call.ended for call in gateway.book.calls] == ["OK"]


@pytest.mark.parametrize(
    ("clause", "requests"),
    [
        ("UPL-4", [data()]),
        ("UPL-5", [FIRST, data(offset=1)]),
        ("UPL-7", [FIRST, data(crc32c=1)]),
        ("UPL-15", [FIRST, data(bytes((1 << 20) + 1))]),
        ("UPL-19", [FIRST, FIRST]),
        ("UPL-20", [*UPLOAD, data()]),
        ("UPL-21", [metadata(size_bytes=17), data(), finish()]),
        ("UPL-22", [FIRST, data(), files_pb2.UploadFileRequest(chunk=b"x")]),
        ("CAP-5", [FIRST, data(bytes(300_000))]),
        ("UPL-26", [FIRST, data(hole_bytes=3)]),
        ("UPL-26", [FIRST, data(b"")]),
        ("UPL-28", [FIRST, data(), finish(size_bytes=3)]),
        ("UPL-30", [FIRST, data(), finish(digest=files_pb2.Digest(algorithm=SHA256, value=b"short"))]),
        ("DIG-1", [FIRST, data(), finish(digest=digest_of(b"other", SHA256))]),
        ("DIG-5", [FIRST, data(), finish(digest=files_pb2.Digest(value=bytes(32)))]),
        ("DIG-21", [metadata(explicit_finish=True, accepted_digests=[1] * 17)]),
        ("LAN-13", [metadata(explicit_finish=True, lanes=2)]),
        ("UPL-2", [metadata(size_bytes=5), files_pb2.UploadFileRequest(chunk=b"1234")]),
    ],
)
async def test_what_breaks_a_rule_is_noticed(
    gateway: FileGateway, clause: str, requests: list[files_pb2.UploadFileRequest]
) -> None:
    await uploaded(gateway, requests)
    assert [one.clause for one in gateway.book.violations] == [clause]


async def test_extensions_before_an_answer(gateway: FileGateway) -> None:
    """RFC-8: a stream of extensions needs an answer to a method of an extension before it."""
    await called(gateway, "UploadFile", UPLOAD, files_pb2.UploadFileResponse)
    assert [one.clause for one in gateway.book.violations] == ["RFC-8"]
    request = files_pb2.GetTransferCapabilitiesRequest(sandbox=SANDBOX)
    await called(gateway, "GetTransferCapabilities", [request], files_pb2.GetTransferCapabilitiesResponse)
    await called(gateway, "UploadFile", UPLOAD, files_pb2.UploadFileResponse)
    assert len(gateway.book.violations) == 1


async def test_a_resumed_upload(gateway: FileGateway) -> None:
    """RSM-4, RSM-11 and RSM-20 of the next attempt."""
    first = FIRST.metadata
    request = files_pb2.StartUploadRequest(metadata=first)
    (started,) = await called(gateway, "StartUpload", [request], files_pb2.StartUploadResponse)
    named = {"upload_id": started.upload.upload_id, "epoch": 1}
    gateway.faults.add("UploadFile", Fault(at="content", after_bytes=7, status=LOST))
    assert await uploaded(gateway, [metadata(explicit_finish=True, **named), data()]) == "UNAVAILABLE"
    again = [metadata(explicit_finish=True, **named), data(b"more", offset=0)]
    assert await uploaded(gateway, again) == "OFFSET_MISMATCH"
    other = metadata(explicit_finish=True, mode=0o600, **named)
    assert await uploaded(gateway, [other]) == "UPLOAD_CONFLICT"
    never = metadata(explicit_finish=True, upload_id=named["upload_id"], epoch=9)
    assert await uploaded(gateway, [never]) == "INVALID_REQUEST"
    assert [one.clause for one in gateway.book.violations] == ["RSM-4", "RSM-11", "RSM-20"]


async def test_a_token(gateway: FileGateway) -> None:
    gateway.settings.tokens = {"right"}
    assert await uploaded(gateway, UPLOAD) == "TOKEN_MISSING"
    assert [one.clause for one in gateway.book.violations] == ["AUT-1"]


async def test_a_server_of_the_rfc(gateway: FileGateway) -> None:
    """It takes no notice of extensions, publishes what `chunk` brought, and lacks all other methods."""
    gateway.settings.rfc_only = True
    assert (
        await uploaded(gateway, [metadata(size_bytes=3), files_pb2.UploadFileRequest(chunk=b"abc")]) == "OK"
    )
    assert gateway.sandbox.files["path"].content == b"abc"
    assert await uploaded(gateway, UPLOAD) == "OK"
    assert gateway.sandbox.files["path"].content == b""
    assert {one.clause for one in gateway.book.violations} == {"RFC-8"}
    with pytest.raises(grpc.aio.AioRpcError, match="UNIMPLEMENTED"):
        await called(gateway, "StatFile", [files_pb2.StatFileRequest()], files_pb2.StatFileResponse)
    assert gateway.book.calls[-1].ended == "UNIMPLEMENTED"


async def test_faults(gateway: FileGateway) -> None:
    """One plan for each call, in their order; then honest ones."""
    gateway.sandbox.files["path"] = RemoteFile(bytes(200_000))
    request = files_pb2.DownloadFileRequest(sandbox="conformance", remote_path="path", checked=True)

    def other(message: files_pb2.DownloadFileResponse) -> None:
        message.header.size_bytes = 7

    gateway.faults.add(
        "DownloadFile",
        Fault(status=refusal("TOO_MANY_TRANSFERS", retry_after=1.5)),
        Fault(at="content", after_bytes=65536, status=LOST),
        answer(other),
    )

    async def download() -> Any:
        return await called(gateway, "DownloadFile", [request], files_pb2.DownloadFileResponse)

    with pytest.raises(grpc.aio.AioRpcError, match="RESOURCE_EXHAUSTED"):
        await download()
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await download()
    assert {message.header.size_bytes for message in await download()} == {7}
    assert (await download())[0].header.size_bytes == 200_000
    assert [call.ended for call in gateway.book.calls] == ["TOO_MANY_TRANSFERS", "UNAVAILABLE", "OK", "OK"]


async def test_a_closed_connection(gateway: FileGateway) -> None:
    """The call breaks off, and the next one finds the gateway at the same address."""
    gateway.faults.add("UploadFile", Fault(at="content", after_bytes=1, disconnect=True))
    assert await uploaded(gateway, UPLOAD) == "left"
    assert "path" not in gateway.sandbox.files
    assert await uploaded(gateway, UPLOAD) == "OK"


def entry(path: bytes, kind: Any = files_pb2.FILE_TYPE_DIRECTORY, **fields: Any) -> trees_pb2.TreeEntry:
    return trees_pb2.TreeEntry(path=path, type=kind, **fields)


def regular(path: bytes, **fields: Any) -> trees_pb2.TreeEntry:
    return entry(path, files_pb2.FILE_TYPE_REGULAR, **fields)


def manifest(*entries: trees_pb2.TreeEntry) -> trees_pb2.UploadTreeRequest:
    return trees_pb2.UploadTreeRequest(manifest=trees_pb2.TreeManifest(entries=entries))


def part(**fields: Any) -> trees_pb2.UploadTreeRequest:
    given: dict[str, Any] = {"entry": 1, "last": True, "digest": digest_of(b"", SHA256).value, **fields}
    return trees_pb2.UploadTreeRequest(content=trees_pb2.TreeContent(parts=[trees_pb2.TreePart(**given)]))


START = trees_pb2.UploadTreeRequest(start=trees_pb2.UploadTreeStart(sandbox=SANDBOX, path=b"tree"))
TOP, FILE = entry(b""), regular(b"file")


@pytest.mark.parametrize(
    ("clause", "requests"),
    [
        ("TRE-2", [manifest(TOP)]),
        ("TRE-4", [START, manifest(FILE)]),
        ("TRE-4", [START, manifest(TOP, entry(b"d"), entry(b"d/e"), entry(b"f"), entry(b"d/e/late"))]),
        (
            "TRE-15",
            [START, manifest(TOP, FILE), trees_pb2.UploadTreeRequest(end=trees_pb2.TreeEnd(entries=2))],
        ),
        ("TRE-15", [START, manifest(TOP), trees_pb2.UploadTreeRequest(end=trees_pb2.TreeEnd(entries=2))]),
        ("TRE-20", [START, manifest(TOP, FILE, regular(b"file/below"))]),
        ("TRE-21", [START, manifest(TOP, regular(b"../out"))]),
        ("TRE-22", [START, manifest(TOP, FILE, FILE)]),
        ("TRE-24", [START, manifest(TOP, regular(b"suid", mode=0o4755))]),
        ("TRE-24", [START, manifest(TOP, entry(b"link", files_pb2.FILE_TYPE_SYMLINK))]),
        ("TRE-27", [START, manifest(TOP, regular(b"other", hard_link=b"none"))]),
        ("TRE-31", [START, manifest(TOP, FILE), part(entry=0)]),
        ("TRE-37", [START, manifest(TOP, FILE), part(offset=1)]),
        ("TRE-38", [START, manifest(TOP, FILE), part(digest=bytes(32))]),
    ],
)
async def test_what_breaks_a_rule_of_trees_is_noticed(
    gateway: FileGateway, clause: str, requests: list[trees_pb2.UploadTreeRequest]
) -> None:
    gateway.settings.digests = (SHA256,)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await called(gateway, "UploadTree", requests, trees_pb2.UploadTreeResponse)
    await gateway.gone(5)
    assert [one.clause for one in gateway.book.violations] == [clause]
    assert [call.ended for call in gateway.book.calls] == ["INVALID_REQUEST"]


async def test_a_digest_before_the_algorithm_is_known(gateway: FileGateway) -> None:
    """TRE-3: the gateway waits before `started`, and looks at what comes meanwhile."""
    gateway.trees.started_after = 5
    with_digest = regular(b"file", digest=bytes(32))
    end = trees_pb2.UploadTreeRequest(end=trees_pb2.TreeEnd(entries=2))
    with contextlib.suppress(grpc.aio.AioRpcError):
        await called(
            gateway, "UploadTree", [START, manifest(TOP, with_digest), end], trees_pb2.UploadTreeResponse
        )
    assert gateway.book.violations[0].clause == "TRE-3"


async def test_an_early_answer_ends_a_stream(gateway: FileGateway) -> None:
    def early(message: trees_pb2.UploadTreeResponse) -> Any:
        if message.HasField("started"):
            return (message,)
        raise Answered(trees_pb2.UploadTreeResponse(result=trees_pb2.UploadTreeResult(created=True)))

    gateway.faults.add("UploadTree", Fault(change=early))
    answers = await called(gateway, "UploadTree", [START, manifest(TOP)], trees_pb2.UploadTreeResponse)
    assert [one.WhichOneof("payload") for one in answers] == ["started", "result"]


async def test_lanes_are_read_in_turn(gateway: FileGateway) -> None:
    """LAN-5: message k travels on stream k mod lanes; LAN-3: a lane that the upload does not have is noticed."""
    gateway.settings.max_lanes = 2
    request = files_pb2.StartUploadRequest(metadata=FIRST.metadata)
    (started,) = await called(gateway, "StartUpload", [request], files_pb2.StartUploadResponse)
    name = started.upload.upload_id
    first = metadata(explicit_finish=True, upload_id=name, epoch=1, lanes=2)
    lane = files_pb2.UploadFileRequest()
    lane.lane.sandbox, lane.lane.upload_id, lane.lane.epoch, lane.lane.index = "conformance", name, 1, 1
    halves = data(CONTENT[:5]), data(CONTENT[5:], offset=5)
    await asyncio.gather(
        uploaded(gateway, [first, halves[0], finish()]), uploaded(gateway, [lane, halves[1]])
    )
    assert [call.ended for call in gateway.book.of("UploadFile")] == ["OK", "OK"]
    assert gateway.sandbox.files["path"].content == CONTENT
    assert gateway.book.violations == []
    lane.lane.index = 7
    assert await uploaded(gateway, [lane]) == "INVALID_REQUEST"
    assert [one.clause for one in gateway.book.violations] == ["LAN-3"]
