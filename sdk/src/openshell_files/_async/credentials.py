# ruff: noqa: ASYNC109 - the limit of an HTTP client, which knows it by itself
"""Source of the bearer token of each call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import httpx

from openshell_files._async import _io
from openshell_files._core import token_exchange
from openshell_files._core.token_exchange import SecretMethod, TokenEndpoint, credentials_error
from openshell_files.auth import Auth, ClientCredentials, OidcAuth, TokenProvider
from openshell_files.errors import CredentialsError


class TokenSource:
    """Returns the authorization metadata of each call.

    Args:
        auth: source of tokens; None calls without a token.
    """

    def __init__(self, auth: Auth | None) -> None:
        self._auth = auth
        self._exchange = _TokenExchange(auth) if isinstance(auth, ClientCredentials) else None

    @property
    def refreshable(self) -> bool:
        """True if a refused token can be replaced."""
        return self._exchange is not None or (
            isinstance(self._auth, OidcAuth) and not isinstance(self._auth.token, str)
        )

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of one call.

        Raises:
            CredentialsError: there is no token.
        """
        if self._auth is None:
            return ()
        if self._exchange is not None:
            token = await self._exchange.token()
        elif isinstance(self._auth, OidcAuth):
            given = self._auth.token
            token = given if isinstance(given, str) else await _provided(given)
        else:
            raise TypeError("auth must be OidcAuth or ClientCredentials")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            # gRPC would abort the call without a reason. The message does not repeat the token.
            raise credentials_error(
                "the token is empty or has characters that no token has", "Check the source of the token."
            )
        return (("authorization", f"Bearer {token}"),)

    def refuse(self) -> None:
        """Note that the gateway refused the token: the next call requests a new one."""
        if self._exchange is not None:
            self._exchange.forget()


async def _provided(provider: TokenProvider) -> str:
    """Call the caller's function; any exception means that there is no token."""
    try:
        return await _io.call_token(provider)
    except CredentialsError:
        raise
    except Exception as error:
        raise credentials_error(
            f"the token provider failed: {type(error).__name__}: {error}", "Check the source of its tokens."
        ) from error


class _TokenExchange:
    """Client credentials grant with a cache; concurrent calls share one request."""

    def __init__(self, credentials: ClientCredentials) -> None:
        self._credentials = credentials
        self._lock = _io.Lock()
        self._endpoint: TokenEndpoint | None = None
        self._token = ""
        self._use_until = 0.0

    def forget(self) -> None:
        self._token = ""

    async def token(self) -> str:
        async with self._lock:
            if not self._token or _io.monotonic() >= self._use_until:
                self._token, lifetime = await self._request()
                # A token with a lifetime below the margin is used once.
                self._use_until = _io.monotonic() + lifetime - token_exchange.EXPIRY_MARGIN_SECONDS
            return self._token

    async def _request(self) -> tuple[str, float]:
        credentials = self._credentials
        if self._endpoint is None:
            url = token_exchange.discovery_url(credentials.issuer)
            status, body = await _fetch("GET", url, credentials.timeout)
            self._endpoint = token_exchange.token_endpoint(status, body, credentials.issuer)
        endpoint = self._endpoint
        *first, last = endpoint.methods
        for method in first:
            status, body = await self._ask(endpoint, method)
            if not token_exchange.secret_not_taken(status, body):
                return token_exchange.token_answer(status, body)
        return token_exchange.token_answer(*await self._ask(endpoint, last))

    async def _ask(self, endpoint: TokenEndpoint, method: SecretMethod) -> tuple[int, bytes]:
        form, headers = token_exchange.token_request(self._credentials, method)
        return await _fetch("POST", endpoint.url, self._credentials.timeout, form, headers)


async def _fetch(
    method: str,
    url: str,
    timeout: float,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send a request and return status and body, within limits of size and time."""
    ends = _io.monotonic() + timeout
    try:
        async with _io.HttpClient(
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
                    return await _answer(client, request, ends)
            return await _answer(client, last, ends)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        # Besides the network: SSL_CERT_FILE names a missing file, or the environment
        # an unusable proxy.
        raise credentials_error(
            f"the issuer at {url.partition('://')[2].partition('/')[0]} cannot be reached: "
            f"{token_exchange.unreachable_words(error)}",
            "Check the issuer's URL and the network.",
        ) from error


async def _answer(client: _io.HttpClient, request: httpx.Request, ends: float) -> tuple[int, bytes]:
    response = await client.send(request, stream=True)
    try:
        body = b""
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > token_exchange.MAX_ANSWER_BYTES:
                raise credentials_error("the issuer's answer is too large", "Check the issuer.")
            if _io.monotonic() > ends:
                raise credentials_error("the issuer's answer takes too long", "Check the issuer.")
        return response.status_code, body
    finally:
        await response.aclose()
