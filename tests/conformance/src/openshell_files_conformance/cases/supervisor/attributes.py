"""Modes, times and owners of published files."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import OK, data, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_SECOND = 10**9


async def _mode(env: SupervisorEnv, path: str) -> int | None:
    entry = await env.files.entry(path)
    return entry.mode if entry else None


@case("supervisor/attributes/mode", profile="core", clauses=("UPL-10", "UPL-14"))
async def mode(env: SupervisorEnv) -> None:
    """A mode gives its permission bits exactly, with the type bits of a regular file or without; set-id and sticky bits are dropped."""
    for given, wanted in (
        (0o600, 0o600),
        (0o777, 0o777),
        (0o100640, 0o640),
        (0o100000, 0),
        (0o000002, 0o002),
    ):
        path = env.path(f"{given:o}")
        done = await env.upload(path, b"x", mode=given)
        env.check(f"reason-{given:o}", done.reason, equals=OK, clause="UPL-10")
        env.check(f"mode-{given:o}", await _mode(env, path), equals=wanted, clause="UPL-10")
    for given in (0o4755, 0o2755, 0o1755, 0o107777):
        path = env.path(f"{given:o}")
        done = await env.upload(path, b"x", mode=given)
        env.check(f"reason-{given:o}", done.reason, equals=OK, clause="UPL-14")
        env.check(f"mode-{given:o}", await _mode(env, path), equals=given & 0o777, clause="UPL-14")


@case("supervisor/attributes/mode-of-another-type", profile="core", clauses=("UPL-47",))
async def mode_of_another_type(env: SupervisorEnv) -> None:
    """Type bits of anything but a regular file are refused."""
    for given in (0o040755, 0o120777, 0o200644, 0o010644):
        done = await env.upload(env.path(), b"x", mode=given)
        seen = (done.reason, done.fields)
        env.check(f"mode-{given:o}", seen, equals=("INVALID_REQUEST", ["metadata.mode"]), clause="UPL-47")
    env.check("nothing-published", await env.files.exists(env.path()), equals=False, clause="UPL-47")


@case("supervisor/attributes/mode-0", profile="core", clauses=("UPL-46", "UPL-14"))
async def mode_0(env: SupervisorEnv) -> None:
    """Without a mode the replaced file's permission bits stay, and a new file has at most 0666."""
    await env.files.write(env.path(), b"old", mode=0o751)
    done = await env.upload(env.path(), b"x")
    env.check("replaces", done.reason, equals=OK, clause="UPL-46")
    env.check("kept", await _mode(env, env.path()), equals=0o751, clause="UPL-46")
    await env.files.write(env.path("set-id"), b"old")
    await env.files.chmod(env.path("set-id"), 0o6755)
    await env.upload(env.path("set-id"), b"x")
    env.check("set-id", await _mode(env, env.path("set-id")), equals=0o755, clause="UPL-14")
    await env.upload(env.path("new"), b"x")
    env.check(
        "new",
        await _mode(env, env.path("new")),
        satisfies=(
            "0666 less a umask, readable by its owner",
            lambda bits: bits is not None and not bits & ~0o666 and bits & 0o400,
        ),
        clause="UPL-46",
    )


@case("supervisor/attributes/modified-time", profile="core", clauses=("UPL-48",))
async def modified_time(env: SupervisorEnv) -> None:
    """A modified time is kept to the nanosecond."""
    for seconds, nanos in ((1_000_000_000, 123_456_789), (0, 1), (-1, 999_999_999)):
        at = Timestamp(seconds=seconds, nanos=nanos)
        path = env.path(f"at{seconds}")
        done = await env.upload(path, b"x", modified_time=at)
        env.check(f"reason-{seconds}", done.reason, equals=OK, clause="UPL-48")
        entry = await env.files.entry(path)
        seen = entry.modified_ns if entry else None
        env.check(f"time-{seconds}", seen, equals=seconds * _SECOND + nanos, clause="UPL-48")


@case("supervisor/attributes/impossible-time", profile="core", clauses=("UPL-49",))
async def impossible_time(env: SupervisorEnv) -> None:
    """A time outside the years 1 to 9999, or with impossible nanoseconds, is refused before anything is staged."""
    times = {
        "year-0": Timestamp(seconds=-62_135_596_801),
        "year-10000": Timestamp(seconds=253_402_300_800),
        "far": Timestamp(seconds=2**62),
        "nanos": Timestamp(seconds=0, nanos=1_000_000_000),
        "negative-nanos": Timestamp(seconds=0, nanos=-1),
    }
    for name, at in times.items():
        relay = await env.begin_upload(env.path(), modified_time=at)
        done = await relay.outcome()
        seen = (done.reason, done.fields)
        env.check(name, seen, equals=("INVALID_REQUEST", ["metadata.modified_time"]), clause="UPL-49")
    env.check("nothing-staged", await env.left(), equals=[], clause="UPL-49")


@case("supervisor/attributes/old-times-are-described", profile="core", clauses=("UPL-50",))
async def old_times_are_described(env: SupervisorEnv) -> None:
    """A file is described and downloaded whatever its time is."""
    await env.files.write(env.path(), b"x")
    await env.files.touch(env.path(), -(2**31) * _SECOND)
    told = await env.stat(env.path())
    env.require("stat", told.reason, equals=OK, clause="UPL-50")
    entry = await env.files.entry(env.path())
    assert entry is not None
    env.check(
        "time", told.answer.file.modified_time.ToNanoseconds(), equals=entry.modified_ns, clause="UPL-50"
    )
    env.check("download", (await env.download(env.path())).reason, equals=OK, clause="UPL-50")


@case("supervisor/attributes/read-only-is-replaced", profile="core", clauses=("UPL-17",))
async def read_only_is_replaced(env: SupervisorEnv) -> None:
    """A file without write permission, and one of another user, is replaced: only its directory has to be writable."""
    await env.files.write(env.path(), b"old", mode=0o444)
    env.check("mode-0444", (await env.upload(env.path(), b"new")).reason, equals=OK, clause="UPL-17")
    env.check("content", await env.files.read(env.path()), equals=b"new", clause="UPL-17")
    await env.files.write(env.path("denied"), b"old")
    await env.files.deny(env.path("denied"))
    env.check("denied", (await env.upload(env.path("denied"), b"new")).reason, equals=OK, clause="UPL-17")
    env.check("denied-content", await env.files.read(env.path("denied")), equals=b"new", clause="UPL-17")


@case("supervisor/attributes/keep-read-only", profile="core", clauses=("UPL-45",))
async def keep_read_only(env: SupervisorEnv) -> None:
    """With keep_read_only a file without any write bit, and one that the user may not write, stays."""
    await env.files.write(env.path(), b"old", mode=0o444)
    refused = await env.upload(env.path(), b"new", keep_read_only=True)
    env.check("mode-0444", refused.reason, equals="ACCESS_DENIED", clause="UPL-45")
    env.check("stays", await env.files.read(env.path()), equals=b"old", clause="UPL-45")
    await env.files.write(env.path("writable"), b"old", mode=0o644)
    taken = await env.upload(env.path("writable"), b"new", keep_read_only=True)
    env.check("writable", taken.reason, equals=OK, clause="UPL-45")
    relay = await env.begin_upload(env.path("writable"), keep_read_only=True)
    await relay.until("accepted")
    await env.files.chmod(env.path("writable"), 0o444)
    await relay.upload(*_whole(b"newer"))
    await relay.input_end()
    env.check(
        "again-before-publishing", (await relay.outcome()).reason, equals="ACCESS_DENIED", clause="UPL-45"
    )
    env.check("still-there", await env.files.read(env.path("writable")), equals=b"new", clause="UPL-45")


def _whole(content: bytes) -> tuple[files_pb2.UploadFileRequest, ...]:
    return data(0, content), finish(content)


@case("supervisor/attributes/access-denied", profile="core", clauses=("UPL-51",), needs=("unprivileged",))
async def access_denied(env: SupervisorEnv) -> None:
    """A directory that the sandbox's user may not write, and a file that it may not read, end with ACCESS_DENIED."""
    await env.files.mkdir(env.path("closed"))
    await env.files.deny(env.path("closed"))
    refused = await env.upload(env.path("closed/file"), b"x")
    env.check("upload", refused.reason, equals="ACCESS_DENIED", clause="UPL-51")
    await env.files.write(env.path("secret"), b"secret")
    await env.files.deny(env.path("secret"))
    found = await env.download(env.path("secret"))
    env.check("download", found.reason, equals="ACCESS_DENIED", clause="UPL-51")
    env.check("no-content", found.content, equals=b"", clause="UPL-51")
