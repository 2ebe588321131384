"""The token endpoint of the development identity provider, without its HTTP server.

It supports client credentials only (RFC 6749 §4.4), with all errors of the RFC,
so that clients can be tested against them.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import parse_qsl, unquote_plus

_DEFAULT_ROLES: Final = ("openshell-user",)
_DEFAULT_SCOPES: Final = ("sandbox:read", "sandbox:write")

#: Headers that keep caches from storing tokens and refusals (§5.1).
_NOT_STORED: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}

_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class DevelopmentClient:
    """A program that may get tokens.

    Attributes:
        client_id: id of the client, and `sub` of its tokens.
        client_secret: secret of the client.
        roles: roles in its tokens, at `realm_access.roles`.
        scopes: scopes that it may request; the default is all of them.
    """

    client_id: str
    client_secret: str = field(repr=False)
    roles: tuple[str, ...] = _DEFAULT_ROLES
    scopes: tuple[str, ...] = _DEFAULT_SCOPES


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer with a JSON body.

    Attributes:
        status: HTTP status.
        body: the JSON object.
        headers: headers in addition to those of every JSON answer.
    """

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class TokenSigner(Protocol):
    """Signs tokens."""

    def __call__(self, client: DevelopmentClient, scopes: Sequence[str]) -> tuple[str, int]:
        """Return a token and its lifetime in seconds."""
        ...


class _RefusedError(Exception):
    """An error of RFC 6749 §5.2."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.status = status


class TokenEndpoint:
    """Answers requests for tokens.

    Args:
        clients: clients that may get tokens.
        audience: the only supported audience.
        sign: signs the tokens.
    """

    def __init__(self, clients: Sequence[DevelopmentClient], audience: str, sign: TokenSigner) -> None:
        self._clients = {client.client_id: client for client in clients}
        self._audience = audience
        self._sign = sign

    def answer(self, content_type: str, authorization: str | None, body: bytes) -> Answer:
        """Answer one request.

        Args:
            content_type: the header Content-Type.
            authorization: the header Authorization; None without one.
            body: the form.
        """
        try:
            form = _read_form(content_type, body)
            client = self._authenticate(authorization, form)
            self._check_grant(form)
            scopes = _granted(client, form.get("scope", ""))
        except _RefusedError as refused:
            headers = dict(_NOT_STORED)
            if refused.status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="openshell-files-dev"'
            return Answer(
                refused.status, {"error": refused.code, "error_description": refused.description}, headers
            )
        token, ttl = self._sign(client, scopes)
        granted = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": ttl,
            "scope": " ".join(scopes),
        }
        return Answer(200, granted, _NOT_STORED)

    def _authenticate(self, authorization: str | None, form: Mapping[str, str]) -> DevelopmentClient:
        """Authenticate the client by exactly one of the two methods of §2.3.1."""
        if authorization is not None:
            if "client_secret" in form:
                raise _RefusedError("invalid_request", "the client authenticates in two ways")
            client_id, secret = _read_basic(authorization)
            if form.get("client_id", client_id) != client_id:
                raise _RefusedError("invalid_request", "client_id is not that of the Authorization header")
        else:
            client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        client = self._clients.get(client_id)
        expected = client.client_secret if client else ""
        if not secrets.compare_digest(secret.encode(), expected.encode()) or client is None or not expected:
            raise _RefusedError("invalid_client", "unknown client or wrong secret", 401)
        return client

    def _check_grant(self, form: Mapping[str, str]) -> None:
        grant = form.get("grant_type")
        if grant is None:
            raise _RefusedError("invalid_request", "grant_type is missing")
        if grant != "client_credentials":
            raise _RefusedError("unsupported_grant_type", "only client_credentials is supported")
        # `resource` (RFC 8707 §2) is called `audience` by several providers.
        for name in ("audience", "resource"):
            if form.get(name, self._audience) != self._audience:
                raise _RefusedError("invalid_target", f"there are no tokens for this {name}")


def _read_form(content_type: str, body: bytes) -> dict[str, str]:
    if content_type.partition(";")[0].strip().lower() != _FORM:
        raise _RefusedError("invalid_request", f"the content type is not {_FORM}")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        raise _RefusedError("invalid_request", "the body is not a form") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise _RefusedError("invalid_request", "a parameter is repeated")
    # A parameter without a value counts as absent (§3.2).
    return {name: value for name, value in form.items() if value}


def _read_basic(authorization: str) -> tuple[str, str]:
    scheme, _, credentials = authorization.partition(" ")
    try:
        name, colon, password = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        name, colon, password = "", "", ""
    if scheme.lower() != "basic" or not colon:
        raise _RefusedError("invalid_client", "the Authorization header is not HTTP Basic", 401)
    return unquote_plus(name), unquote_plus(password)


def _granted(client: DevelopmentClient, scope: str) -> tuple[str, ...]:
    asked = tuple(dict.fromkeys(scope.split()))
    if not set(asked) <= set(client.scopes):
        raise _RefusedError("invalid_scope", "the client may not ask for all of these scopes")
    return asked or client.scopes
