"""StatFile, and the algorithms of digests."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.operation import BLAKE3, OK, SHA256, data, digest, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.registry import case

_NOFOLLOW = files_pb2.LEAF_LINK_POLICY_NOFOLLOW
_UNKNOWN = 99


@case("supervisor/stat/kinds", profile="core", clauses=("PTH-9", "PTH-15"))
async def kinds(env: SupervisorEnv) -> None:
    """Files, directories, FIFOs, sockets and links are described, and none of them is opened."""
    await env.files.write(env.path("file"), b"12345")
    await env.files.link(env.path("link"), "file")
    await env.files.special(env.path("fifo"), "fifo")
    await env.files.special(env.path("socket"), "socket")
    wanted = {
        "file": files_pb2.FILE_TYPE_REGULAR,
        "link": files_pb2.FILE_TYPE_SYMLINK,
        "fifo": files_pb2.FILE_TYPE_SPECIAL,
        "socket": files_pb2.FILE_TYPE_SPECIAL,
    }
    for name, kind in wanted.items():
        told = await env.stat(env.path(name), leaf_link=_NOFOLLOW)
        clause = "PTH-15" if kind == files_pb2.FILE_TYPE_SPECIAL else "PTH-9"
        env.check(name, told.answer.file.type if told.ok else told.reason, equals=kind, clause=clause)
    told = await env.stat(env.path("link"), leaf_link=_NOFOLLOW)
    env.check("target", told.answer.file.link_target if told.ok else b"", equals=b"file", clause="PTH-9")
    directory = await env.stat(env.home)
    seen = directory.answer.file.type if directory.ok else directory.reason
    env.check("directory", seen, equals=files_pb2.FILE_TYPE_DIRECTORY, clause="PTH-9")
    size = await env.stat(env.path("file"))
    env.check("size", size.answer.file.size_bytes if size.ok else -1, equals=5, clause="PTH-9")


@case(
    "supervisor/stat/special-files-are-not-transferred",
    profile="core",
    clauses=("PTH-4", "PTH-15"),
    timeout=15,
)
async def special_files_are_not_transferred(env: SupervisorEnv) -> None:
    """FIFO, socket, device and directory are refused at once as source and destination of a transfer."""
    await env.files.mkdir(env.path("directory"))
    for kind in ("directory", "fifo", "socket", "device"):
        if kind != "directory" and not await env.files.special(env.path(kind), kind):
            env.note(f"the suite may not make a {kind}")
            continue
        before = await env.files.entry(env.path(kind))
        wanted = "IS_A_DIRECTORY" if kind == "directory" else "NOT_A_REGULAR_FILE"
        clause = "PTH-4" if kind == "directory" else "PTH-15"
        found = await env.download(env.path(kind))
        env.check(f"download-{kind}", found.reason, equals=wanted, clause=clause)
        done = await env.upload(env.path(kind), b"x")
        env.check(f"upload-{kind}", done.reason, equals=wanted, clause=clause)
        env.check(f"stays-{kind}", await env.files.entry(env.path(kind)), equals=before, clause=clause)


@case("supervisor/stat/digest", profile="core", clauses=("PTH-25", "DIG-1", "DIG-9"))
async def with_digest(env: SupervisorEnv) -> None:
    """A digest is given of regular files, if it is asked for."""
    await env.files.write(env.path(), b"content")
    asked = await env.stat(env.path(), include_digest=True)
    env.check("asked", asked.ok and asked.answer.file.digest, equals=digest(b"content"), clause="DIG-1")
    plain = await env.stat(env.path())
    env.check("not-asked", plain.ok and plain.answer.file.HasField("digest"), equals=False, clause="DIG-9")
    await env.files.special(env.path("fifo"), "fifo")
    await env.files.link(env.path("link"), "file")
    fifo = await env.stat(env.path("fifo"), include_digest=True)
    env.check("fifo", fifo.reason, equals="NOT_A_REGULAR_FILE", clause="PTH-25")
    directory = await env.stat(env.home, include_digest=True)
    env.check("directory", directory.reason, equals="IS_A_DIRECTORY", clause="PTH-25")
    link = await env.stat(env.path("link"), include_digest=True, leaf_link=_NOFOLLOW)
    env.check("link", link.reason, equals="INVALID_REQUEST", clause="PTH-25")


@case("supervisor/digests/choice", profile="core", clauses=("DIG-2", "DIG-3", "DIG-11", "DIG-21"))
async def choice(env: SupervisorEnv) -> None:
    """The first algorithm that the server knows is taken, unknown numbers are skipped, SHA-256 is always there."""
    await env.files.write(env.path(), b"content")

    async def taken(*listed: int) -> object:
        told = await env.stat(env.path(), include_digest=True, accepted_digests=listed)
        return told.answer.file.digest.algorithm if told.ok else told.reason

    env.check("none-listed", await taken(), equals=SHA256, clause="DIG-3")
    env.check("sha256", await taken(SHA256), equals=SHA256, clause="DIG-3")
    env.check("unknown-first", await taken(_UNKNOWN, 0, SHA256), equals=SHA256, clause="DIG-2")
    env.check("only-unknown", await taken(_UNKNOWN), equals="DIGEST_UNSUPPORTED", clause="DIG-11")
    env.check("sixteen", await taken(*[_UNKNOWN] * 15, SHA256), equals=SHA256, clause="DIG-21")
    env.check("seventeen", await taken(*[SHA256] * 17), equals="INVALID_REQUEST", clause="DIG-21")
    relay = await env.begin_upload(env.path("upload"), accepted_digests=[_UNKNOWN])
    refused = await relay.outcome()
    env.check("upload-before-content", refused.reason, equals="DIGEST_UNSUPPORTED", clause="DIG-11")
    found = await env.download(env.path(), accepted_digests=[_UNKNOWN])
    env.check("download", (found.reason, found.content), equals=("DIGEST_UNSUPPORTED", b""), clause="DIG-11")


@case(
    "supervisor/digests/operator-allows",
    profile="core",
    clauses=("DIG-2", "DIG-12", "DIG-13"),
    needs=("blake3",),
)
async def operator_allows(env: SupervisorEnv) -> None:
    """The agent takes what the gateway's operator allows, and nothing else."""
    await env.files.write(env.path(), b"content")
    listed = list(env.capability.digests)
    env.check("hello", {SHA256, BLAKE3} <= set(listed), equals=True, clause="DIG-13")
    for allowed, wanted in (((), BLAKE3), ((SHA256,), SHA256), ((SHA256, BLAKE3), BLAKE3)):
        found = await env.download(
            env.path(), accepted_digests=[BLAKE3, SHA256], opening={"digests": allowed}
        )
        seen = found.header.digest_algorithm if found.header else found.reason
        env.check(f"allows-{'-'.join(map(str, allowed)) or 'all'}", seen, equals=wanted, clause="DIG-12")
    refused = await env.download(env.path(), accepted_digests=[BLAKE3], opening={"digests": (SHA256,)})
    env.check("nothing-left", refused.reason, equals="DIGEST_UNSUPPORTED", clause="DIG-2")


@case("supervisor/digests/none-for-callers-of-the-rfc", profile="rfc", clauses=("DIG-9",))
async def none_for_callers_of_the_rfc(env: SupervisorEnv) -> None:
    """An upload without explicit_finish, request_id and accepted_digests has no digest."""
    relay = await env.begin_upload(env.path(), explicit_finish=False, size_bytes=3)
    await relay.upload(files_pb2.UploadFileRequest(chunk=b"abc"))
    await relay.input_end()
    done = await relay.outcome()
    env.require("reason", done.reason, equals=OK, clause="DIG-9")
    env.check("digest", done.answer.file.HasField("digest"), equals=False, clause="DIG-9")


@case("supervisor/digests/wrong-algorithm-keeps-the-bytes", profile="resume", clauses=("DIG-5", "DIG-16"))
async def wrong_algorithm_keeps_the_bytes(env: SupervisorEnv) -> None:
    """A finish of another algorithm is refused, and the staged bytes stay."""
    name, content = env.fresh_name("request"), b"content"
    relay = await env.begin_upload(env.path(), request_id=name)
    await relay.upload(data(0, content), finish(content, BLAKE3))
    refused = await relay.outcome()
    seen = (refused.reason, refused.fields)
    env.check("refused", seen, equals=("INVALID_REQUEST", ["finish.digest.algorithm"]), clause="DIG-5")
    asked = await env.get_upload(request_id=name)
    env.check("staged", asked.ok and asked.answer.upload.staged_bytes, equals=len(content), clause="DIG-16")


@case("supervisor/conditions/one-of-many", profile="core", clauses=("CND-3", "CND-1", "CND-4"))
async def one_of_many(env: SupervisorEnv) -> None:
    """Of several uploads with `absent` to one path that finish together exactly one is published."""
    condition = files_pb2.UploadCondition(absent=Empty())
    relays = [await env.begin_upload(env.path(), condition=condition) for _ in range(6)]
    for number, relay in enumerate(relays):
        await relay.until("accepted")
        await relay.upload(data(0, b"%d" % number))
    for number, relay in enumerate(relays):
        await relay.upload(finish(b"%d" % number))
        await relay.input_end()
    reasons = [(await relay.outcome()).reason for relay in relays]
    env.check("one", reasons.count(OK), equals=1, clause="CND-3")
    env.check("others", {*reasons} - {OK}, equals={"FILE_EXISTS"}, clause="CND-1")
    winner = b"%d" % reasons.index(OK) if OK in reasons else None
    env.check("content", await env.files.read(env.path()), equals=winner, clause="CND-4")
    env.check("nothing-left", await env.left(), equals=[], clause="CND-4")


@case("supervisor/conditions/compared-again", profile="core", clauses=("CND-5", "CND-4"))
async def compared_again(env: SupervisorEnv) -> None:
    """A destination that changes between start and finish is noticed before it is replaced."""
    absent = await env.begin_upload(env.path("absent"), condition=files_pb2.UploadCondition(absent=Empty()))
    await absent.until("accepted")
    await env.files.write(env.path("absent"), b"appeared")
    await absent.upload(data(0, b"new"), finish(b"new"))
    await absent.input_end()
    env.check("absent", (await absent.outcome()).reason, equals="FILE_EXISTS", clause="CND-4")
    env.check("absent-stays", await env.files.read(env.path("absent")), equals=b"appeared", clause="CND-4")
    await env.files.write(env.path("same"), b"old")
    same = files_pb2.UploadCondition(digest=digest(b"old"))
    relay = await env.begin_upload(env.path("same"), condition=same)
    await relay.until("accepted")
    await env.files.write(env.path("same"), b"changed")
    await relay.upload(data(0, b"new"), finish(b"new"))
    await relay.input_end()
    env.check("digest", (await relay.outcome()).reason, equals="CONDITION_FAILED", clause="CND-5")
    env.check("digest-stays", await env.files.read(env.path("same")), equals=b"changed", clause="CND-5")


@case("supervisor/conditions/replaced-in-turn", profile="core", clauses=("CND-6",))
async def replaced_in_turn(env: SupervisorEnv) -> None:
    """Of several uploads that replace the same version and finish together, exactly one is published."""
    await env.files.write(env.path(), b"old")
    version = (await env.stat(env.path())).answer.file.version
    condition = files_pb2.UploadCondition(version=version)
    relays = [await env.begin_upload(env.path(), condition=condition) for _ in range(6)]
    for number, relay in enumerate(relays):
        await relay.until("accepted")
        await relay.upload(data(0, b"%d" % number))
    for number, relay in enumerate(relays):
        await relay.upload(finish(b"%d" % number))
        await relay.input_end()
    reasons = sorted([(await relay.outcome()).reason for relay in relays])
    env.check("reasons", reasons, equals=sorted([OK, *["CONDITION_FAILED"] * 5]), clause="CND-6")
