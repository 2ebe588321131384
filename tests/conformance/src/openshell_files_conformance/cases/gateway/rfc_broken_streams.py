"""The RFC alone, over broken streams: a file is published by exactly its bytes and a half-close, and by nothing else."""

from __future__ import annotations

from typing import Any

from h2.errors import ErrorCodes

from openshell_files_conformance.cases.gateway.rfc_round_trips import content_of
from openshell_files_conformance.pb.openshell.v1 import files_pb2
from openshell_files_conformance.peers.caller import OK, Up
from openshell_files_conformance.peers.client import Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.peers.tcp_faults import FaultyTcp
from openshell_files_conformance.peers.wire import framed
from openshell_files_conformance.registry import case

_CONTENT = b"exactly these bytes"


async def nothing_there(env: GatewayEnv, path: str, name: str, *, clause: str) -> None:
    """Check that nothing is at the path, and that nothing comes there when the server is done with the stream."""
    # The next upload of the same caller is behind whatever the lost stream still did.
    await env.caller.rfc_upload(env.path(), b"barrier")
    env.check(name, await env.caller.content(path), equals="FILE_NOT_FOUND", clause=clause)


@case("gateway/rfc/cancelled", profile="rfc", clauses=("UPL-1",))
async def cancelled(env: GatewayEnv) -> None:
    """A call that is cancelled after all bytes, and before the half-close, publishes nothing."""
    path = env.path()
    call = await env.caller.begin(path, Up(chunk=_CONTENT), size_bytes=len(_CONTENT))
    call.cancel()
    await nothing_there(env, path, "nothing-published", clause="UPL-1")


@case("gateway/rfc/deadline", profile="rfc", clauses=("UPL-1",))
async def deadline(env: GatewayEnv) -> None:
    """A call whose deadline passes after all bytes, and before the half-close, publishes nothing."""
    path = env.path()
    call = env.caller.open("UploadFile", timeout=env.scaled(0.4))
    await call.send(Up(metadata=env.caller.metadata(path, size_bytes=len(_CONTENT))), Up(chunk=_CONTENT))
    ended: Ended[Any] = await call.end()
    env.check("ended", ended.code.name, equals="DEADLINE_EXCEEDED", clause="UPL-1")
    await nothing_there(env, path, "nothing-published", clause="UPL-1")


@case("gateway/rfc/reset", profile="rfc", clauses=("UPL-1", "UPL-32"))
async def reset(env: GatewayEnv) -> None:
    """A stream that is reset after exactly its bytes is not one that was half-closed, whatever the reset's code."""
    for code in (ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, ErrorCodes.INTERNAL_ERROR):
        path = env.path()
        wire = await env.wire()
        number = await wire.open("UploadFile", token=env.caller.token)
        metadata = Up(metadata=env.caller.metadata(path, size_bytes=len(_CONTENT)))
        await wire.send(number, framed(metadata) + framed(Up(chunk=_CONTENT)))
        await wire.reset(number, code)
        name = code.name.lower().replace("_", "-")
        await nothing_there(env, path, f"after-{name}", clause="UPL-32")
        env.check(
            f"still-serves-{name}",
            (await env.caller.rfc_upload(path, b"x")).reason,
            equals=OK,
            clause="UPL-1",
        )


@case("gateway/rfc/reset-with-the-half-close", profile="rfc", clauses=("UPL-33",))
async def reset_with_the_half_close(env: GatewayEnv) -> None:
    """A reset that arrives together with the half-close is a cancellation, and publishes nothing."""
    path = env.path()
    wire = await env.wire()
    number = await wire.open("UploadFile", token=env.caller.token)
    await wire.send(number, framed(Up(metadata=env.caller.metadata(path, size_bytes=len(_CONTENT)))))
    await wire.end_and_reset(number, framed(Up(chunk=_CONTENT)))
    await nothing_there(env, path, "nothing-published", clause="UPL-33")


@case("gateway/rfc/lost-connection", profile="rfc", clauses=("UPL-1",))
async def lost_connection(env: GatewayEnv) -> None:
    """A connection that is reset, or closed, after exactly the bytes publishes nothing."""
    for name in ("reset", "closed"):
        path = env.path()
        wire = await env.wire()
        number = await wire.open("UploadFile", token=env.caller.token)
        metadata = Up(metadata=env.caller.metadata(path, size_bytes=len(_CONTENT)))
        await wire.send(number, framed(metadata) + framed(Up(chunk=_CONTENT)))
        if name == "reset":
            wire.abort()
        else:
            wire.close()
        await nothing_there(env, path, name, clause="UPL-1")


@case("gateway/rfc/half-a-message", profile="rfc", clauses=("UPL-31",))
async def half_a_message(env: GatewayEnv) -> None:
    """A half-close in the middle of a message, with fewer bytes than the size, publishes nothing."""
    path = env.path()
    wire = await env.wire()
    number = await wire.open("UploadFile", token=env.caller.token)
    metadata = framed(Up(metadata=env.caller.metadata(path, size_bytes=2 * len(_CONTENT))))
    half = framed(Up(chunk=_CONTENT))
    await wire.send(number, metadata + half + half[:-3], end=True)
    ended = await wire.end(number)
    env.check("refused", ended.ok, equals=False, clause="UPL-31")
    await nothing_there(env, path, "nothing-published", clause="UPL-31")


@case("gateway/rfc/cut-at-every-part", profile="rfc", clauses=("UPL-1",))
async def cut_at_every_part(env: GatewayEnv) -> None:
    """A connection that is cut after any number of bytes leaves the old file or nothing, never a part."""
    content = content_of(200_000)
    for count in (1_000, 70_000, 190_000):
        path = env.path()
        async with FaultyTcp(env.endpoint) as proxy:
            channel = env.connection(proxy.endpoint)
            call = channel.open("UploadFile", token=env.caller.token, wait_for_ready=True)
            await call.send(Up(metadata=env.caller.metadata(path, size_bytes=len(content))))
            proxy.cut_after(count)
            for at in range(0, len(content), 50_000):
                if not await call.send(Up(chunk=content[at : at + 50_000])):
                    break
            await call.half_close()
            ended = await call.end()
            env.check(f"lost-after-{count}", ended.ok, equals=False, clause="UPL-1")
        await nothing_there(env, path, f"nothing-after-{count}", clause="UPL-1")


@case("gateway/rfc/refusal-while-sending", profile="rfc", clauses=("UPL-13",))
async def refusal_while_sending(env: GatewayEnv) -> None:
    """A refusal is sent while the caller still sends: it does not wait for the half-close."""
    nowhere = f"{env.path('directory')}/file"
    call = await env.caller.begin(nowhere, size_bytes=10_000_000)
    ended: Ended[Any] = await call.end()
    env.check("refused-before-content", ended.reason, equals="PARENT_NOT_FOUND", clause="UPL-13")
    path = env.path()
    call = await env.caller.begin(path, Up(chunk=b"four"), size_bytes=3)
    more: Ended[Any] = await call.end()
    env.check("refused-at-the-byte-too-many", more.reason, equals="SIZE_MISMATCH", clause="UPL-13")


@case("gateway/rfc/message-of-more-than-1-mib", profile="rfc", clauses=("UPL-15", "UPL-23"))
async def message_of_more_than_1_mib(env: GatewayEnv) -> None:
    """A message of more than 1 MiB is refused, by a little with a reason, and nothing is published."""
    for name, size in (("little", (1 << 20) + 10), ("much", 3 << 20)):
        path = env.path()
        up = await env.caller.rfc_upload(path, bytes(size), piece=size)
        env.check(f"{name}-refused", up.ok, equals=False, clause="UPL-15")
        if name == "little":
            env.check(
                "with-a-reason",
                up.reason,
                satisfies=("a reason", lambda reason: "without a reason" not in str(reason)),
                clause="UPL-23",
            )
        await nothing_there(env, path, f"{name}-nothing-published", clause="UPL-15")


@case("gateway/rfc/slow-reader", profile="rfc", clauses=("DWN-3", "DWN-5"))
async def slow_reader(env: GatewayEnv) -> None:
    """A download that is read slowly gives the file that was opened, even if it is replaced meanwhile."""
    path, content = env.path(), content_of(6 << 20)
    await env.caller.rfc_upload(path, content)
    channel = env.connection(options=[("grpc.http2.lookahead_bytes", 16384)])
    call = channel.open("DownloadFile", token=env.caller.token)
    request = files_pb2.DownloadFileRequest(sandbox_id=env.caller.sandbox_id, remote_path=path)
    await call.send(request)
    await call.half_close()
    await call.next()
    await env.caller.rfc_upload(path, content_of(6 << 20, seed=2))
    ended = await call.end()
    got = b"".join(one.chunk for one in ended.messages)
    # The content that was opened, whole, or the honest end that it changed; never a mixture that counts as a success.
    env.check("reason", ended.reason, one_of=(OK, "FILE_CHANGED"), clause="DWN-5")
    env.check("not-mixed", got == content[: len(got)], equals=True, clause="DWN-5")
    env.check("all-if-ok", not ended.ok or len(got) == len(content), equals=True, clause="DWN-3")


@case("gateway/rfc/abandoned-download", profile="rfc", clauses=("DWN-3",))
async def abandoned_download(env: GatewayEnv) -> None:
    """Downloads that their callers leave do not disturb the next ones."""
    path, content = env.path(), content_of(4 << 20)
    await env.caller.rfc_upload(path, content)
    for _ in range(8):
        call = env.caller.open("DownloadFile")
        await call.send(files_pb2.DownloadFileRequest(sandbox_id=env.caller.sandbox_id, remote_path=path))
        await call.half_close()
        await call.next()
        call.cancel()
    env.check("still-whole", await env.caller.content(path) == content, equals=True, clause="DWN-3")
