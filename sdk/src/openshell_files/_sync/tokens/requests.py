# Written by sdk/unasync.py from _async/tokens/requests.py. Change that file instead.
"""Tokens by the client credentials grant. Imported when credentials are given: httpx takes as long as gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import httpx

from openshell_files._core import token_exchange
from openshell_files._core.token_exchange import SecretMethod, TokenEndpoint, credentials_error
from openshell_files._sync import _io
from openshell_files.auth import ClientCredentials


class TokenExchange:
    """Client credentials grant with a cache; concurrent calls share one request.

    Args:
        credentials: of this client.
    """

    def __init__(self, credentials: ClientCredentials) -> None:
        self._credentials = credentials
        self._lock = _io.Lock()
        self._endpoint: TokenEndpoint | None = None
        self._token = ""
        self._use_until = 0.0

    def forget(self) -> None:
        """Request a new token for the next call."""
        self._token = ""

    def token(self) -> str:
        """Return a token that has not expired.

        Raises:
            CredentialsError: the issuer gives none.
        """
        with self._lock:
            if not self._token or _io.monotonic() >= self._use_until:
                self._token, lifetime = self._request()
                # A token with a lifetime below the margin is used once.
                self._use_until = _io.monotonic() + lifetime - token_exchange.EXPIRY_MARGIN_SECONDS
            return self._token

    def _request(self) -> tuple[str, float]:
        credentials = self._credentials
        if self._endpoint is None:
            url = token_exchange.discovery_url(credentials.issuer)
            status, body = _fetch("GET", url, credentials.timeout)
            self._endpoint = token_exchange.token_endpoint(status, body, credentials.issuer)
        endpoint = self._endpoint
        *first, last = endpoint.methods
        for method in first:
            status, body = self._ask(endpoint, method)
            if not token_exchange.secret_not_taken(status, body):
                return token_exchange.token_answer(status, body)
        return token_exchange.token_answer(*self._ask(endpoint, last))

    def _ask(self, endpoint: TokenEndpoint, method: SecretMethod) -> tuple[int, bytes]:
        form, headers = token_exchange.token_request(self._credentials, method)
        return _fetch("POST", endpoint.url, self._credentials.timeout, form, headers)


def _fetch(
    method: str,
    url: str,
    timeout: float,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send a request and return status and body, within limits of size and time."""
    ends = _io.monotonic() + timeout
    try:
        with httpx.Client(
            timeout=timeout, follow_redirects=False, trust_env=token_exchange.proxy_allowed(url)
        ) as client:
            *first, last = [
                client.build_request(
                    method,
                    dialled,
                    data=form,
                    headers={"accept-encoding": "identity", "host": host, **(headers or {})},
                )
                for dialled, host in token_exchange.dialled(url)
            ]
            for request in first:
                with suppress(httpx.ConnectError):
                    return _answer(client, request, ends)
            return _answer(client, last, ends)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        # Besides the network: SSL_CERT_FILE names a missing file, or the environment
        # an unusable proxy.
        raise credentials_error(
            f"the issuer at {url.partition('://')[2].partition('/')[0]} cannot be reached: "
            f"{token_exchange.unreachable_words(error)}",
            "Check the issuer's URL and the network.",
        ) from error


def _answer(client: httpx.Client, request: httpx.Request, ends: float) -> tuple[int, bytes]:
    response = client.send(request, stream=True)
    try:
        body = b""
        for piece in response.iter_raw():
            body += piece
            if len(body) > token_exchange.MAX_ANSWER_BYTES:
                raise credentials_error("the issuer's answer is too large", "Check the issuer.")
            if _io.monotonic() > ends:
                raise credentials_error("the issuer's answer takes too long", "Check the issuer.")
        return response.status_code, body
    finally:
        response.close()
