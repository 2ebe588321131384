"""Checked downloads: what an SDK asks for, and what it does with ranges, holes and versions."""

from __future__ import annotations

from typing import Any

from openshell_files_conformance.peers.file_sandbox import BLAKE3, KIB, SHA256
from openshell_files_conformance.peers.sdk_env import SdkEnv
from openshell_files_conformance.registry import case


@case("sdk/download/checked", profile="core", clauses=("DWN-10", "DIG-21", "DIG-1"))
async def checked(env: SdkEnv) -> None:
    """A download is asked for with chunks, CRCs and a trailer, and reported with the digest of its content."""
    content, target = env.content(300 * KIB), env.target()
    env.serve(content)
    answered = await env.download(target)
    calls = env.book.of("DownloadFile")
    env.check("asked", [call.request.checked for call in calls], equals=[True], clause="DWN-10")
    env.check("ok", answered.outcome, equals="ok", clause="DWN-10")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="DWN-10")
    accepted = [len(call.request.accepted_digests) for call in calls]
    env.check(
        "digests", accepted, satisfies=("at most 16", lambda lengths: max(lengths) <= 16), clause="DIG-21"
    )
    right = env.digests_of(content)
    env.check("digest", answered.fields.get("digest", right[0]), one_of=right, clause="DIG-1")


@case("sdk/download/sha256", profile="core", clauses=("DIG-3",))
async def sha256(env: SdkEnv) -> None:
    """A server that computes SHA-256 alone is enough."""
    env.gateway.settings.digests = (SHA256,)
    content, target = env.content(300 * KIB), env.target()
    env.serve(content)
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="DIG-3")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="DIG-3")


@case("sdk/download/blake3", profile="core", needs=("blake3",), clauses=("DIG-1",))
async def blake3(env: SdkEnv) -> None:
    """BLAKE3 is taken where caller and server have it."""
    env.gateway.settings.digests = (BLAKE3,)
    content, target = env.content(300 * KIB), env.target()
    env.serve(content)
    answered = await env.download(target, digest="blake3")
    env.check("ok", answered.outcome, equals="ok", clause="DIG-1")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="DIG-1")


@case("sdk/download/holes", profile="core", clauses=("DWN-7", "DIG-10"))
async def holes(env: SdkEnv) -> None:
    """Holes in the middle and at the end become zeros, and count as zeros in the digest."""
    content = b"begin" + bytes(200 * KIB) + b"middle" + bytes(300 * KIB)
    target = env.target()
    env.serve(content, holes=((5, 200 * KIB), (200 * KIB + 11, 300 * KIB)))
    answered = await env.download(target)
    env.check("ok", answered.outcome, equals="ok", clause="DIG-10")
    env.check("content", target.read_bytes() if target.exists() else None, equals=content, clause="DWN-7")


@case(
    "sdk/download/ranges",
    profile="core",
    needs=("ranges",),
    clauses=("DWN-4", "DWN-11", "DWN-13"),
    timeout=60.0,
)
async def ranges(env: SdkEnv) -> None:
    """Offset, length and tail select what they say."""
    content = env.content(200 * KIB)
    env.serve(content)
    asked: tuple[tuple[str, dict[str, Any], bytes], ...] = (
        ("offset", {"offset": 70_001}, content[70_001:]),
        ("offset-and-length", {"offset": 70_001, "length": 80_000}, content[70_001:150_001]),
        ("length", {"length": 10}, content[:10]),
        ("at-the-end", {"offset": len(content)}, b""),
        ("tail", {"tail": 70_000}, content[-70_000:]),
        ("long-tail", {"tail": 1 << 30}, content),
    )
    for name, options, wanted in asked:
        target = env.target()
        await env.download(target, **options)
        clause = "DWN-11" if "tail" in name else "DWN-4"
        env.check(name, target.read_bytes() if target.exists() else None, equals=wanted, clause=clause)
    env.well_formed("DWN-13")


@case(
    "sdk/download/range-behind-the-end",
    profile="core",
    needs=("ranges",),
    clauses=("ERR-7", "ERR-1", "DWN-18"),
)
async def range_behind_the_end(env: SdkEnv) -> None:
    """A range that begins behind the end is refused by the server, and that is what the SDK reports."""
    target = env.target()
    env.serve(env.content(1000))
    answered = await env.download(target, offset=1001)
    env.refused(answered, reasons=("RANGE_INVALID", "OUT_OF_RANGE"), clause="ERR-7")
    env.check("calls", len(env.book.of("DownloadFile")), equals=1, clause="ERR-1")
    env.nothing_left(target, clause="DWN-18")


@case("sdk/download/another-version", profile="core", needs=("ranges",), clauses=("DWN-6", "DWN-18"))
async def another_version(env: SdkEnv) -> None:
    """A version that the file no longer has is refused, and the SDK does not take another one in its place."""
    target = env.target()
    env.serve(env.content(1000), version="v2")
    answered = await env.download(target, if_version="v1", attempts=2)
    asked = [call.request.if_version for call in env.book.of("DownloadFile")]
    env.check("asked", set(asked), equals={"v1"}, clause="DWN-6")
    env.refused(answered, reasons=("VERSION_MISMATCH", "FAILED_PRECONDITION"), clause="DWN-6")
    env.nothing_left(target, clause="DWN-18")
