"""The configuration: where values come from, and what the gateway does not start with."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trustme
from configuration_files import ISSUER, MINIMAL, problems_of, write
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.loading import load_settings
from openshell_files_gateway.config.names import all_settings
from openshell_files_gateway.config.permissive_settings import find_permissive_settings
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.config.tables import OidcSettings
from openshell_files_protocol.limits import MAX_CHUNK_BYTES
from openshell_files_protocol.pb.openshell.v1 import openshell_pb2
from openshell_supervisor_sim.session.heartbeats import agreed


def test_the_least_that_starts_has_upstreams_defaults() -> None:
    """Facts 1.7, 2.2.11, 7."""
    settings = load_settings(None, MINIMAL)
    assert (str(settings.server.bind_address), settings.server.port) == ("127.0.0.1", 17670)
    assert settings.oidc == OidcSettings(
        issuer=ISSUER,
        audience="openshell-cli",
        jwks_ttl=3600,
        roles_claim="realm_access.roles",
        admin_role="openshell-admin",
        user_role="openshell-user",
        scopes_claim="",
        leeway=60,
    )
    assert not settings.allow_unauthenticated_users
    assert settings.gateway_id == "openshell"
    relay = settings.relay
    assert (relay.session_wait_timeout, relay.claim_timeout, relay.heartbeat_interval) == (15, 10, 15)
    assert (relay.max_pending, relay.max_pending_per_sandbox) == (256, 32)
    assert settings.limits.max_chunk_bytes == MAX_CHUNK_BYTES


def test_every_scalar_of_a_table_has_a_variable() -> None:
    """Nothing that an operator may have to change can only be changed in the file."""
    settings = list(all_settings(GatewaySettings))
    names = [setting.env.name for setting in settings if setting.env]
    assert len(names) == len(set(names))
    assert all(name.startswith("OPENSHELL_") for name in names)
    assert {setting.path for setting in settings if not setting.env} == {("sandboxes",), ("workspaces",)}
    assert all(setting.description for setting in settings if setting.env)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        gateway_id = "from-file"
        [server]
        bind_address = "127.0.0.2"
        port = 1
        [tls]
        disabled = true
        [oidc]
        issuer = "{ISSUER}"
        audience = "from-file"
        jwks_allowed_origins = ["https://keys.example"]
        """,
    )
    settings = load_settings(
        path,
        {
            "OPENSHELL_SERVER_PORT": "2",
            "OPENSHELL_OIDC_AUDIENCE": "from-environment",
            "OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS": "https://a.example, https://b.example:8443,",
            "OPENSHELL_OIDC_ADMIN_ROLE": "",
            "OPENSHELL_OIDC_USER_ROLE": "",
            "OPENSHELL_TLS_CERT": "",
            "OPENSHELL_SOMETHING_ELSE": "ignored",
            "PATH": "/bin",
        },
    )
    assert settings.gateway_id == "from-file"
    assert (str(settings.server.bind_address), settings.server.port) == ("127.0.0.2", 2)
    assert settings.oidc is not None
    assert settings.oidc.issuer == ISSUER
    assert settings.oidc.audience == "from-environment"
    assert settings.oidc.jwks_allowed_origins == ("https://a.example", "https://b.example:8443")
    assert (settings.oidc.admin_role, settings.oidc.user_role) == ("", "")


def test_the_process_environment_gets_in_only_if_it_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENSHELL_SERVER_PORT", "1")
    monkeypatch.setenv("GATEWAY_ID", "intruder")
    monkeypatch.setenv("SERVER", '{"port": 1}')
    settings = GatewaySettings.model_validate({"oidc": {"issuer": ISSUER}, "tls": {"disabled": True}})
    assert settings == load_settings(None, MINIMAL)
    assert settings.server.port == 17670


def test_sandboxes_and_workspaces_come_from_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        [[sandboxes]]
        id = "0b8f7a52-6f0c-4b53-9d3b-6a2f5f3f3b11"
        name = "builder"
        workspace = "team"
        [[sandboxes]]
        id = "1b8f7a52-6f0c-4b53-9d3b-6a2f5f3f3b11"
        name = "builder"
        [[workspaces]]
        name = "team"
        members = [{subject = "alice"}, {subject = "olga", role = "admin"}]
        """,
    )
    settings = load_settings(path, MINIMAL)
    assert [(sandbox.name, sandbox.workspace) for sandbox in settings.sandboxes] == [
        ("builder", "team"),
        ("builder", "default"),
    ]
    assert [(member.subject, member.role) for member in settings.workspaces[0].members] == [
        ("alice", "user"),
        ("olga", "admin"),
    ]


def test_settings_cannot_be_changed() -> None:
    settings = load_settings(None, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.allow_unauthenticated_users = True
    with pytest.raises(ValueError, match="frozen"):
        settings.tls.disabled = False


REFUSED: dict[str, tuple[dict[str, str], str, str]] = {
    # variables beside MINIMAL; the key that is named; words of the message
    "port_too_high": ({"OPENSHELL_SERVER_PORT": "65536"}, "server.port (OPENSHELL_SERVER_PORT)", "65535"),
    "port_no_number": ({"OPENSHELL_SERVER_PORT": "http"}, "server.port (OPENSHELL_SERVER_PORT)", "integer"),
    "bind_to_a_name": (
        {"OPENSHELL_BIND_ADDRESS": "localhost"},
        "server.bind_address (OPENSHELL_BIND_ADDRESS)",
        "address",
    ),
    "plaintext_on_the_network": (
        {"OPENSHELL_BIND_ADDRESS": "0.0.0.0", "OPENSHELL_SANDBOX_JWT_SIGNING_KEY": "{key}"},
        "tls.disabled (OPENSHELL_DISABLE_TLS)",
        "in the clear",
    ),
    "plaintext_on_the_network_6": (
        {"OPENSHELL_BIND_ADDRESS": "::", "OPENSHELL_SANDBOX_JWT_SIGNING_KEY": "{key}"},
        "tls.disabled (OPENSHELL_DISABLE_TLS)",
        "in the clear",
    ),
    "audience_empty": (
        {"OPENSHELL_OIDC_AUDIENCE": ""},
        "oidc.audience (OPENSHELL_OIDC_AUDIENCE)",
        "at least 1 character",
    ),
    "issuer_empty": ({"OPENSHELL_OIDC_ISSUER": ""}, "oidc.issuer (OPENSHELL_OIDC_ISSUER)", "at least 1"),
    "issuer_insecure": (
        {"OPENSHELL_OIDC_ISSUER": "http://issuer.example"},
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
        "not https",
    ),
    "issuer_insecure_by_name": (
        {
            "OPENSHELL_OIDC_ISSUER": "http://localhost:8080",
            "OPENSHELL_OIDC_DANGEROUSLY_ALLOW_INSECURE_HTTP": "true",
        },
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
        "not https",
    ),
    "issuer_loopback_without_consent": (
        {"OPENSHELL_OIDC_ISSUER": "http://127.0.0.1:8080"},
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
        "dangerously_allow_insecure_http",
    ),
    "issuer_with_query": (
        {"OPENSHELL_OIDC_ISSUER": "https://issuer.example?x=1"},
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
        "query",
    ),
    "issuer_with_pipe": (
        {"OPENSHELL_OIDC_ISSUER": "https://issuer.example/a|b"},
        "oidc.issuer (OPENSHELL_OIDC_ISSUER)",
        "not a URL",
    ),
    "ttl_zero": (
        {"OPENSHELL_OIDC_JWKS_TTL": "0"},
        "oidc.jwks_ttl (OPENSHELL_OIDC_JWKS_TTL)",
        "greater than 0",
    ),
    "ttl_infinite": ({"OPENSHELL_OIDC_JWKS_TTL": "inf"}, "oidc.jwks_ttl (OPENSHELL_OIDC_JWKS_TTL)", "finite"),
    "leeway_of_an_hour": ({"OPENSHELL_OIDC_LEEWAY": "3600"}, "oidc.leeway (OPENSHELL_OIDC_LEEWAY)", "300"),
    "admin_role_alone": (
        {"OPENSHELL_OIDC_USER_ROLE": ""},
        "oidc.user_role (OPENSHELL_OIDC_USER_ROLE)",
        "name both roles",
    ),
    "user_role_alone": (
        {"OPENSHELL_OIDC_ADMIN_ROLE": ""},
        "oidc.admin_role (OPENSHELL_OIDC_ADMIN_ROLE)",
        "name both roles",
    ),
    "roles_claim_broken": (
        {"OPENSHELL_OIDC_ROLES_CLAIM": "realm_access..roles"},
        "oidc.roles_claim (OPENSHELL_OIDC_ROLES_CLAIM)",
        "empty part",
    ),
    "origin_insecure": (
        {"OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS": "http://keys.example"},
        "oidc.jwks_allowed_origins (OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS)",
        "not https",
    ),
    "origin_with_path": (
        {"OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS": "https://keys.example/jwks"},
        "oidc.jwks_allowed_origins (OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS)",
        "scheme, host and port",
    ),
    "digests_without_sha256": (
        {"OPENSHELL_FILES_DIGESTS": "blake3"},
        "limits.digests (OPENSHELL_FILES_DIGESTS)",
        "sha256 is missing",
    ),
    "digest_unknown": (
        {"OPENSHELL_FILES_DIGESTS": "sha256,md5"},
        "limits.digests (OPENSHELL_FILES_DIGESTS)",
        "blake3",
    ),
    "sandbox_ttl_zero": (
        {"OPENSHELL_SANDBOX_JWT_TTL": "0"},
        "sandbox_tokens.ttl (OPENSHELL_SANDBOX_JWT_TTL)",
        "never expire",
    ),
    "sandbox_ttl_negative": (
        {"OPENSHELL_SANDBOX_JWT_TTL": "-1"},
        "sandbox_tokens.ttl (OPENSHELL_SANDBOX_JWT_TTL)",
        "greater than or equal to 0",
    ),
    "sandbox_ttl_no_second": (
        {"OPENSHELL_SANDBOX_JWT_TTL": "0.5", "OPENSHELL_SANDBOX_JWT_ALLOW_NO_EXPIRY": "true"},
        "sandbox_tokens.ttl (OPENSHELL_SANDBOX_JWT_TTL)",
        "at once",
    ),
    "chunk_too_large": (
        {"OPENSHELL_FILES_MAX_CHUNK_BYTES": str(MAX_CHUNK_BYTES + 1)},
        "limits.max_chunk_bytes (OPENSHELL_FILES_MAX_CHUNK_BYTES)",
        str(MAX_CHUNK_BYTES),
    ),
    "no_transfers": (
        {"OPENSHELL_FILES_MAX_TRANSFERS": "0"},
        "limits.max_transfers (OPENSHELL_FILES_MAX_TRANSFERS)",
        "greater than or equal to 1",
    ),
    "heartbeats_too_far_apart": (
        {"OPENSHELL_HEARTBEAT_INTERVAL": "3601", "OPENSHELL_RELAY_SILENCE_TIMEOUT": "9999"},
        "relay.heartbeat_interval (OPENSHELL_HEARTBEAT_INTERVAL)",
        "less than or equal to 3600",
    ),
    "no_idle_timeout": (
        {"OPENSHELL_FILES_IDLE_TIMEOUT": "0"},
        "limits.idle_timeout (OPENSHELL_FILES_IDLE_TIMEOUT)",
        "greater than 0",
    ),
    "log_level_unknown": ({"OPENSHELL_LOG_LEVEL": "trace"}, "logging.level (OPENSHELL_LOG_LEVEL)", "debug"),
    "flag_unclear": (
        {"OPENSHELL_ALLOW_UNAUTHENTICATED_USERS": "maybe"},
        "allow_unauthenticated_users (OPENSHELL_ALLOW_UNAUTHENTICATED_USERS)",
        "boolean",
    ),
    "gateway_id_odd": ({"OPENSHELL_GATEWAY_ID": "a b"}, "gateway_id (OPENSHELL_GATEWAY_ID)", "pattern"),
    "client_ca_without_tls": (
        {"OPENSHELL_TLS_CLIENT_CA": "/nowhere/ca.pem"},
        "tls.client_ca (OPENSHELL_TLS_CLIENT_CA)",
        "without TLS",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_setting_is_refused_by_name(tmp_path: Path, case: str) -> None:
    """AUT-1, AUT-2: the one problem, its key with its variable, and what to do."""
    variables, key, words = REFUSED[case]
    environ = {name: value.replace("{key}", str(tmp_path / "key.pem")) for name, value in variables.items()}
    (problem,) = problems_of(None, MINIMAL | environ)
    assert problem.key == key
    assert words in str(problem)
    assert problem.fix


MEMBERS = "[[workspaces]]\nname = 'default'\nmembers = [{ subject = 'alice' }]\n"


#: Settings → the one warning of the start, and the setting it names.
PERMISSIVE = {
    "no roles": ("[oidc]\nuser_role = ''\nadmin_role = ''\n", "every user of the issuer", "are empty"),
    "one role": (
        "[oidc]\nuser_role = 'all'\nadmin_role = 'all'\n",
        "every user of the issuer",
        "are the same",
    ),
    "nobody is asked": (
        "allow_unauthenticated_users = true\n",
        "without a token",
        "allow_unauthenticated_users",
    ),
    "tokens for ever": (
        "[sandbox_tokens]\nallow_no_expiry = true\nttl = 0\n",
        "never expire",
        "allow_no_expiry",
    ),
}


@pytest.mark.parametrize("case", PERMISSIVE)
def test_permissive_settings_are_found(tmp_path: Path, case: str) -> None:
    text, what, because = PERMISSIVE[case]
    (permissive,) = find_permissive_settings(load_settings(write(tmp_path, text), MINIMAL))
    assert what in permissive.effect
    assert because in permissive.cause


def test_defaults_open_nothing(tmp_path: Path) -> None:
    assert list(find_permissive_settings(load_settings(write(tmp_path, MEMBERS), MINIMAL))) == []


@pytest.mark.parametrize("case", ["no roles", "one role"])
def test_administrators_all_would_overrule_the_members_of_workspaces(tmp_path: Path, case: str) -> None:
    """What members say would mean nothing."""
    text, _, because = PERMISSIVE[case]
    (problem,) = problems_of(write(tmp_path, text + MEMBERS), MINIMAL)
    assert problem.key == "oidc.user_role (OPENSHELL_OIDC_USER_ROLE)"
    assert "makes every user of the issuer a platform administrator" in problem.fault
    assert because in problem.fault


#: Interval of heartbeats → least silence that is accepted. A supervisor speaks at most every 5 s.
SILENCES = {0.1: 10, 1: 10, 4.9: 10, 5: 10, 5.5: 11, 15: 30, 3600: 7200}


@pytest.mark.parametrize("interval", SILENCES)
def test_one_late_heartbeat_ends_no_session(interval: float) -> None:
    """RLY-18, RLY-30: the gateway waits for what supervisors send, and not for its own heartbeat."""
    names = ("OPENSHELL_HEARTBEAT_INTERVAL", "OPENSHELL_RELAY_SILENCE_TIMEOUT")
    least = SILENCES[interval]
    accepted = load_settings(None, MINIMAL | dict(zip(names, (str(interval), str(least)), strict=True)))
    assert accepted.relay.silence_timeout == least
    for silence in (least - 0.01, interval):
        (problem,) = problems_of(None, MINIMAL | dict(zip(names, (str(interval), str(silence)), strict=True)))
        assert problem.key == "relay.silence_timeout (OPENSHELL_RELAY_SILENCE_TIMEOUT)"
        assert "relay.heartbeat_interval" in problem.fault
        assert f"at least {least}," in problem.fix


@pytest.mark.parametrize("interval", [5, 15, 600, 3600])
def test_a_supervisor_speaks_within_the_silence(interval: int) -> None:
    """RLY-18: what a supervisor makes of the announced interval fits the least silence of that."""
    accepted = openshell_pb2.SessionAccepted()
    accepted.heartbeat_interval.FromSeconds(interval)
    assert agreed(accepted).sending * 2 <= SILENCES.get(interval, 2 * interval)


def test_nobody_could_log_in() -> None:
    """AUT-1: anonymous access is never a default."""
    (problem,) = problems_of(None, {"OPENSHELL_DISABLE_TLS": "true"})
    assert problem.key == "oidc.issuer (OPENSHELL_OIDC_ISSUER)"
    assert "allow_unauthenticated_users" in problem.fix


def test_everybody_could_log_in(tmp_path: Path) -> None:
    """AUT-12: unauthenticated users are for loopback."""
    authority = trustme.CA()
    certificate = authority.issue_cert("gateway.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(str(cert))
    certificate.private_key_pem.write_to_path(str(key))
    environ = {
        "OPENSHELL_BIND_ADDRESS": "192.0.2.1",
        "OPENSHELL_TLS_CERT": str(cert),
        "OPENSHELL_TLS_KEY": str(key),
        "OPENSHELL_SANDBOX_JWT_SIGNING_KEY": str(tmp_path / "signing.pem"),
        "OPENSHELL_ALLOW_UNAUTHENTICATED_USERS": "true",
    }
    (problem,) = problems_of(None, environ)
    assert problem.key == "allow_unauthenticated_users (OPENSHELL_ALLOW_UNAUTHENTICATED_USERS)"
    secure = {name: value for name, value in environ.items() if "UNAUTHENTICATED" not in name}
    settings = load_settings(None, secure | {"OPENSHELL_OIDC_ISSUER": ISSUER})
    assert settings.server.bind_address == ip_address("192.0.2.1")
    load_settings(None, environ | {"OPENSHELL_BIND_ADDRESS": "::1"})


def test_a_key_in_memory_is_for_loopback(tmp_path: Path) -> None:
    """AUT-3: otherwise every restart would lock the supervisors out."""
    problems = problems_of(None, MINIMAL | {"OPENSHELL_BIND_ADDRESS": "192.0.2.1"})
    assert [problem.key for problem in problems] == [
        "tls.disabled (OPENSHELL_DISABLE_TLS)",
        "sandbox_tokens.signing_key (OPENSHELL_SANDBOX_JWT_SIGNING_KEY)",
    ]
    load_settings(None, MINIMAL | {"OPENSHELL_SANDBOX_JWT_SIGNING_KEY": str(tmp_path / "new.pem")})
    assert not list(tmp_path.iterdir()), "looking at the configuration makes no key"


def test_tokens_for_ever_can_be_allowed() -> None:
    """Upstream's default has to be asked for."""
    environ = {"OPENSHELL_SANDBOX_JWT_TTL": "0", "OPENSHELL_SANDBOX_JWT_ALLOW_NO_EXPIRY": "true"}
    assert load_settings(None, MINIMAL | environ).sandbox_tokens.ttl == 0


def test_all_problems_are_reported_together() -> None:
    problems = problems_of(
        None, {"OPENSHELL_BIND_ADDRESS": "192.0.2.1", "OPENSHELL_ALLOW_UNAUTHENTICATED_USERS": "true"}
    )
    assert len(problems) == 3
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, {"OPENSHELL_SERVER_PORT": "x", "OPENSHELL_LOG_LEVEL": "x"})
    assert str(caught.value).count("\n") == 1


UNKNOWN = {
    "[server]\nprot = 1\n": "server.prot",
    "[srever]\nport = 1\n": "srever",
    "[oidc]\naudeince = 'x'\n": "oidc.audeince",
    "[[sandboxes]]\nid = 'a'\nname = 'a'\nuser = 'x'\n": "sandboxes.user",
    "[[workspaces]]\nname = 'a'\nmembers = [{subject = 'x', rolle = 'admin'}]\n": "workspaces.members.rolle",
}


@pytest.mark.parametrize("text", UNKNOWN)
def test_a_key_that_does_not_exist_is_refused(tmp_path: Path, text: str) -> None:
    """A misspelt key would silently keep the default."""
    (problem,) = problems_of(write(tmp_path, text), MINIMAL)
    assert problem.key == UNKNOWN[text]
    assert "no such setting" in problem.fault


CONTRADICTORY: dict[str, tuple[str, str, str]] = {
    "same_id": (
        "[[sandboxes]]\nid = 'a'\nname = 'x'\n[[sandboxes]]\nid = 'a'\nname = 'y'\n",
        "sandboxes.id",
        "'a'",
    ),
    "same_name": (
        "[[sandboxes]]\nid = 'a'\nname = 'x'\n[[sandboxes]]\nid = 'b'\nname = 'x'\n",
        "sandboxes.name",
        "'x'",
    ),
    "workspace_unknown": (
        "[[sandboxes]]\nid = 'a'\nname = 'x'\nworkspace = 'tema'\n",
        "sandboxes.workspace",
        "'tema'",
    ),
    "workspace_twice": ("[[workspaces]]\nname = 'w'\n[[workspaces]]\nname = 'w'\n", "workspaces.name", "'w'"),
    "member_twice": (
        "[[workspaces]]\nname = 'w'\nmembers = [{subject = 's'}, {subject = 's', role = 'admin'}]\n",
        "workspaces.members.subject",
        "'s'",
    ),
    "sandbox_id_with_slash": ("[[sandboxes]]\nid = 'a/b'\nname = 'x'\n", "sandboxes.0.id", "pattern"),
    "sandbox_without_name": ("[[sandboxes]]\nid = 'a'\n", "sandboxes.0.name", "not set"),
    "role_unknown": (
        "[[workspaces]]\nname = 'w'\nmembers = [{subject = 's', role = 'owner'}]\n",
        "workspaces.0.members.0.role",
        "user",
    ),
    "table_for_a_value": ("server = 7\n", "server", "dictionary"),
}


@pytest.mark.parametrize("case", CONTRADICTORY)
def test_contradictions_in_the_file_are_refused(tmp_path: Path, case: str) -> None:
    text, key, words = CONTRADICTORY[case]
    (problem,) = problems_of(write(tmp_path, text), MINIMAL)
    assert problem.key.startswith(key)
    assert words in str(problem)


def test_a_contradiction_cannot_be_constructed() -> None:
    """Whoever makes settings in code is held to the same rules."""
    values: dict[str, Any] = {"allow_unauthenticated_users": True, "tls": {"disabled": True}}
    GatewaySettings.model_validate(values)
    with pytest.raises(ConfigurationError, match="allow_unauthenticated_users"):
        GatewaySettings.model_validate({**values, "server": {"bind_address": "192.0.2.1"}})


def test_problems_read_as_a_line_each() -> None:
    """Key, fault, fix: what the command line prints."""
    (problem,) = problems_of(None, MINIMAL | {"OPENSHELL_SERVER_PORT": "-1"})
    assert re.fullmatch(r"server\.port \(OPENSHELL_SERVER_PORT\): .+; correct it \(.+\)", str(problem))
    assert json.dumps(str(problem))
