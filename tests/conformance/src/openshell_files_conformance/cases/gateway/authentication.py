"""Tokens: which are accepted, and which are refused and with which reason."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final

from openshell_files_conformance.pb.openshell.v1 import files_pb2, openshell_pb2
from openshell_files_conformance.peers.caller import OK, Up
from openshell_files_conformance.peers.client import Ended
from openshell_files_conformance.peers.gateway_env import ONE, GatewayEnv
from openshell_files_conformance.peers.tokens import (
    hmac_of_public_key,
    new_key,
    tampered,
    unsigned,
)
from openshell_files_conformance.registry import case

#: Every method of callers, with a request that names the sandbox.
METHODS: Final = (
    "UploadFile", "WriteFile", "DownloadFile", "GetTransferCapabilities", "StartUpload", "GetUpload", "ListUploads",
    "AbortUpload", "StatFile",
)  # fmt: skip
SUPERVISORS_METHODS: Final = ("ConnectSupervisor", "RelayStream", "RefreshSandboxToken")


def request_of(method: str, sandbox_id: str, path: str = "x") -> Any:
    """Return the first message of a call."""
    sandbox = files_pb2.SandboxRef(id=sandbox_id)
    metadata = files_pb2.UploadFileMetadata(sandbox_id=sandbox_id, remote_path=path)
    requests: Mapping[str, Any] = {
        "UploadFile": Up(metadata=metadata),
        "WriteFile": files_pb2.WriteFileRequest(metadata=metadata),
        "DownloadFile": files_pb2.DownloadFileRequest(sandbox_id=sandbox_id, remote_path=path),
        "GetTransferCapabilities": files_pb2.GetTransferCapabilitiesRequest(sandbox=sandbox),
        "StartUpload": files_pb2.StartUploadRequest(metadata=metadata),
        "GetUpload": files_pb2.GetUploadRequest(sandbox=sandbox, upload_id="x"),
        "ListUploads": files_pb2.ListUploadsRequest(sandbox=sandbox),
        "AbortUpload": files_pb2.AbortUploadRequest(sandbox=sandbox, upload_id="x"),
        "StatFile": files_pb2.StatFileRequest(sandbox=sandbox, remote_path=path),
        "ConnectSupervisor": openshell_pb2.SupervisorMessage(
            hello=openshell_pb2.SupervisorHello(sandbox_id=sandbox_id, instance_id="i", connection_epoch=1)
        ),
        "RelayStream": openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id="no-such-channel")),
        "RefreshSandboxToken": openshell_pb2.RefreshSandboxTokenRequest(),
    }
    return requests[method]


async def stat(env: GatewayEnv, token: str | None, **options: Any) -> Ended[Any]:
    """Call a method of users with a token."""
    return await env.channel.call(
        "StatFile", request_of("StatFile", env.caller.sandbox_id, "."), token=token, **options
    )


#: A token that is wrong in one way → the reasons that may be given. Two checks can fail at once, and their order is not defined.
def wrong_tokens(env: GatewayEnv) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return name → token, right reasons, clause."""
    idp, now = env.idp, int(time.time())
    maker, key = idp.maker, idp.key
    right = maker.claims(ONE)
    foreign, stranger = new_key(key.kid), new_key("nobodys-key")
    rsa = idp.keys["key-rs256"]

    def changed(**claims: Any) -> str:
        return maker.sign(key, {**right, **claims})

    return {
        "not-a-jwt": ("not.a-jwt", ("TOKEN_MALFORMED",), "AUT-2"),
        "empty-parts": ("..", ("TOKEN_MALFORMED",), "AUT-2"),
        "expired": (changed(exp=now - 300), ("TOKEN_EXPIRED",), "AUT-2"),
        "not-yet-valid": (changed(nbf=now + 300), ("TOKEN_NOT_YET_VALID",), "AUT-2"),
        "other-audience": (changed(aud="another"), ("TOKEN_WRONG_AUDIENCE",), "AUT-2"),
        "no-audience": (changed(aud=None), ("TOKEN_WRONG_AUDIENCE", "TOKEN_CLAIM_INVALID"), "AUT-2"),
        "part-of-the-audience": (changed(aud=maker.audience[:-1]), ("TOKEN_WRONG_AUDIENCE",), "AUT-2"),
        "other-issuer": (changed(iss="https://issuer.example"), ("TOKEN_WRONG_ISSUER",), "AUT-2"),
        "issuer-with-a-slash": (changed(iss=f"{maker.issuer}/"), ("TOKEN_WRONG_ISSUER",), "AUT-2"),
        "no-subject": (changed(sub=None), ("TOKEN_CLAIM_INVALID",), "AUT-2"),
        "subject-is-a-number": (changed(sub=7), ("TOKEN_CLAIM_INVALID",), "AUT-2"),
        "empty-subject": (changed(sub=""), ("TOKEN_CLAIM_INVALID",), "AUT-2"),
        "no-expiry": (changed(exp=None), ("TOKEN_CLAIM_INVALID",), "AUT-2"),
        "expiry-is-a-text": (changed(exp="tomorrow"), ("TOKEN_CLAIM_INVALID", "TOKEN_MALFORMED"), "AUT-2"),
        "tampered": (tampered(maker.sign(key, right)), ("TOKEN_BAD_SIGNATURE",), "AUT-2"),
        "key-of-the-same-name": (maker.sign(foreign, right), ("TOKEN_BAD_SIGNATURE",), "AUT-2"),
        "unknown-key": (maker.sign(stranger, right), ("TOKEN_UNKNOWN_KEY",), "AUT-2"),
        "no-key-id": (maker.sign(stranger, right, header={"kid": None}), ("TOKEN_UNKNOWN_KEY", "TOKEN_BAD_SIGNATURE", "TOKEN_MALFORMED"), "AUT-2"),
        "algorithm-none": (unsigned(right, key.kid), ("TOKEN_BAD_ALGORITHM", "TOKEN_MALFORMED"), "AUT-2"),
        "hmac-of-the-public-key": (hmac_of_public_key(rsa, right), ("TOKEN_BAD_ALGORITHM",), "AUT-2"),
        "another-algorithm-of-the-key": (maker.sign(rsa, right, algorithm="RS512"), ("TOKEN_BAD_ALGORITHM",), "AUT-2"),
        "critical-header": (maker.sign(key, right, header={"crit": ["x"], "x": 1}), ("TOKEN_MALFORMED", "TOKEN_BAD_ALGORITHM"), "AUT-2"),
    }  # fmt: skip


def _register_wrong(name: str, clause: str) -> None:
    async def run(env: GatewayEnv) -> None:
        token, allowed, _ = wrong_tokens(env)[name]
        ended = await stat(env, token)
        env.check("code", ended.code.name, equals="UNAUTHENTICATED", clause=clause)
        env.check("reason", ended.reason, one_of=allowed, clause="AUT-9")
        parts = [part for part in token.split(".") if len(part) > 8]
        told = ended.details + json.dumps(ended.metadata)
        env.check("no-part-of-the-token", [part for part in parts if part in told], equals=[], clause="AUT-9")
        right = await stat(env, env.idp.token(ONE))
        env.check("a-right-one-is-accepted", right.reason, one_of=(OK, "FILE_NOT_FOUND"), clause=clause)

    run.__doc__ = f"A token that is wrong ({name.replace('-', ' ')}) is refused, and the reason says which check failed."
    case(f"gateway/auth/token-{name}", profile="auth", clauses=(clause, "AUT-9"), needs=())(run)


for _name in (
    "not-a-jwt", "empty-parts", "expired", "not-yet-valid", "other-audience", "no-audience", "part-of-the-audience", "other-issuer",
    "issuer-with-a-slash", "no-subject", "subject-is-a-number", "empty-subject", "no-expiry", "expiry-is-a-text", "tampered",
    "key-of-the-same-name", "unknown-key", "no-key-id", "algorithm-none", "hmac-of-the-public-key", "another-algorithm-of-the-key",
    "critical-header",
):  # fmt: skip
    _register_wrong(_name, "AUT-2")


@case("gateway/auth/no-token", profile="auth", clauses=("AUT-1", "AUT-7", "AUT-12"))
async def no_token(env: GatewayEnv) -> None:
    """Every method but Health needs a bearer token."""
    for method in (*METHODS, *SUPERVISORS_METHODS):
        ended = await env.channel.call(method, request_of(method, env.caller.sandbox_id), token=None)
        seen = (ended.code.name, ended.reason)
        # A method of an option that is missing may be UNIMPLEMENTED before anything else is looked at.
        if seen[0] == "UNIMPLEMENTED" and method in {
            "WriteFile",
            "StartUpload",
            "GetUpload",
            "ListUploads",
            "AbortUpload",
            "RefreshSandboxToken",
        }:
            continue
        env.check(method.lower(), seen, equals=("UNAUTHENTICATED", "TOKEN_MISSING"), clause="AUT-1")
    for name, header in (
        ("basic", "Basic dXNlcjpwYXNz"),
        ("no-scheme", env.caller.token),
        ("empty", "Bearer "),
    ):
        ended = await stat(env, None, metadata=(("authorization", header),))
        env.check(
            f"header-{name}",
            (ended.code.name, ended.reason),
            one_of=(("UNAUTHENTICATED", "TOKEN_MISSING"), ("UNAUTHENTICATED", "TOKEN_MALFORMED")),
            clause="AUT-1",
        )
    default = await env.channel.call(
        "DownloadFile", request_of("DownloadFile", env.caller.sandbox_id), token=None
    )
    env.check("not-by-default", default.code.name, equals="UNAUTHENTICATED", clause="AUT-12")
    health = await env.channel.call("Health", openshell_pb2.HealthRequest(), token=None)
    env.check("health", health.reason, equals=OK, clause="AUT-7")


@case("gateway/auth/algorithms", profile="auth", clauses=("AUT-2",))
async def algorithms(env: GatewayEnv) -> None:
    """Tokens of every key that the issuer publishes are accepted, each by its algorithm."""
    for kid, key in sorted(env.idp.keys.items()):
        if kid.startswith("key-"):
            token = env.idp.maker.sign(key, env.idp.maker.claims(ONE))
            env.check(
                key.algorithm.lower(),
                (await stat(env, token)).reason,
                one_of=(OK, "FILE_NOT_FOUND"),
                clause="AUT-2",
            )
    stranger = env.idp.maker.sign(new_key("key-es256"), env.idp.maker.claims(ONE))
    env.check("another-key", (await stat(env, stranger)).reason, equals="TOKEN_BAD_SIGNATURE", clause="AUT-2")
    several = env.idp.maker.sign(
        env.idp.key, {**env.idp.maker.claims(ONE), "aud": ["other", env.idp.audience]}
    )
    env.check(
        "one-of-many-audiences",
        (await stat(env, several)).reason,
        one_of=(OK, "FILE_NOT_FOUND"),
        clause="AUT-2",
    )
    lately = env.idp.maker.sign(env.idp.key, {**env.idp.maker.claims(ONE), "exp": int(time.time()) - 5})
    env.check(
        "within-the-leeway",
        (await stat(env, lately)).reason,
        one_of=(OK, "FILE_NOT_FOUND", "TOKEN_EXPIRED"),
        clause="AUT-2",
    )


@case("gateway/auth/new-key", profile="auth", clauses=("AUT-2",))
async def rotated_key(env: GatewayEnv) -> None:
    """A key that the issuer publishes from now on is accepted without a restart."""
    key = new_key(env.fresh_name("rotated"))
    token = env.idp.maker.sign(key, env.idp.maker.claims(ONE))
    before = await stat(env, token)
    env.check("not-before", before.reason, equals="TOKEN_UNKNOWN_KEY", clause="AUT-2")
    env.idp.publish(key)

    async def accepted() -> bool:
        # A gateway may ask an issuer only so often.
        return (await stat(env, token)).code.name != "UNAUTHENTICATED"

    env.check("accepted", await env.eventually(accepted, 8), equals=True, clause="AUT-2")
    env.idp.withdraw(key.kid)


@case("gateway/auth/issuer-down", profile="auth", clauses=("AUT-2",), alone=True)
async def issuer_down(env: GatewayEnv) -> None:
    """While the issuer is down known keys stay in use, and an unknown one does not open a door."""
    env.check(
        "before", (await stat(env, env.caller.token)).reason, one_of=(OK, "FILE_NOT_FOUND"), clause="AUT-2"
    )
    env.idp.down = True
    env.check(
        "known-key",
        (await stat(env, env.caller.token)).reason,
        one_of=(OK, "FILE_NOT_FOUND"),
        clause="AUT-2",
    )
    unknown = env.idp.maker.sign(new_key("never-published"), env.idp.maker.claims(ONE))
    env.check(
        "unknown-key",
        (await stat(env, unknown)).reason,
        one_of=("TOKEN_UNKNOWN_KEY", "ISSUER_UNAVAILABLE"),
        clause="AUT-2",
    )
    env.check(
        "still-known-key",
        (await stat(env, env.caller.token)).reason,
        one_of=(OK, "FILE_NOT_FOUND"),
        clause="AUT-2",
    )


@case("gateway/auth/unknown-keys-do-not-flood-the-issuer", profile="auth", clauses=("AUT-2",), alone=True)
async def unknown_keys(env: GatewayEnv) -> None:
    """Many tokens with unknown keys do not make the gateway ask its issuer as often."""
    await stat(env, env.caller.token)
    before = env.idp.requests["/keys"]
    maker = env.idp.maker
    ended = [
        await stat(env, maker.sign(new_key(f"unknown-{number}"), maker.claims(ONE))) for number in range(40)
    ]
    env.check("refused", {one.reason for one in ended}, equals={"TOKEN_UNKNOWN_KEY"}, clause="AUT-2")
    asked = env.idp.requests["/keys"] - before
    env.check(
        "asked",
        asked,
        satisfies=("at most 20 times for 40 tokens", lambda count: count <= 20),
        clause="AUT-2",
    )


@case("gateway/auth/sandbox-tokens", profile="auth", clauses=("AUT-3",), needs=("suite-supervisor",))
async def sandbox_tokens(env: GatewayEnv) -> None:
    """A supervisor's token is good for its own sandbox only."""
    one, two = await env.sandbox(session=False), await env.sandbox(session=False)
    wrong = env.supervisor(one.facts, two.facts.token)
    session = await wrong.connect()
    env.check("not-accepted", session.accepted is None, equals=True, clause="AUT-3")
    ended = session.ended.reason if session.ended is not None else "rejected"
    env.check("reason", ended, one_of=("SANDBOX_MISMATCH", "rejected"), clause="AUT-3")
    right = await env.supervisor(one.facts).connect()
    env.check("own-token", right.accepted is not None, equals=True, clause="AUT-3")


@case("gateway/auth/refreshed-token", profile="auth", clauses=("AUT-3",), needs=("suite-supervisor",))
async def refreshed_token(env: GatewayEnv) -> None:
    """A refreshed token is good for the same sandbox, and says when it expires."""
    sandbox = await env.sandbox(session=False)
    ended = await env.channel.call(
        "RefreshSandboxToken", openshell_pb2.RefreshSandboxTokenRequest(), token=sandbox.facts.token
    )
    env.require("refreshed", ended.reason, equals=OK, clause="AUT-3")
    session = await env.supervisor(sandbox.facts, ended.answer.token).connect()
    env.check("accepted", session.accepted is not None, equals=True, clause="AUT-3")
    other = await env.sandbox(session=False)
    wrong = await env.supervisor(other.facts, ended.answer.token).connect()
    env.check("not-for-another", wrong.accepted is None, equals=True, clause="AUT-3")


@case("gateway/auth/health-and-reflection", profile="auth", clauses=("AUT-7",), needs=("health",))
async def health_and_reflection(env: GatewayEnv) -> None:
    """The health service and reflection answer without a token."""
    wire = await env.wire()
    number = await wire.open("/grpc.health.v1.Health/Check", token=None)
    await wire.send(number, b"\0\0\0\0\0", end=True)
    ended = await wire.end(number)
    env.check("health", ended.code.name, equals="OK", clause="AUT-7")
    # HealthCheckResponse{status: SERVING}
    env.check("serving", wire.messages(number), equals=[b"\x08\x01"], clause="AUT-7")
    if not env.has("reflection"):
        env.unsupported("reflection", "reflection", clause="AUT-7")
        return
    for version in ("v1", "v1alpha"):
        number = await wire.open(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", token=None
        )
        # ServerReflectionRequest{list_services: ""}
        await wire.send(number, b"\0\0\0\0\x02\x3a\x00", end=True)
        ended = await wire.end(number)
        listed = b"openshell.v1.OpenShell" in b"".join(wire.messages(number))
        env.check(f"reflection-{version}", (ended.code.name, listed), equals=("OK", True), clause="AUT-7")


@case(
    "gateway/auth/bounded-health-streams", profile="auth", clauses=("AUT-8",), needs=("health",), alone=True
)
async def bounded_health_streams(env: GatewayEnv) -> None:
    """Streams of the services that need no token are bounded, and callers with tokens are served beside them."""
    over = list[str]()
    # No client may open more than a few hundred streams on a connection.
    for _ in range(20):
        wire = await env.wire()
        numbers = [await wire.open("/grpc.health.v1.Health/Watch", token=None) for _ in range(50)]
        for number in numbers:
            await wire.send(number, b"\0\0\0\0\0", end=True)
        while await wire.receive(0.3):
            pass
        ended = [number for number in numbers if wire.call(number).over]
        over = [(await wire.end(number)).reason for number in ended]
        if over:
            break
    env.check("refused", set(over), equals={"TOO_MANY_CALLS"}, clause="AUT-8")
    env.check(
        "callers-are-served",
        (await stat(env, env.caller.token)).reason,
        one_of=(OK, "FILE_NOT_FOUND"),
        clause="AUT-8",
    )
