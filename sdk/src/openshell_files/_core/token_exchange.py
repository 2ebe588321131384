"""The client credentials grant: what is asked, and what an answer must be."""

from __future__ import annotations

import json
import math
from typing import Final, cast
from urllib.parse import urlsplit

from openshell_files._core.endpoints import is_loopback
from openshell_files.auth import ClientCredentials
from openshell_files.errors import CredentialsError, ErrorFacts, LocalReason

#: An issuer's answer is a few kilobytes; more is refused before it is read.
MAX_ANSWER_BYTES: Final = 1024 * 1024

#: A token is replaced so many seconds before it expires.
EXPIRY_MARGIN_SECONDS: Final = 30.0


def discovery_url(issuer: str) -> str:
    """Return where the issuer describes itself (OpenID Connect Discovery 1.0 §4).

    Raises:
        CredentialsError: the URL is neither https nor on loopback.
    """
    return checked_url(issuer.rstrip("/") + "/.well-known/openid-configuration")


def checked_url(url: str) -> str:
    """Return the URL if a secret may be sent there.

    Raises:
        CredentialsError: it is neither https nor on loopback.
    """
    parts = urlsplit(url)
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    ):
        return url
    raise credentials_error(f"{url!r} is not an https URL", "Use the issuer's https URL.")


def token_endpoint(status: int, body: bytes, issuer: str) -> str:
    """Return the token endpoint that a discovery document names.

    Raises:
        CredentialsError: the document is not this issuer's, or unreadable.
    """
    document = _document(status, body, "the issuer's discovery document")
    if str(document.get("issuer", "")).rstrip("/") != issuer.rstrip("/"):
        raise credentials_error(
            f"the discovery document is of issuer {document.get('issuer')!r}, not {issuer!r}",
            "Give the issuer exactly as it names itself.",
        )
    endpoint = document.get("token_endpoint")
    if not isinstance(endpoint, str):
        raise credentials_error("the discovery document names no token endpoint", "Look at the issuer.")
    return checked_url(endpoint)


def token_form(credentials: ClientCredentials) -> dict[str, str]:
    """Return the form that asks for a token."""
    form = {
        "grant_type": "client_credentials",
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
    }
    if credentials.scope:
        form["scope"] = credentials.scope
    if credentials.audience:
        form["audience"] = credentials.audience
    return form


def token_answer(status: int, body: bytes) -> tuple[str, float]:
    """Return the token, and for how many seconds it is valid.

    Raises:
        CredentialsError: there is none, with the issuer's error code if it gave one.
    """
    document = _document(status, body, "the issuer's answer to the token request")
    token, lifetime = document.get("access_token"), document.get("expires_in")
    if not isinstance(token, str) or not token:
        raise credentials_error("the issuer's answer has no access_token", "Look at the issuer.")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float):
        raise credentials_error("the issuer's answer has no expires_in", "Look at the issuer.")
    if not math.isfinite(lifetime) or lifetime <= 0:
        raise credentials_error(f"the issuer's expires_in is {lifetime}", "Look at the issuer.")
    return token, float(lifetime)


def credentials_error(message: str, fix: str) -> CredentialsError:
    """Make the error for a token that could not be had."""
    return CredentialsError(message, ErrorFacts(LocalReason.CREDENTIALS, fix=fix))


def _document(status: int, body: bytes, what: str) -> dict[str, object]:
    try:
        document: object = json.loads(body)
    except ValueError:
        document = None
    fields = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    if status != 200:
        # The error code is meant for programs; the description might repeat a secret.
        code = fields.get("error")
        said = f" ({code})" if isinstance(code, str) and code.isascii() and len(code) < 64 else ""
        raise credentials_error(f"{what} has status {status}{said}", "Check issuer, client id and secret.")
    if not fields:
        raise credentials_error(f"{what} is not a JSON object", "Look at the issuer.")
    return fields
