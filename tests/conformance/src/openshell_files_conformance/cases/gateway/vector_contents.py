"""The vectors of ranges, pieces, digests, conditions and names of files against a whole server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf.empty_pb2 import Empty

from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.cases.supervisor.vector_names import (
    ALGORITHMS,
    digest_of,
    every_clause,
    slug,
)
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import BLAKE3, CHUNK_BYTES, OK, chunks, finish, hole
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors

_NEW: Final = b"new content"


async def put(env: GatewayEnv, path: str, content: bytes, **fields: Any) -> None:
    """Put a file into the sandbox.

    Raises:
        CannotGoOnError: the server does not take it.
    """
    done = await env.caller.rfc_upload(path, content, **fields)
    if not done.ok:
        raise CannotGoOnError(f"an upload that only prepares the case: {done}")


def _register_range(given: Mapping[str, Any]) -> None:
    clauses = tuple(given["clauses"])
    content = content_of(int(given["size"]))

    async def run(env: GatewayEnv) -> None:
        path = env.path()
        await put(env, path, content)
        asked: dict[str, Any] = {
            name: int(given[name]) for name in ("offset", "length", "tail_bytes") if name in given
        }
        for checked in (True, False):
            kind = "checked" if checked else "unchecked"
            found = await env.caller.download(path, checked=checked, **asked)
            env.check(f"{kind}-reason", found.reason, equals=given.get("reason", OK), clause=clauses[0])
            if "reason" in given:
                if "field" in given:
                    env.check(f"{kind}-field", found.ended.fields, equals=[given["field"]], clause=clauses[0])
                continue
            env.check(f"{kind}-header", found.kinds[:1], equals=["header"], clause=clauses[0])
            part = content[int(given["start"]) : int(given["end"])]
            env.check(f"{kind}-content", found.content, equals=part, clause=clauses[0])
            env.check(
                f"{kind}-start", found.header.start_offset, equals=int(given["start"]), clause=clauses[0]
            )
        every_clause(env, clauses)

    run.__doc__ = f"Vector of ranges: {given['name']}."
    case(f"gateway/range-vectors/{slug(given['name'])}", profile="core", clauses=clauses)(run)


def _register_pieces(given: Mapping[str, Any]) -> None:
    clauses, wanted = tuple(given["clauses"]), int(given["wanted"])

    async def run(env: GatewayEnv) -> None:
        path, content = env.path(), content_of(1_100_000)
        await put(env, path, content)
        found = await env.caller.download(path, checked=True, max_chunk_bytes=wanted)
        env.check("content", found.content == content, equals=True, clause=clauses[0])
        # The server's own limit may be lower than what the caller allows, and it is never above 1 MiB.
        most = max(wanted, 16384) if wanted else 1 << 20
        env.check(
            "largest-piece",
            max(found.sizes, default=0),
            satisfies=(f"at most {most}", lambda size: 0 < size <= most),
            clause=clauses[0],
        )
        if 0 < wanted < 16384:
            env.check("not-smaller", max(found.sizes, default=0), equals=16384, clause="DWN-8")
        every_clause(env, clauses)

    run.__doc__ = f"Vector of piece sizes: {given['name']}."
    case(f"gateway/piece-vectors/{slug(given['name'])}", profile="core", clauses=clauses)(run)


def _register_digest(given: Mapping[str, Any]) -> None:
    algorithm = ALGORITHMS[given["algorithm"]]

    async def run(env: GatewayEnv) -> None:
        path = env.path()
        call = await env.caller.begin(path, explicit_finish=True, accepted_digests=[algorithm])
        whole = b""
        for part in given["content"]:
            content = value([part])
            if part.get("hole"):
                await call.send(hole(len(whole), len(content)))
            whole += content
            if not part.get("hole"):
                await call.send(*chunks(whole, len(whole) - len(content), CHUNK_BYTES))
        await call.send(finish(whole, algorithm))
        await call.half_close()
        done = await call.end()
        env.require("reason", done.reason, equals=OK, clause="DIG-1")
        digest = done.answer.file.digest
        env.check(
            "uploaded",
            (digest.algorithm, digest.value.hex()),
            equals=(algorithm, given["value"]),
            clause="DIG-10",
        )
        found = await env.caller.download(path, checked=True, accepted_digests=[algorithm])
        trailer = found.trailer.digest.value.hex() if found.trailer else "no trailer"
        env.check("downloaded", trailer, equals=given["value"], clause="DIG-1")
        told = await env.caller.stat(path, include_digest=True, accepted_digests=[algorithm])
        env.check(
            "described",
            told.answer.file.digest.value.hex() if told.ok else told.reason,
            equals=given["value"],
            clause="DIG-1",
        )

    run.__doc__ = f"Vector of digests: {given['name']}."
    case(
        f"gateway/digest-vectors/{slug(given['name'])}",
        profile="core",
        clauses=("DIG-1", "DIG-10"),
        needs=("blake3",) if algorithm == BLAKE3 else (),
    )(run)


async def _condition(env: GatewayEnv, path: str, given: Mapping[str, Any]) -> files_pb2.UploadCondition:
    match given:
        case {"absent": _}:
            return files_pb2.UploadCondition(absent=Empty())
        case {"present": _}:
            return files_pb2.UploadCondition(present=Empty())
        case {"digest": fields}:
            return files_pb2.UploadCondition(digest=digest_of(fields))
        case {"version": "current"}:
            told = await env.caller.stat(path)
            return files_pb2.UploadCondition(version=told.answer.file.version if told.ok else "")
        case {"version": version}:
            return files_pb2.UploadCondition(version=version)
        case _:
            return files_pb2.UploadCondition.FromString(bytes.fromhex(given["encoded"]))


def _register_condition(given: Mapping[str, Any]) -> None:
    clauses, there = tuple(given["clauses"]), given["there"]

    async def run(env: GatewayEnv) -> None:
        path = "/tmp" if there["kind"] == "directory" else env.path()
        old = value(there.get("content", "")) if there["kind"] == "file" else None
        if old is not None:
            await put(env, path, old)
        condition = await _condition(env, path, given["condition"])
        done = await env.caller.upload(path, _NEW, condition=condition)
        env.check("reason", done.reason, equals=given.get("reason", OK), clause=clauses[0])
        before = (
            "IS_A_DIRECTORY" if there["kind"] == "directory" else "FILE_NOT_FOUND" if old is None else old
        )
        after = _NEW if given.get("published") else before
        env.check("content", await env.caller.content(path), equals=after, clause=clauses[0])
        if "field" in given:
            env.check("field", done.fields, equals=[given["field"]], clause=clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of conditions: {given['name']}."
    by_blake3 = given["condition"].get("digest", {}).get("algorithm") == BLAKE3
    case(
        f"gateway/condition-vectors/{slug(given['name'])}",
        profile="core",
        clauses=clauses,
        needs=("blake3",) if by_blake3 else (),
    )(run)


def _register_name(given: Mapping[str, Any]) -> None:
    path, clauses = "".join(given["path"]), tuple(given["clauses"])
    stat = given["stat"] is None
    named = tuple(clause for clause in clauses if clause == "PTH-2" or stat)

    async def run(env: GatewayEnv) -> None:
        uploaded = await env.caller.rfc_upload(path, _NEW)
        env.check("upload", uploaded.reason, equals="INVALID_PATH", clause="PTH-2")
        env.check("upload-code", uploaded.code.name, equals="INVALID_ARGUMENT", clause="PTH-2")
        env.check("upload-field", uploaded.fields, equals=["metadata.remote_path"], clause="PTH-2")
        downloaded = await env.caller.download(path)
        env.check("download", downloaded.reason, equals="INVALID_PATH", clause="PTH-2")
        env.check("download-field", downloaded.ended.fields, equals=["remote_path"], clause="PTH-2")
        if stat:
            env.check("stat", (await env.caller.stat(path)).reason, equals="INVALID_PATH", clause="PTH-2")
        every_clause(env, named)

    run.__doc__ = f"Vector of paths: {given['name']} names no file."
    case(f"gateway/path-names/{slug(given['name'])}", profile="core", clauses=named)(run)


for _given in vectors("ranges")["ranges"]:
    _register_range(_given)
for _given in vectors("ranges")["piece_sizes"]:
    # The limit of a vector is the gateway's or the agent's, of which only the caller's own is in a request.
    if int(_given["limit"]) >= 1044480:
        _register_pieces(_given)
for _given in vectors("digests")["digests"]:
    _register_digest(_given)
for _given in vectors("conditions")["conditions"]:
    if _given["there"]["kind"] != "link":
        _register_condition(_given)
for _given in vectors("paths")["names"]:
    if "workdir" not in _given and _given["transfer"] is None:
        _register_name(_given)
