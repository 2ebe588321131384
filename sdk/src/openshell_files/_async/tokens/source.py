"""Source of the bearer token of each call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openshell_files._async import _io
from openshell_files._core.token_exchange import credentials_error
from openshell_files.auth import Auth, ClientCredentials, OidcAuth, TokenProvider
from openshell_files.errors import CredentialsError

if TYPE_CHECKING:
    from openshell_files._async.tokens.requests import TokenExchange


class TokenSource:
    """Returns the authorization metadata of each call.

    Args:
        auth: source of tokens; None calls without a token.
    """

    def __init__(self, auth: Auth | None) -> None:
        self._auth = auth
        self._exchange = _exchange(auth) if isinstance(auth, ClientCredentials) else None

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


def _exchange(credentials: ClientCredentials) -> TokenExchange:
    # Most callers have a token, and httpx takes as long to import as gRPC.
    from openshell_files._async.tokens.requests import TokenExchange  # noqa: PLC0415 - see above

    return TokenExchange(credentials)
