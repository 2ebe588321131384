"""The handshake with a file agent behind a port (FRM-8): each side proves that it knows the secret."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2
from openshell_files_conformance.peers.operation import FileRelay, Request, Response

AGENT: Final = b"openshell-files agent"
GATEWAY: Final = b"openshell-files gateway"


def proof(secret: bytes, role: bytes, gateway_nonce: bytes, agent_nonce: bytes) -> bytes:
    """Prove that a role knows the secret."""
    return hmac.digest(secret, role + gateway_nonce + agent_nonce, hashlib.sha256)


def nonce() -> bytes:
    """Return 32 random bytes."""
    return secrets.token_bytes(32)


async def challenged(relay: FileRelay, own: bytes) -> Response | None:
    """Send a nonce, and return the agent's next frame; None if it ends the relay."""
    await relay.send(Request(authenticate=file_relay_pb2.FileRelayAuthenticate(nonce=own)))
    return await relay.next()


async def prove(relay: FileRelay, value: bytes) -> None:
    """Send a proof."""
    await relay.send(Request(proof=file_relay_pb2.FileRelayProof(proof=value)))
