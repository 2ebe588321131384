# Written by sdk/unasync.py from _async/credentials.py. Change that file instead.
"""The bearer token of each call."""

from __future__ import annotations

import httpx

from openshell_files._core import token_exchange
from openshell_files._core.token_exchange import credentials_error
from openshell_files._sync import _io
from openshell_files.auth import Auth, ClientCredentials, OidcAuth, TokenProvider
from openshell_files.errors import CredentialsError


class TokenSource:
    """Gives the metadata that says who is calling.

    Args:
        auth: where tokens come from; None calls without one.
    """

    def __init__(self, auth: Auth | None) -> None:
        self._auth = auth
        self._exchange = _TokenExchange(auth) if isinstance(auth, ClientCredentials) else None

    @property
    def refreshable(self) -> bool:
        """Whether a refused token can be replaced."""
        return self._exchange is not None or (
            isinstance(self._auth, OidcAuth) and not isinstance(self._auth.token, str)
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of one call.

        Raises:
            CredentialsError: no token could be had.
        """
        if self._auth is None:
            return ()
        if self._exchange is not None:
            token = self._exchange.token()
        elif isinstance(self._auth, OidcAuth):
            given = self._auth.token
            token = given if isinstance(given, str) else _provided(given)
        else:
            raise TypeError("auth must be OidcAuth or ClientCredentials")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            # gRPC would abort the call without saying why; the token itself is not repeated.
            raise credentials_error(
                "the token is empty or has characters that no token has", "Look at where it comes from."
            )
        return (("authorization", f"Bearer {token}"),)

    def refuse(self) -> None:
        """Note that the gateway refused the token: the next call gets a new one."""
        if self._exchange is not None:
            self._exchange.forget()


def _provided(provider: TokenProvider) -> str:
    """Ask the caller's function; whatever it raises means that there is no token."""
    try:
        return _io.call_token(provider)
    except CredentialsError:
        raise
    except Exception as error:
        raise credentials_error(
            f"the token provider failed: {type(error).__name__}: {error}", "Look at where it gets tokens."
        ) from error


class _TokenExchange:
    """The client credentials grant with a cache; however many wait, one request is made."""

    def __init__(self, credentials: ClientCredentials) -> None:
        self._credentials = credentials
        self._lock = _io.Lock()
        self._endpoint = ""
        self._token = ""
        self._use_until = 0.0

    def forget(self) -> None:
        self._token = ""

    def token(self) -> str:
        with self._lock:
            if not self._token or _io.monotonic() >= self._use_until:
                self._token, lifetime = self._request()
                # A token that lives shorter than the margin is used once.
                self._use_until = _io.monotonic() + lifetime - token_exchange.EXPIRY_MARGIN_SECONDS
            return self._token

    def _request(self) -> tuple[str, float]:
        credentials = self._credentials
        with _io.HttpClient(timeout=credentials.timeout, follow_redirects=False) as client:
            if not self._endpoint:
                url = token_exchange.discovery_url(credentials.issuer)
                status, body = _fetch(client, client.build_request("GET", url))
                self._endpoint = token_exchange.token_endpoint(status, body, credentials.issuer)
            form = token_exchange.token_form(credentials)
            status, body = _fetch(client, client.build_request("POST", self._endpoint, data=form))
            return token_exchange.token_answer(status, body)


def _fetch(client: _io.HttpClient, request: httpx.Request) -> tuple[int, bytes]:
    """Send a request and return status and body, within the limit of their size."""
    try:
        response = client.send(request, stream=True)
        try:
            body = b""
            for piece in response.iter_bytes():
                body += piece
                if len(body) > token_exchange.MAX_ANSWER_BYTES:
                    raise credentials_error("the issuer's answer is too large", "Look at the issuer.")
            return response.status_code, body
        finally:
            response.close()
    except httpx.HTTPError as error:
        raise credentials_error(
            f"the issuer at {request.url.host} cannot be reached: {type(error).__name__}",
            "Check the issuer's URL and the network.",
        ) from error
