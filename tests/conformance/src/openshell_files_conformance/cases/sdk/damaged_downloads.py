"""Downloads that a server, or something on the way, damages: the SDK must notice, keep what was there, and leave nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from google.protobuf.message import Message

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_calls import Fault
from openshell_files_conformance.peers.file_sandbox import KIB, SHA256, crc32c, digest_of
from openshell_files_conformance.peers.sdk_env import FEW_ATTEMPTS, SdkEnv
from openshell_files_conformance.registry import case

_Response = files_pb2.DownloadFileResponse
_Changed = Iterable[Message | bytes]
#: The server's chunks.
CHUNK: Final = 64 * KIB
SIZE: Final = 5 * CHUNK - 100


def _damaged(
    name: str,
    summary: str,
    change: Callable[[_Response], _Changed],
    *,
    clause: str,
    profile: Any = "core",
    recoverable: bool = False,
) -> None:
    """Register a case in which every download is damaged in the same way."""

    async def run(env: SdkEnv) -> None:
        content, target = env.content(SIZE), env.target()
        env.serve(content)
        env.gateway.settings.download_chunk_bytes = CHUNK
        env.faults.always("DownloadFile", Fault(change=change))
        target.write_bytes(b"what was there")
        answered = await env.download(target, attempts=FEW_ATTEMPTS)
        calls = len(env.book.of("DownloadFile"))
        env.check("called", calls, satisfies=("a call", bool), clause=clause)
        # Where a later stream may go on behind the damage an SDK may recover, but not without that stream.
        recovered = answered.ok and recoverable and calls > 1
        env.check("outcome", answered.outcome, equals="ok" if recovered else "error", clause=clause)
        right = content if recovered else b"what was there"
        env.check("kept", target.read_bytes(), equals=right, clause="DWN-18")
        env.check("alone", os.listdir(target.parent), equals=["target"], clause="DWN-18")

    run.__doc__ = summary
    case(f"sdk/damaged-download/{name}", profile=profile, clauses=(clause, "DWN-18"))(run)


def _kind(response: _Response) -> str:
    return response.WhichOneof("payload") or ""


def _at(response: _Response, offset: int) -> bool:
    return _kind(response) == "data" and response.data.offset == offset


def _in_place(change: Callable[[Any], object], *, kind: str) -> Callable[[_Response], _Changed]:
    def changed(response: _Response) -> _Changed:
        if _kind(response) == kind:
            change(getattr(response, kind))
        return (response,)

    return changed


def _wrong_digest(trailer: files_pb2.DownloadTrailer) -> None:
    trailer.digest.value = bytes([trailer.digest.value[0] ^ 1]) + trailer.digest.value[1:]


def _no_trailer(response: _Response) -> _Changed:
    return () if _kind(response) == "trailer" else (response,)


def _wrong_crc(response: _Response) -> _Changed:
    if _at(response, CHUNK):
        response.data.crc32c ^= 1
    return (response,)


def _other_byte(response: _Response) -> _Changed:
    if _at(response, CHUNK):
        data = bytearray(response.data.data)
        data[100] ^= 1
        response.data.data = bytes(data)
        response.data.crc32c = crc32c(response.data.data)
    return (response,)


def _gap(response: _Response) -> _Changed:
    return () if _at(response, CHUNK) else (response,)


def _repeated(response: _Response) -> _Changed:
    return (response, response) if _at(response, CHUNK) else (response,)


def _swapped_offset(response: _Response) -> _Changed:
    if _at(response, CHUNK):
        response.data.offset = 2 * CHUNK
    return (response,)


def _extra(response: _Response) -> _Changed:
    if _kind(response) == "trailer":
        more = files_pb2.FileChunk(offset=SIZE, data=b"more", crc32c=crc32c(b"more"))
        return (_Response(data=more), response)
    return (response,)


def _endless_hole(response: _Response) -> _Changed:
    if _at(response, CHUNK):
        return (_Response(data=files_pb2.FileChunk(offset=CHUNK, hole_bytes=1 << 50)),)
    return (response,)


def _no_header(response: _Response) -> _Changed:
    return () if _kind(response) == "header" else (response,)


def _two_headers(response: _Response) -> _Changed:
    return (response, response) if _kind(response) == "header" else (response,)


def _after_trailer(response: _Response) -> _Changed:
    if _kind(response) == "trailer":
        more = files_pb2.FileChunk(offset=SIZE, data=b"more", crc32c=crc32c(b"more"))
        return (response, _Response(data=more))
    return (response,)


def _two_trailers(response: _Response) -> _Changed:
    return (response, response) if _kind(response) == "trailer" else (response,)


def _early_trailer(response: _Response) -> _Changed:
    """End after the first chunk, with a digest that is right for another stretch."""
    if _at(response, CHUNK):
        trailer = files_pb2.DownloadTrailer(end_offset=SIZE, digest=digest_of(b"", SHA256), whole_file=True)
        return (_Response(trailer=trailer),)
    if _kind(response) == "header" or _at(response, 0):
        return (response,)
    return ()


def _wrong_end(trailer: files_pb2.DownloadTrailer) -> None:
    trailer.end_offset += 1


def _unknown_algorithm(response: _Response) -> _Changed:
    number: Any = 99
    if _kind(response) == "header":
        response.header.digest_algorithm = number
    if _kind(response) == "trailer":
        response.trailer.digest.algorithm = number
    return (response,)


def _no_digest(trailer: files_pb2.DownloadTrailer) -> None:
    trailer.ClearField("digest")


def _unchecked(response: _Response) -> _Changed:
    if _at(response, CHUNK):
        return (_Response(chunk=response.data.data),)
    return (response,)


def _garbage(response: _Response) -> _Changed:
    return (b"\xff\xff\xff\xff",) if _at(response, CHUNK) else (response,)


def _nothing(response: _Response) -> _Changed:
    del response
    return ()


for _name, _summary, _change, _clause in (
    (
        "wrong-digest",
        "The trailer has another digest than the content.",
        _in_place(_wrong_digest, kind="trailer"),
        "DWN-10",
    ),
    ("without-trailer", "The stream ends with OK and without a trailer.", _no_trailer, "DWN-2"),
    ("wrong-crc", "A chunk has another CRC-32C than its bytes.", _wrong_crc, "DWN-10"),
    (
        "other-byte",
        "A byte is another one, and the CRC-32C of its chunk fits: only the digest tells.",
        _other_byte,
        "DWN-10",
    ),
    ("gap", "A chunk is missing.", _gap, "DWN-10"),
    ("repeated-chunk", "A chunk comes twice.", _repeated, "DWN-10"),
    ("wrong-offset", "A chunk says that it belongs elsewhere.", _swapped_offset, "DWN-10"),
    ("extra-bytes", "More content comes than the file has.", _extra, "DWN-10"),
    ("endless-hole", "A hole is larger than the file.", _endless_hole, "DWN-10"),
    ("without-header", "Content comes without a header.", _no_header, "DWN-1"),
    ("two-headers", "The header comes twice.", _two_headers, "DWN-1"),
    ("after-the-trailer", "Content comes behind the trailer.", _after_trailer, "DWN-9"),
    ("two-trailers", "The trailer comes twice.", _two_trailers, "DWN-9"),
    ("early-trailer", "The trailer comes after the first chunk.", _early_trailer, "DWN-10"),
    (
        "wrong-end",
        "The trailer says another end than the content has.",
        _in_place(_wrong_end, kind="trailer"),
        "DWN-10",
    ),
    (
        "unknown-algorithm",
        "The digest is of an algorithm that the SDK cannot know.",
        _unknown_algorithm,
        "DWN-10",
    ),
    ("trailer-without-digest", "The trailer has no digest.", _in_place(_no_digest, kind="trailer"), "DWN-10"),
    ("unchecked-chunk", "Content without offset and CRC comes in a checked download.", _unchecked, "DWN-9"),
    ("garbage", "A message is no message.", _garbage, "DWN-10"),
    ("nothing", "The stream ends with OK and without a message.", _nothing, "DWN-2"),
):
    _damaged(_name, _summary, _change, clause=_clause, recoverable=_name == "repeated-chunk")


def _shorter(response: _Response) -> _Changed:
    """Leave the end of the content out of whatever the SDK asked for."""
    if _kind(response) == "chunk" and len(response.chunk) < CHUNK:
        return ()
    return () if _at(response, 4 * CHUNK) or _kind(response) == "trailer" else (response,)


def _longer(response: _Response) -> _Changed:
    if _kind(response) == "chunk" and len(response.chunk) < CHUNK:
        return (response, response)
    return _extra(response)


_damaged(
    "cut-off",
    "The stream ends with OK before the last bytes of the file.",
    _shorter,
    clause="DWN-19",
    profile="rfc",
)
_damaged(
    "too-long",
    "The stream goes on behind the last byte of the file.",
    _longer,
    clause="DWN-19",
    profile="rfc",
)
