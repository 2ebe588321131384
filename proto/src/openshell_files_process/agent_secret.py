"""The shared secret of the gateway and an agent behind a port, and the proofs of it (FRM-18, FRM-19).

Every process in the sandbox can connect to the agent's port, or listen on it
before the agent does. So gateway and agent share a secret, and each proves that
it knows the secret with an HMAC over a nonce of both; neither sends the secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

NONCE_BYTES: Final = 32

#: A shorter secret could be found by brute force from one recorded proof.
MIN_SECRET_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 64 * 1024

_AGENT: Final = b"openshell-files agent"
_GATEWAY: Final = b"openshell-files gateway"


class SecretError(Exception):
    """The file with the secret cannot be used; the message has the cause, and never the secret."""


def new_nonce() -> bytes:
    """Return random bytes for one handshake."""
    return secrets.token_bytes(NONCE_BYTES)


def agent_proof(secret: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Return the agent's proof of the secret."""
    return _proof(secret, _AGENT, gateway_nonce, agent_nonce)


def gateway_proof(secret: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Return the gateway's proof of the secret."""
    return _proof(secret, _GATEWAY, gateway_nonce, agent_nonce)


def is_proof(expected: bytes, given: bytes) -> bool:
    """Return True if two proofs are equal, in constant time."""
    return hmac.compare_digest(expected, given)


def _proof(secret: bytes, role: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    for nonce in (gateway_nonce, agent_nonce):
        if len(nonce) != NONCE_BYTES:
            # With nonces of any length, two different pairs could be the same bytes.
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return hmac.new(secret, role + gateway_nonce + agent_nonce, hashlib.sha256).digest()


def load_secret(path: Path) -> bytes:
    """Read the shared secret.

    Args:
        path: file with at least 32 bytes of text, for example from
            `openssl rand -hex 32`; white space around it is ignored.

    Raises:
        SecretError: the file cannot be read, the secret is too short, or other
            users may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SecretError(f"{path}: other users may access it (mode {stat.S_IMODE(mode):04o}); chmod 600")
    secret = content.strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise SecretError(f"{path}: holds {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed")
    if len(content) > _MAX_FILE_BYTES:
        raise SecretError(f"{path}: holds more than {_MAX_FILE_BYTES} bytes")
    return secret
