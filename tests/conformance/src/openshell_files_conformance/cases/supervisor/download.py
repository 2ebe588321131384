"""Downloads: order of messages, checks, changes meanwhile, holes."""

from __future__ import annotations

import hashlib

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, SHA256, FileRelay, crc, data, digest, hole
from openshell_files_conformance.peers.supervisor_env import Downloaded, SupervisorEnv
from openshell_files_conformance.peers.waiting import until
from openshell_files_conformance.registry import case

_CONTENT = bytes(range(256)) * 8192
_SECOND = 10**9
_MEBIBYTE = bytes(1 << 20)


@case("supervisor/download/checked", profile="core", clauses=("DWN-1", "DWN-9", "DWN-10", "DIG-4", "DIG-15"))
async def checked(env: SupervisorEnv) -> None:
    """A checked download is a header, chunks with offset and CRC, and a trailer with the digest."""
    await env.files.write(env.path(), _CONTENT, mode=0o640, modified_ns=1_000_000_000 * _SECOND + 5)
    found = await env.download(env.path())
    env.require("reason", found.reason, equals=OK, clause="DWN-9")
    env.check("header-first", found.kinds[:1], equals=["header"], clause="DWN-1")
    kinds = set(found.kinds[1:-1])
    env.check("data-then-trailer", (kinds, found.kinds[-1:]), equals=({"data"}, ["trailer"]), clause="DWN-9")
    env.check("content", found.content == _CONTENT, equals=True, clause="DWN-9")
    offset, wrong = 0, list[str]()
    for chunk in (message.data for message in found.outcome.downloaded if message.HasField("data")):
        if chunk.offset != offset or chunk.crc32c != crc(chunk.data):
            wrong.append(f"chunk at {chunk.offset} of {len(chunk.data)} bytes")
        offset += len(chunk.data)
    env.check("offsets-and-checksums", wrong, equals=[], clause="DWN-10")
    header, trailer = found.header, found.trailer
    assert header is not None
    assert trailer is not None
    seen = (header.size_bytes, header.mode & 0o7777, header.start_offset, header.is_archive)
    env.check("header", seen, equals=(len(_CONTENT), 0o640, 0, False), clause="DWN-1")
    at = header.file.modified_time.ToNanoseconds()
    env.check(
        "header-file",
        (header.file.path, at),
        equals=(env.path(), 1_000_000_000 * _SECOND + 5),
        clause="DWN-1",
    )
    env.check("algorithm", header.digest_algorithm, equals=files_pb2.DIGEST_ALGORITHM_SHA256, clause="DIG-4")
    env.check("digest", trailer.digest, equals=digest(_CONTENT), clause="DIG-15")
    end = (trailer.end_offset, trailer.whole_file, trailer.changed)
    env.check("trailer", end, equals=(len(_CONTENT), True, False), clause="DWN-9")


@case("supervisor/download/part-is-not-the-whole", profile="core", clauses=("DWN-9", "DWN-4"))
async def part_is_not_the_whole(env: SupervisorEnv) -> None:
    """The trailer of a range has the digest of the sent bytes, and says that they are not the whole file."""
    await env.files.write(env.path(), _CONTENT)
    found = await env.download(env.path(), offset=1000, length=5000)
    env.require("reason", found.reason, equals=OK, clause="DWN-4")
    trailer = found.trailer or files_pb2.DownloadTrailer()
    env.check("digest", trailer.digest, equals=digest(_CONTENT[1000:6000]), clause="DWN-9")
    env.check("end", (trailer.end_offset, trailer.whole_file), equals=(6000, False), clause="DWN-9")


@case("supervisor/download/unchecked", profile="rfc", clauses=("DWN-1", "DWN-3", "DIG-20", "RFC-2", "RFC-3"))
async def unchecked(env: SupervisorEnv) -> None:
    """A caller of the RFC gets a header and chunks, and no message of an extension; also of an empty file."""
    for name, content in (("file", _CONTENT), ("empty", b"")):
        await env.files.write(env.path(name), content)
        found = await env.download(env.path(name), checked=False)
        env.check(f"{name}-reason", found.reason, equals=OK, clause="RFC-2")
        env.check(f"{name}-header-first", found.kinds[:1], equals=["header"], clause="DWN-1")
        env.check(f"{name}-no-extension", set(found.kinds[1:]) <= {"chunk"}, equals=True, clause="RFC-3")
        env.check(f"{name}-content", found.content == content, equals=True, clause="DWN-3")
        header = found.header or files_pb2.DownloadFileHeader()
        env.check(f"{name}-size", header.size_bytes, equals=len(content), clause="DWN-3")
        computed = (header.digest_algorithm, header.file.HasField("digest"))
        env.check(f"{name}-no-digest", computed, equals=(0, False), clause="DIG-20")


@case("supervisor/download/bytes-sent", profile="rfc", clauses=("FRM-3", "FRM-13"))
async def bytes_sent(env: SupervisorEnv) -> None:
    """`accepted` comes before the header, and `download_end` with the sent bytes is the last frame."""
    await env.files.write(env.path(), _CONTENT)
    found = await env.download(env.path(), checked=False)
    env.check("accepted-first", found.outcome.kinds[:1], equals=["accepted"], clause="FRM-13")
    env.check("last", found.outcome.kinds[-1:], equals=["download_end"], clause="FRM-3")
    sent = found.outcome.answer.bytes_sent if found.outcome.ok else -1
    env.check("bytes-sent", sent, equals=len(_CONTENT), clause="FRM-3")


async def _stalled(env: SupervisorEnv, content: bytes, **fields: object) -> FileRelay:
    """Begin a download that nobody reads, so that the agent is in the middle of the file."""
    await env.files.write(env.path(), content)
    relay = await env.relay()
    relay.relay.hold()
    request = files_pb2.DownloadFileRequest(remote_path=env.path(), checked=True)
    for name, value in fields.items():
        setattr(request, name, value)
    await relay.begin(env.opening(download=request))
    relay.relay.read_on()
    await relay.until("download")
    relay.relay.hold()
    return relay


#: More than the windows of a connection and the buffers of an agent hold together.
_LARGE = b"".join(bytes([n % 251]) * (1 << 20) for n in range(16))


@case("supervisor/download/replaced-meanwhile", profile="core", clauses=("DWN-5",), timeout=30)
async def replaced_meanwhile(env: SupervisorEnv) -> None:
    """The agent reads the file that it opened, to its end, even if another gets its name meanwhile."""
    relay = await _stalled(env, _LARGE)
    await env.files.write(env.path("other"), b"other")
    await env.files.rename(env.path("other"), env.path())
    relay.relay.read_on()
    found = Downloaded.of(await relay.outcome(env.scaled(20)))
    env.check("reason", found.reason, one_of=(OK, "FILE_CHANGED"), clause="DWN-5")
    env.check("content", found.content == _LARGE, equals=True, clause="DWN-5")


@case("supervisor/download/changed-meanwhile", profile="core", clauses=("DWN-14", "DWN-2"), timeout=30)
async def changed_meanwhile(env: SupervisorEnv) -> None:
    """A file that changes while it is read ends the download without a trailer."""
    relay = await _stalled(env, _LARGE)
    await env.files.touch(env.path(), 1_000_000_000 * _SECOND)
    relay.relay.read_on()
    found = Downloaded.of(await relay.outcome(env.scaled(20)))
    env.check("reason", found.reason, equals="FILE_CHANGED", clause="DWN-14")
    env.check("no-trailer", found.trailer, equals=None, clause="DWN-2")


@case("supervisor/download/change-allowed", profile="core", clauses=("DWN-15",), timeout=30)
async def change_allowed(env: SupervisorEnv) -> None:
    """With on_change ALLOW a changed file is sent to its end, and the trailer says so."""
    relay = await _stalled(env, _LARGE, on_change=files_pb2.CHANGE_POLICY_ALLOW)
    await env.files.touch(env.path(), 1_000_000_000 * _SECOND)
    relay.relay.read_on()
    found = Downloaded.of(await relay.outcome(env.scaled(20)))
    env.check("reason", found.reason, equals=OK, clause="DWN-15")
    env.check("changed", found.trailer.changed if found.trailer else None, equals=True, clause="DWN-15")
    env.check("content", found.content == _LARGE, equals=True, clause="DWN-15")


@case("supervisor/download/version", profile="core", clauses=("DWN-6",))
async def version(env: SupervisorEnv) -> None:
    """`if_version` holds for the file's version, and for no other."""
    await env.files.write(env.path(), _CONTENT)
    told = await env.stat(env.path())
    now = told.answer.file.version
    env.check("current", (await env.download(env.path(), if_version=now)).reason, equals=OK, clause="DWN-6")
    other = await env.download(env.path(), if_version=f"{now}x")
    env.check("other", other.reason, equals="VERSION_MISMATCH", clause="DWN-6")
    env.check("other-content", other.content, equals=b"", clause="DWN-6")
    await env.files.write(env.path(), _CONTENT + b"x")
    old = await env.download(env.path(), if_version=now)
    env.check("after-a-change", old.reason, equals="VERSION_MISMATCH", clause="DWN-6")


@case("supervisor/download/holes", profile="core", clauses=("DWN-7", "DWN-17"), timeout=30)
async def holes(env: SupervisorEnv) -> None:
    """A hole is sent as holes of at most 256 MiB, and the digest is that of its zeros."""
    size, tail = 300 << 20, b"the end"
    relay = await env.begin_upload(env.path(), explicit_finish=True, durability=files_pb2.DURABILITY_RENAME)
    hasher = hashlib.sha256()
    for _ in range(size >> 20):
        hasher.update(_MEBIBYTE)
    hasher.update(tail)
    whole = files_pb2.Digest(algorithm=SHA256, value=hasher.digest())
    last = files_pb2.UploadFinish(size_bytes=size + len(tail), digest=whole)
    await relay.upload(hole(0, size), data(size, tail), files_pb2.UploadFileRequest(finish=last))
    await relay.input_end()
    done = await relay.outcome(env.scaled(20))
    env.require("uploaded", done.reason, equals=OK, clause="DWN-7")
    relay = await env.relay()
    request = files_pb2.DownloadFileRequest(remote_path=env.path(), checked=True)
    await relay.begin(env.opening(download=request))
    outcome = await relay.outcome(env.scaled(20))
    parts = [message.data.hole_bytes for message in outcome.downloaded if message.data.hole_bytes]
    env.check("reason", outcome.reason, equals=OK, clause="DWN-7")
    in_holes = sum(parts)
    # The last chunk may have zeros in front of the content.
    env.check(
        "in-holes", in_holes, satisfies=("at least 299 MiB", lambda sent: sent >= 299 << 20), clause="DWN-7"
    )
    largest = max(parts, default=0)
    env.check(
        "parts", largest, satisfies=("at most 256 MiB", lambda part: 0 < part <= 256 << 20), clause="DWN-17"
    )


@case("supervisor/download/cancelled", profile="core", clauses=("FRM-16",), timeout=30)
async def cancelled(env: SupervisorEnv) -> None:
    """A cancelled download stops long before the end of the file."""
    relay = await _stalled(env, _LARGE)
    await relay.input_end(cancelled=True)
    relay.relay.read_on()
    found = Downloaded.of(await relay.outcome(env.scaled(20)))
    env.check("incomplete", found.trailer, equals=None, clause="FRM-16")
    await until(lambda: _serves(env), "the agent serves the next operation", env.scaled(5))
    sent = sum(relay.relay.pieces)
    env.check(
        "stops", sent, satisfies=("less than the file", lambda sent: sent < len(_LARGE)), clause="FRM-16"
    )


async def _serves(env: SupervisorEnv) -> bool:
    return (await env.stat(env.home)).ok
