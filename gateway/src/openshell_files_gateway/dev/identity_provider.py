"""A small identity provider for development and tests: real tokens over real HTTP, on loopback only.

It serves OpenID Connect discovery, a JWK set, and client credentials (RFC 6749
§4.4), as the gateway and scripts need them. It has no login page and stores
nothing. Use it for development only: every local process can reach it.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, cast
from urllib.parse import quote_plus

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from openshell_files_gateway.dev.provider_http import JWKS_PATH, TOKEN_PATH, ProviderServer
from openshell_files_gateway.dev.token_endpoint import Answer, DevelopmentClient, TokenEndpoint

__all__ = ["DevelopmentClient", "DevelopmentIdentityProvider"]

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class _Key:
    key_id: str
    algorithm: str
    private: PrivateKey = field(repr=False)

    @property
    def jwk(self) -> dict[str, Any]:
        encoder = jwt.get_algorithm_by_name(self.algorithm)
        members = encoder.to_jwk(self.private.public_key(), as_dict=True)
        # PyJWT adds key_ops, which RFC 7517 §4.3 advises against beside `use`.
        members.pop("key_ops", None)
        return members | {"kid": self.key_id, "alg": self.algorithm, "use": "sig"}


class DevelopmentIdentityProvider:
    """An OpenID provider in a thread of this process.

    Args:
        audience: audience of its tokens.
        clients: clients that may get tokens; default: one with a random secret.
        algorithm: algorithm of its keys.
        token_ttl: lifetime of its tokens in seconds.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        audience: str,
        clients: Sequence[DevelopmentClient] | None = None,
        algorithm: Literal["ES256", "RS256"] = "ES256",
        token_ttl: float = 3600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.audience = audience
        self.token_ttl = token_ttl
        if not clients:
            clients = (DevelopmentClient("openshell-files-dev", secrets.token_urlsafe(24)),)
        self.clients = tuple(clients)
        self._algorithm = algorithm
        self._clock = clock
        # A tuple that is replaced as a whole, because the server's threads read it.
        self._keys: tuple[_Key, ...] = (_new_key(algorithm),)
        self._server: ProviderServer | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen on a free port of 127.0.0.1 and serve in a thread."""
        if self._server is not None:
            return
        self._server = ProviderServer(self)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="identity-provider",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port. Issued tokens stay valid, but their keys are unavailable."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None:
            server.shutdown()
            server.server_close()
        if thread is not None:
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def issuer(self) -> str:
        """URL of the provider, and `iss` of its tokens.

        Raises:
            RuntimeError: the provider is not running.
        """
        if self._server is None:
            raise RuntimeError("the identity provider is not running")
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def token_endpoint(self) -> str:
        """URL of the token endpoint."""
        return self.issuer + TOKEN_PATH

    @property
    def client_id(self) -> str:
        """Id of the first client."""
        return self.clients[0].client_id

    @property
    def client_secret(self) -> str:
        """Secret of the first client."""
        return self.clients[0].client_secret

    @property
    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The published keys, newest first."""
        return {"keys": [key.jwk for key in self._keys]}

    @property
    def discovery(self) -> dict[str, object]:
        """The provider's configuration (OpenID Connect Discovery 1.0 §3, RFC 8414)."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.issuer + JWKS_PATH,
            "token_endpoint": self.token_endpoint,
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "id_token_signing_alg_values_supported": [self._algorithm],
            "scopes_supported": sorted({scope for client in self.clients for scope in client.scopes}),
        }

    def issue(self, *, ttl: float | None = None, **claims: object) -> str:
        """Sign a token of the first client with all its scopes.

        Args:
            ttl: lifetime in seconds, default `token_ttl`; negative for an
                expired token.
            claims: claims that replace the defaults; None removes a claim.
        """
        return self._sign(self.clients[0], self.clients[0].scopes, ttl, claims)

    def answer_token_request(self, content_type: str, authorization: str | None, body: bytes) -> Answer:
        """Answer a request to the token endpoint."""

        def sign(client: DevelopmentClient, scopes: Sequence[str]) -> tuple[str, int]:
            return self._sign(client, scopes, self.token_ttl, {}), int(self.token_ttl)

        return TokenEndpoint(self.clients, self.audience, sign).answer(content_type, authorization, body)

    def _sign(
        self,
        client: DevelopmentClient,
        scopes: Sequence[str],
        ttl: float | None,
        claims: Mapping[str, object],
    ) -> str:
        now = int(self._clock())
        payload: dict[str, object] = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": client.client_id,
            "iat": now,
            "nbf": now,
            "exp": now + int(self.token_ttl if ttl is None else ttl),
            "jti": str(uuid.uuid4()),
            "azp": client.client_id,
            "preferred_username": client.client_id,
            "realm_access": {"roles": list(client.roles)},
            "scope": " ".join(scopes),
            **claims,
        }
        key = self._keys[0]
        return jwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            key.private,
            algorithm=key.algorithm,
            headers={"kid": key.key_id},
        )

    def rotate_key(self, *, keep_previous: bool = True) -> str:
        """Sign with a new key from now on.

        Args:
            keep_previous: keep publishing the former keys, so that their
                tokens stay valid.

        Returns:
            The new key's id.
        """
        key = _new_key(self._algorithm)
        self._keys = (key, *self._keys) if keep_previous else (key,)
        return key.key_id

    def fetch_token(self, *, scope: str | None = None) -> str:
        """Fetch a token of the first client over HTTP. Blocks.

        Args:
            scope: scopes to request, separated by spaces; default: all of the
                client's.

        Raises:
            httpx.HTTPError: the request failed or was refused.
        """
        form = {"grant_type": "client_credentials", "audience": self.audience}
        if scope is not None:
            form["scope"] = scope
        with httpx.Client(trust_env=False, timeout=10.0) as client:
            # Both are form-encoded before they are put into the header (RFC 6749 §2.3.1).
            credentials = (quote_plus(self.client_id), quote_plus(self.client_secret))
            response = client.post(self.token_endpoint, data=form, auth=credentials)
        response.raise_for_status()
        return cast("dict[str, str]", response.json())["access_token"]


def _new_key(algorithm: str) -> _Key:
    private: PrivateKey
    if algorithm == "ES256":
        private = ec.generate_private_key(ec.SECP256R1())
    else:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return _Key(f"dev-{uuid.uuid4()}", algorithm, private)
