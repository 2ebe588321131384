"""Directories: listing, making, removing, moving and copying, by a caller of a whole server."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from openshell_files_conformance.cases.gateway.relay_opening import NEEDS
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import directories_pb2, files_pb2
from openshell_files_conformance.peers.caller import OK, Caller
from openshell_files_conformance.peers.client import Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import case

_NEEDS: Final = ("directories", "own-sandbox")
_CREATE: Final = files_pb2.PARENT_POLICY_CREATE
_FILE: Final = directories_pb2.REPLACE_POLICY_FILE


async def listed(caller: Caller, path: str, **fields: Any) -> Ended[Any]:
    """List a directory, one page."""
    request = directories_pb2.ListDirectoryRequest(sandbox=caller.sandbox, path=path.encode(), **fields)
    return await caller.call("ListDirectory", request)


async def made(caller: Caller, path: str, **fields: Any) -> Ended[Any]:
    """Make a directory."""
    request = directories_pb2.MakeDirectoryRequest(sandbox=caller.sandbox, path=path.encode(), **fields)
    return await caller.call("MakeDirectory", request)


async def removed(caller: Caller, path: str, **fields: Any) -> Ended[Any]:
    """Remove an entry."""
    request = directories_pb2.RemovePathRequest(sandbox=caller.sandbox, path=path.encode(), **fields)
    return await caller.call("RemovePath", request)


async def moved(caller: Caller, source: str, destination: str, **fields: Any) -> Ended[Any]:
    """Move an entry."""
    request = directories_pb2.MovePathRequest(
        sandbox=caller.sandbox, source=source.encode(), destination=destination.encode(), **fields
    )
    return await caller.call("MovePath", request)


async def copied(caller: Caller, source: str, destination: str, **fields: Any) -> Ended[Any]:
    """Copy an entry."""
    request = directories_pb2.CopyPathRequest(
        sandbox=caller.sandbox, source=source.encode(), destination=destination.encode(), **fields
    )
    return await caller.call("CopyPath", request)


async def filled(env: GatewayEnv, *names: str) -> str:
    """Make a directory with files.

    Raises:
        CannotGoOnError: the server does not.
    """
    top = env.path("top")
    await made(env.caller, top)
    for name in names:
        done = await env.caller.upload(f"{top}/{name}", name.encode(), parents=_CREATE)
        if not done.ok:
            raise CannotGoOnError(f"an upload that only prepares the case: {done}")
    return top


@case("gateway/directories/list", profile="core", needs=_NEEDS, clauses=("DIR-3", "DIR-4", "DIR-28"))
async def listing(env: GatewayEnv) -> None:
    """Entries come in the order of their names' bytes, page by page, each once; a directory before its content."""
    top = await filled(env, "b", "a", "d/x", "d/e/y", "B", "d.", "é")
    whole = await listed(env.caller, top)
    env.require("reason", whole.reason, equals=OK, clause="DIR-3")
    names = [one.name for one in whole.answer.entries]
    env.check("order", names, equals=sorted(names), clause="DIR-4")
    env.check("names", set(names), equals={b"a", b"b", b"B", b"d", b"d.", "é".encode()}, clause="DIR-3")
    types = {one.name: (one.type, one.size_bytes) for one in whole.answer.entries if one.name in {b"a", b"d"}}
    env.check("file", types[b"a"], equals=(files_pb2.FILE_TYPE_REGULAR, 1), clause="DIR-3")
    pages, token = list[bytes](), b""
    for _ in range(10):
        page = await listed(env.caller, top, page_size=2, page_token=token)
        pages += [one.name for one in page.answer.entries]
        env.check(f"page-{len(pages)}", len(page.answer.entries) <= 2, equals=True, clause="DIR-28")
        token = page.answer.next_page_token
        if not token:
            break
    env.check("pages", pages, equals=names, clause="DIR-4")
    deep = await listed(env.caller, top, recursive=True)
    all_names = [one.name for one in deep.answer.entries]
    before = all_names.index(b"d") < all_names.index(b"d/e") < all_names.index(b"d/e/y")
    env.check("before-its-content", before, equals=True, clause="DIR-4")


@case("gateway/directories/make", profile="core", needs=_NEEDS, clauses=("DIR-14", "DIR-15", "PTH-16"))
async def making(env: GatewayEnv) -> None:
    """A directory is made with exactly its mode; what is there already is told."""
    path = env.path("top")
    done = await made(env.caller, path, mode=0o711)
    env.check("made", (done.reason, done.ok and done.answer.created), equals=(OK, True), clause="DIR-15")
    env.check("mode", done.ok and done.answer.directory.mode & 0o777, equals=0o711, clause="DIR-15")
    env.check("again", (await made(env.caller, path)).reason, equals="FILE_EXISTS", clause="DIR-14")
    there = await made(env.caller, path, exist_ok=True, mode=0o700)
    seen = (there.reason, there.ok and there.answer.created, there.ok and there.answer.directory.mode & 0o777)
    env.check("exist-ok", seen, equals=(OK, False, 0o711), clause="DIR-14")
    env.check(
        "parent",
        (await made(env.caller, f"{env.path('no')}/x")).reason,
        equals="PARENT_NOT_FOUND",
        clause="PTH-16",
    )


@case(
    "gateway/directories/remove",
    profile="core",
    needs=_NEEDS,
    clauses=("DIR-10", "DIR-13", "DIR-17", "DIR-19", "DIR-11"),
)
async def removing(env: GatewayEnv) -> None:
    """Files and empty directories are removed; others only recursively; the root and the working directory never."""
    top = await filled(env, "a", "d/x", "d/e/y")
    full = await removed(env.caller, top)
    env.check(
        "not-empty",
        (full.code.name, full.reason),
        equals=("FAILED_PRECONDITION", "DIRECTORY_NOT_EMPTY"),
        clause="DIR-13",
    )
    env.check("told", "removed_entries" in full.metadata, equals=True, clause="DIR-17")
    version = (await env.caller.stat(f"{top}/a")).answer.file.version
    other = await removed(env.caller, f"{top}/a", if_version=f"{version}x")
    env.check("other-version", other.reason, equals="CONDITION_FAILED", clause="DIR-19")
    one = await removed(env.caller, f"{top}/a", if_version=version)
    env.check("one", (one.reason, one.ok and one.answer.removed_entries), equals=(OK, 1), clause="DIR-19")
    tree = await removed(env.caller, top, recursive=True)
    env.check(
        "recursive", (tree.reason, tree.ok and tree.answer.removed_entries), equals=(OK, 5), clause="DIR-10"
    )
    gone = await removed(env.caller, top)
    env.check("missing", gone.reason, equals="FILE_NOT_FOUND", clause="DIR-19")
    fine = await removed(env.caller, top, missing_ok=True)
    env.check(
        "missing-ok", (fine.reason, fine.ok and fine.answer.removed_entries), equals=(OK, 0), clause="DIR-19"
    )
    for name, path in (("root", "/"), ("working-directory", ".")):
        refused = await removed(env.caller, path, recursive=True)
        env.check(name, refused.reason, equals="PATH_FORBIDDEN", clause="DIR-11")


@case(
    "gateway/directories/move", profile="core", needs=_NEEDS, clauses=("DIR-20", "DIR-21", "DIR-22", "DIR-2")
)
async def moving(env: GatewayEnv) -> None:
    """A move is one rename, replaces nothing by itself, and does not lead into its own source."""
    top = await filled(env, "a", "b", "d/x")
    done = await moved(env.caller, f"{top}/d", f"{top}/moved")
    env.check("directory", done.reason, equals=OK, clause="DIR-20")
    env.check("with-its-content", await env.caller.content(f"{top}/moved/x"), equals=b"d/x", clause="DIR-20")
    env.check("gone", (await env.caller.stat(f"{top}/d")).reason, equals="FILE_NOT_FOUND", clause="DIR-20")
    taken = await moved(env.caller, f"{top}/a", f"{top}/b")
    env.check("taken", taken.reason, equals="FILE_EXISTS", clause="DIR-21")
    absent = files_pb2.UploadCondition(absent=Empty())
    taken = await moved(env.caller, f"{top}/a", f"{top}/b", condition=absent)
    env.check("absent", taken.reason, equals="FILE_EXISTS", clause="DIR-21")
    replaced = await moved(env.caller, f"{top}/a", f"{top}/b", replace=_FILE)
    env.check(
        "replaced",
        (replaced.reason, replaced.ok and replaced.answer.replaced),
        equals=(OK, True),
        clause="DIR-21",
    )
    env.check("content", await env.caller.content(f"{top}/b"), equals=b"a", clause="DIR-21")
    into = await moved(env.caller, f"{top}/moved", f"{top}/moved/inside")
    env.check(
        "into-itself",
        (into.reason, into.fields),
        equals=("INVALID_REQUEST", ["destination"]),
        clause="DIR-22",
    )
    slash = await moved(env.caller, f"{top}/b", f"{top}/c/")
    env.check("slash", slash.reason, equals="INVALID_PATH", clause="DIR-2")


@case(
    "gateway/directories/copy", profile="core", needs=_NEEDS, clauses=("DIR-23", "DIR-24", "DIR-25", "DIR-21")
)
async def copying(env: GatewayEnv) -> None:
    """A copy keeps mode and content; that of a directory needs `recursive` and an absent destination."""
    top = await filled(env, "d/x", "d/e/y")
    await env.caller.upload(f"{top}/a", b"content", mode=0o751, modified_time={"seconds": 1_000_000_000})
    done = await copied(env.caller, f"{top}/a", f"{top}/b")
    file = done.answer.file if done.ok else files_pb2.FileInfo()
    env.check(
        "file",
        (done.reason, file.mode & 0o777, file.modified_time.seconds),
        equals=(OK, 0o751, 1_000_000_000),
        clause="DIR-25",
    )
    env.check("content", await env.caller.content(f"{top}/b"), equals=b"content", clause="DIR-25")
    tree = await copied(env.caller, f"{top}/d", f"{top}/copy", recursive=True)
    env.check(
        "directory", (tree.reason, tree.ok and tree.answer.copied_entries), equals=(OK, 4), clause="DIR-24"
    )
    env.check("below", await env.caller.content(f"{top}/copy/e/y"), equals=b"d/e/y", clause="DIR-23")
    taken = await copied(env.caller, f"{top}/d", f"{top}/copy", recursive=True)
    env.check("taken", taken.reason, equals="FILE_EXISTS", clause="DIR-21")
    plain = await copied(env.caller, f"{top}/d", f"{top}/other")
    env.check("without-recursive", plain.reason, equals="IS_A_DIRECTORY", clause="DIR-24")


@case("gateway/directories/unsupported", profile="core", needs=(*NEEDS, "directories"), clauses=("DIR-1",))
async def unsupported(env: GatewayEnv) -> None:
    """A sandbox without these methods is answered by UNIMPLEMENTED."""
    sandbox = await env.sandbox(agent=True)
    for name, ended in (
        ("list", await listed(sandbox.caller, "/")),
        ("make", await made(sandbox.caller, "x")),
        ("remove", await removed(sandbox.caller, "x")),
        ("move", await moved(sandbox.caller, "x", "y")),
        ("copy", await copied(sandbox.caller, "x", "y")),
    ):
        env.check(name, ended.code.name, equals="UNIMPLEMENTED", clause="DIR-1")
