"""Tokens: that every call has one, when an SDK gets another, and that none gets into an error."""

from __future__ import annotations

from collections import Counter

from openshell_files_conformance.peers.file_calls import Fault
from openshell_files_conformance.peers.file_sandbox import KIB, MIB
from openshell_files_conformance.peers.file_status import refusal
from openshell_files_conformance.peers.sdk_env import Expectation, SdkEnv
from openshell_files_conformance.registry import case


@case("sdk/auth/every-call", profile="auth", clauses=("AUT-1",))
async def every_call(env: SdkEnv) -> None:
    """Every call of a large upload, a small one and a download has the token, and only that one."""
    for name, size in (("small", KIB), ("large", 2 * MIB)):
        answered = await env.upload(env.content(size), name)
        env.check(name, answered.outcome, equals="ok", clause="AUT-1")
    await env.download(env.target(), "small")
    tokens = {call.token for call in env.book.calls}
    env.check("tokens", tokens, equals={env.token}, clause="AUT-1")


@case("sdk/auth/refused-token", profile="auth", clauses=("ERR-1", "ERR-4", "ERR-7", "ERR-8"))
async def refused_token(env: SdkEnv) -> None:
    """A fixed token that is refused is not sent again and again, and not shown."""
    env.gateway.settings.tokens = {"another"}
    secret = f"secret-{env.fresh_name()}"
    answered = await env.upload(env.content(KIB), auth={"token": secret})
    env.refused(answered, reasons=("TOKEN_EXPIRED", "UNAUTHENTICATED"), clause="ERR-7")
    refused = [call for call in env.book.calls if call.ended == "TOKEN_EXPIRED"]
    methods = Counter(call.method for call in env.book.calls)
    env.check(
        "tries",
        dict(methods),
        satisfies=("each method once or twice", lambda seen: bool(seen) and max(seen.values()) <= 2),
        clause="ERR-4",
    )
    env.check("calls", len(refused), satisfies=("1 to 3", lambda n: 1 <= n <= 3), clause="ERR-1")
    env.check("not-shown", secret in answered.message, equals=False, clause="ERR-8")


@case("sdk/auth/token-file", profile="auth", needs=("token-file",), clauses=("AUT-1", "ERR-4"))
async def token_file(env: SdkEnv) -> None:
    """A token in a file that changes is read again, before or after a refusal."""
    file = env.directory / "token"
    file.write_text("first", "utf-8")
    env.gateway.settings.tokens = {"first"}
    auth = {"token_file": str(file)}
    content = env.content(KIB)
    first = await env.upload(content, "first", auth=auth, client="one")
    env.check("first", first.outcome, equals="ok", clause="AUT-1")
    file.write_text("second", "utf-8")
    env.gateway.settings.tokens = {"second"}
    second = await env.upload(content, "second", auth=auth, client="one")
    env.check("second", second.outcome, equals="ok", clause="ERR-4")
    env.check("published", env.published("second"), equals=content, clause="ERR-4")


@case(
    "sdk/auth/client-credentials", profile="auth", needs=("client-credentials",), clauses=("AUT-1", "ERR-4")
)
async def client_credentials(env: SdkEnv) -> None:
    """Client credentials give one token, which all calls of an upload share."""
    issuer = await env.issuer()
    env.gateway.settings.tokens = {f"{env.token}-issued-1"}
    content = env.content(2 * MIB)
    answered = await env.upload(content, auth=issuer.credentials())
    env.check("ok", answered.outcome, equals="ok", clause="AUT-1")
    env.check("published", env.published("remote"), equals=content, clause="AUT-1")
    env.check("issued", issuer.issued, equals=[f"{env.token}-issued-1"], clause="ERR-4")


@case(
    "sdk/auth/refreshed-once",
    profile="auth",
    needs=("client-credentials",),
    clauses=("ERR-4",),
    depends_on=("sdk/auth/client-credentials",),
)
async def refreshed_once(env: SdkEnv) -> None:
    """The first token is refused: the SDK gets a second one and goes on, for uploads and downloads."""
    content = env.content(KIB)
    env.serve(content, "served")
    for name in ("upload", "download"):
        issuer = await env.issuer()
        env.gateway.settings.tokens = {f"{env.token}-issued-2"}
        if name == "upload":
            answered = await env.upload(content, auth=issuer.credentials())
            seen = env.published("remote")
        else:
            target = env.target()
            answered = await env.download(target, "served", auth=issuer.credentials())
            seen = target.read_bytes() if target.exists() else None
        env.check(f"{name}-ok", answered.outcome, equals="ok", clause="ERR-4")
        env.check(f"{name}-content", seen, equals=content, clause="ERR-4")
        env.check(f"{name}-issued", len(issuer.issued), equals=2, clause="ERR-4")


@case(
    "sdk/auth/refused-in-the-middle",
    profile="auth",
    needs=("client-credentials",),
    clauses=("ERR-4", "UPL-3"),
    depends_on=("sdk/auth/client-credentials",),
)
async def refused_in_the_middle(env: SdkEnv) -> None:
    """The token expires in the middle of a large upload: one new token, and the upload arrives whole."""
    issuer = await env.issuer()

    def expire(_: object) -> None:
        env.gateway.settings.tokens = {f"{env.token}-issued-2"}

    env.gateway.settings.tokens = {f"{env.token}-issued-1"}
    expired = refusal("TOKEN_EXPIRED", "the token has expired")
    env.faults.add("UploadFile", Fault(at="content", after_bytes=MIB, then=expire, status=expired))
    content = env.content(3 * MIB)
    answered = await env.upload(content, auth=issuer.credentials())
    env.check("ok", answered.outcome, equals="ok", clause="ERR-4")
    right = (content,) if answered.ok else (None, content)
    env.check("published", env.published("remote"), one_of=right, clause="UPL-3")
    env.check("issued", len(issuer.issued), equals=2, clause="ERR-4")


@case(
    "sdk/auth/always-refused",
    profile="auth",
    needs=("client-credentials",),
    clauses=("ERR-4", "ERR-7", "ERR-8"),
    depends_on=("sdk/auth/client-credentials",),
)
async def always_refused(env: SdkEnv) -> None:
    """Every token is refused: the SDK gets one new token, and then reports the refusal. Neither tokens nor the secret are in it."""
    issuer = await env.issuer()
    env.gateway.settings.tokens = {"none of the issuer's"}
    credentials = issuer.credentials()
    for name, answered in (
        ("upload", await env.upload(env.content(KIB), auth=credentials)),
        ("download", await env.download(env.target(), auth=credentials)),
    ):
        env.refused(
            answered, reasons=("TOKEN_EXPIRED", "UNAUTHENTICATED"), name=f"refused-{name}", clause="ERR-7"
        )
        shown = [one for one in (*issuer.issued, "kept between us") if one in answered.message]
        env.check(f"not-shown-{name}", shown, equals=[], clause="ERR-8")
    few: Expectation = ("1 or 2 for each of the two transfers", lambda issued: 2 <= issued <= 4)
    env.check("issued", len(issuer.issued), satisfies=few, clause="ERR-4")
    methods = Counter(call.method for call in env.book.calls)
    env.check(
        "tries",
        dict(methods),
        satisfies=(
            "each method at most twice for each transfer",
            lambda seen: bool(seen) and max(seen.values()) <= 4,
        ),
        clause="ERR-4",
    )


@case(
    "sdk/auth/forbidden",
    profile="auth",
    needs=("client-credentials",),
    clauses=("ERR-1", "ERR-7"),
    depends_on=("sdk/auth/client-credentials",),
)
async def forbidden(env: SdkEnv) -> None:
    """A missing role is not mended by another token: no second token, no second call."""
    issuer = await env.issuer()
    env.gateway.settings.tokens = {f"{env.token}-issued-1", f"{env.token}-issued-2"}
    env.faults.always("DownloadFile", Fault(status=refusal("ROLE_REQUIRED")))
    answered = await env.download(env.target(), auth=issuer.credentials())
    env.refused(answered, reasons=("ROLE_REQUIRED", "PERMISSION_DENIED"), clause="ERR-7")
    env.check("calls", len(env.book.of("DownloadFile")), equals=1, clause="ERR-1")
    env.check("issued", len(issuer.issued), equals=1, clause="ERR-1")
