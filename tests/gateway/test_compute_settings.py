"""What a gateway that makes sandboxes does not start with."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import pwd
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme
from gateway_harness import GatewayHarness, running_gateway
from openshell_files_gateway.auth.assembly import assemble_access
from openshell_files_gateway.config.consistency import database_path
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.loading import load_settings
from openshell_files_gateway.config.supervisor_name import local_address
from openshell_files_gateway.config.tables import ComputeSettings, SandboxTokenSettings
from openshell_files_gateway.gateway import Gateway
from openshell_files_gateway.server.server import authority
from openshell_files_gateway.simulation.processes.sandbox_home import SKELETON, SandboxHome

BASE = {
    "OPENSHELL_OIDC_ISSUER": "https://issuer.example",
    "OPENSHELL_COMPUTE_DIRECTORY": "/var/lib/sandboxes",
}
SIGNED = BASE | {"OPENSHELL_SANDBOX_JWT_SIGNING_KEY": "/key.pem"}
PLAIN = SIGNED | {"OPENSHELL_DISABLE_TLS": "true"}
TLS = SIGNED | {"OPENSHELL_TLS_CERT": "/crt.pem", "OPENSHELL_TLS_KEY": "/key.pem"}


def test_what_starts() -> None:
    for variables in (PLAIN, PLAIN | {"OPENSHELL_DB_URL": "sqlite:/db"}):
        assert load_settings(None, variables).compute.directory == Path("/var/lib/sandboxes")


@pytest.mark.parametrize(
    ("variables", "key"),
    [
        (BASE | {"OPENSHELL_DISABLE_TLS": "true"}, "sandbox_tokens.signing_key"),
        (TLS | {"OPENSHELL_TLS_CLIENT_CA": "/ca.pem"}, "tls.client_ca"),
        (PLAIN | {"OPENSHELL_DB_URL": "postgres://host/db"}, "database_url"),
        (PLAIN | {"OPENSHELL_DB_URL": "sqlite::memory:"}, "database_url"),
    ],
)
def test_what_would_lock_supervisors_out_or_forget_them(variables: dict[str, str], key: str) -> None:
    """SBX-2: a restart must find everything again."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, variables)
    assert [problem.key.partition(" ")[0] for problem in caught.value.problems] == [key]


def test_an_authority_that_supervisors_could_not_read(tmp_path: Path) -> None:
    """Found out at the start, and not by the first sandbox."""
    authority_ = trustme.CA()
    issued = authority_.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    variables = SIGNED | {
        "OPENSHELL_TLS_CERT": str(tmp_path / "crt"),
        "OPENSHELL_TLS_KEY": str(tmp_path / "key"),
        "OPENSHELL_SANDBOX_JWT_SIGNING_KEY": str(tmp_path / "signing"),
        "OPENSHELL_COMPUTE_TLS_CA": str(tmp_path / "ca"),
    }
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, variables)
    assert [problem.key.partition(" ")[0] for problem in caught.value.problems] == ["compute.tls_ca"]
    authority_.cert_pem.write_to_path(str(tmp_path / "ca"))
    load_settings(None, variables)


@pytest.mark.parametrize(
    ("named", "bound", "endpoint", "starts"),
    [
        (["gateway.example"], "127.0.0.1", "", False),
        (["gateway.example"], "127.0.0.1", "gateway.example:7", True),
        (["gateway.example"], "127.0.0.1", "GATEWAY.example.:7", True),
        (["gateway.example"], "127.0.0.1", "other.example:7", False),
        (["*.example"], "127.0.0.1", "gateway.example:7", True),
        (["*.example"], "127.0.0.1", "a.gateway.example:7", False),
        (["127.0.0.1"], "0.0.0.0", "", True),
        (["::1"], "::", "", True),
        (["127.0.0.1"], "10.0.0.1", "", False),
        (["gateway.example"], "127.0.0.1", "nowhere", False),
    ],
)
def test_supervisors_call_a_name_of_the_certificate(
    tmp_path: Path, named: list[str], bound: str, endpoint: str, *, starts: bool
) -> None:
    """SBX-1: else each of them would be refused by its own TLS, and only its log would say so."""
    issued = trustme.CA().issue_cert(*named)
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "key"))
    variables = SIGNED | {
        "OPENSHELL_BIND_ADDRESS": bound,
        "OPENSHELL_TLS_CERT": str(tmp_path / "crt"),
        "OPENSHELL_TLS_KEY": str(tmp_path / "key"),
        "OPENSHELL_SANDBOX_JWT_SIGNING_KEY": str(tmp_path / "signing"),
        "OPENSHELL_COMPUTE_ENDPOINT": endpoint,
    }
    if starts:
        load_settings(None, variables)
        return
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, variables)
    assert [problem.key.partition(" ")[0] for problem in caught.value.problems] == ["compute.endpoint"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:/a/b.db", "/a/b.db"),
        ("sqlite:///a/b.db?mode=rwc", "/a/b.db"),
        ("sqlite:b.db", "b.db"),
        ("sqlite:", None),
        ("sqlite://?x", None),
        ("/a/b.db", None),
    ],
)
def test_databases(url: str, path: str | None) -> None:
    assert database_path(url) == (None if path is None else Path(path))


@pytest.mark.parametrize(
    ("bound", "reached"),
    [
        ("127.0.0.1", "127.0.0.1:7"),
        ("10.0.0.1", "10.0.0.1:7"),
        ("0.0.0.0", "127.0.0.1:7"),
        ("::", "[::1]:7"),
    ],
)
def test_where_supervisors_reach_the_gateway(bound: str, reached: str) -> None:
    """SBX-1: "any address" is none to connect to."""
    assert authority(local_address(ip_address(bound)), 7) == reached


async def test_a_second_gateway_on_the_same_records(computing: GatewayHarness) -> None:
    """SBX-2: refuses to start and says why; the first does not notice."""
    second = Gateway(computing.gateway._settings, computing.access)
    with pytest.raises(ConfigurationError, match="another gateway") as caught:
        await second.start()
    assert caught.value.problems[0].key == "database_url"
    await second._lifecycle.aclose()


@pytest.mark.parametrize("where", ["a file in the way", "a foreign database"])
async def test_records_that_cannot_be_used(tmp_path: Path, where: str) -> None:
    """Told with the key to change, before anybody can connect; and stopping what never started is no trouble."""
    directory = tmp_path / "compute"
    if where == "a file in the way":
        directory.write_bytes(b"")
    else:
        directory.mkdir()
        (directory / "gateway.db").write_bytes(b"something else" * 100)
    with pytest.raises(ConfigurationError) as caught:
        async with running_gateway(
            sandbox_tokens=SandboxTokenSettings(signing_key=tmp_path / "key.pem"),
            changes={"compute": ComputeSettings(directory=directory)},
        ):
            raise AssertionError("it started")
    assert caught.value.problems[0].key == "database_url"


def test_a_user_that_there_is_not(tmp_path: Path) -> None:
    variables = PLAIN | {
        "OPENSHELL_COMPUTE_USER": "no-such-user",
        "OPENSHELL_COMPUTE_DIRECTORY": str(tmp_path),
    }
    variables["OPENSHELL_SANDBOX_JWT_SIGNING_KEY"] = str(tmp_path / "key.pem")
    settings = load_settings(None, variables)
    with pytest.raises(ConfigurationError, match=r"compute\.user.*no-such-user"):
        Gateway(settings, assemble_access(settings))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_sandboxes_belong_to_the_user_of_the_settings(tmp_path: Path) -> None:
    """DESIGN 3.7: a supervisor that root starts becomes the owner of its root."""
    entry = pwd.getpwnam("nobody")
    home = SandboxHome(tmp_path / "compute" / "sandbox", (entry.pw_uid, entry.pw_gid))
    home.lay_out("token")
    home.lay_out("another token")
    made = [home.path, home.root, home.state, home.token, *(home.root / name for name in SKELETON)]
    assert {(place.stat().st_uid, place.stat().st_gid) for place in made} == {(entry.pw_uid, entry.pw_gid)}
    assert home.token.read_text() == "another token"
    # What is above belongs to the gateway.
    assert home.path.parent.stat().st_uid == 0
