"""Sources of bearer tokens: given tokens, and the client credentials grant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from openshell_files import _values as values

#: Called for every RPC, so that it can return a fresh token each time. The
#: asynchronous client also takes a coroutine function, and calls a plain
#: function in a thread.
TokenProvider = Callable[[], str] | Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class OidcAuth:
    """A token, or a function that provides tokens (RFC: `OidcAuth(token=...)`).

    Attributes:
        token: the access token, or a function that returns one.
    """

    token: str | TokenProvider = field(repr=False)

    def __post_init__(self) -> None:
        # The use of a token reports what is wrong with it, without repeating it.
        if not isinstance(self.token, str) and not callable(self.token):  # pyright: ignore[reportUnnecessaryComparison] - callers without types
            values.wrong_type("token", "a str or a function that returns one", self.token)

    @staticmethod
    def client_credentials(
        issuer: str,
        client_id: str,
        client_secret: str,
        *,
        audience: str = "",
        scope: str = "",
        timeout: float = 10.0,
    ) -> ClientCredentials:
        """Return credentials with which the SDK requests tokens."""
        return ClientCredentials(issuer, client_id, client_secret, audience, scope, timeout)


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """Tokens by the client credentials grant (RFC 6749 §4.4), for programs.

    The issuer's token endpoint is discovered when the first token is needed.
    A token is used until 30 seconds before it expires; concurrent calls share
    one request. Redirects are not followed, and the URL has to be https, except
    on loopback. Nothing is written to disk.

    Attributes:
        issuer: the issuer's URL, as in its tokens.
        client_id: id of this client.
        client_secret: its secret.
        audience: audience of the token; empty leaves it to the issuer.
        scope: scopes, separated by spaces; empty leaves them to the issuer.
        timeout: of each request to the issuer, in seconds.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    audience: str = ""
    scope: str = ""
    timeout: float = 10.0

    def __post_init__(self) -> None:
        values.text("issuer", self.issuer, empty=False)
        values.text("client_id", self.client_id, empty=False)
        if not isinstance(self.client_secret, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
            values.wrong_type("client_secret", "a str", self.client_secret)
        if any("\ud800" <= letter <= "\udfff" for letter in self.client_secret):
            # The message does not repeat the secret.
            values.wrong_value("client_secret", "must be valid Unicode")
        values.text("audience", self.audience)
        values.text("scope", self.scope)
        values.seconds("timeout", self.timeout)


Auth = OidcAuth | ClientCredentials
