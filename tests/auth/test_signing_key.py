"""AUT-3: the gateway's own key."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.signing_key import (
    generate_signing_key,
    load_or_create_signing_key,
    load_signing_key,
)
from token_forge import PrivateKey, private_key


def write(path: Path, key: PrivateKey, password: bytes | None = None) -> None:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    )
    path.chmod(0o600)


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_or_create_signing_key(path)
    (problem,) = caught.value.problems
    assert problem.key == "sandbox_tokens.signing_key (OPENSHELL_SANDBOX_JWT_SIGNING_KEY)"
    return str(problem)


def test_a_missing_key_is_made_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    previous = os.umask(0)
    try:
        made = load_or_create_signing_key(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["key.pem"]
    assert load_or_create_signing_key(path).key_id == made.key_id
    assert load_signing_key(path).public_jwks == made.public_jwks


def test_gateways_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with ThreadPoolExecutor(8) as pool:
        starting = [pool.submit(load_or_create_signing_key, path) for _ in range(16)]
    assert len({started.result().key_id for started in starting}) == 1
    assert os.listdir(tmp_path) == ["key.pem"]


def test_the_id_is_the_thumbprint_unless_it_is_given(tmp_path: Path) -> None:
    """RFC 8037 appendix A.3 has the thumbprint of this key."""
    path = tmp_path / "key.pem"
    load_or_create_signing_key(path)
    assert load_signing_key(path, "2026-01").key_id == "2026-01"
    assert len(generate_signing_key().key_id) == 43


def test_openssl_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write(path, private_key("EdDSA"))
    assert load_signing_key(path).public_jwks["keys"][0]["alg"] == "EdDSA"


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o620, 0o666, 0o601])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    load_or_create_signing_key(path)
    path.chmod(mode)
    assert "chmod 600" in refusal(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_a_key_that_an_orchestrator_mounts_is_accepted(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    load_or_create_signing_key(path)
    path.chmod(mode)
    load_signing_key(path)


def test_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write(path, private_key("ES256"))
    assert "not Ed25519" in refusal(path)


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write(path, private_key("EdDSA"), b"password")
    assert "unencrypted" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    assert "no unencrypted PEM private key" in refusal(path)
    assert path.read_bytes() == content


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal(tmp_path)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "cannot make" in refusal(tmp_path / "missing" / "key.pem")


def test_a_key_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "cannot read" in refusal(file / "key.pem")


def test_the_key_is_not_shown() -> None:
    assert "private" not in repr(generate_signing_key())
