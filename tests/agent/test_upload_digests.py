"""Uploads and downloads with the digest that leaves zeros out (DIG-1 to DIG-7)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agent.agent_harness import (
    Refused,
    Sandbox,
    get,
    get_upload,
    metadata,
    opened,
    peer_of,
    pieces,
    put,
    start_upload,
    stat,
    until,
)
from bit_flipper import flip_in_file
from naive_digests import BLOCKS, SHA256, blocks_of, finish_of, sha256_of
from openshell_files_protocol.digests import WORTHWHILE_ZEROS
from openshell_files_protocol.limits import MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent.store.journal import Journal

#: 6 MiB: two blocks with content in them, and holes around.
SIZE = 6 * MIB
DATA_AT = 2 * MIB - 100
DATA = b"content " * 1000
CONTENT = bytes(DATA_AT) + DATA + bytes(SIZE - DATA_AT - len(DATA))

#: What would be hashed for minutes if it were.
HUGE = 1 << 40


def finish(content: bytes, *, blocks: bool = True) -> files_pb2.UploadFileRequest:
    return files_pb2.UploadFileRequest(finish=finish_of(content, blocks=blocks))


def going_on(status: files_pb2.UploadStatus, **fields: Any) -> files_pb2.UploadFileMetadata:
    fields.setdefault("digest_algorithm", BLOCKS)
    return metadata("/file", SIZE, upload_id=status.upload_id, epoch=status.epoch, **fields)


async def start(agent: FileAgent, **fields: Any) -> files_pb2.UploadStatus:
    return await start_upload(agent, "/file", SIZE, digest_algorithm=BLOCKS, **fields)


async def send_content(peer: Any, offset: int = 0) -> None:
    """Send from `offset` on: a hole, content, a hole."""
    if offset < DATA_AT:
        await peer.data(offset, b"", hole=DATA_AT - offset)
        offset = DATA_AT
    if offset < DATA_AT + len(DATA):
        await peer.data(offset, CONTENT[offset : DATA_AT + len(DATA)])
        offset = DATA_AT + len(DATA)
    await peer.data(offset, b"", hole=SIZE - offset)


async def upload(
    agent: FileAgent, message: files_pb2.UploadFileRequest, **fields: Any
) -> files_pb2.UploadFileResponse:
    status = await start(agent, **fields)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await send_content(peer)
        await peer.upload_message(message)
        return (await peer.answer()).upload


async def staged(agent: FileAgent, sandbox: Sandbox) -> tuple[files_pb2.UploadStatus, Path]:
    """Stage everything and lose the stream."""
    status = await start(agent)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await send_content(peer)
        peer.to_agent.end()
        assert (await peer.error()).reason is Reason.UPLOAD_INCOMPLETE
    (name,) = sandbox.leftovers()
    return status, sandbox.root / name


async def finish_staged(agent: FileAgent, status: files_pb2.UploadStatus) -> files_pb2.UploadFileResponse:
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.upload_message(finish(CONTENT))
        return (await peer.answer()).upload


def write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def make_sparse(path: Path, size: int, data: bytes = DATA, at: int = DATA_AT) -> None:
    path.touch()
    os.truncate(path, size)
    write_at(path, at, data)


async def test_a_sparse_upload(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-3, DIG-4: the algorithm is echoed, and every digest is in its own field."""
    status = await start(agent, request_id="r")
    assert status.digest_algorithm == BLOCKS
    assert (status.staged_sha256, status.staged_sha256_blocks) == (b"", blocks_of(b""))
    answer = await upload(agent, finish(CONTENT), request_id="s")
    assert (answer.file.sha256, answer.file.sha256_blocks) == (b"", blocks_of(CONTENT))
    assert (sandbox.root / "file").read_bytes() == CONTENT
    assert (sandbox.root / "file").stat().st_blocks * 512 < MIB
    status = await get_upload(agent, answer.upload_id)
    assert status.digest_algorithm == BLOCKS
    assert (status.staged_sha256, status.staged_sha256_blocks) == (b"", blocks_of(CONTENT))
    assert status.result == answer


@pytest.mark.parametrize("cut", [1000, MIB - 4096, 100_000])
async def test_zeros_that_are_sent_are_zeros(agent: FileAgent, cut: int) -> None:
    """DIG-2: neither the cut of chunks nor what came as a hole takes part."""
    content = CONTENT[DATA_AT - MIB - 5 : DATA_AT + len(DATA) + 3]
    cut = max(cut, len(content) // 100)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", digest_algorithm=BLOCKS)))
        for offset, piece in pieces(content, cut):
            await peer.data(offset, piece)
        await peer.upload_message(finish(content))
        assert (await peer.answer()).upload.file.sha256_blocks == blocks_of(content)


async def test_a_tebibyte_of_zeros(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-5: neither staging, nor the look before publishing, nor a resume reads or hashes what is a hole."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", digest_algorithm=BLOCKS, request_id="r")))
        await peer.data(0, b"", hole=HUGE - 1)
        await peer.data(HUGE - 1, b"\1")
        await until(lambda: sandbox.traced.count("upload.chunk_staged") == 2)
        upload_id = (await get_upload(agent, request_id="r", digest=True)).upload_id
        digest = (await get_upload(agent, upload_id, digest=True)).staged_sha256_blocks
        assert len(digest) == 32
        await peer.upload_message(
            files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish(size_bytes=HUGE, sha256_blocks=digest))
        )
        assert (await peer.answer()).upload.file.sha256_blocks == digest
    assert (sandbox.root / "file").stat().st_size == HUGE
    read = sandbox.fs.calls["pread"]
    assert read < 10
    described = await stat(agent, "/file", include_digest=True, digest_algorithm=BLOCKS)
    assert (described.sha256, described.sha256_blocks) == (b"", digest)
    assert sandbox.fs.calls["pread"] <= 2 * read


@pytest.fixture
async def restarted(sandbox: Sandbox) -> AsyncIterator[list[FileAgent]]:
    """Agents, one after the other, on the same directories; the last is closed at the end."""
    agents = [sandbox.agent()]
    await agents[0].start()
    yield agents
    await agents[-1].aclose()


async def restart(agents: list[FileAgent], sandbox: Sandbox) -> FileAgent:
    await agents[-1].aclose()
    agents.append(sandbox.agent())
    await agents[-1].start()
    return agents[-1]


async def test_going_on_after_a_restart(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3, RSM-4, DIG-4, DIG-5: the prefix has the upload's digest, and only its content is read for it."""
    status = await start(restarted[0])
    prefix = DATA_AT + 1000
    async with peer_of(restarted[0]) as peer:
        await peer.send(opened(upload=going_on(status)))
        await peer.data(0, b"", hole=DATA_AT)
        await peer.data(DATA_AT, DATA[:1000])
        peer.to_agent.end()
        await peer.error()
    agent = await restart(restarted, sandbox)
    status = await start(agent, upload_id=status.upload_id)
    assert status.digest_algorithm == BLOCKS
    assert (status.staged_bytes, status.staged_sha256) == (prefix, b"")
    assert status.staged_sha256_blocks == blocks_of(CONTENT[:prefix])
    assert sandbox.fs.calls["pread"] == 1
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=going_on(status)))
        await send_content(peer, prefix)
        await peer.upload_message(finish(CONTENT))
        answer = (await peer.answer()).upload
    assert answer.resumed_from == prefix
    assert answer.file.sha256_blocks == blocks_of(CONTENT)
    assert (sandbox.root / "file").read_bytes() == CONTENT
    agent = await restart(restarted, sandbox)
    status = await get_upload(agent, status.upload_id)
    assert (status.digest_algorithm, status.staged_sha256_blocks) == (BLOCKS, blocks_of(CONTENT))


async def test_a_finish_again(agent: FileAgent) -> None:
    """RSM-6, DIG-4: the same digest gives the same answer; another, or one of the other kind, does not."""
    answer = await upload(agent, finish(CONTENT))
    status = await get_upload(agent, answer.upload_id)
    again = await finish_staged(agent, status)
    assert again.replayed
    assert again.file == answer.file
    for message, reason in (
        (finish(CONTENT[:-1] + b"\1"), Reason.FINISH_CONFLICT),
        (finish(CONTENT, blocks=False), Reason.INVALID_REQUEST),
    ):
        async with peer_of(agent) as peer:
            await peer.send(opened(upload=going_on(status)))
            await peer.upload_message(message)
            assert (await peer.error()).reason is reason


async def test_another_digest(agent: FileAgent, sandbox: Sandbox) -> None:
    """UPL-3, DIG-4: DIGEST_MISMATCH with both digests; nothing is published."""
    wrong = CONTENT[:-1] + b"\1"
    with pytest.raises(Refused) as refused:
        await upload(agent, finish(wrong))
    assert refused.value.reason is Reason.DIGEST_MISMATCH
    assert refused.value.metadata == {
        "expected_sha256_blocks": blocks_of(wrong).hex(),
        "actual_sha256_blocks": blocks_of(CONTENT).hex(),
    }
    assert not os.listdir(sandbox.root)


BOTH = files_pb2.UploadFinish(size_bytes=3, sha256=sha256_of(b"abc"), sha256_blocks=blocks_of(b"abc"))


@pytest.mark.parametrize(
    ("algorithm", "message", "field"),
    [
        (BLOCKS, finish_of(b"abc", blocks=False), "finish.sha256"),
        (BLOCKS, BOTH, "finish.sha256"),
        (SHA256, finish_of(b"abc", blocks=True), "finish.sha256_blocks"),
        (0, finish_of(b"abc", blocks=True), "finish.sha256_blocks"),
        (0, BOTH, "finish.sha256_blocks"),
        (BLOCKS, files_pb2.UploadFinish(size_bytes=3), "finish.sha256_blocks"),
        (BLOCKS, files_pb2.UploadFinish(size_bytes=3, sha256_blocks=bytes(31)), "finish.sha256_blocks"),
    ],
)
async def test_a_digest_of_the_wrong_kind(
    agent: FileAgent, algorithm: int, message: files_pb2.UploadFinish, field: str
) -> None:
    """DIG-4: the field is named, and what was staged can still be finished."""
    status = await start_upload(agent, "/file", 3, digest_algorithm=algorithm)
    named = metadata("/file", 3, upload_id=status.upload_id, epoch=status.epoch, digest_algorithm=algorithm)
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=named))
        await peer.data(0, b"abc")
        await peer.upload_message(files_pb2.UploadFileRequest(finish=message))
        error = await peer.error()
    assert (error.reason, error.fields) == (Reason.INVALID_REQUEST, [field])
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=named))
        await peer.upload_message(finish(b"abc", blocks=algorithm == BLOCKS))
        assert (await peer.answer()).upload.resumed_from == 3


@pytest.mark.parametrize(
    ("algorithm", "given", "field"),
    [
        (BLOCKS, {"sha256": bytes(32)}, "sha256"),
        (BLOCKS, {"sha256": bytes(32), "sha256_blocks": bytes(32)}, "sha256"),
        (BLOCKS, {"sha256_blocks": bytes(31)}, "sha256_blocks"),
        (0, {"sha256_blocks": bytes(32)}, "sha256_blocks"),
    ],
)
async def test_a_source_digest_of_the_wrong_kind(
    agent: FileAgent, algorithm: int, given: dict[str, Any], field: str
) -> None:
    """RSM-9, DIG-4"""
    with pytest.raises(Refused) as refused:
        await start_upload(agent, "/file", 3, digest_algorithm=algorithm, **given)
    assert (refused.value.reason, refused.value.fields) == (Reason.INVALID_REQUEST, [field])


async def test_the_same_content_is_there(agent: FileAgent, sandbox: Sandbox) -> None:
    """RSM-9, DIG-4: content is compared by the upload's digest, without reading holes."""
    make_sparse(sandbox.root / "file", SIZE)
    status = await start(agent, sha256_blocks=blocks_of(CONTENT))
    assert status.state == files_pb2.UPLOAD_STATE_PUBLISHED
    assert status.digest_algorithm == BLOCKS
    assert status.result.already_identical
    assert (status.result.file.sha256, status.result.file.sha256_blocks) == (b"", blocks_of(CONTENT))
    assert sandbox.fs.calls["pread"] == 1
    other = await start(agent, sha256_blocks=blocks_of(CONTENT + b"\0"))
    assert other.state == files_pb2.UPLOAD_STATE_RECEIVING


async def test_the_digest_stays_the_same(agent: FileAgent) -> None:
    """RSM-1, DIG-3: another algorithm is another upload; the default can be said or left out."""
    await start(agent, request_id="r")
    for algorithm in (0, SHA256):
        with pytest.raises(Refused) as refused:
            await start_upload(agent, "/file", SIZE, request_id="r", digest_algorithm=algorithm)
        assert refused.value.reason is Reason.UPLOAD_CONFLICT
    status = await start_upload(agent, "/file", SIZE, request_id="s")
    again = await start_upload(agent, "/file", SIZE, request_id="s", digest_algorithm=SHA256)
    assert status.upload_id == again.upload_id


async def test_an_algorithm_of_a_later_caller(agent: FileAgent) -> None:
    """DIG-3: what is not known is SHA-256, and not echoed."""
    status = await start_upload(agent, "/file", SIZE, digest_algorithm=99)
    assert status.digest_algorithm == 0
    assert status.staged_sha256 == sha256_of(b"")
    answer = await put(agent, "/other", b"abc", digest_algorithm=99)
    assert (answer.file.sha256, answer.file.sha256_blocks) == (sha256_of(b"abc"), b"")


async def test_callers_that_know_no_other(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-1, RFC-2, RFC-3: nothing in any answer is of the other algorithm."""
    make_sparse(sandbox.root / "sparse", 2 * WORTHWHILE_ZEROS)
    status = await start_upload(agent, "/file", SIZE)
    answer = await put(agent, "/file", b"abc")
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/rfc", 3, explicit=False)))
        await peer.chunk(b"abc")
        await peer.input_end()
        of_the_rfc = (await peer.answer()).upload
    downloaded = await get(agent, "/sparse")
    described = await stat(agent, "/file", include_digest=True)
    assert downloaded.trailer is not None
    for said in (status, answer.file, of_the_rfc.file, downloaded.header, downloaded.trailer, described):
        named = {field.name for field, _ in said.ListFields()}
        assert not named & {"digest_algorithm", "sha256_blocks", "staged_sha256_blocks"}
        assert said is downloaded.header or named & {"sha256", "staged_sha256"}


async def test_an_upload_without_a_finish(agent: FileAgent) -> None:
    """UPL-2, UPL-12, DIG-4: the answer has the digest that the metadata asked for."""
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=metadata("/file", 3, explicit=False, digest_algorithm=BLOCKS)))
        await peer.chunk(b"abc")
        await peer.input_end()
        answer = (await peer.answer()).upload
    assert (answer.file.sha256, answer.file.sha256_blocks) == (b"", blocks_of(b"abc"))


def write_into_the_hole(path: Path) -> None:
    write_at(path, 5 * MIB, b"x")


def write_into_a_block_with_content(path: Path) -> None:
    write_at(path, DATA_AT - 1, b"x")


def punch_content_out(path: Path) -> None:
    os.truncate(path, DATA_AT + 10)
    os.truncate(path, SIZE)


def punch_everything_out(path: Path) -> None:
    os.truncate(path, 0)
    os.truncate(path, SIZE)


def flip_a_bit(path: Path) -> None:
    flip_in_file(path, DATA_AT + 77)


def move_content(path: Path) -> None:
    """The same blocks at another place."""
    punch_everything_out(path)
    write_at(path, DATA_AT + MIB, DATA)


@pytest.mark.parametrize(
    "meddle",
    [
        write_into_the_hole,
        write_into_a_block_with_content,
        punch_content_out,
        punch_everything_out,
        flip_a_bit,
        move_content,
    ],
    ids=lambda meddle: meddle.__name__,
)
async def test_a_change_behind_our_back(agent: FileAgent, sandbox: Sandbox, meddle: Any) -> None:
    """UPL-3, DIG-5: every change of the content is found before anything is published."""
    status, path = await staged(agent, sandbox)
    meddle(path)
    with pytest.raises(Refused) as refused:
        await finish_staged(agent, status)
    assert refused.value.reason is Reason.DIGEST_MISMATCH
    assert not os.listdir(sandbox.root)


async def test_zeros_behind_our_back(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-2, DIG-5: it is the content that counts; zeros in the place of a hole are none."""
    status, path = await staged(agent, sandbox)
    write_at(path, 4 * MIB, bytes(MIB))
    write_at(path, DATA_AT - 5000, bytes(5000))
    answer = await finish_staged(agent, status)
    assert answer.file.sha256_blocks == blocks_of(CONTENT)


LARGE = WORTHWHILE_ZEROS + 4 * MIB


@pytest.mark.parametrize(
    ("request_", "blocks"),
    [
        ({"accepted_digests": [BLOCKS]}, True),
        ({"accepted_digests": [99, SHA256, BLOCKS, 0]}, True),
        ({"accepted_digests": [BLOCKS], "offset": DATA_AT + 7}, True),
        ({"accepted_digests": [BLOCKS], "length": WORTHWHILE_ZEROS}, True),
        ({"accepted_digests": [BLOCKS], "length": WORTHWHILE_ZEROS - 1}, False),
        ({"accepted_digests": [BLOCKS], "tail_bytes": 100}, False),
        ({"accepted_digests": [SHA256, 99]}, False),
        ({}, False),
    ],
    ids=str,
)
async def test_the_digest_of_a_download(
    agent: FileAgent,
    sandbox: Sandbox,
    request_: dict[str, Any],
    blocks: bool,  # noqa: FBT001
) -> None:
    """DIG-6: what the caller takes and the file is worth; a range begins with block 0."""
    make_sparse(sandbox.root / "file", LARGE)
    got = await get(agent, "/file", **request_)
    assert got.header.digest_algorithm == (BLOCKS if blocks else 0)
    assert got.trailer is not None
    if got.trailer.whole_file:
        file = got.trailer.file
        assert (file.sha256, file.sha256_blocks) == (got.trailer.sha256, got.trailer.sha256_blocks)


@pytest.mark.parametrize("size", [0, 1, LARGE])
async def test_a_download_that_has_no_holes_to_skip(agent: FileAgent, sandbox: Sandbox, size: int) -> None:
    """DIG-6: SHA-256, which every tool knows."""
    (sandbox.root / "file").write_bytes(b"x" * size)
    got = await get(agent, "/file", accepted_digests=[BLOCKS])
    assert got.header.digest_algorithm == 0


async def test_an_unchecked_download(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-6: there is no trailer, so nothing is promised."""
    make_sparse(sandbox.root / "file", LARGE)
    got = await get(agent, "/file", checked=False, accepted_digests=[BLOCKS], length=10)
    assert got.header.digest_algorithm == 0


async def test_a_download_of_a_tebibyte_of_zeros(agent: FileAgent, sandbox: Sandbox) -> None:
    """DIG-5: what is a hole is not read, and not hashed."""
    make_sparse(sandbox.root / "file", HUGE)
    request = files_pb2.DownloadFileRequest(remote_path="/file", checked=True, accepted_digests=[BLOCKS])
    async with peer_of(agent) as peer:
        await peer.send(opened(download=request))
        await peer.input_end()
        await peer.accepted()
        trailer = None
        while (frame := await peer.next()) is not None:
            if frame.download.WhichOneof("payload") == "trailer":
                trailer = frame.download.trailer
    assert trailer is not None
    assert (trailer.end_offset, trailer.sha256, len(trailer.sha256_blocks)) == (HUGE, b"", 32)
    assert sandbox.fs.calls["preadv"] < 10


@pytest.mark.parametrize("algorithm", [0, SHA256, BLOCKS, 99])
async def test_stat(agent: FileAgent, sandbox: Sandbox, algorithm: int) -> None:
    """DIG-7: the digest that was asked for; SHA-256 if it is not known."""
    make_sparse(sandbox.root / "file", SIZE)
    described = await stat(agent, "/file", include_digest=True, digest_algorithm=algorithm)
    expected = (b"", blocks_of(CONTENT)) if algorithm == BLOCKS else (sha256_of(CONTENT), b"")
    assert (described.sha256, described.sha256_blocks) == expected
    described = await stat(agent, "/file", digest_algorithm=algorithm)
    assert (described.sha256, described.sha256_blocks) == (b"", b"")


async def test_the_journal_of_an_older_agent(restarted: list[FileAgent], sandbox: Sandbox) -> None:
    """RSM-3, DIG-3: its uploads go on with SHA-256, also one that asked for what it did not know."""
    finished = await put(restarted[0], "/old", b"old", request_id="o")
    status = await start_upload(restarted[0], "/file", 6, request_id="r")
    named = metadata("/file", 6, upload_id=status.upload_id, epoch=status.epoch)
    async with peer_of(restarted[0]) as peer:
        await peer.send(opened(upload=named))
        await peer.data(0, b"abc")
        peer.to_agent.end()
        await peer.error()
    await restarted[0].aclose()
    asked = metadata("/file", 6, request_id="r", digest_algorithm=BLOCKS).SerializeToString()
    database = sqlite3.connect(sandbox.settings.state_dir / "uploads.sqlite3")
    with database:
        database.execute("ALTER TABLE uploads RENAME COLUMN finish_digest TO finish_sha256")
        database.execute("ALTER TABLE uploads DROP COLUMN digest_algorithm")
        database.execute("UPDATE uploads SET metadata = ? WHERE request_id = 'r'", (asked,))
        database.execute("PRAGMA user_version = 1")
    database.close()
    agent = await restart(restarted, sandbox)
    status = await get_upload(agent, request_id="r", digest=True)
    assert (status.digest_algorithm, status.staged_sha256) == (0, sha256_of(b"abc"))
    async with peer_of(agent) as peer:
        await peer.send(opened(upload=named))
        await peer.data(3, b"def")
        await peer.upload_message(finish(b"abcdef", blocks=False))
        assert (await peer.answer()).upload.file.sha256 == sha256_of(b"abcdef")
    old = await get_upload(agent, finished.upload_id)
    assert (old.result, old.staged_sha256) == (finished, sha256_of(b"old"))


def test_the_journal_of_a_newer_agent(tmp_path: Path) -> None:
    """RSM-3: an agent that does not know it all touches nothing."""
    path = tmp_path / "uploads.sqlite3"
    Journal(tmp_path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RuntimeError, match="newer agent"):
        Journal(tmp_path)
