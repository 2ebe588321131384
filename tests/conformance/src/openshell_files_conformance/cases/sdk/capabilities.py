"""Limits and options of the server: what an SDK keeps to, and what it may not use."""

from __future__ import annotations

from typing import Any

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.file_calls import Fault, answer
from openshell_files_conformance.peers.file_sandbox import KIB, MIB, SURE_CHUNK_BYTES
from openshell_files_conformance.peers.file_status import refusal
from openshell_files_conformance.peers.sdk_env import FEW_ATTEMPTS, SdkEnv
from openshell_files_conformance.registry import case

ASKS = "GetTransferCapabilities"


@case("sdk/capabilities/unknown", profile="core", clauses=("CAP-5", "CAP-10"))
async def unknown(env: SdkEnv) -> None:
    """Towards a server without GetTransferCapabilities an upload keeps to chunks of 256 KiB, and uses no option."""
    env.gateway.settings.lacks = {ASKS}
    content = env.content(3 * MIB)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="CAP-5")
    env.check("published", env.published("remote"), equals=content, clause="CAP-5")
    env.well_formed("CAP-5", "CAP-10")


@case("sdk/capabilities/smallest-chunks", profile="core", clauses=("UPL-24", "CAP-10"))
async def smallest_chunks(env: SdkEnv) -> None:
    """A server that takes chunks of 256 KiB at most gets none that are larger."""
    env.gateway.settings.max_chunk_bytes = SURE_CHUNK_BYTES
    content = env.content(3 * MIB)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="UPL-24")
    env.check("published", env.published("remote"), equals=content, clause="UPL-24")
    env.well_formed("UPL-24", "CAP-10")


def _absurd(name: str, summary: str, limit: int) -> None:
    async def run(env: SdkEnv) -> None:
        def change(response: files_pb2.GetTransferCapabilitiesResponse) -> None:
            response.max_chunk_bytes = limit

        env.faults.always(ASKS, answer(change))
        answered = await env.upload(env.content(3 * MIB), attempts=FEW_ATTEMPTS)
        env.check("called", len(env.book.calls), satisfies=("a call", bool), clause="CAP-7")
        # An SDK that never asks does not get the answer.
        wanted = "error" if env.book.of(ASKS) else "ok"
        env.check("outcome", answered.outcome, equals=wanted, clause="CAP-7")

    run.__doc__ = summary
    case(f"sdk/capabilities/{name}", profile="core", clauses=("CAP-7",))(run)


_absurd("no-limit", "An answer without max_chunk_bytes breaks the protocol, and is refused.", 0)
_absurd("tiny-limit", "An answer with max_chunk_bytes of 1000 breaks the protocol, and is refused.", 1000)


@case("sdk/capabilities/unknown-digest", profile="core", clauses=("RFC-9",))
async def unknown_digest(env: SdkEnv) -> None:
    """An algorithm that the SDK does not know stands first in the list, and is passed over."""

    def change(response: files_pb2.GetTransferCapabilitiesResponse) -> None:
        number: Any = 99
        response.digests.insert(0, number)

    env.faults.always(ASKS, answer(change))
    content = env.content(MIB)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="RFC-9")
    env.check("published", env.published("remote"), equals=content, clause="RFC-9")


@case("sdk/capabilities/limit-falls", profile="core", clauses=("CAP-6", "UPL-24"))
async def limit_falls(env: SdkEnv) -> None:
    """A chunk that is too large all of a sudden makes the SDK ask for the limit again, or send what every server takes."""
    settings = env.gateway.settings

    def fall(_: object) -> None:
        settings.max_chunk_bytes = SURE_CHUNK_BYTES

    refused = refusal("CHUNK_TOO_LARGE", "the limit has changed")
    env.faults.add("UploadFile", Fault(at="content", after_bytes=1, then=fall, status=refused))
    content = env.content(2 * MIB)
    answered = await env.upload(content)
    env.check("ok", answered.outcome, equals="ok", clause="CAP-6")
    found = env.published("remote")
    env.check("published", found, one_of=(content,) if answered.ok else (None, content), clause="UPL-24")
    env.well_formed("UPL-24")


@case("sdk/capabilities/without-trees", profile="core", needs=("trees",), clauses=("CAP-10", "TRE-1"))
async def without_trees(env: SdkEnv) -> None:
    """A server without trees gets no tree, and the SDK says so."""
    env.gateway.settings.trees = False
    env.gateway.settings.lacks = {"UploadTree", "DownloadTree"}
    source = env.directory / "source"
    source.mkdir()
    (source / "file").write_bytes(env.content(KIB))
    up = await env.ask("upload_tree", local=str(source), remote="tree")
    env.check("upload", up.outcome, equals="error", clause="TRE-1")
    target = env.target()
    down = await env.ask("download_tree", local=str(target), remote="tree")
    env.check("download", down.outcome, equals="error", clause="TRE-1")
    env.nothing_left(target, clause="TRE-1")
    env.well_formed("CAP-10")
