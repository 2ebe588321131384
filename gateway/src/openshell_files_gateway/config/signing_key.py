"""The gateway's own key: Ed25519, in a PEM file that only the gateway can read."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from openshell_files_gateway.config.errors import ConfigurationError

_KEY: Final = "sandbox_tokens.signing_key (OPENSHELL_SANDBOX_JWT_SIGNING_KEY)"

#: Others get nothing. The group may read: that is how orchestrators hand
#: secrets to a process without privileges.
_FORBIDDEN_MODE: Final = 0o027

#: A PEM file with an Ed25519 key has about 120 bytes.
_MAX_FILE_BYTES: Final = 16 * 1024

_MAKE_ONE: Final = "remove the file to have one made, or make one: openssl genpkey -algorithm ed25519"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and what it is called in tokens.

    Attributes:
        key_id: `kid`.
        private: signs.
    """

    key_id: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> Ed25519PublicKey:
        """Verifies."""
        return self.private.public_key()

    @property
    def public_jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key as a JWK set (RFC 7517, RFC 8037), to be published."""
        return {
            "keys": [
                {**_public_members(self.public), "kid": self.key_id, "alg": "EdDSA", "use": "sig"},
            ]
        }


def generate_signing_key(key_id: str | None = None) -> SigningKey:
    """Make a new key in memory.

    Args:
        key_id: `kid`; the key's thumbprint if left out.
    """
    private = Ed25519PrivateKey.generate()
    return SigningKey(key_id or thumbprint(private.public_key()), private)


def load_or_create_signing_key(path: Path, key_id: str | None = None) -> SigningKey:
    """Read the key from its file, and make the file if there is none.

    Of several gateways that start at once on one missing file, one makes it
    and all read the same.

    Args:
        path: PEM file; made with mode 0600.
        key_id: `kid`; the key's thumbprint if left out.

    Raises:
        ConfigurationError: the file cannot be read or made, others may read
            it, or there is no Ed25519 key in it.
    """
    try:
        return load_signing_key(path, key_id)
    except FileNotFoundError:
        _create(path)
        return load_signing_key(path, key_id)


def load_signing_key(path: Path, key_id: str | None = None) -> SigningKey:
    """Read the key from its file.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigurationError: the file cannot be read, others may read it, or
            there is no Ed25519 key in it.
    """
    try:
        pem = _read_private(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refusal(
            f"cannot read {path}: {error.strerror}", "make the file readable for the gateway"
        ) from None
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _refusal(f"{path} holds no unencrypted PEM private key", _MAKE_ONE) from None
    if not isinstance(private, Ed25519PrivateKey):
        raise _refusal(f"the key in {path} is not Ed25519", _MAKE_ONE)
    return SigningKey(key_id or thumbprint(private.public_key()), private)


def thumbprint(public: Ed25519PublicKey) -> str:
    """Return the key's RFC 7638 thumbprint, which is the same on every gateway that has the key."""
    canonical = json.dumps(_public_members(public), separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _read_private(path: Path) -> bytes:
    """Read a small regular file that belongs to the gateway alone."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(f"{path} is not a file", "name the file itself")
        if status.st_mode & _FORBIDDEN_MODE:
            raise _refusal(f"others may read {path}, or its group may write it", f"run: chmod 600 {path}")
        return file.read(_MAX_FILE_BYTES)


def _create(path: Path) -> None:
    """Make the file with a new key, complete from the moment that it has its name."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        # Made with mode 0600, and under a name of its own.
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        staging = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, never replaces the key of another gateway.
            path.hardlink_to(staging)
        except FileExistsError:
            return
        finally:
            staging.unlink()
    except OSError as error:
        raise _refusal(
            f"cannot make {path}: {error.strerror}", "name a file in a directory that the gateway can write"
        ) from None


def _public_members(public: Ed25519PublicKey) -> dict[str, str]:
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _refusal(fault: str, fix: str) -> ConfigurationError:
    return ConfigurationError.of(_KEY, fault, fix)
