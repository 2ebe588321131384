"""Refuses settings that contradict each other or are unsafe together.

The rules have no input besides the settings, each of which is valid by itself.
Every rule names the key to change, and how; all problems are reported at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from openshell_files_protocol.limits import LEAST_HEARTBEAT_SECONDS
from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files_gateway.config.errors import Problem
from openshell_files_gateway.config.issuer_urls import UnsafeUrlError, check_issuer, check_url
from openshell_files_gateway.config.names import title_of
from openshell_files_gateway.config.permissive_settings import all_are_administrators

if TYPE_CHECKING:
    from openshell_files_gateway.config.tables import GatewayTables, OidcSettings, RelaySettings

#: Heartbeat intervals within the silence timeout, so that a session survives one late or lost heartbeat.
LATE_HEARTBEATS: Final = 2

_T = TypeVar("_T")


def find_problems(settings: GatewayTables) -> list[Problem]:
    """Return all problems that keep the gateway from starting with these settings."""
    found = [*_users(settings), *_exposure(settings), *_tls(settings), *_sandbox_tokens(settings)]
    if settings.oidc is not None:
        found.extend(_oidc(settings.oidc))
    found.extend(_workspaces(settings))
    found.extend(_sandboxes(settings))
    found.extend(_relay(settings.relay))
    found.extend(_compute(settings))
    model = type(settings)
    return [Problem(title_of(model, problem.key), problem.fault, problem.fix) for problem in found]


def _users(settings: GatewayTables) -> Iterator[Problem]:
    if settings.oidc is None and not settings.allow_unauthenticated_users:
        yield Problem(
            "oidc.issuer",
            "is not set, so no user could log in",
            "set it to the issuer's URL, or set allow_unauthenticated_users for development on this machine",
        )


def _exposure(settings: GatewayTables) -> Iterator[Problem]:
    """Return the settings that are allowed only with a loopback address."""
    address = settings.server.bind_address
    if address.is_loopback:
        return
    if settings.allow_unauthenticated_users:
        yield Problem(
            "allow_unauthenticated_users",
            f"would make every caller that reaches {address} an administrator",
            "unset it and set oidc.issuer, or bind to a loopback address",
        )
    if settings.tls.disabled:
        yield Problem(
            "tls.disabled",
            f"would send tokens and files in the clear over {address}",
            "set tls.certificate and tls.key, or bind to a loopback address",
        )
    if settings.sandbox_tokens.signing_key is None:
        yield Problem(
            "sandbox_tokens.signing_key",
            "is not set, so supervisors would be locked out by every restart",
            "name a file; it is created if it is missing",
        )


def _tls(settings: GatewayTables) -> Iterator[Problem]:
    tls = settings.tls
    if tls.certificate is not None and tls.key is None:
        yield Problem("tls.key", "is not set, but tls.certificate is", "name the file with the private key")
    elif tls.key is not None and tls.certificate is None:
        yield Problem(
            "tls.certificate", "is not set, but tls.key is", "name the file with the certificate chain"
        )
    elif tls.certificate is None and not tls.disabled:
        yield Problem(
            "tls.certificate",
            "is not set, and TLS is on",
            "name certificate and key, or set tls.disabled on a loopback address",
        )
    if tls.client_ca is not None and tls.certificate is None:
        yield Problem(
            "tls.client_ca", "asks for client certificates without TLS", "set tls.certificate and tls.key"
        )


def _sandbox_tokens(settings: GatewayTables) -> Iterator[Problem]:
    tokens = settings.sandbox_tokens
    if tokens.ttl < 1 and not (tokens.ttl == 0 and tokens.allow_no_expiry):
        yield Problem(
            "sandbox_tokens.ttl",
            "tokens would never expire" if tokens.ttl == 0 else "tokens would expire at once",
            "set it to the seconds that a token is valid, or set sandbox_tokens.allow_no_expiry",
        )
    if tokens.key_id is not None and not tokens.key_id:
        yield Problem("sandbox_tokens.key_id", "is empty", "unset it to have the key's thumbprint")


def _oidc(oidc: OidcSettings) -> Iterator[Problem]:
    try:
        check_issuer(oidc.issuer, allow_insecure_loopback=oidc.dangerously_allow_insecure_http)
    except UnsafeUrlError as error:
        yield Problem(
            "oidc.issuer",
            str(error),
            "give the https URL of the issuer; for development, an http URL of a loopback address in digits "
            "with oidc.dangerously_allow_insecure_http",
        )
    for allowed in oidc.jwks_allowed_origins:
        try:
            url = check_url(allowed, allow_insecure_loopback=oidc.dangerously_allow_insecure_http)
            fault = "has more than scheme, host and port" if url.path not in ("", "/") or url.query else ""
        except UnsafeUrlError as error:
            fault = str(error)
        if fault:
            yield Problem(
                "oidc.jwks_allowed_origins",
                f"'{allowed}' {fault}",
                "list origins like https://keys.example.com",
            )
    if bool(oidc.admin_role) != bool(oidc.user_role):
        missing, other = ("admin_role", "user_role") if oidc.user_role else ("user_role", "admin_role")
        yield Problem(
            f"oidc.{missing}",
            f"is empty, but oidc.{other} is not",
            "name both roles, or empty both if roles do not matter",
        )
    for key, path in (("oidc.roles_claim", oidc.roles_claim), ("oidc.scopes_claim", oidc.scopes_claim)):
        if path and not all(path.split(".")):
            yield Problem(key, f"'{path}' has an empty part", "write the path as in realm_access.roles")


def _workspaces(settings: GatewayTables) -> Iterator[Problem]:
    because = all_are_administrators(settings.oidc) if settings.oidc is not None else ""
    if because and settings.workspaces:
        yield Problem(
            "oidc.user_role",
            f"makes every user of the issuer a platform administrator, so the members of workspaces have no effect: {because}",
            "name two roles, or remove workspaces if every user may do everything",
        )
    for name in _repeated(workspace.name for workspace in settings.workspaces):
        yield Problem("workspaces.name", f"'{name}' is listed twice", "list each workspace once")
    for workspace in settings.workspaces:
        for subject in _repeated(member.subject for member in workspace.members):
            yield Problem(
                "workspaces.members.subject",
                f"'{subject}' is listed twice in '{workspace.name}'",
                "list each member once, with the highest role",
            )


def _sandboxes(settings: GatewayTables) -> Iterator[Problem]:
    known = {DEFAULT_WORKSPACE, *(workspace.name for workspace in settings.workspaces)}
    for sandbox_id in _repeated(sandbox.id for sandbox in settings.sandboxes):
        yield Problem("sandboxes.id", f"'{sandbox_id}' is listed twice", "give each sandbox its own id")
    for workspace, name in _repeated((sandbox.workspace, sandbox.name) for sandbox in settings.sandboxes):
        yield Problem(
            "sandboxes.name", f"'{name}' is listed twice in '{workspace}'", "use a name once per workspace"
        )
    for sandbox in settings.sandboxes:
        if sandbox.workspace not in known:
            yield Problem(
                "sandboxes.workspace",
                f"'{sandbox.workspace}' of sandbox '{sandbox.name}' is not listed",
                "add it to workspaces, or correct the name",
            )

        if (sandbox.agent_port is None) != (sandbox.agent_secret is None):
            yield Problem(
                "sandboxes.agent_port",
                f"of sandbox '{sandbox.name}' requires sandboxes.agent_secret, and vice versa",
                "set both, or neither",
            )


def _relay(relay: RelaySettings) -> Iterator[Problem]:
    # A supervisor uses the announced interval, but never a shorter one than its own minimum.
    interval = max(relay.heartbeat_interval, LEAST_HEARTBEAT_SECONDS)
    least = LATE_HEARTBEATS * interval
    if relay.silence_timeout < least:
        yield Problem(
            "relay.silence_timeout",
            f"is {relay.silence_timeout:g} s, so the session of a healthy supervisor could end because of one late heartbeat: with "
            f"relay.heartbeat_interval of {relay.heartbeat_interval:g} s it sends one every {interval:g} s",
            f"set it to at least {least:g}, or relay.heartbeat_interval to less",
        )


def _compute(settings: GatewayTables) -> Iterator[Problem]:
    url = settings.database_url
    if url is not None and database_path(url) is None:
        yield Problem("database_url", f"'{url}' is not served", "use sqlite: and the path of a file")
    if settings.compute.directory is None:
        return
    if settings.tls.client_ca is not None:
        yield Problem(
            "tls.client_ca",
            "would keep out the supervisors that the gateway starts, which have no client certificate",
            "unset it, or unset compute.directory",
        )
    if settings.sandbox_tokens.signing_key is None:
        yield Problem(
            "sandbox_tokens.signing_key",
            "is not set, so supervisors that were started would be locked out by every restart",
            "name a file; it is created if it is missing",
        )


def database_path(url: str) -> Path | None:
    """Return the file that an `sqlite:` URL names; None if it names no file.

    Upstream's forms: `sqlite:PATH` and `sqlite://PATH`; parameters are ignored.
    """
    scheme, _, rest = url.partition(":")
    path = rest.removeprefix("//").partition("?")[0]
    return Path(path) if scheme == "sqlite" and path and path != ":memory:" else None


def _repeated(items: Iterable[_T]) -> list[_T]:
    return [item for item, count in Counter(items).items() if count > 1]
