"""Files that the configuration names, or that it is: each is checked before the gateway starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from configuration_files import ISSUER, MINIMAL, problems_of
from openshell_files_gateway.config.loading import load_settings
from openshell_files_gateway.config.signing_key import load_or_create_signing_key


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        (problem,) = problems_of(path, MINIMAL)
        assert str(path) in problem.fault


@pytest.mark.parametrize("content", [b"[server\n", b"port = \xff\n", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(content)
    (problem,) = problems_of(path, MINIMAL)
    assert str(path) in problem.fault


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    authority = trustme.CA()
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key", "other_key", "junk")}
    first, second = (authority.issue_cert("gateway.example") for _ in range(2))
    authority.cert_pem.write_to_path(str(files["ca"]))
    first.cert_chain_pems[0].write_to_path(str(files["cert"]))
    first.private_key_pem.write_to_path(str(files["key"]))
    second.private_key_pem.write_to_path(str(files["other_key"]))
    files["junk"].write_text("junk")
    return files | {"missing": tmp_path / "missing.pem"}


@pytest.mark.parametrize(
    ("cert", "key", "client_ca", "named"),
    [
        ("cert", "key", None, None),
        ("cert", "key", "ca", None),
        ("cert", None, None, "tls.key"),
        (None, "key", None, "tls.certificate"),
        (None, None, None, "tls.certificate"),
        ("missing", "key", None, "tls.certificate"),
        ("cert", "missing", None, "tls.key"),
        ("cert", "other_key", None, "tls.key"),
        ("cert", "junk", None, "tls.key"),
        ("junk", "key", None, "tls.key"),
        ("cert", "key", "missing", "tls.client_ca"),
        ("cert", "key", "junk", "tls.client_ca"),
    ],
)
def test_tls_files_are_tried_before_anything_starts(
    certificates: dict[str, Path], cert: str | None, key: str | None, client_ca: str | None, named: str | None
) -> None:
    variables = {"OPENSHELL_TLS_CERT": cert, "OPENSHELL_TLS_KEY": key, "OPENSHELL_TLS_CLIENT_CA": client_ca}
    environ = {"OPENSHELL_OIDC_ISSUER": ISSUER} | {
        name: str(certificates[file]) for name, file in variables.items() if file
    }
    if named is None:
        assert not load_settings(None, environ).tls.disabled
        return
    (problem,) = problems_of(None, environ)
    assert problem.key.startswith(f"{named} (")


@pytest.mark.parametrize("file", ["missing", "junk"])
def test_the_issuers_authority_is_tried(certificates: dict[str, Path], file: str) -> None:
    (problem,) = problems_of(None, MINIMAL | {"OPENSHELL_OIDC_CA_FILE": str(certificates[file])})
    assert problem.key == "oidc.ca_file (OPENSHELL_OIDC_CA_FILE)"
    load_settings(None, MINIMAL | {"OPENSHELL_OIDC_CA_FILE": str(certificates["ca"])})


def test_a_signing_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """AUT-3."""
    path = tmp_path / "key.pem"
    load_or_create_signing_key(path)
    environ = MINIMAL | {"OPENSHELL_SANDBOX_JWT_SIGNING_KEY": str(path)}
    load_settings(None, environ)
    path.chmod(0o644)
    (problem,) = problems_of(None, environ)
    assert problem.key == "sandbox_tokens.signing_key (OPENSHELL_SANDBOX_JWT_SIGNING_KEY)"
    assert "chmod 600" in problem.fix
