"""Trees and archives beyond the vectors: round trips, refusals, and what a gateway carries of them."""

from __future__ import annotations

import asyncio
import io
import tarfile
from typing import Any, Final

from openshell_files_conformance.cases.gateway.relay_opening import NEEDS, SHORT
from openshell_files_conformance.cases.gateway.relayed_operations import told_to_stop
from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.cases.gateway.vector_trees import make_top
from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, file_relay_pb2, files_pb2, trees_pb2
from openshell_files_conformance.peers.caller import OK, SHA256, digest_of, finish
from openshell_files_conformance.peers.caller import chunks as pieces_of
from openshell_files_conformance.peers.client import Call
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.peers.supervisor import Response, accepted, file_transfer
from openshell_files_conformance.peers.tree_calls import Down, TreeUpload, Up, begin_tree, download_tree
from openshell_files_conformance.registry import case

_TREES: Final = ("trees", "own-sandbox")
_ARCHIVES: Final = ("archives", "own-sandbox")
_RELAYED: Final = (*NEEDS, "trees")
_CREATE: Final = files_pb2.PARENT_POLICY_CREATE
_DIR, _FILE, _LINK = files_pb2.FILE_TYPE_DIRECTORY, files_pb2.FILE_TYPE_REGULAR, files_pb2.FILE_TYPE_SYMLINK
CONTENTS: Final = {b"a": b"content of a", b"d/b": content_of(300_000), b"d/empty": b""}


def entries() -> list[trees_pb2.TreeEntry]:
    """A small tree with every kind of entry."""
    common: dict[str, Any] = {"modified_seconds": 1_000_000_000, "modified_nanos": 5}
    return [
        trees_pb2.TreeEntry(type=_DIR, mode=0o755, **common),
        trees_pb2.TreeEntry(path=b"a", type=_FILE, mode=0o640, size_bytes=len(CONTENTS[b"a"]), **common),
        trees_pb2.TreeEntry(path=b"d", type=_DIR, mode=0o750, **common),
        trees_pb2.TreeEntry(path=b"d/b", type=_FILE, mode=0o600, size_bytes=len(CONTENTS[b"d/b"]), **common),
        trees_pb2.TreeEntry(path=b"d/empty", type=_FILE, mode=0o644, size_bytes=0, **common),
        trees_pb2.TreeEntry(
            path=b"d/again", type=_FILE, mode=0o640, size_bytes=len(CONTENTS[b"a"]), hard_link=b"a", **common
        ),
        trees_pb2.TreeEntry(path=b"link", type=_LINK, mode=0o777, link_target=b"../nowhere", **common),
    ]


def parts_of(number: int, content: bytes) -> list[trees_pb2.TreePart]:
    """The content of an entry in parts of 100000 bytes."""
    starts = range(0, max(len(content), 1), 100_000)
    return [
        trees_pb2.TreePart(
            entry=number,
            offset=at,
            data=content[at : at + 100_000],
            last=at == starts[-1],
            digest=digest_of(content).value if at == starts[-1] else b"",
        )
        for at in starts
    ]


async def send_tree(
    env: GatewayEnv, path: str, *, wanted: list[trees_pb2.TreeEntry] | None = None, **fields: Any
) -> tuple[TreeUpload, Any]:
    """Upload the small tree, with the content that is asked for."""
    announced = entries() if wanted is None else wanted
    upload = await begin_tree(env.caller, path, **fields)
    await upload.wait(lambda: upload.started is not None)
    await upload.send(Up(manifest=trees_pb2.TreeManifest(entries=announced)))
    await upload.wait(lambda: upload.decided >= len(announced))
    for number in sorted(upload.needed):
        for part in parts_of(number, CONTENTS[announced[number].path]):
            await upload.send(Up(content=trees_pb2.TreeContent(parts=[part])))
    await upload.send(Up(end=trees_pb2.TreeEnd(entries=len(announced))))
    return upload, await upload.end()


@case(
    "gateway/trees/round-trip",
    profile="trees",
    needs=_TREES,
    clauses=("TRE-3", "TRE-31", "TRE-33", "TRE-7", "TRE-53", "TRE-37", "TRE-38"),
    timeout=40,
)
async def round_trip(env: GatewayEnv) -> None:
    """A tree goes up and comes down again with modes, times and links; a second upload has nothing to send."""
    path = env.path("top")
    upload, ended = await send_tree(env, path)
    env.require("reason", ended.reason, equals=OK, clause="TRE-53")
    env.check("started-first", ended.answers[0].HasField("started"), equals=True, clause="TRE-3")
    env.check("result-last", ended.answers[-1].HasField("result"), equals=True, clause="TRE-53")
    env.check("needed", sorted(upload.needed), equals=[1, 3, 4], clause="TRE-31")
    env.check("changed", set(range(1, 7)) <= set(upload.changed), equals=True, clause="TRE-33")
    found = await download_tree(env.caller, path)
    env.check("down", found.reason, equals=OK, clause="TRE-53")
    env.check("end-last", found.kinds[-1:], equals=["end"], clause="TRE-53")
    same = {
        name: node.content
        for name, node in found.nodes.items()
        if node.entry.type == _FILE and not node.entry.hard_link
    }
    linked = {b"a", b"d/again"}
    contents = {b"a" if name in linked else name: content for name, content in same.items()}
    env.check("content", contents == CONTENTS, equals=True, clause="TRE-37")
    digests = {part.digest for part in found.parts if part.last}
    env.check(
        "digests",
        digests == {digest_of(one).value for one in CONTENTS.values()},
        equals=True,
        clause="TRE-38",
    )
    seen = {
        one.path: (one.type, one.mode, one.modified_seconds, one.modified_nanos)
        for one in (node.entry for node in found.nodes.values())
        if one.type != _LINK
    }
    wanted = {
        one.path: (one.type, one.mode, one.modified_seconds, one.modified_nanos)
        for one in entries()
        if one.type != _LINK
    }
    env.check("attributes", seen == wanted, equals=True, clause="TRE-33")
    env.check(
        "link",
        found.nodes[b"link"].entry.link_target if b"link" in found.nodes else None,
        equals=b"../nowhere",
        clause="TRE-33",
    )
    again, ended = await send_tree(env, path)
    env.check(
        "nothing-to-send", (ended.reason, again.needed, again.changed), equals=(OK, [], []), clause="TRE-7"
    )


@case(
    "gateway/trees/options",
    profile="trees",
    needs=_TREES,
    clauses=("TRE-11", "TRE-12", "TRE-14", "TRE-8"),
    timeout=40,
)
async def options(env: GatewayEnv) -> None:
    """dry_run changes nothing, atomic replaces nothing, delete_others removes what was not announced."""
    path = env.path("top")
    dry, ended = await send_tree(env, path, dry_run=True)
    env.check("dry-run", (ended.reason, dry.needed), equals=(OK, []), clause="TRE-11")
    env.check(
        "dry-run-changed-nothing",
        (await download_tree(env.caller, path)).reason,
        equals="FILE_NOT_FOUND",
        clause="TRE-11",
    )
    _, ended = await send_tree(env, path, atomic=True)
    env.check("atomic", ended.reason, equals=OK, clause="TRE-12")
    _, ended = await send_tree(env, path, atomic=True)
    env.check("atomic-over-it", ended.reason, equals="FILE_EXISTS", clause="TRE-12")
    await env.caller.upload(f"{path}/d/extra", b"x")
    kept, ended = await send_tree(env, path)
    env.check("kept", (ended.reason, kept.deleted), equals=(OK, []), clause="TRE-14")
    removed, ended = await send_tree(env, path, delete_others=True)
    env.check("deleted", (ended.reason, removed.deleted), equals=(OK, [b"d/extra"]), clause="TRE-14")
    env.check("gone", await env.caller.content(f"{path}/d/extra"), equals="FILE_NOT_FOUND", clause="TRE-14")
    await env.caller.upload(f"{path}/a", b"another a!!!"[:12], mode=0o640)
    compared = await begin_tree(env.caller, path, compare_content=True)
    await compared.wait(lambda: compared.started is not None)
    announced = entries()[:2]
    announced[1].digest = digest_of(CONTENTS[b"a"]).value
    await compared.send(Up(manifest=trees_pb2.TreeManifest(entries=announced)))
    await compared.wait(lambda: compared.decided >= 2)
    env.check("compared", compared.needed, equals=[1], clause="TRE-8")
    compared.call.cancel()


@case(
    "gateway/trees/refusals",
    profile="trees",
    needs=_TREES,
    clauses=("TRE-2", "TRE-17", "TRE-18", "TRE-29", "TRE-15"),
)
async def refusals(env: GatewayEnv) -> None:
    """What is wrong with the start, the path or the patterns ends the call before anything changes."""
    for name, message in (("manifest-first", Up(manifest=trees_pb2.TreeManifest())), ("nothing", Up())):
        ended = await env.caller.call("UploadTree", message)
        env.check(name, ended.reason, equals="INVALID_REQUEST", clause="TRE-2")
    upload = await begin_tree(env.caller, f"{env.path('missing')}/top")
    env.check(
        "parent", (await upload.end(half_close=False)).reason, equals="PARENT_NOT_FOUND", clause="TRE-18"
    )
    file = env.path()
    await env.caller.upload(file, b"x")
    upload = await begin_tree(env.caller, file)
    env.check(
        "a-file", (await upload.end(half_close=False)).reason, equals="NOT_A_DIRECTORY", clause="TRE-18"
    )
    env.check(
        "download-a-file",
        (await download_tree(env.caller, file)).reason,
        equals="NOT_A_DIRECTORY",
        clause="TRE-17",
    )
    top = env.path("top")
    await make_top(env, top)
    for name, pattern in (("comment", "#x"), ("empty", ""), ("dots", "..")):
        found = await download_tree(env.caller, top, exclude=[pattern])
        env.check(name, found.reason, equals="INVALID_REQUEST", clause="TRE-29")
    upload = await begin_tree(env.caller, env.path("top"))
    await upload.send(
        Up(manifest=trees_pb2.TreeManifest(entries=entries())), Up(end=trees_pb2.TreeEnd(entries=7))
    )
    env.check(
        "end-without-content",
        (await upload.end(half_close=False)).reason,
        equals="INVALID_REQUEST",
        clause="TRE-15",
    )


@case("gateway/trees/patterns", profile="trees", needs=_TREES, clauses=("TRE-9", "TRE-10"))
async def patterns(env: GatewayEnv) -> None:
    """`exclude` and `include` choose what is announced; nothing below an excluded directory is."""
    path = env.path("top")
    await send_tree(env, path)
    found = await download_tree(env.caller, path, exclude=["d/"])
    sent = {name for name, node in found.nodes.items() if not node.entry.excluded}
    env.check(
        "excluded",
        (found.reason, {name for name in sent if name.startswith(b"d")}),
        equals=(OK, set()),
        clause="TRE-10",
    )
    found = await download_tree(env.caller, path, include=["b"])
    files = {
        name for name, node in found.nodes.items() if node.entry.type == _FILE and not node.entry.excluded
    }
    env.check("included", (found.reason, files), equals=(OK, {b"d/b"}), clause="TRE-9")


# What a gateway carries of trees


async def _uploading(env: GatewayEnv) -> tuple[Call[Any], Any]:
    sandbox = await env.sandbox(file_transfer=file_transfer(serves_trees=True))
    call = sandbox.caller.open("UploadTree")
    await call.send(Up(start=trees_pb2.UploadTreeStart(sandbox=sandbox.caller.sandbox, path=b"top")))
    relay = await sandbox.session.take_up()
    await relay.opened()
    started = trees_pb2.UploadTreeResponse(
        started=trees_pb2.TreeStarted(path=b"/top", digest_algorithm=SHA256)
    )
    await relay.send(accepted(), Response(upload_tree=started))
    return call, relay


@case("gateway/tree-frames/carried", profile="trees", needs=_RELAYED, clauses=("FRM-34", "FRM-35"))
async def carried(env: GatewayEnv) -> None:
    """Messages of a tree are carried as they are, both ways, and the call ends with OK only after tree_end."""
    call, relay = await _uploading(env)
    # What breaks the rules of trees is the agent's to refuse.
    wrong = Up(manifest=trees_pb2.TreeManifest(entries=[trees_pb2.TreeEntry(path=b"../x", mode=0o7777)]))
    messages = [wrong, Up(end=trees_pb2.TreeEnd(entries=99))]
    await call.send(*messages)
    frames = [await relay.next() for _ in messages]
    env.check(
        "towards-the-agent",
        [one and one.upload_tree for one in frames] == messages,
        equals=True,
        clause="FRM-34",
    )
    reply = trees_pb2.UploadTreeResponse(reply=trees_pb2.TreeReply(decided_entries=5, needed=[77]))
    result = trees_pb2.UploadTreeResponse(result=trees_pb2.UploadTreeResult(created=True))
    await relay.send(Response(upload_tree=reply), Response(upload_tree=result))
    seen = [await call.next() for _ in range(3)]
    env.check("towards-the-caller", seen[1:] == [reply, result], equals=True, clause="FRM-34")
    env.check("not-over", call.over, equals=False, clause="FRM-35")
    await relay.send(Response(tree_end=file_relay_pb2.FileRelayTreeEnd()))
    env.check("ok", (await call.end()).reason, equals=OK, clause="FRM-35")
    call, relay = await _uploading(env)
    await relay.send(Response(upload_tree=result))
    await relay.half_close()
    env.check("without-tree-end", (await call.end()).reason, equals="RELAY_LOST", clause="FRM-35")


@case(
    "gateway/tree-frames/caller-leaves",
    profile="trees",
    needs=_RELAYED,
    clauses=("FRM-31", "TRE-56", "FRM-36"),
)
async def caller_leaves(env: GatewayEnv) -> None:
    """When the caller of a tree leaves the agent is told; a half-close is passed on."""
    call, relay = await _uploading(env)
    call.cancel()
    env.check("told", await told_to_stop(env, relay), equals=True, clause="FRM-31")
    env.check("ends", await relay.wait_over(env.scaled(5.0)), equals=True, clause="TRE-56")
    call, relay = await _uploading(env)
    await call.half_close()
    frame = await relay.until("input_end", env.scaled(5.0))
    env.check("half-close", frame is not None and not frame.input_end.cancelled, equals=True, clause="FRM-36")
    await relay.send(
        Response(error=file_relay_pb2.FileRelayError(reason="UPLOAD_INCOMPLETE", message="no end"))
    )
    env.check("incomplete", (await call.end()).reason, equals="UPLOAD_INCOMPLETE", clause="FRM-36")


@case(
    "gateway/tree-frames/idle",
    profile="trees",
    needs=_RELAYED,
    clauses=("TRE-19", "WAI-6"),
    launch=SHORT,
    timeout=40,
)
async def idle(env: GatewayEnv) -> None:
    """A tree in which neither side moves ends with TRANSFER_IDLE; every message of either side is movement."""
    call, relay = await _uploading(env)
    ended = await call.end()
    env.check("still", ended.reason, equals="TRANSFER_IDLE", clause="TRE-19")
    call, relay = await _uploading(env)
    for number in range(17):
        if number % 2:
            await relay.send(
                Response(upload_tree=trees_pb2.UploadTreeResponse(working=trees_pb2.TreeWorking()))
            )
        elif env.has("waiting"):
            await call.send(Up(waiting=file_options_pb2.UploadWaiting()))
        await asyncio.sleep(0.2)
    env.check("moving", call.over, equals=False, clause="WAI-6")
    call.cancel()


@case("gateway/tree-frames/unsupported", profile="trees", needs=_RELAYED, clauses=("TRE-1",))
async def unsupported(env: GatewayEnv) -> None:
    """A sandbox without trees is answered by UNIMPLEMENTED, and changes nothing."""
    sandbox = await env.sandbox(agent=True)
    start = Up(start=trees_pb2.UploadTreeStart(sandbox=sandbox.caller.sandbox, path=b"top"))
    ended = await sandbox.caller.call("UploadTree", start)
    env.check("upload", ended.code.name, equals="UNIMPLEMENTED", clause="TRE-1")
    down = Down(start=trees_pb2.DownloadTreeStart(sandbox=sandbox.caller.sandbox, path=b"top"))
    ended = await sandbox.caller.call("DownloadTree", down)
    env.check("download", ended.code.name, equals="UNIMPLEMENTED", clause="TRE-1")


# Archives


def tar(**contents: bytes) -> bytes:
    """A tar archive of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), 0o640, 1_000_000_000
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@case(
    "gateway/archives/round-trip",
    profile="archives",
    needs=_ARCHIVES,
    clauses=("ARC-2", "ARC-10", "ARC-11", "ARC-12", "ARC-9"),
)
async def archive_round_trip(env: GatewayEnv) -> None:
    """A caller that knows only fields 1 to 5 unpacks an archive, and gets the directory as one."""
    path, content = env.path("top"), tar(a=b"first", b=content_of(200_000))
    up = await env.caller.rfc_upload(path, content, is_archive=True)
    env.require("unpacked", up.reason, equals=OK, clause="ARC-2")
    env.check("file", await env.caller.content(f"{path}/a"), equals=b"first", clause="ARC-2")
    down = await env.caller.download(path, as_archive=True)
    env.require("packed", down.reason, equals=OK, clause="ARC-11")
    env.check("header", (down.header.is_archive, down.header.size_bytes), equals=(True, 0), clause="ARC-11")
    with tarfile.open(fileobj=io.BytesIO(down.content)) as archive:
        names = archive.getnames()
        members = {
            one.name.removeprefix("./"): (one.mode & 0o777, int(one.mtime))
            for one in archive.getmembers()
            if one.isfile()
        }
    env.check("first-member", names[:1], one_of=(["."], ["./"]), clause="ARC-12")
    env.check(
        "members", members, equals={"a": (0o640, 1_000_000_000), "b": (0o640, 1_000_000_000)}, clause="ARC-12"
    )
    done = await env.caller.upload(path, content, is_archive=True)
    told = done.answer.archive if done.ok else files_pb2.ArchiveResult()
    env.check("answer", (told.entries, told.placed_entries, told.files), equals=(2, 2, 2), clause="ARC-10")
    call = await env.caller.begin(
        path,
        *pieces_of(content),
        finish(content, size=len(content) - 1),
        is_archive=True,
        explicit_finish=True,
    )
    env.check("wrong-finish", (await call.end()).reason, equals="SIZE_MISMATCH", clause="ARC-9")
    call = await env.caller.begin(path, *pieces_of(content), is_archive=True, explicit_finish=True)
    await call.half_close()
    env.check("no-finish", (await call.end()).reason, equals="UPLOAD_INCOMPLETE", clause="ARC-9")


@case("gateway/archives/fields", profile="archives", needs=_ARCHIVES, clauses=("ARC-8", "ARC-22", "ARC-11"))
async def archive_fields(env: GatewayEnv) -> None:
    """Fields that mean nothing for an archive are refused by their names."""
    path, content = env.path("top"), tar(a=b"x")
    for name, value in (
        ("request_id", "r"),
        ("keep_read_only", True),
        ("leaf_link", files_pb2.LEAF_LINK_POLICY_FOLLOW),
        ("modified_time", {"seconds": 1}),
    ):
        fields: dict[str, Any] = {name: value}
        done = await env.caller.upload(path, content, is_archive=True, **fields)
        env.check(
            name.replace("_", "-"),
            (done.reason, done.fields),
            equals=("INVALID_REQUEST", [f"metadata.{name}"]),
            clause="ARC-8",
        )
    done = await env.caller.write(path, content, is_archive=True)
    env.check(
        "write-file",
        done.reason,
        one_of=("INVALID_REQUEST", "UNIMPLEMENTED without a reason"),
        clause="ARC-8",
    )
    await env.caller.upload(path, content, is_archive=True)
    ranges: dict[str, Any] = {"offset": 1, "length": 1, "tail_bytes": 1, "if_version": "v"}
    for name, given in ranges.items():
        found = await env.caller.download(path, as_archive=True, **{name: given})
        env.check(
            f"download-{name.replace('_', '-')}",
            (found.reason, found.ended.fields),
            equals=("INVALID_REQUEST", [name]),
            clause="ARC-22",
        )
    file = env.path()
    await env.caller.upload(file, b"x")
    env.check(
        "a-file",
        (await env.caller.download(file, as_archive=True)).reason,
        equals="NOT_A_DIRECTORY",
        clause="ARC-11",
    )


@case(
    "gateway/archives/problems",
    profile="archives",
    needs=_ARCHIVES,
    clauses=("ARC-5", "ARC-10", "ARC-21", "ARC-6"),
)
async def archive_problems(env: GatewayEnv) -> None:
    """A member that leads out is left out and told; a caller of the RFC gets ARCHIVE_INCOMPLETE after everything else."""
    content = tar(**{"../out": b"x", "in": b"good"})
    path = env.path("top")
    up = await env.caller.rfc_upload(path, content, is_archive=True)
    env.check("rfc", (up.code.name, up.reason), equals=("DATA_LOSS", "ARCHIVE_INCOMPLETE"), clause="ARC-10")
    env.check("the-others", await env.caller.content(f"{path}/in"), equals=b"good", clause="ARC-21")
    done = await env.caller.upload(path, content, is_archive=True)
    problems = [(one.path, one.reason) for one in done.answer.archive.problems] if done.ok else done.reason
    env.check("explicit", problems, equals=[(b"../out", "INVALID_PATH")], clause="ARC-5")
    cut = await env.caller.upload(env.path("top"), content[:700], is_archive=True)
    env.check("cut-off", cut.reason, equals="ARCHIVE_INVALID", clause="ARC-6")


@case("gateway/archives/checked-download", profile="archives", needs=_ARCHIVES, clauses=("ARC-13", "DWN-9"))
async def archive_checked(env: GatewayEnv) -> None:
    """A checked download of an archive has its digest and its numbers in the trailer."""
    path = env.path("top")
    await env.caller.rfc_upload(path, tar(a=b"x", b=b"y"), is_archive=True)
    down = await env.caller.download(path, as_archive=True, checked=True)
    env.require("reason", down.reason, equals=OK, clause="DWN-9")
    trailer = down.trailer or files_pb2.DownloadTrailer()
    env.check("digest", trailer.digest == digest_of(down.content), equals=True, clause="DWN-9")
    env.check(
        "numbers", (trailer.archive.files, len(trailer.archive.problems)), equals=(2, 0), clause="ARC-13"
    )
