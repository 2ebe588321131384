"""Archives in and out of the sandbox, beside what the vectors try: the calls, and what is packed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, data, digest
from openshell_files_conformance.peers.supervisor_env import CHUNK_BYTES, Downloaded, SupervisorEnv
from openshell_files_conformance.peers.waiting import until
from openshell_files_conformance.registry import case

_NEEDS = ("archives",)


def archive(members: Mapping[str, bytes | None], compression: str = "") -> bytes:
    """Make a tar archive of files, and of directories where there is no content."""
    out = io.BytesIO()
    opened: Any = tarfile.open
    with opened(fileobj=out, mode=f"w:{compression}", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.mtime, member.mode = 1_000_000_000, 0o640
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o750
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


_TAR = archive({"d": None, "d/a": b"content", "b": b"b" * 5000})


@case(
    "supervisor/archives/unpacked",
    profile="archives",
    clauses=("ARC-9", "ARC-10", "ARC-3", "ARC-8"),
    needs=_NEEDS,
)
async def unpacked(env: SupervisorEnv) -> None:
    """A plain archive and a compressed one are unpacked into the directory; the answer counts what was done."""
    for name, compression in (("plain", ""), ("gzip", "gz")):
        content = archive({"d": None, "d/a": b"content", "b": b"b" * 5000}, compression)
        done = await env.upload(env.path(name), content, is_archive=True)
        clause = "ARC-3" if compression else "ARC-9"
        env.require(name, done.reason, equals=OK, clause=clause)
        env.check(f"{name}-bytes", done.answer.bytes_written, one_of=(len(content), 5007), clause="ARC-9")
        told = done.answer.archive
        seen = (told.entries, told.placed_entries, told.files, told.content_bytes, len(told.problems))
        env.check(f"{name}-counts", seen, equals=(3, 3, 2, 5007, 0), clause="ARC-10")
        env.check(
            f"{name}-content", await env.files.read(env.path(f"{name}/d/a")), equals=b"content", clause=clause
        )
        entry = await env.files.entry(env.path(f"{name}/d/a"))
        attributes = (entry.mode, entry.modified_ns) if entry else None
        env.check(f"{name}-attributes", attributes, equals=(0o640, 10**18), clause="ARC-8")


@case(
    "supervisor/archives/of-the-rfc", profile="archives", clauses=("ARC-9", "ARC-10", "RFC-3"), needs=_NEEDS
)
async def of_the_rfc(env: SupervisorEnv) -> None:
    """A caller of the RFC sends chunks and half-closes; a problem ends its call with ARCHIVE_INCOMPLETE, after everything else."""
    for name, members, wanted in (
        ("fine", {"a": b"a"}, OK),
        ("problem", {"../out": b"out", "a": b"a"}, "ARCHIVE_INCOMPLETE"),
    ):
        content = archive(members)
        relay = await env.begin_upload(
            env.path(name), explicit_finish=False, size_bytes=len(content), is_archive=True
        )
        await relay.upload(files_pb2.UploadFileRequest(chunk=content))
        await relay.input_end()
        done = await relay.outcome()
        env.check(name, done.reason, equals=wanted, clause="ARC-10" if name == "problem" else "ARC-9")
        env.check(
            f"{name}-content", await env.files.read(env.path(f"{name}/a")), equals=b"a", clause="ARC-10"
        )
        if done.ok:
            env.check("no-extension", done.answer.HasField("archive"), equals=False, clause="RFC-3")
    env.check("nothing-outside", await env.files.exists(env.path("out")), equals=False, clause="ARC-10")


@case("supervisor/archives/fields", profile="archives", clauses=("ARC-8", "ARC-22"), needs=_NEEDS)
async def fields(env: SupervisorEnv) -> None:
    """Fields that have no meaning for archives are refused, in both directions, and archives in other methods."""
    others: dict[str, Any] = {
        "request_id": "x",
        "epoch": 1,
        "lanes": 2,
        "condition": files_pb2.UploadCondition(absent=Empty()),
        "modified_time": Timestamp(seconds=1),
        "keep_read_only": True,
        "leaf_link": files_pb2.LEAF_LINK_POLICY_FOLLOW,
    }
    for field, value in others.items():
        relay = await env.begin_upload(env.path("top"), is_archive=True, **{field: value})
        done = await relay.outcome()
        seen = (done.reason, done.fields)
        env.check(
            field.replace("_", "-"), seen, equals=("INVALID_REQUEST", [f"metadata.{field}"]), clause="ARC-8"
        )
    started = await env.start_upload(env.path("top"), is_archive=True)
    seen = (started.reason, started.fields)
    env.check("start-upload", seen, equals=("INVALID_REQUEST", ["metadata.is_archive"]), clause="ARC-8")
    written = await env.write_file(env.path("top"), _TAR, is_archive=True)
    seen = (written.reason, written.fields)
    env.check("write-file", seen, equals=("INVALID_REQUEST", ["metadata.is_archive"]), clause="ARC-8")
    env.check("nothing-made", await env.files.exists(env.path("top")), equals=False, clause="ARC-8")
    await env.files.mkdir(env.path("there"))
    ranges: dict[str, Any] = {"offset": 1, "length": 1, "tail_bytes": 1, "if_version": "v"}
    for field, value in ranges.items():
        chosen = {field: value}
        found = await env.download(env.path("there"), as_archive=True, **chosen)
        seen = (found.reason, found.outcome.fields)
        env.check(
            f"download-{field.replace('_', '-')}", seen, equals=("INVALID_REQUEST", [field]), clause="ARC-22"
        )


@case("supervisor/archives/finish", profile="archives", clauses=("ARC-9", "ARC-21", "UPL-1"), needs=_NEEDS)
async def finish_of_an_archive(env: SupervisorEnv) -> None:
    """Size and digest are those of the archive's bytes, and checked; members that are in place stay after an error."""
    for name, last, wanted in (
        ("digest", files_pb2.UploadFinish(size_bytes=len(_TAR), digest=digest(b"other")), "DIGEST_MISMATCH"),
        ("size", files_pb2.UploadFinish(size_bytes=len(_TAR) - 1, digest=digest(_TAR)), "SIZE_MISMATCH"),
    ):
        relay = await env.begin_upload(env.path(name), is_archive=True)
        await relay.upload(data(0, _TAR), files_pb2.UploadFileRequest(finish=last))
        await relay.input_end()
        env.check(name, (await relay.outcome()).reason, equals=wanted, clause="ARC-9")
    relay = await env.begin_upload(env.path("cut"), is_archive=True)
    large = archive({"d": None, "d/a": b"content", "b": b"b" * (3 << 20)})
    for offset in range(0, 2 << 20, CHUNK_BYTES):
        await relay.upload(data(offset, large[offset : offset + CHUNK_BYTES]))
    # It is unpacked while it arrives, so what is complete comes into place while the next one is on its way.
    await until(lambda: env.files.exists(env.path("cut/d/a")), "the first member is in place", env.scaled(5))
    await relay.input_end()
    done = await relay.outcome()
    env.check("no-finish", done.reason, equals="UPLOAD_INCOMPLETE", clause="UPL-1")
    env.check(
        "whole-members-stay", await env.files.read(env.path("cut/d/a")), equals=b"content", clause="ARC-21"
    )
    env.check("no-half-member", await env.files.exists(env.path("cut/b")), equals=False, clause="ARC-21")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="ARC-21")
    broken = await env.upload(env.path("broken"), _TAR[:4096], is_archive=True)
    env.check("cut-off", broken.reason, equals="ARCHIVE_INVALID", clause="ARC-21")
    there = await env.files.tree(env.path("broken"))
    files = sum(entry.kind == "file" for entry in there.values())
    told = (broken.metadata.get("entries"), broken.metadata.get("files"))
    env.check("metadata", told, equals=("3", str(files)), clause="ARC-21")


@case("supervisor/archives/cancelled", profile="archives", clauses=("ARC-21", "FRM-16"), needs=_NEEDS)
async def cancelled(env: SupervisorEnv) -> None:
    """An archive whose caller leaves stops; what is in place stays, and nothing staged does."""
    for way in ("cancelled", "reset"):
        relay = await env.begin_upload(env.path(way), is_archive=True)
        await relay.until("accepted")
        await relay.upload(data(0, _TAR[:4000]))
        if way == "cancelled":
            await relay.input_end(cancelled=True)
            await relay.outcome()
        else:
            relay.relay.reset()
        env.check(f"{way}-nothing-left", await nothing_staged(env), equals=True, clause="FRM-16")
        env.check(
            f"{way}-no-half-member",
            await env.files.exists(env.path(f"{way}/b")),
            equals=False,
            clause="ARC-21",
        )


async def _source(env: SupervisorEnv) -> str:
    top = env.path("top")
    await env.files.mkdir(f"{top}/d", 0o750)
    await env.files.write(f"{top}/d/a", b"content", mode=0o640, modified_ns=1_000_000_000_000_000_001)
    await env.files.write(f"{top}/{'n' * 200}", b"long")
    await env.files.hard_link(f"{top}/hard", f"{top}/d/a")
    await env.files.link(f"{top}/link", "../outside")
    await env.files.write(f"{top}/.openshell-upload-zq", b"")
    return top


@case("supervisor/archives/packed", profile="archives", clauses=("ARC-11", "ARC-12", "TRE-28"), needs=_NEEDS)
async def packed(env: SupervisorEnv) -> None:
    """A directory comes as a plain tar that a stranger reads: `./` first, names relative, links and bits as they are."""
    top = await _source(env)
    found = await env.download(top, as_archive=True)
    env.require("reason", found.reason, equals=OK, clause="ARC-11")
    header = found.header or files_pb2.DownloadFileHeader()
    env.check("header", (header.is_archive, header.size_bytes), equals=(True, 0), clause="ARC-11")
    trailer = found.trailer.digest if found.trailer else None
    env.check("digest", trailer, equals=digest(found.content), clause="ARC-11")
    with tarfile.open(fileobj=io.BytesIO(found.content), mode="r:") as tar:
        members = {member.name: member for member in tar.getmembers()}
        first = next(iter(members), "")
        file = next(member for member in members.values() if member.isreg() and member.size == 7)
        content = tar.extractfile(file)
        read = content.read() if content else b""
    names = {name.removeprefix("./") for name in members} - {"."}
    env.check("first", first, one_of=(".", "./", ""), clause="ARC-12")
    env.check("names", names, equals={"d", "d/a", "n" * 200, "hard", "link"}, clause="ARC-12")
    links = [member for member in members.values() if member.islnk()]
    env.check("hard-link", len(links), equals=1, clause="ARC-12")
    env.check("content", (read, file.mode), equals=(b"content", 0o640), clause="ARC-12")
    link = next(member for member in members.values() if member.issym())
    env.check("link", link.linkname, equals="../outside", clause="TRE-28")
    await env.files.link(env.path("to-top"), "top")
    env.check(
        "link-followed",
        (await env.download(env.path("to-top"), as_archive=True)).reason,
        equals=OK,
        clause="ARC-11",
    )
    await env.files.write(env.path("file"), b"x")
    refused = await env.download(env.path("file"), as_archive=True)
    env.check("file", refused.reason, equals="NOT_A_DIRECTORY", clause="ARC-11")


@case("supervisor/archives/left-out", profile="archives", clauses=("ARC-13", "RFC-2"), needs=_NEEDS)
async def left_out(env: SupervisorEnv) -> None:
    """What is not packed is in the trailer; a caller of the RFC gets the whole archive, and then ARCHIVE_INCOMPLETE."""
    top = await _source(env)
    plain = await env.download(top, as_archive=True, checked=False)
    env.check("unchecked", plain.reason, equals=OK, clause="RFC-2")
    await env.files.special(f"{top}/fifo", "fifo")
    found = await env.download(top, as_archive=True)
    told = found.trailer.archive if found.trailer else files_pb2.ArchiveResult()
    problems = [(one.path.removeprefix(b"./"), one.reason) for one in told.problems]
    env.check(
        "checked", (found.reason, problems), equals=(OK, [(b"fifo", "NOT_A_REGULAR_FILE")]), clause="ARC-13"
    )
    rfc = await env.download(top, as_archive=True, checked=False)
    env.check("unchecked-problem", rfc.reason, equals="ARCHIVE_INCOMPLETE", clause="ARC-13")
    with tarfile.open(fileobj=io.BytesIO(rfc.content), mode="r:") as tar:
        names = {member.name.removeprefix("./") for member in tar.getmembers()}
    env.check("whole-archive", {"d/a", "hard", "link"} <= names, equals=True, clause="ARC-13")


@case(
    "supervisor/archives/changed-meanwhile", profile="archives", clauses=("ARC-14",), needs=_NEEDS, timeout=30
)
async def changed_meanwhile(env: SupervisorEnv) -> None:
    """A file that shrinks while it is packed is filled with zeros, and the call ends with FILE_CHANGED behind a whole archive."""
    size = 24 << 20
    for policy, wanted in ((0, "FILE_CHANGED"), (files_pb2.CHANGE_POLICY_ALLOW, OK)):
        top = env.path(f"top{policy}")
        await env.files.mkdir(top)
        await env.files.write(f"{top}/large", bytes([1]) * size)
        relay = await env.relay()
        request = files_pb2.DownloadFileRequest(
            remote_path=top,
            as_archive=True,
            checked=True,
            on_change=policy,  # type: ignore[arg-type]
        )
        await relay.begin(env.opening(download=request))
        await relay.until("download")
        relay.relay.hold()
        await env.files.write(f"{top}/large", bytes([1]) * 10)
        relay.relay.read_on()
        found = Downloaded.of(await relay.outcome(env.scaled(20)))
        env.check(f"policy-{policy}", found.reason, equals=wanted, clause="ARC-14")
        with tarfile.open(fileobj=io.BytesIO(found.content), mode="r:") as tar:
            sizes = [member.size for member in tar.getmembers() if member.isreg()]
        env.check(f"policy-{policy}-readable", sizes, equals=[size], clause="ARC-14")
