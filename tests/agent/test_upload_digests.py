"""The digest of an operation: chosen, said, compared, and not computed where nobody asked for it (DIG-1 to DIG-9)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    call,
    get,
    get_upload,
    metadata,
    opened,
    peer_of,
    pieces,
    put,
    start_upload,
    stat,
)
from agent.sparse_uploads import (
    BOTH,
    CONTENT,
    DATA,
    DATA_AT,
    SIZE,
    finish,
    finish_staged,
    going_on,
    send_content,
    start,
    write_at,
)
from bit_flipper import flipped
from digest_values import BLAKE3, SHA256, UNKNOWN, Algorithm, digest_of
from openshell_files_protocol import digests
from openshell_files_protocol.chunks import crc32c
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent

UNSAID = files_pb2.DIGEST_ALGORITHM_UNSPECIFIED


async def upload(
    agent: FileAgent, message: files_pb2.UploadFileRequest, **fields: Any
) -> files_pb2.UploadFileResponse:
    status = await start(agent, **fields)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await send_content(peer)
        await peer.upload_message(message)
        return (await peer.answer()).upload


def make_sparse(path: Path, size: int, data: bytes = DATA, at: int = DATA_AT) -> None:
    path.touch()
    os.truncate(path, size)
    write_at(path, at, data)


#: What a caller lists, what the operator allows (nothing: all), and what it comes to.
CHOICES: list[tuple[list[Algorithm], list[Algorithm], Algorithm | None]] = [
    ([], [], SHA256),
    ([SHA256], [], SHA256),
    ([BLAKE3], [], BLAKE3),
    ([BLAKE3, SHA256], [], BLAKE3),
    ([SHA256, BLAKE3], [], SHA256),
    ([UNKNOWN, UNSAID, BLAKE3], [], BLAKE3),
    ([BLAKE3, SHA256], [SHA256], SHA256),
    ([BLAKE3], [SHA256, BLAKE3, UNKNOWN], BLAKE3),
    ([], [SHA256], SHA256),
    ([BLAKE3], [SHA256], None),
    ([UNKNOWN], [], None),
    ([UNSAID], [], None),
]


@pytest.mark.parametrize(("accepted", "allowed", "expected"), CHOICES, ids=str)
async def test_the_choice(
    agent: FileAgent,
    sandbox: Sandbox,
    accepted: list[Algorithm],
    allowed: list[Algorithm],
    expected: Algorithm | None,
) -> None:
    """DIG-2, DIG-11, DIG-12, DIG-8: the first that both sides take; none is told before a byte, and nothing is left."""
    (sandbox.root / "file").write_bytes(b"abc")

    async def start_() -> tuple[int, files_pb2.Digest]:
        request = files_pb2.StartUploadRequest(metadata=metadata("/new", accepted_digests=accepted))
        status = (await call(agent, start_upload=request, digests=allowed)).start_upload.upload
        assert status.staged_digest == digest_of(b"", status.digest_algorithm)
        abort = files_pb2.AbortUploadRequest(upload_id=status.upload_id)
        await call(agent, abort_upload=abort)
        return status.digest_algorithm, files_pb2.Digest()

    async def upload_() -> tuple[int, files_pb2.Digest]:
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/new", accepted_digests=accepted), digests=allowed))
            await peer.accepted()
            await peer.data(0, b"abc")
            await peer.upload_message(finish(b"abc", expected or SHA256))
            file = (await peer.answer()).upload.file
        return file.digest.algorithm, file.digest

    async def download_() -> tuple[int, files_pb2.Digest]:
        got = await get(agent, "/file", accepted_digests=accepted, open_={"digests": allowed})
        assert got.trailer is not None
        assert got.trailer.file.digest == got.trailer.digest
        return got.header.digest_algorithm, got.trailer.digest

    async def stat_() -> tuple[int, files_pb2.Digest]:
        request = files_pb2.StatFileRequest(
            remote_path="/file", include_digest=True, accepted_digests=accepted
        )
        file = (await call(agent, stat_file=request, digests=allowed)).stat_file.file
        return file.digest.algorithm, file.digest

    for operation in (start_, upload_, download_, stat_):
        if expected is None:
            with pytest.raises(Refused) as refused:
                await operation()
            assert refused.value.reason is Reason.DIGEST_UNSUPPORTED
        else:
            algorithm, digest = await operation()
            assert algorithm == expected
            assert not digest.value or digest == digest_of(b"abc", expected)
    assert set(os.listdir(sandbox.root)) <= {"file", "new"}


async def test_who_asks_for_no_digest(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DIG-9, DIG-20: none is computed for messages that the RFC has, nor where there is nobody to tell it; the file is read
    again all the same."""
    hashed = list[object]()
    monkeypatch.setattr(digests, "HASHERS", RecordingTable(digests.HASHERS, hashed))
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/rfc", 3, explicit=False)))
        await peer.chunk(b"abc")
        await peer.input_end()
        answer = (await peer.answer()).upload
    assert (answer.bytes_written, answer.file.HasField("digest")) == (3, False)
    assert sandbox.fs.calls["pread"] == 1
    got = await get(agent, "/rfc", checked=False, accepted_digests=[BLAKE3])
    assert (got.content, got.header.digest_algorithm) == (b"abc", 0)
    assert not (await stat(agent, "/rfc", accepted_digests=[UNKNOWN])).HasField("digest")
    assert not hashed
    for wish in ({"accepted_digests": [BLAKE3]}, {"request_id": "r"}):
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=metadata("/asked", 3, explicit=False, **wish)))
            await peer.chunk(b"abc")
            await peer.input_end()
            file = (await peer.answer()).upload.file
        assert file.digest == digest_of(b"abc", BLAKE3 if "accepted_digests" in wish else SHA256)
    assert len(hashed) == 2


class RecordingTable(dict[Any, Any]):
    """The table of hashers, and which were taken."""

    def __init__(self, table: Any, taken: list[object]) -> None:
        super().__init__(table)
        self._taken = taken

    def __getitem__(self, algorithm: Any) -> Any:
        self._taken.append(algorithm)
        return super().__getitem__(algorithm)


async def test_a_damaged_file_of_who_asks_for_no_digest(
    agent: FileAgent, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """UPL-37, DIG-9: what is staged is compared with what arrived without a digest, too."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/rfc", 6, explicit=False)))
        await peer.chunk(b"abcdef")
        read = sandbox.fs.pread

        def damaged(fd: int, size: int, offset: int) -> bytes:
            return flipped(read(fd, size, offset), 3)

        monkeypatch.setattr(sandbox.fs, "pread", damaged)
        await peer.input_end()
        assert (await peer.error()).reason is Reason.DIGEST_MISMATCH


@pytest.mark.parametrize("algorithm", BOTH)
async def test_a_sparse_upload(agent: FileAgent, sandbox: Sandbox, algorithm: Algorithm) -> None:
    """DIG-10, DIG-4, DIG-15: every answer says the upload's algorithm; a hole is as many zeros."""
    asked: dict[str, Any] = {"accepted_digests": [algorithm]}
    status = await start(agent, **asked)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status, **asked)))
        await send_content(peer)
        await peer.upload_message(finish(CONTENT, algorithm))
        answer = (await peer.answer()).upload
    assert answer.file.digest == digest_of(CONTENT, algorithm)
    assert (sandbox.root / "file").read_bytes() == CONTENT
    assert (sandbox.root / "file").stat().st_blocks * 512 < MIB
    status = await get_upload(agent, answer.upload_id)
    assert (status.digest_algorithm, status.staged_digest) == (algorithm, digest_of(CONTENT, algorithm))
    assert status.result == answer
    make_sparse(sandbox.root / "other", SIZE)
    got = await get(agent, "/other", accepted_digests=[algorithm])
    assert got.holes
    assert got.trailer is not None
    assert got.trailer.digest == digest_of(CONTENT, algorithm)


@pytest.mark.parametrize("cut", [1000, MIB - 4096, 100_000])
async def test_the_cut_of_chunks_takes_no_part(agent: FileAgent, cut: int) -> None:
    """DIG-10"""
    content = CONTENT[DATA_AT - MIB - 5 : DATA_AT + len(DATA) + 3]
    cut = max(cut, len(content) // 100)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", accepted_digests=[BLAKE3])))
        for offset, piece in pieces(content, cut):
            await peer.data(offset, piece)
        await peer.upload_message(finish(content))
        assert (await peer.answer()).upload.file.digest == digest_of(content, BLAKE3)


async def test_a_finish_again(agent: FileAgent) -> None:
    """RSM-6, RSM-21, DIG-5: the same digest gives the same answer; another, or one of another algorithm, does not."""
    answer = await upload(agent, finish(CONTENT))
    status = await get_upload(agent, answer.upload_id)
    again = await finish_staged(agent, status)
    assert again.replayed
    assert again.file == answer.file
    for message, reason in (
        (finish(CONTENT[:-1] + b"\1"), Reason.FINISH_CONFLICT),
        (finish(CONTENT, SHA256), Reason.INVALID_REQUEST),
    ):
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=going_on(status)))
            await peer.upload_message(message)
            assert (await peer.error()).reason is reason


async def test_another_digest(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-29: DIGEST_MISMATCH with both digests; nothing is published."""
    wrong = CONTENT[:-1] + b"\1"
    with pytest.raises(Refused) as refused:
        await upload(agent, finish(wrong))
    assert refused.value.reason is Reason.DIGEST_MISMATCH
    assert refused.value.metadata == {
        "expected_digest": f"blake3:{digest_of(wrong, BLAKE3).value.hex()}",
        "actual_digest": f"blake3:{digest_of(CONTENT, BLAKE3).value.hex()}",
    }
    assert not os.listdir(sandbox.root)


@pytest.mark.parametrize(
    ("algorithm", "digest", "field"),
    [
        (BLAKE3, digest_of(b"abc", SHA256), "finish.digest.algorithm"),
        (SHA256, digest_of(b"abc", BLAKE3), "finish.digest.algorithm"),
        (SHA256, digest_of(b"abc", UNKNOWN), "finish.digest.algorithm"),
        (SHA256, files_pb2.Digest(value=bytes(32)), "finish.digest.algorithm"),
        (BLAKE3, None, "finish.digest.algorithm"),
        (BLAKE3, files_pb2.Digest(algorithm=BLAKE3), "finish.digest.value"),
        (BLAKE3, files_pb2.Digest(algorithm=BLAKE3, value=bytes(31)), "finish.digest.value"),
        (SHA256, files_pb2.Digest(algorithm=SHA256, value=bytes(33)), "finish.digest.value"),
    ],
)
async def test_a_finish_with_a_digest_of_another_algorithm(
    agent: FileAgent, algorithm: Algorithm, digest: files_pb2.Digest | None, field: str
) -> None:
    """DIG-5, DIG-16: the field is named, and the algorithm; what was staged can still be finished."""
    asked: dict[str, Any] = {"accepted_digests": [algorithm]}
    status = await start_upload(agent, "/file", 3, **asked)
    named = metadata("/file", 3, upload_id=status.upload_id, epoch=status.epoch, **asked)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=named))
        await peer.data(0, b"abc")
        message = files_pb2.UploadFinish(size_bytes=3, digest=digest)
        await peer.upload_message(files_pb2.UploadFileRequest(finish=message))
        error = await peer.error()
    assert (error.reason, error.fields) == (Reason.INVALID_REQUEST, [field])
    if field.endswith("algorithm"):
        assert files_pb2.DigestAlgorithm.Name(algorithm) in str(error)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=named))
        await peer.upload_message(finish(b"abc", algorithm))
        assert (await peer.answer()).upload.resumed_from == 3


@pytest.mark.parametrize(
    ("accepted", "digest", "field"),
    [
        ([BLAKE3], digest_of(b"x", SHA256), "digest.algorithm"),
        ([], digest_of(b"x", BLAKE3), "digest.algorithm"),
        ([BLAKE3], digest_of(b"x", UNKNOWN), "digest.algorithm"),
        (BOTH, files_pb2.Digest(value=bytes(32)), "digest.algorithm"),
        (BOTH, files_pb2.Digest(algorithm=BLAKE3, value=bytes(31)), "digest.value"),
    ],
)
async def test_a_source_digest_that_cannot_be(
    agent: FileAgent, accepted: list[Algorithm], digest: files_pb2.Digest, field: str
) -> None:
    """RSM-9, DIG-6"""
    with pytest.raises(Refused) as refused:
        await start_upload(agent, "/file", 3, accepted_digests=accepted, digest=digest)
    assert (refused.value.reason, refused.value.fields) == (Reason.INVALID_REQUEST, [field])


@pytest.mark.parametrize("algorithm", BOTH)
async def test_the_same_content_is_there(agent: FileAgent, sandbox: Sandbox, algorithm: Algorithm) -> None:
    """RSM-9, DIG-17: content is compared by the digest's algorithm, which the upload has then; holes are not read."""
    make_sparse(sandbox.root / "file", SIZE)
    status = await start(agent, digest=digest_of(CONTENT, algorithm), request_id="r")
    assert status.state == files_pb2.UPLOAD_STATE_PUBLISHED
    assert (status.digest_algorithm, status.staged_digest) == (algorithm, digest_of(CONTENT, algorithm))
    assert status.result.already_identical
    assert status.result.file.digest == digest_of(CONTENT, algorithm)
    assert sandbox.fs.calls["pread"] == 1
    assert await start(agent, request_id="r") == status
    other = await start(agent, digest=digest_of(CONTENT + b"\0", algorithm))
    assert (other.state, other.digest_algorithm) == (files_pb2.UPLOAD_STATE_RECEIVING, BLAKE3)


async def test_a_source_digest_that_may_not_be_computed(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-18: it is not compared, and the answer says the upload's own algorithm."""
    (sandbox.root / "file").write_bytes(b"abc")
    request = files_pb2.StartUploadRequest(
        metadata=metadata("/file", 3, accepted_digests=BOTH), digest=digest_of(b"abc", BLAKE3)
    )
    status = (await call(agent, start_upload=request, digests=[SHA256])).start_upload.upload
    assert (status.state, status.digest_algorithm) == (files_pb2.UPLOAD_STATE_RECEIVING, SHA256)
    request.metadata.accepted_digests.append(UNKNOWN)
    request.digest.algorithm = UNKNOWN
    status = (await call(agent, start_upload=request)).start_upload.upload
    assert (status.state, status.digest_algorithm) == (files_pb2.UPLOAD_STATE_RECEIVING, BLAKE3)


async def test_an_upload_keeps_its_digest(agent: FileAgent) -> None:
    """DIG-7: whoever goes on has to take it; else the field is named. The list itself need not stay the same."""
    status = await start(agent, request_id="r")
    for accepted in ([], [SHA256], [UNKNOWN]):
        for names in ({"request_id": "r"}, {"upload_id": status.upload_id}):
            with pytest.raises(Refused) as refused:
                await start(agent, accepted_digests=accepted, **names)
            assert refused.value.reason is Reason.UPLOAD_CONFLICT
            assert refused.value.metadata == {"fields": "metadata.accepted_digests"}
    for accepted in ([BLAKE3], [SHA256, BLAKE3]):
        again = await start(agent, accepted_digests=accepted, request_id="r")
        assert (again.upload_id, again.digest_algorithm) == (status.upload_id, BLAKE3)
    request = files_pb2.StartUploadRequest(metadata=going_on(status, request_id="r"))
    kept = (await call(agent, start_upload=request, digests=[SHA256])).start_upload.upload
    assert kept.digest_algorithm == BLAKE3


@pytest.mark.parametrize("algorithm", BOTH)
async def test_a_condition(agent: FileAgent, sandbox: Sandbox, algorithm: Algorithm) -> None:
    """CND-2, DIG-14: by either algorithm, if the operator allows it."""
    (sandbox.root / "file").write_bytes(b"abc")
    good = files_pb2.UploadCondition(digest=digest_of(b"abc", algorithm))
    await put(agent, "/file", b"new", condition=good)
    with pytest.raises(Refused) as refused:
        await put(agent, "/file", b"new", condition=good)
    assert refused.value.reason is Reason.CONDITION_FAILED
    for condition, allowed, reason in (
        (files_pb2.UploadCondition(digest=digest_of(b"new", UNKNOWN)), [], Reason.DIGEST_UNSUPPORTED),
        (files_pb2.UploadCondition(digest=digest_of(b"new", BLAKE3)), [SHA256], Reason.DIGEST_UNSUPPORTED),
        (files_pb2.UploadCondition(digest=files_pb2.Digest()), [], Reason.INVALID_REQUEST),
    ):
        request = files_pb2.StartUploadRequest(metadata=metadata("/file", condition=condition))
        with pytest.raises(Refused) as refused:
            await call(agent, start_upload=request, digests=allowed)
        assert refused.value.reason is reason


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize(
    ("field", "operation"),
    [
        ("metadata.accepted_digests", "start_upload"),
        ("metadata.accepted_digests", "upload"),
        ("metadata.accepted_digests", "write_file"),
        ("accepted_digests", "download"),
        ("accepted_digests", "stat_file"),
    ],
)
async def test_a_list_of_algorithms_has_a_bound(
    agent: FileAgent, sandbox: Sandbox, field: str, operation: str, extra: int
) -> None:
    """DIG-21: every entry costs time that other callers wait for."""
    (sandbox.root / "file").write_bytes(b"abc")
    listed = [*[UNKNOWN] * (15 + extra), SHA256]
    about = metadata("/file", 3, accepted_digests=listed)
    request: dict[str, Any] = {
        "start_upload": files_pb2.StartUploadRequest(metadata=about),
        "upload": about,
        "write_file": files_pb2.WriteFileRequest(
            metadata=about, content=b"abc", crc32c=crc32c(b"abc"), digest=digest_of(b"abc")
        ),
        "download": files_pb2.DownloadFileRequest(remote_path="/file", checked=True, accepted_digests=listed),
        "stat_file": files_pb2.StatFileRequest(
            remote_path="/file", include_digest=True, accepted_digests=listed
        ),
    }
    async with peer_of(agent) as peer:
        await peer.send(opened(**{operation: request[operation]}))
        if operation == "upload":
            await peer.data(0, b"abc")
            await peer.finish(b"abc")
        frame = await peer.last_frame()
    if extra:
        assert [violation.field for violation in frame.error.field_violations] == [field]
    else:
        assert frame.WhichOneof("frame") in {operation, "download_end"}
