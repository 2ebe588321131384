"""How gateway and an agent behind a port know each other (FRM-8).

Whatever runs in the sandbox can reach the agent's port, or take it before the
agent does. So both have a secret and prove it over a nonce of each; neither
sends it.
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

#: Shorter ones can be guessed from one recorded proof.
MIN_SECRET_BYTES: Final = 32
_MAX_FILE_BYTES: Final = 64 * 1024

_AGENT: Final = b"openshell-files agent"
_GATEWAY: Final = b"openshell-files gateway"


class SecretError(Exception):
    """The file with the secret cannot be used; the text says why and never holds it."""


def new_nonce() -> bytes:
    """Return random bytes for one handshake."""
    return secrets.token_bytes(NONCE_BYTES)


def agent_proof(secret: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Return what only an agent with the secret can say."""
    return _proof(secret, _AGENT, gateway_nonce, agent_nonce)


def gateway_proof(secret: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Return what only a gateway with the secret can say."""
    return _proof(secret, _GATEWAY, gateway_nonce, agent_nonce)


def is_proof(expected: bytes, given: bytes) -> bool:
    """Compare proofs without telling by the time it takes how far they agree."""
    return hmac.compare_digest(expected, given)


def _proof(secret: bytes, role: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    for nonce in (gateway_nonce, agent_nonce):
        if len(nonce) != NONCE_BYTES:
            # Of fixed length, or two different pairs could look the same.
            raise ValueError(f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
    return hmac.new(secret, role + gateway_nonce + agent_nonce, hashlib.sha256).digest()


def load_secret(path: Path) -> bytes:
    """Read the secret that gateway and agent share.

    Args:
        path: a file of at least 32 bytes of text, for example of
            `openssl rand -hex 32`; white space around it does not count.

    Raises:
        SecretError: it cannot be read, is too short, or others may read it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SecretError(f"{path}: others may use it (mode {stat.S_IMODE(mode):04o}); chmod 600")
    secret = content.strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise SecretError(f"{path}: holds {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed")
    if len(content) > _MAX_FILE_BYTES:
        raise SecretError(f"{path}: holds more than {_MAX_FILE_BYTES} bytes")
    return secret
