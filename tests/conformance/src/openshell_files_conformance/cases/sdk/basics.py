"""What every SDK does, also one that knows fields 1 to 5 of the RFC alone."""

from __future__ import annotations

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_calls import Fault, answer
from openshell_files_conformance.peers.file_sandbox import KIB, MAX_MESSAGE_BYTES, MIB
from openshell_files_conformance.peers.file_status import refusal
from openshell_files_conformance.peers.sdk_env import SdkEnv
from openshell_files_conformance.registry import case


@case("sdk/basics/upload-small", profile="rfc", clauses=("UPL-4", "UPL-2", "RFC-1", "AUT-1"))
async def upload_small(env: SdkEnv) -> None:
    """A small file arrives as it is, and every call names the sandbox and has a bearer token."""
    content = env.content(1000)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("published", env.published("remote"), equals=content, clause="RFC-1")
    env.well_formed("UPL-4", "UPL-2", "AUT-1")


@case("sdk/basics/upload-empty", profile="rfc", clauses=("RFC-1",))
async def upload_empty(env: SdkEnv) -> None:
    """A file without content becomes a file without content."""
    answered = await env.upload(b"")
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("published", env.published("remote"), equals=b"", clause="RFC-1")
    env.well_formed("RFC-1")


@case(
    "sdk/basics/upload-large",
    profile="rfc",
    clauses=("UPL-4", "UPL-5", "UPL-15", "UPL-20", "UPL-22", "UPL-24", "RFC-8"),
)
async def upload_large(env: SdkEnv) -> None:
    """Three megabytes and a bit arrive, in messages that every server takes."""
    content = env.content(3 * MIB + 17)
    answered = await env.upload(content)
    env.check("published", env.published("remote"), equals=content, clause="UPL-5")
    env.check("ok", answered.outcome, equals="ok", clause="UPL-5")
    largest = max((m.ByteSize() for call in env.book.of("UploadFile") for m in call.messages), default=0)
    env.check(
        "size-of-messages",
        largest,
        satisfies=("content in messages of at most 1 MiB", lambda size: 0 < size <= MAX_MESSAGE_BYTES),
        clause="UPL-15",
    )
    env.well_formed("UPL-4", "UPL-5", "UPL-20", "UPL-22", "UPL-24", "RFC-8")


@case("sdk/basics/upload-path-and-mode", profile="rfc", clauses=("RFC-1",))
async def upload_path_and_mode(env: SdkEnv) -> None:
    """Path and permission bits arrive as they were given, also with spaces and letters that are not ASCII."""
    remote = "/data/a directory/Größe 漢字 %41.txt"
    answered = await env.upload(b"x = 1\n", remote, mode=0o640)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("paths", sorted(env.gateway.sandbox.files), equals=[remote], clause="RFC-1")
    file = env.gateway.sandbox.files.get(remote)
    env.check("mode", file and oct(file.mode), equals="0o640", clause="RFC-1")


@case("sdk/basics/download-small", profile="rfc", clauses=("RFC-1", "AUT-1"))
async def download_small(env: SdkEnv) -> None:
    """A small file is downloaded as it is, with nothing beside it."""
    content, target = env.content(1000), env.target()
    env.serve(content)
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="RFC-1")
    env.check("alone", sorted(one.name for one in target.parent.iterdir()), equals=["target"], clause="RFC-1")
    env.well_formed("AUT-1")


@case("sdk/basics/download-empty", profile="rfc", clauses=("RFC-1",))
async def download_empty(env: SdkEnv) -> None:
    """A file without content becomes a file without content."""
    target = env.target()
    env.serve(b"")
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("content", target.read_bytes() if target.exists() else None, equals=b"", clause="RFC-1")


@case("sdk/basics/download-large", profile="rfc", clauses=("RFC-1",))
async def download_large(env: SdkEnv) -> None:
    """Three megabytes and a bit arrive in their order, in pieces of the server's choice."""
    content, target = env.content(3 * MIB + 17), env.target()
    env.serve(content)
    env.gateway.settings.download_chunk_bytes = 100 * KIB + 3
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="RFC-1")


@case("sdk/basics/download-replaces", profile="rfc", clauses=("RFC-1",))
async def download_replaces(env: SdkEnv) -> None:
    """A longer file that was at the target is replaced whole."""
    content, target = env.content(1000), env.target()
    target.write_bytes(b"old" * 1000)
    env.serve(content)
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-1")
    env.check("content", target.read_bytes(), equals=content, clause="RFC-1")


@case("sdk/basics/missing-file", profile="rfc", clauses=("ERR-1", "ERR-7", "DWN-18"))
async def missing_file(env: SdkEnv) -> None:
    """The download of a file that does not exist fails with the server's reason, once, and leaves nothing."""
    target = env.target()
    answered = await env.download(target, "no-such-file")
    env.refused(answered, reasons=("FILE_NOT_FOUND", "NOT_FOUND"), clause="ERR-7")
    env.check("calls", len(env.book.of("DownloadFile")), equals=1, clause="ERR-1")
    env.nothing_left(target, clause="DWN-18")


@case("sdk/basics/refused-while-sending", profile="rfc", clauses=("ERR-1", "ERR-7"))
async def refused_while_sending(env: SdkEnv) -> None:
    """A refusal that comes while the SDK is still sending is reported as it is, and not as a broken stream."""
    env.faults.always(
        "UploadFile", Fault(at="content", after_bytes=KIB, status=refusal("PATH_FORBIDDEN", "not there"))
    )
    answered = await env.upload(env.content(3 * MIB))
    env.refused(answered, reasons=("PATH_FORBIDDEN", "PERMISSION_DENIED"), clause="ERR-7")
    env.check("streams", len(env.book.of("UploadFile")), equals=1, clause="ERR-1")
    env.check("not-published", env.published("remote"), equals=None, clause="ERR-7")


@case("sdk/basics/server-of-the-rfc-upload", profile="rfc", clauses=("RFC-8",))
async def server_of_the_rfc_upload(env: SdkEnv) -> None:
    """Towards a server of the RFC alone an upload succeeds by fields 1 to 5, or fails without publishing anything."""
    env.gateway.settings.rfc_only = True
    content = env.content(300 * KIB)
    for number, sent in enumerate((content, content[:100])):
        answered = await env.upload(sent, f"remote-{number}")
        env.check(f"called-{number}", len(env.book.calls), satisfies=("a call", bool), clause="RFC-8")
        found = env.published(f"remote-{number}")
        right = (sent,) if answered.ok or env.has("rfc-server") else (None, sent)
        env.check(f"published-{number}", found, one_of=right, clause="RFC-8")
    env.well_formed("RFC-8")


@case("sdk/basics/server-of-the-rfc-empty-upload", profile="rfc", clauses=("RFC-8",))
async def server_of_the_rfc_empty_upload(env: SdkEnv) -> None:
    """A server of the RFC alone would take a stream of extensions for an empty file: an SDK does not let that happen."""
    env.gateway.settings.rfc_only = True
    env.serve(b"old")
    answered = await env.upload(env.content(KIB))
    env.check("calls", len(env.book.calls), satisfies=("at least one", bool), clause="RFC-8")
    right = (env.content(KIB),) if answered.ok else (b"old", env.content(KIB))
    env.check("not-emptied", env.published("remote"), one_of=right, clause="RFC-8")


@case("sdk/basics/server-of-the-rfc-download", profile="rfc", clauses=("DWN-19", "DWN-18"))
async def server_of_the_rfc_download(env: SdkEnv) -> None:
    """From a server of the RFC alone a download is right, or fails and leaves nothing."""
    env.gateway.settings.rfc_only = True
    content, target = env.content(300 * KIB), env.target()
    env.serve(content)
    answered = await env.download(target)
    env.check("called", len(env.book.of("DownloadFile")), satisfies=("a call", bool), clause="DWN-19")
    wanted = ("ok",) if env.has("rfc-server") else ("ok", "error")
    env.check("outcome", answered.outcome, one_of=wanted, clause="DWN-19")
    if answered.ok:
        env.check(
            "content", target.read_bytes() if target.exists() else None, equals=content, clause="DWN-18"
        )
    else:
        env.nothing_left(target, clause="DWN-18")


@case("sdk/basics/unknown-fields", profile="rfc", clauses=("RFC-9",), timeout=60.0)
async def unknown_fields(env: SdkEnv) -> None:
    """Messages with fields of a later revision are read as if these were not there."""
    env.gateway.settings.unknown_fields = True
    content, target = env.content(300 * KIB), env.target()
    up = await env.upload(content)
    env.check("upload", up.outcome, equals="ok", clause="RFC-9")
    env.check("published", env.published("remote"), equals=content, clause="RFC-9")
    down = await env.download(target)
    env.check("download", down.outcome, equals="ok", clause="RFC-9")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="RFC-9")


@case("sdk/basics/another-size-written", profile="rfc", clauses=("UPL-62",))
async def another_size_written(env: SdkEnv) -> None:
    """An answer that says that fewer bytes were written than there are is no success."""

    def fewer(response: files_pb2.UploadFileResponse) -> None:
        response.bytes_written = response.file.size_bytes = 5

    env.faults.always("UploadFile", answer(fewer))
    answered = await env.upload(env.content(400 * KIB), attempts=2)
    env.check("streams", len(env.book.of("UploadFile")), satisfies=("a stream", bool), clause="UPL-62")
    env.refused(answered, clause="UPL-62")
