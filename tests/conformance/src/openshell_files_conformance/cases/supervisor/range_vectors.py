"""The vectors of downloads: ranges, sizes of pieces, holes; and those of digests, of what is up and down again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openshell_files_conformance.cases.supervisor.vector_names import ALGORITHMS, every_clause, slug
from openshell_files_conformance.peers.operation import OK, data, finish, hole
from openshell_files_conformance.peers.supervisor_env import CHUNK_BYTES, SupervisorEnv
from openshell_files_conformance.registry import case
from openshell_files_conformance.vectors_data import value, vectors


def _content(size: int) -> bytes:
    return bytes(1 + n % 255 for n in range(size))


def _register_range(given: Mapping[str, Any]) -> None:
    clauses = tuple(given["clauses"])
    content = _content(int(given["size"]))

    async def run(env: SupervisorEnv) -> None:
        await env.files.write(env.path(), content)
        asked: dict[str, Any] = {
            name: int(given[name]) for name in ("offset", "length", "tail_bytes") if name in given
        }
        for checked in (True, False):
            kind = "checked" if checked else "unchecked"
            found = await env.download(env.path(), checked=checked, **asked)
            env.check(f"{kind}-reason", found.reason, equals=given.get("reason", OK), clause=clauses[0])
            if "reason" not in given:
                part = content[int(given["start"]) : int(given["end"])]
                env.check(f"{kind}-content", found.content, equals=part, clause=clauses[0])
                start = found.header.start_offset if found.header else None
                env.check(f"{kind}-start", start, equals=int(given["start"]), clause=clauses[0])
            elif "field" in given:
                env.check(f"{kind}-field", found.outcome.fields, equals=[given["field"]], clause=clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of ranges: {given['name']}."
    case(f"supervisor/range-vectors/{slug(given['name'])}", profile="core", clauses=clauses)(run)


def _register_pieces(given: Mapping[str, Any]) -> None:
    clauses, limit = tuple(given["clauses"]), int(given["limit"])

    async def run(env: SupervisorEnv) -> None:
        # The agent's own limit may be lower than the vector's.
        agents = env.capability.max_chunk_bytes or limit
        content = _content(3 << 20)
        await env.files.write(env.path(), content)
        found = await env.download(
            env.path(), max_chunk_bytes=given["wanted"], opening={"max_chunk_bytes": limit}
        )
        env.check("reason", found.reason, equals=OK, clause=clauses[0])
        env.check("content", found.content == content, equals=True, clause=clauses[0])
        most = min(int(given["piece"]), agents)
        env.check(
            "largest-piece",
            max(found.sizes, default=0),
            satisfies=(f"at most {most}", lambda size: 0 < size <= most),
            clause=clauses[0],
        )
        if "DWN-8" in clauses and given["wanted"] in range(1, 16384):
            env.check("not-smaller", max(found.sizes, default=0), equals=16384, clause="DWN-8")
        every_clause(env, clauses)

    run.__doc__ = f"Vector of piece sizes: {given['name']}."
    case(f"supervisor/piece-vectors/{slug(given['name'])}", profile="core", clauses=clauses)(run)


def _register_digest(given: Mapping[str, Any]) -> None:
    algorithm = ALGORITHMS[given["algorithm"]]
    needs = ("blake3",) if given["algorithm"] == "BLAKE3" else ()

    async def run(env: SupervisorEnv) -> None:
        relay = await env.begin_upload(env.path(), accepted_digests=[algorithm])
        whole = b""
        for part in given["content"]:
            content = value([part])
            if part.get("hole"):
                await relay.upload(hole(len(whole), len(content)))
            else:
                for start in range(0, len(content), CHUNK_BYTES):
                    await relay.upload(data(len(whole) + start, content[start : start + CHUNK_BYTES]))
            whole += content
        await relay.upload(finish(whole, algorithm))
        await relay.input_end()
        done = await relay.outcome()
        env.require("reason", done.reason, equals=OK, clause="DIG-1")
        seen = (done.answer.file.digest.algorithm, done.answer.file.digest.value.hex())
        env.check("uploaded", seen, equals=(algorithm, given["value"]), clause="DIG-10")
        found = await env.download(env.path(), accepted_digests=[algorithm])
        trailer = found.trailer.digest.value.hex() if found.trailer else ""
        env.check("downloaded", trailer, equals=given["value"], clause="DIG-1")
        told = await env.stat(env.path(), include_digest=True, accepted_digests=[algorithm])
        env.check(
            "described",
            told.answer.file.digest.value.hex() if told.ok else "",
            equals=given["value"],
            clause="DIG-1",
        )

    run.__doc__ = f"Vector of digests: {given['name']}."
    case(
        f"supervisor/digest-vectors/{slug(given['name'])}",
        profile="core",
        clauses=("DIG-1", "DIG-10"),
        needs=needs,
    )(run)


for _given in vectors("ranges")["ranges"]:
    _register_range(_given)
for _given in vectors("ranges")["piece_sizes"]:
    _register_pieces(_given)
for _given in vectors("digests")["digests"]:
    _register_digest(_given)
