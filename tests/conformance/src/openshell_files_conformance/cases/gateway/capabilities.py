"""GetTransferCapabilities: what a gateway makes of its own limits and of a supervisor's hello."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import BLAKE3, OK, SHA256
from openshell_files_conformance.peers.gateway_env import GatewayEnv, SuiteSandbox
from openshell_files_conformance.peers.supervisor import file_transfer
from openshell_files_conformance.registry import case

_SUITE: Final = ("suite-supervisor",)
_OPTIONS: Final = {
    "waiting": "takes_waiting",
    "directories": "serves_directories",
    "trees": "serves_trees",
    "archives": "serves_archives",
}


async def _asked(
    env: GatewayEnv, **announced: Any
) -> tuple[SuiteSandbox, files_pb2.GetTransferCapabilitiesResponse]:
    """Announce limits, and ask for the capabilities of that sandbox."""
    sandbox = await env.sandbox(file_transfer=file_transfer(**announced))
    ended = await sandbox.caller.capabilities()
    env.require("reason", ended.reason, equals=OK, clause="CAP-1")
    return sandbox, ended.answer


@case("gateway/capabilities/answer", profile="core", clauses=("CAP-1", "CAP-7"))
async def answer(env: GatewayEnv) -> None:
    """The answer has the limits that a caller must have."""
    ended = await env.caller.capabilities()
    env.require("reason", ended.reason, equals=OK, clause="CAP-1")
    told = ended.answer
    env.check(
        "chunks",
        told.max_chunk_bytes,
        satisfies=("256 KiB to 1 MiB", lambda size: 1 << 18 <= size <= 1 << 20),
        clause="CAP-7",
    )
    env.check("digests", SHA256 in told.digests, equals=True, clause="CAP-1")
    by_name = files_pb2.GetTransferCapabilitiesRequest(
        sandbox=files_pb2.SandboxRef(name=env.stack.name, workspace="default")
    )
    named = await env.caller.call("GetTransferCapabilities", by_name)
    env.check("by-name", named.ok and named.answer == told, equals=True, clause="CAP-1")


@case(
    "gateway/capabilities/no-relay",
    profile="core",
    needs=_SUITE,
    clauses=("CAP-1", "CAP-2", "CAP-8", "CAP-3"),
)
async def no_relay(env: GatewayEnv) -> None:
    """The gateway answers from its settings and the hello, takes the stricter limit, and opens no relay."""
    sandbox, told = await _asked(
        env,
        max_chunk_bytes=300_000,
        max_file_bytes=1_000_000,
        idle_timeout=Duration(seconds=7),
        upload_expiry=Duration(seconds=77),
        max_uploads_per_sandbox=5,
        max_uploads_per_principal=3,
        digests=[SHA256],
    )
    for name, value in (
        ("max_chunk_bytes", 300_000),
        ("max_file_bytes", 1_000_000),
        ("max_uploads_per_sandbox", 5),
        ("max_uploads_per_principal", 3),
    ):
        env.check(name.replace("_", "-"), getattr(told, name), equals=value, clause="CAP-2")
    env.check("idle-timeout", told.idle_timeout.ToSeconds(), equals=7, clause="CAP-2")
    env.check("upload-expiry", told.upload_expiry.ToSeconds(), equals=77, clause="CAP-2")
    env.check("digests", list(told.digests), equals=[SHA256], clause="CAP-8")
    options = [name for name in _OPTIONS if told.HasField(name)]  # type: ignore[arg-type]
    env.check("no-options", options, equals=[], clause="CAP-3")
    env.check("no-relay", await sandbox.session.no_open(0.1), equals=True, clause="CAP-1")


@case(
    "gateway/capabilities/options",
    profile="core",
    needs=_SUITE,
    clauses=("CAP-3", "DIR-1", "TRE-1", "ARC-1", "WAI-5", "CAP-2"),
)
async def options(env: GatewayEnv) -> None:
    """An option is set if both sides have it: those that the gateway declared, and each only if the hello has it."""
    clauses = {"waiting": "WAI-5", "directories": "DIR-1", "trees": "TRE-1", "archives": "ARC-1"}
    sandbox = await env.sandbox(
        file_transfer=file_transfer(
            **dict.fromkeys(_OPTIONS.values(), True), max_tree_entries=123, max_archive_entries=45
        )
    )
    every = (await sandbox.caller.capabilities()).answer
    for name in _OPTIONS:
        env.check(f"{name}-of-both", every.HasField(name), equals=env.has(name), clause="CAP-3")
    for name, flag in _OPTIONS.items():
        others = {one: True for one in _OPTIONS.values() if one != flag}
        await sandbox.reconnect(file_transfer=file_transfer(**others))
        answer = (await sandbox.caller.capabilities()).answer
        env.check(f"no-{name}", answer.HasField(name), equals=False, clause=clauses[name])
    for name, most in (("trees", 123), ("archives", 45)):
        if env.has(name):
            env.check(f"{name}-entries", getattr(every, name).max_entries, equals=most, clause="CAP-2")
        else:
            env.unsupported(f"{name}-entries", name, clause="CAP-2")


@case(
    "gateway/capabilities/limits-out-of-range",
    profile="core",
    needs=_SUITE,
    clauses=("CAP-14", "CAP-9", "CAP-7", "CAP-1"),
)
async def limits_out_of_range(env: GatewayEnv) -> None:
    """A limit in the hello that is out of range, or missing, is the gateway's own."""
    sandbox, own = await _asked(env, max_chunk_bytes=None)
    env.check("own-chunks", own.max_chunk_bytes >= 1 << 18, equals=True, clause="CAP-9")
    env.check("own-idle-timeout", own.idle_timeout.ToNanoseconds() > 0, equals=True, clause="CAP-9")
    await sandbox.reconnect(
        file_transfer=file_transfer(
            max_chunk_bytes=(1 << 18) - 1,
            idle_timeout=Duration(nanos=999_999_999),
            upload_expiry=Duration(seconds=-5),
        )
    )
    odd = (await sandbox.caller.capabilities()).answer
    env.check("chunks", odd.max_chunk_bytes, equals=own.max_chunk_bytes, clause="CAP-14")
    env.check("idle-timeout", odd.idle_timeout == own.idle_timeout, equals=True, clause="CAP-14")
    env.check("upload-expiry", odd.upload_expiry == own.upload_expiry, equals=True, clause="CAP-14")
    env.check("never-below-256-kib", odd.max_chunk_bytes >= 1 << 18, equals=True, clause="CAP-7")


@case(
    "gateway/capabilities/digests",
    profile="core",
    needs=_SUITE,
    clauses=("CAP-8", "CAP-13", "CAP-15", "CAP-1"),
)
async def digests(env: GatewayEnv) -> None:
    """The digests are those of the hello that the gateway allows, in its order, without unknown and repeated ones."""
    allowed = [BLAKE3, SHA256] if env.has("blake3") else [SHA256]
    sandbox, told = await _asked(env, digests=[99, SHA256, SHA256, BLAKE3, SHA256])
    env.check(
        "order",
        list(told.digests),
        equals=[one for one in (SHA256, BLAKE3) if one in allowed],
        clause="CAP-15",
    )
    for name, listed, wanted, clause in (
        ("other-order", [BLAKE3, SHA256], allowed, "CAP-8"),
        ("none", [], [SHA256], "CAP-13"),
        ("behind-the-first-16", [SHA256, *([99] * 15), BLAKE3], [SHA256], "CAP-15"),
    ):
        await sandbox.reconnect(file_transfer=file_transfer(digests=listed))
        ended = await sandbox.caller.capabilities()
        env.check(
            name, list(ended.answer.digests) if ended.ok else ended.reason, equals=wanted, clause=clause
        )


@case("gateway/capabilities/refused", profile="core", needs=_SUITE, clauses=("CAP-4", "CAP-11", "RLY-1"))
async def refused(env: GatewayEnv) -> None:
    """Without a supervisor the call ends at once, with a time to wait; and it is refused as a file method is."""
    alone = await env.sandbox(session=False)
    ended = await alone.caller.capabilities(seconds=env.scaled(3.0))
    env.check(
        "no-supervisor",
        (ended.code.name, ended.reason),
        equals=("UNAVAILABLE", "SUPERVISOR_NOT_CONNECTED"),
        clause="CAP-4",
    )
    env.check("retry-info", ended.retry_after is not None, equals=True, clause="CAP-4")
    await alone.reconnect(file_transfer=None)
    ended = await alone.caller.capabilities()
    env.check(
        "no-files",
        (ended.code.name, ended.reason),
        equals=("FAILED_PRECONDITION", "FILES_UNSUPPORTED"),
        clause="RLY-1",
    )
    user = env.user("conformance-one", alone.facts, roles=[])
    ended = await user.capabilities()
    env.check("no-role", ended.reason, equals="ROLE_REQUIRED", clause="CAP-11")
