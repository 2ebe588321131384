"""Loads and creates the gateway's own key: Ed25519, in a PEM file that only the gateway can read."""

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

#: Forbidden permission bits. The group may read the file, because orchestrators
#: pass secrets to unprivileged processes that way.
_FORBIDDEN_MODE: Final = 0o027

#: Read limit; a PEM file with an Ed25519 key has about 120 bytes.
_MAX_FILE_BYTES: Final = 16 * 1024

_MAKE_ONE: Final = (
    "remove the file, and the gateway creates one; or create one: openssl genpkey -algorithm ed25519"
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its key id.

    Attributes:
        key_id: `kid` in tokens.
        private: the key that signs.
    """

    key_id: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> Ed25519PublicKey:
        """The key that verifies."""
        return self.private.public_key()

    @property
    def public_jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key as a JWK set (RFC 7517, RFC 8037), for publication."""
        return {
            "keys": [
                {**_public_members(self.public), "kid": self.key_id, "alg": "EdDSA", "use": "sig"},
            ]
        }


def generate_signing_key(key_id: str | None = None) -> SigningKey:
    """Generate a new key in memory.

    Args:
        key_id: `kid`; default: the key's thumbprint.
    """
    private = Ed25519PrivateKey.generate()
    return SigningKey(key_id or thumbprint(private.public_key()), private)


def load_or_create_signing_key(path: Path, key_id: str | None = None) -> SigningKey:
    """Read the key from its file; create the file if it is missing.

    If several gateways start at once without the file, one creates it and all
    read the same key.

    Args:
        path: PEM file; created with mode 0600.
        key_id: `kid`; default: the key's thumbprint.

    Raises:
        ConfigurationError: the file cannot be read or created, other users may
            read it, or it has no Ed25519 key.
    """
    try:
        return load_signing_key(path, key_id)
    except FileNotFoundError:
        _create(path)
        return load_signing_key(path, key_id)


def load_signing_key(path: Path, key_id: str | None = None) -> SigningKey:
    """Read the key from its file.

    Raises:
        FileNotFoundError: the file does not exist.
        ConfigurationError: the file cannot be read, other users may read it,
            or it has no Ed25519 key.
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
    """Return the key's RFC 7638 thumbprint, equal on all gateways with the key."""
    canonical = json.dumps(_public_members(public), separators=(",", ":"), sort_keys=True)
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _read_private(path: Path) -> bytes:
    """Read a small regular file that other users cannot read."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(f"{path} is not a regular file", "name the file itself")
        if status.st_mode & _FORBIDDEN_MODE:
            raise _refusal(f"others may read {path}, or its group may write it", f"run: chmod 600 {path}")
        return file.read(_MAX_FILE_BYTES)


def _create(path: Path) -> None:
    """Create the file with a new key atomically."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        # mkstemp creates it with mode 0600 and a unique name.
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
