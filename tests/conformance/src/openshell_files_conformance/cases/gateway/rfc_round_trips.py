"""The RFC alone: what a caller that knows only fields 1 to 5 can do, and what it is never sent."""

from __future__ import annotations

from typing import Any, Final, cast

from google.protobuf import unknown_fields as unknown

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import OK, Up
from openshell_files_conformance.peers.client import Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import case

#: Sizes around the pieces in which the content is sent, and an empty file.
_PIECE: Final = 64 << 10
SIZES: Final = (0, 1, _PIECE - 1, _PIECE, _PIECE + 1, (3 << 20) + 17)


def content_of(size: int, seed: int = 1) -> bytes:
    """Return content in which no piece is like another."""
    block = b"".join(((n * 2654435761 + seed) & 0xFFFFFFFF).to_bytes(4, "little") for n in range(4099))
    return (block * (size // len(block) + 1))[:size]


def written(ended: Ended[Any]) -> int | None:
    """Return `bytes_written` of the answer; None if there is none."""
    return ended.answer.bytes_written if ended.ok and ended.answer is not None else None


@case("gateway/rfc/methods", profile="rfc", clauses=("RFC-4",))
async def methods(env: GatewayEnv) -> None:
    """UploadFile and DownloadFile are methods of openshell.v1.OpenShell."""
    path = env.path()
    up = await env.caller.rfc_upload(path, b"here")
    env.check("upload", up.reason, equals=OK, clause="RFC-4")
    down = await env.caller.download(path)
    env.check("download", down.reason, equals=OK, clause="RFC-4")
    nothing = await env.caller.call("NoSuchMethod", files_pb2.DownloadFileRequest())
    env.check("other-methods", nothing.code.name, equals="UNIMPLEMENTED", clause="RFC-4")


def _register(size: int) -> None:
    async def run(env: GatewayEnv) -> None:
        path, content = env.path(), content_of(size)
        up = await env.caller.rfc_upload(path, content, piece=_PIECE)
        env.require("upload", up.reason, equals=OK, clause="RFC-2")
        env.check("bytes-written", written(up), equals=size, clause="UPL-12")
        down = await env.caller.download(path)
        env.check("download", down.reason, equals=OK, clause="RFC-2")
        env.check("header-first", down.kinds[:1], equals=["header"], clause="DWN-1")
        env.check(
            "only-header-and-chunks", set(down.kinds) - {"header", "chunk"}, equals=set(), clause="RFC-3"
        )
        env.check("size-in-header", down.header.size_bytes, equals=size, clause="RFC-1")
        env.check("no-archive", down.header.is_archive, equals=False, clause="RFC-1")
        env.check("content", down.content == content, equals=True, clause="DWN-3")

    run.__doc__ = f"A file of {size} bytes goes up and comes down again, with fields 1 to 5 only."
    case(
        f"gateway/rfc/round-trip-{size}-bytes",
        profile="rfc",
        clauses=("RFC-1", "RFC-2", "RFC-3", "DWN-1", "DWN-3", "UPL-12"),
        depends_on=("gateway/rfc/methods",),
    )(run)


for _size in SIZES:
    _register(_size)


@case("gateway/rfc/uneven-chunks", profile="rfc", clauses=("UPL-2", "RFC-2", "UPL-6"))
async def uneven_chunks(env: GatewayEnv) -> None:
    """Chunks of any sizes, empty ones and ones of 256 KiB among them, are one file in their order."""
    path = env.path()
    sizes = (1, 262144, 0, 7, 262144, 0, 99999)
    content = content_of(sum(sizes))
    call = await env.caller.begin(path, size_bytes=len(content))
    at = 0
    for size in sizes:
        await call.send(Up(chunk=content[at : at + size]))
        at += size
    await call.half_close()
    up = await call.end()
    env.require("upload", up.reason, equals=OK, clause="UPL-6")
    env.check("bytes-written", written(up), equals=len(content), clause="UPL-2")
    env.check("content", await env.caller.content(path) == content, equals=True, clause="RFC-2")


@case("gateway/rfc/mode", profile="rfc", clauses=("RFC-1", "UPL-10"))
async def mode(env: GatewayEnv) -> None:
    """Field 4 of the metadata is the file's permission bits, and field 2 of the header tells them."""
    for bits in (0o640, 0o755, 0o100600):
        path = env.path()
        up = await env.caller.rfc_upload(path, b"mode", mode=bits)
        env.check(f"upload-{bits:o}", up.reason, equals=OK, clause="RFC-1")
        down = await env.caller.download(path)
        env.check(f"header-{bits:o}", down.header.mode & 0o7777, equals=bits & 0o777, clause="UPL-10")


@case("gateway/rfc/replace", profile="rfc", clauses=("UPL-8", "UPL-46"))
async def replace(env: GatewayEnv) -> None:
    """A second upload replaces the file as a whole; without a mode it keeps the first one's."""
    path = env.path()
    await env.caller.rfc_upload(path, content_of(100_000), mode=0o600)
    up = await env.caller.rfc_upload(path, b"short")
    env.check("upload", up.reason, equals=OK, clause="UPL-8")
    down = await env.caller.download(path)
    env.check("content", down.content, equals=b"short", clause="UPL-8")
    env.check("mode", down.header.mode & 0o7777, equals=0o600, clause="UPL-46")


@case("gateway/rfc/sizes-that-differ", profile="rfc", clauses=("UPL-31", "UPL-1"))
async def sizes_that_differ(env: GatewayEnv) -> None:
    """Fewer or more bytes than field 3 says end with SIZE_MISMATCH, and what was there stays."""
    path = env.path()
    await env.caller.rfc_upload(path, b"the old file")
    for name, told in (("none", 0), ("fewer", 12), ("more", 10)):
        sent = b"" if name == "none" else b"x" * 11
        up = await env.caller.rfc_upload(path, sent, size=3 if name == "none" else told)
        env.check(name, up.reason, equals="SIZE_MISMATCH", clause="UPL-31")
        env.check(f"{name}-code", up.code.name, equals="DATA_LOSS", clause="UPL-31")
        env.check(f"{name}-unchanged", await env.caller.content(path), equals=b"the old file", clause="UPL-1")


@case("gateway/rfc/first-message", profile="rfc", clauses=("UPL-4", "UPL-19"))
async def first_message(env: GatewayEnv) -> None:
    """A stream that begins with content, and one with a second metadata, end with INVALID_REQUEST."""
    path = env.path()
    for name, messages, clause in (
        ("content-first", [Up(chunk=b"x")], "UPL-4"),
        ("nothing-first", [Up()], "UPL-4"),
        (
            "metadata-twice",
            [Up(metadata=env.caller.metadata(path, size_bytes=1))] * 2,
            "UPL-19",
        ),
    ):
        up = await env.caller.call("UploadFile", *messages)
        env.check(name, up.reason, equals="INVALID_REQUEST", clause=clause)
        env.check(f"{name}-code", up.code.name, equals="INVALID_ARGUMENT", clause=clause)
    env.check("nothing-published", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="UPL-19")


@case("gateway/rfc/missing-file", profile="rfc", clauses=("PTH-6", "PTH-16"))
async def missing_file(env: GatewayEnv) -> None:
    """A file that is missing, and one in a directory that is missing, are told apart."""
    down = await env.caller.download(env.path())
    env.check("reason", down.reason, equals="FILE_NOT_FOUND", clause="PTH-6")
    env.check("code", down.ended.code.name, equals="NOT_FOUND", clause="PTH-6")
    env.check("no-header", down.kinds, equals=[], clause="PTH-6")
    nowhere = f"{env.path('directory')}/file"
    env.check(
        "download-directory",
        (await env.caller.download(nowhere)).reason,
        equals="PARENT_NOT_FOUND",
        clause="PTH-16",
    )
    up = await env.caller.rfc_upload(nowhere, b"x")
    env.check("upload-directory", up.reason, equals="PARENT_NOT_FOUND", clause="PTH-16")


@case("gateway/rfc/unknown-sandbox", profile="rfc", clauses=("AUT-5",))
async def unknown_sandbox(env: GatewayEnv) -> None:
    """A sandbox that does not exist is NOT_FOUND, for both methods."""
    up = await env.caller.rfc_upload(env.path(), b"x", sandbox_id="00000000-0000-4000-8000-000000000000")
    env.check("upload", (up.code.name, up.reason), equals=("NOT_FOUND", "SANDBOX_NOT_FOUND"), clause="AUT-5")
    request = files_pb2.DownloadFileRequest(
        sandbox_id="00000000-0000-4000-8000-000000000000", remote_path=env.path()
    )
    down = await env.caller.call("DownloadFile", request)
    env.check(
        "download", (down.code.name, down.reason), equals=("NOT_FOUND", "SANDBOX_NOT_FOUND"), clause="AUT-5"
    )


@case("gateway/rfc/archives-refused", profile="rfc", clauses=("RFC-7",))
async def archives_refused(env: GatewayEnv) -> None:
    """A server without archives says so: UNIMPLEMENTED, and nothing is written."""
    if env.has("archives") and env.has("own-sandbox"):
        # It has them: then the fields mean what they say, which the profile `archives` judges.
        up = await env.caller.rfc_upload(env.path(), b"no archive", is_archive=True)
        env.check("taken-as-an-archive", up.reason, equals="ARCHIVE_INVALID", clause="RFC-7")
        return
    path = env.path()
    up = await env.caller.rfc_upload(path, b"no archive", is_archive=True)
    env.check("upload", up.reason, equals="ARCHIVE_UNSUPPORTED", clause="RFC-7")
    env.check("upload-code", up.code.name, equals="UNIMPLEMENTED", clause="RFC-7")
    env.check("nothing-written", await env.caller.content(path), equals="FILE_NOT_FOUND", clause="RFC-7")
    down = await env.caller.download(path, as_archive=True)
    env.check("download", down.reason, equals="ARCHIVE_UNSUPPORTED", clause="RFC-7")


@case("gateway/rfc/nothing-of-extensions", profile="rfc", clauses=("RFC-3", "RFC-5"))
async def nothing_of_extensions(env: GatewayEnv) -> None:
    """Fields beyond 5 in an answer are numbered from 10, and no message of an extension is sent."""
    path = env.path()
    up = await env.caller.rfc_upload(path, b"plain")
    down = await env.caller.download(path)
    env.check("messages", set(down.kinds), equals={"header", "chunk"}, clause="RFC-3")
    messages = [*up.messages, *down.ended.messages, *(one.header for one in down.ended.answers)]
    strange = {
        field.field_number for message in messages for field in cast(Any, unknown.UnknownFieldSet(message))
    }
    known = {field.number for message in messages for field, _ in message.ListFields()}
    # A newer server may set further fields, which are numbered from 10 (RFC-6).
    odd = {number for number in strange | known if 5 < number < 10}
    env.check("numbers", odd, equals=set(), clause="RFC-5")
