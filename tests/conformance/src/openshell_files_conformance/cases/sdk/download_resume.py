"""Downloads whose stream is lost."""

from __future__ import annotations

from typing import Any

from openshell_files_conformance.peers.file_calls import Fault
from openshell_files_conformance.peers.file_sandbox import KIB
from openshell_files_conformance.peers.file_status import LOST
from openshell_files_conformance.peers.sdk_env import Expectation, SdkEnv
from openshell_files_conformance.registry import case

CHUNK = 64 * KIB
SIZE = 8 * CHUNK + 9


def _asked(env: SdkEnv) -> list[tuple[int, str]]:
    """Return offset and version that each stream was asked for."""
    return [(call.request.offset, call.request.if_version) for call in env.book.of("DownloadFile")]


#: A stream begins anew, or goes on with the version of what came before.
def _pinned(asked: Any) -> bool:
    return len(asked) > 1 and all(offset == 0 or version for offset, version in asked)


@case(
    "sdk/download-resume/lost-stream",
    profile="resume",
    needs=("resume",),
    clauses=("CRS-11", "DWN-10", "ERR-6", "DWN-2"),
)
async def lost_stream(env: SdkEnv) -> None:
    """A lost download goes on behind what came, of the same version, or begins anew."""
    content, target = env.content(SIZE), env.target()
    env.serve(content)
    env.faults.add("DownloadFile", Fault(at="content", after_bytes=4 * CHUNK, status=LOST))
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    seen = target.read_bytes() if target.exists() else None
    env.check("content", seen, equals=content if answered.ok else None, clause="DWN-10")
    env.check(
        "asked", _asked(env), satisfies=("a second stream, from 0 or of a version", _pinned), clause="CRS-11"
    )
    ends = [call.ended for call in env.book.of("DownloadFile")]
    env.check("ends", ends, equals=["UNAVAILABLE", "OK"], clause="DWN-2")


@case(
    "sdk/download-resume/closed-connection",
    profile="resume",
    needs=("resume",),
    clauses=("CRS-11", "DWN-10", "ERR-6"),
)
async def closed_connection(env: SdkEnv) -> None:
    """The gateway closes the connection with GOAWAY in the middle of a download, and takes a new one."""
    content, target = env.content(SIZE), env.target()
    env.serve(content)
    env.faults.add("DownloadFile", Fault(at="content", after_bytes=4 * CHUNK, disconnect=True))
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="ERR-6")
    seen = target.read_bytes() if target.exists() else None
    env.check("content", seen, equals=content if answered.ok else None, clause="DWN-10")
    env.check(
        "asked", _asked(env), satisfies=("a second stream, from 0 or of a version", _pinned), clause="CRS-11"
    )


@case(
    "sdk/download-resume/before-the-trailer", profile="resume", needs=("resume",), clauses=("DWN-2", "DWN-10")
)
async def before_the_trailer(env: SdkEnv) -> None:
    """All content came and the trailer is lost: the file is not complete before the SDK has one."""
    content, target = env.content(SIZE), env.target()
    env.serve(content)
    env.faults.add("DownloadFile", Fault(at="content", after_bytes=SIZE, status=LOST))
    answered = await env.download(target)
    seen = target.read_bytes() if target.exists() else None
    env.check("content", seen, equals=content if answered.ok else None, clause="DWN-10")
    streams = len(env.book.of("DownloadFile"))
    more: Expectation = ("a second stream, or an error", lambda streams: streams > 1 or not answered.ok)
    env.check("streams", streams, satisfies=more, clause="DWN-2")


@case("sdk/download-resume/changed-file", profile="resume", needs=("resume",), clauses=("CRS-11", "DWN-6"))
async def changed_file(env: SdkEnv) -> None:
    """The file is another one when the download goes on: the two are not joined."""
    target = env.target()
    env.serve(env.content(SIZE))
    changed = bytes(reversed(env.content(SIZE)))

    def replace(_: object) -> None:
        env.serve(changed, version="v2")

    env.faults.add("DownloadFile", Fault(at="content", after_bytes=4 * CHUNK, then=replace, status=LOST))
    answered = await env.download(target)
    seen = target.read_bytes() if target.exists() else None
    env.check("content", seen, equals=changed if answered.ok else None, clause="DWN-6")
    env.check(
        "asked", _asked(env), satisfies=("a second stream, from 0 or of a version", _pinned), clause="CRS-11"
    )


@case(
    "sdk/download-resume/other-version-sent",
    profile="resume",
    needs=("resume",),
    clauses=("DWN-10", "DWN-18"),
)
async def other_version_sent(env: SdkEnv) -> None:
    """The server sends the rest of another version, although it was asked for this one: the two are not joined."""
    target = env.target()
    content, changed = env.content(SIZE), bytes(reversed(env.content(SIZE)))
    env.serve(content)

    def replace(_: object) -> None:
        env.serve(changed)

    def other(message: Any) -> Any:
        if message.WhichOneof("payload") == "header":
            message.header.file.version = "v2"
        if message.WhichOneof("payload") == "trailer":
            message.trailer.file.version = "v2"
        return (message,)

    env.faults.add("DownloadFile", Fault(at="content", after_bytes=4 * CHUNK, then=replace, status=LOST))
    env.faults.always("DownloadFile", Fault(change=other))
    answered = await env.download(target, attempts=3)
    seen = target.read_bytes() if target.exists() else None
    env.check("content", seen, one_of=(changed,) if answered.ok else (None,), clause="DWN-10")
    if not answered.ok:
        env.nothing_left(target, clause="DWN-18")
    else:
        env.check("nothing-left", answered.outcome, equals="ok", clause="DWN-18")


@case(
    "sdk/download-resume/lost-range",
    profile="resume",
    needs=("resume", "ranges"),
    clauses=("CRS-11", "DWN-4", "DWN-11", "DWN-13"),
    timeout=60.0,
)
async def lost_range(env: SdkEnv) -> None:
    """A part of a file whose stream is lost is still that part when it is complete."""
    content = env.content(SIZE)
    env.serve(content)
    first, length = CHUNK + 5, 5 * CHUNK
    asked: tuple[tuple[str, dict[str, Any], bytes, str], ...] = (
        ("offset-and-length", {"offset": first, "length": length}, content[first : first + length], "DWN-4"),
        ("tail", {"tail": length}, content[-length:], "DWN-11"),
    )
    for name, options, wanted, clause in asked:
        target = env.target()
        env.faults.add("DownloadFile", Fault(at="content", after_bytes=2 * CHUNK, status=LOST))
        answered = await env.download(target, **options)
        seen = target.read_bytes() if target.exists() else None
        env.check(name, seen, equals=wanted if answered.ok else None, clause=clause)
        env.check(f"{name}-ok", answered.outcome, equals="ok", clause="CRS-11")
    env.well_formed("DWN-13")
