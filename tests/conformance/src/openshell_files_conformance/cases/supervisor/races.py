"""What programs in the sandbox do while the agent works: links that are swapped, entries that vanish, files that are touched."""

from __future__ import annotations

import asyncio

from openshell_files_conformance.cases.supervisor.directories import listing
from openshell_files_conformance.cases.supervisor.settled import nothing_staged
from openshell_files_conformance.pb.openshell.v1 import directories_pb2, file_relay_pb2
from openshell_files_conformance.peers.operation import OK, Outcome, Request, data, finish
from openshell_files_conformance.peers.supervisor_env import CHUNK_BYTES, SupervisorEnv
from openshell_files_conformance.registry import case

_CONTENT = bytes(range(256)) * (32 << 10)


@case("supervisor/races/directory-becomes-a-link", profile="core", clauses=("PTH-3", "UPL-36"))
async def directory_becomes_a_link(env: SupervisorEnv) -> None:
    """A directory on the way that is swapped for a link during an upload leads it nowhere else."""
    await env.files.mkdir(env.path("outside"))
    await env.files.mkdir(env.path("d"))
    relay = await env.begin_upload(env.path("d/file"))
    await relay.until("accepted")
    await relay.upload(data(0, b"con"))
    await env.files.rename(env.path("d"), env.path("aside"))
    await env.files.link(env.path("d"), "outside")
    await relay.upload(data(3, b"tent"), finish(b"content"))
    await relay.input_end()
    done = await relay.outcome()
    env.note(str(done))
    env.check("outside-is-empty", await env.files.tree(env.path("outside")), equals={}, clause="PTH-3")
    published = await env.files.read(env.path("aside/file"))
    # The directory that was opened still exists under its other name.
    wanted = b"content" if done.ok else None
    env.check("answer-is-true", published, equals=wanted, clause="UPL-36")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="UPL-36")


@case("supervisor/races/destination-becomes-a-link", profile="core", clauses=("PTH-14", "UPL-8"))
async def destination_becomes_a_link(env: SupervisorEnv) -> None:
    """A link that is planted at the destination during an upload is replaced or refused, and not written through."""
    await env.files.write(env.path("victim"), b"victim")
    await env.files.write(env.path(), b"old")
    relay = await env.begin_upload(env.path())
    await relay.until("accepted")
    await env.files.link(env.path(), "victim")
    await relay.upload(data(0, b"new"), finish(b"new"))
    await relay.input_end()
    done = await relay.outcome()
    env.check("reason", done.reason, one_of=(OK, "LEAF_IS_LINK", "CONDITION_FAILED"), clause="PTH-14")
    env.check("victim-stays", await env.files.read(env.path("victim")), equals=b"victim", clause="UPL-8")
    env.check("nothing-left", await nothing_staged(env), equals=True, clause="UPL-8")


@case("supervisor/races/touched-while-verified", profile="resume", clauses=("UPL-39", "UPL-37"), timeout=40)
async def touched_while_verified(env: SupervisorEnv) -> None:
    """A staging file that another process touches without end is given up in the end, or published whole; nothing hangs."""
    relay = await env.begin_upload(env.path(), request_id=env.fresh_name("request"))
    for offset in range(0, len(_CONTENT), CHUNK_BYTES):
        await relay.upload(data(offset, _CONTENT[offset : offset + CHUNK_BYTES]))
    if not await nothing_staged(env, wanted=False):
        env.untestable("staged", "no staging file appears beside the destination", clause="UPL-39")
        return
    staged = env.path((await env.left())[0].decode())
    await env.files.keep_touching(staged)
    try:
        await relay.upload(finish(_CONTENT))
        await relay.input_end()
        done = await relay.outcome(env.scaled(30))
    finally:
        await env.files.stop_touching(staged)
    # Whether the file was left in peace for one round is not in the suite's hands.
    env.check("reason", done.reason, one_of=("CONDITION_FAILED", OK), clause="UPL-39")
    published = await env.files.read(env.path())
    env.check("answer-is-true", published == (_CONTENT if done.ok else None), equals=True, clause="UPL-37")


@case(
    "supervisor/races/entries-vanish",
    profile="core",
    clauses=("DIR-6", "DIR-4"),
    needs=("directories",),
    timeout=30,
)
async def entries_vanish(env: SupervisorEnv) -> None:
    """An entry that vanishes while its directory is read is left out; the others are all there, in order."""
    await env.files.many(env.path("top"), 3000)
    relay = await env.relay()
    request = directories_pb2.ListDirectoryRequest(path=env.path("top").encode(), page_size=10_000)
    await relay.begin(
        env.opening(list_directory=request), Request(input_end=file_relay_pb2.FileRelayInputEnd())
    )
    for number in range(0, 3000, 3):
        await env.files.remove(env.path(f"top/{number:05}"))
        if number % 300 == 0:
            await asyncio.sleep(0)
    done = await relay.outcome()
    env.require("reason", done.reason, equals=OK, clause="DIR-6")
    names = [entry.name for entry in done.answer.entries]
    broken = [entry.name for entry in done.answer.entries if entry.reason or not entry.type]
    env.check("whole", broken, equals=[], clause="DIR-6")
    staying = {b"%05d" % number for number in range(3000) if number % 3}
    env.check("others", staying <= set(names), equals=True, clause="DIR-6")
    env.check("order", names, equals=sorted(names), clause="DIR-4")
    after = await listing(env, env.path("top"), page_size=10_000)
    gone = [entry.name for entry in after.answer.entries if entry.name not in staying] if after.ok else []
    env.check("gone", gone, equals=[], clause="DIR-6")


@case(
    "supervisor/races/copied-while-swapped",
    profile="core",
    clauses=("DIR-32", "DIR-23"),
    needs=("directories",),
    timeout=30,
)
async def copied_while_swapped(env: SupervisorEnv) -> None:
    """A directory that is swapped for a link while it is copied leads the copy nowhere outside."""
    await env.files.mkdir(env.path("outside"))
    await env.files.write(env.path("outside/secret"), b"secret")
    reasons, copied = set[str](), list[bytes]()
    for turn in range(6):
        top, copy = env.path(f"top{turn}"), env.path(f"copy{turn}")
        await env.files.many(top, 500)
        await env.files.mkdir(f"{top}/z")
        await env.files.write(f"{top}/z/inner", b"inner")
        relay = await env.relay()
        request = directories_pb2.CopyPathRequest(
            source=top.encode(), destination=copy.encode(), recursive=True
        )
        await relay.begin(
            env.opening(copy_path=request), Request(input_end=file_relay_pb2.FileRelayInputEnd())
        )
        await env.files.rename(f"{top}/z", env.path(f"aside{turn}"))
        await env.files.link(f"{top}/z", "../outside")
        done: Outcome = await relay.outcome()
        reasons.add(done.reason)
        if done.ok:
            copied += [name for name in await env.files.tree(copy) if b"secret" in name]
        env.check(f"nothing-left-{turn}", await nothing_staged(env), equals=True, clause="DIR-23")
    env.check("reasons", reasons - {OK, "FILE_CHANGED"}, equals=set(), clause="DIR-32")
    env.check("nothing-of-outside", copied, equals=[], clause="DIR-32")
