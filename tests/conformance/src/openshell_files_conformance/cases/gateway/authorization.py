"""What each kind of caller may do: roles, scopes, workspaces, and the principals of methods."""

from __future__ import annotations

from openshell_files_conformance.cases.gateway.authentication import (
    METHODS,
    request_of,
    stat,
    wrong_tokens,
)
from openshell_files_conformance.peers.caller import OK
from openshell_files_conformance.peers.gateway_env import ELSEWHERE, ONE, OUTSIDER, GatewayEnv
from openshell_files_conformance.peers.tokens import (
    ADMIN_ROLE,
    TokenMaker,
)
from openshell_files_conformance.registry import case


@case("gateway/auth/roles", profile="auth", clauses=("AUT-4",))
async def roles(env: GatewayEnv) -> None:
    """A user without the role gets ROLE_REQUIRED from every file method."""
    token = env.idp.token(ONE, roles=["something-else"])
    for method in METHODS:
        ended = await env.channel.call(method, request_of(method, env.caller.sandbox_id), token=token)
        if ended.code.name != "UNIMPLEMENTED":
            env.check(
                method.lower(),
                (ended.code.name, ended.reason),
                equals=("PERMISSION_DENIED", "ROLE_REQUIRED"),
                clause="AUT-4",
            )
    for name, claims in (
        ("no-roles", {"realm_access": None}),
        ("roles-not-a-list", {"realm_access": {"roles": "openshell-user"}}),
    ):
        odd = env.idp.maker.sign(env.idp.key, {**env.idp.maker.claims(ONE), **claims})
        env.check(
            name,
            (await stat(env, odd)).reason,
            one_of=("ROLE_REQUIRED", "TOKEN_CLAIM_INVALID"),
            clause="AUT-4",
        )
    admin = env.idp.token("conformance-admin", roles=[ADMIN_ROLE])
    env.check("administrator", (await stat(env, admin)).reason, one_of=(OK, "FILE_NOT_FOUND"), clause="AUT-4")


@case(
    "gateway/auth/scopes",
    profile="auth",
    clauses=("AUT-11",),
    needs=("scopes",),
    launch={"scopes_claim": "scope"},
)
async def scopes(env: GatewayEnv) -> None:
    """Where scopes are enforced, every file method needs sandbox:write, reading ones too."""
    for name, scope in (
        ("none", None),
        ("read", "sandbox:read"),
        ("part", "sandbox:writer sandbox:w"),
        ("empty", ""),
    ):
        token = env.idp.token(ONE, scope=scope)
        for method in METHODS if name == "read" else ("DownloadFile",):
            ended = await env.channel.call(method, request_of(method, env.caller.sandbox_id), token=token)
            if ended.code.name != "UNIMPLEMENTED":
                env.check(
                    f"{name}-{method.lower()}",
                    (ended.code.name, ended.reason),
                    equals=("PERMISSION_DENIED", "SCOPE_REQUIRED"),
                    clause="AUT-11",
                )
    among = env.idp.token(ONE, scope="openid sandbox:read sandbox:write")
    env.check("among-others", (await stat(env, among)).reason, one_of=(OK, "FILE_NOT_FOUND"), clause="AUT-11")


@case(
    "gateway/auth/other-workspace",
    profile="auth",
    clauses=("AUT-5", "AUT-6"),
    needs=("workspaces", "suite-supervisor"),
)
async def other_workspace(env: GatewayEnv) -> None:
    """A sandbox of a workspace of which the caller is no member is answered like one that does not exist, by every method."""
    async with env.target.elsewhere:
        sandbox = await env.occupy(env.target.sandboxes[ELSEWHERE], session=True, agent=False)
        missing = "00000000-0000-4000-8000-000000000000"
        for method in METHODS:
            there = await env.channel.call(
                method, request_of(method, sandbox.facts.id), token=env.caller.token
            )
            none = await env.channel.call(method, request_of(method, missing), token=env.caller.token)
            if there.code.name == "UNIMPLEMENTED":
                continue
            env.check(
                method.lower(),
                (there.code.name, there.reason),
                equals=("NOT_FOUND", "SANDBOX_NOT_FOUND"),
                clause="AUT-5",
            )
            same = there.details.replace(sandbox.facts.id, "ID") == none.details.replace(missing, "ID")
            env.check(f"{method.lower()}-same-words", same, equals=True, clause="AUT-5")
        env.check("no-relay", await sandbox.session.no_open(0.2), equals=True, clause="AUT-6")
        member = env.user(OUTSIDER, sandbox.facts)
        call = member.open("DownloadFile")
        await call.send(request_of("DownloadFile", sandbox.facts.id))
        await call.half_close()
        opened = await sandbox.session.next_open()
        env.check("a-member-is-let-in", bool(opened.channel_id), equals=True, clause="AUT-5")
        call.cancel()


@case(
    "gateway/auth/nothing-reaches-a-supervisor",
    profile="auth",
    clauses=("AUT-6",),
    needs=("suite-supervisor",),
)
async def nothing_reaches_a_supervisor(env: GatewayEnv) -> None:
    """Calls without a token, with wrong ones, and without the role open no relay."""
    sandbox = await env.sandbox()
    tokens = [
        None,
        *(token for token, *_ in list(wrong_tokens(env).values())[:8]),
        env.idp.token(ONE, roles=[]),
        sandbox.facts.token,
    ]
    for number, token in enumerate(tokens):
        for method in ("UploadFile", "DownloadFile", "StatFile"):
            ended = await env.channel.call(method, request_of(method, sandbox.facts.id), token=token)
            if ended.ok:
                env.check(
                    f"refused-{number}-{method.lower()}", ended.reason, equals="a refusal", clause="AUT-6"
                )
    env.check("no-relay", await sandbox.session.no_open(0.3), equals=True, clause="AUT-6")


@case(
    "gateway/auth/kinds-of-principals",
    profile="auth",
    clauses=("AUT-10", "AUT-3"),
    needs=("suite-supervisor",),
)
async def kinds_of_principals(env: GatewayEnv) -> None:
    """A user's token opens no supervisor's method, and a supervisor's token no user's method."""
    sandbox = await env.sandbox(session=False)
    for method in ("ConnectSupervisor", "RelayStream"):
        ended = await env.channel.call(method, request_of(method, sandbox.facts.id), token=env.caller.token)
        env.check(
            method.lower(),
            (ended.code.name, ended.reason),
            equals=("PERMISSION_DENIED", "PRINCIPAL_NOT_ALLOWED"),
            clause="AUT-10",
        )
    for method in METHODS:
        ended = await env.channel.call(
            method, request_of(method, sandbox.facts.id), token=sandbox.facts.token
        )
        if ended.code.name != "UNIMPLEMENTED":
            env.check(
                method.lower(),
                (ended.code.name, ended.reason),
                equals=("PERMISSION_DENIED", "PRINCIPAL_NOT_ALLOWED"),
                clause="AUT-10",
            )
    admin = env.idp.token("conformance-admin", roles=[ADMIN_ROLE])
    ended = await env.channel.call(
        "ConnectSupervisor", request_of("ConnectSupervisor", sandbox.facts.id), token=admin
    )
    env.check("administrator", ended.reason, equals="PRINCIPAL_NOT_ALLOWED", clause="AUT-10")
    # A token with the form of the gateway's own, by a key of somebody else.
    head, body, _ = sandbox.facts.token.split(".")
    forged = f"{head}.{body}.{'A' * 86}"
    ended = await env.channel.call(
        "ConnectSupervisor", request_of("ConnectSupervisor", sandbox.facts.id), token=forged
    )
    env.check("forged", ended.code.name, equals="UNAUTHENTICATED", clause="AUT-3")
    pretended = TokenMaker(env.idp.issuer, env.idp.audience)
    claims = {**pretended.claims(ONE), "sandbox_id": sandbox.facts.id}
    user = pretended.sign(env.idp.keys["key-eddsa"], claims)
    ended = await env.channel.call(
        "ConnectSupervisor", request_of("ConnectSupervisor", sandbox.facts.id), token=user
    )
    env.check("user-with-the-claim", ended.ok, equals=False, clause="AUT-3")
