"""Client credentials grant: builds its requests and checks their answers."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, cast
from urllib.parse import quote_plus

from openshell_files_protocol.endpoints import Endpoint, is_loopback, may_use_proxy, parse_endpoint

from openshell_files.auth import ClientCredentials
from openshell_files.errors import CredentialsError, ErrorFacts, LocalReason

#: Limit of an issuer's answer, which has a few kilobytes.
MAX_ANSWER_BYTES: Final = 1024 * 1024

#: A token is replaced this many seconds before it expires.
EXPIRY_MARGIN_SECONDS: Final = 30.0

#: Lifetime of a token without `expires_in`. If the gateway refuses it earlier,
#: it is replaced earlier.
UNSAID_LIFETIME_SECONDS: Final = 300.0

#: A token is replaced after a day even if its lifetime is longer.
MAX_LIFETIME_SECONDS: Final = 86_400.0

#: Characters of a URL (RFC 3986).
_URL: Final = re.compile(r"[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+")

#: An error code of OAuth (RFC 6749 §5.2), of limited length.
_ERROR_CODE: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,63}")


class SecretMethod(StrEnum):
    """Method of sending the client secret, in order of preference (RFC 6749 §2.3.1)."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Token endpoint of an issuer.

    Attributes:
        url: of the endpoint.
        methods: accepted methods of sending the secret, best first.
    """

    url: str
    methods: tuple[SecretMethod, ...]


def discovery_url(issuer: str) -> str:
    """Return the URL of the issuer's discovery document (OpenID Connect Discovery 1.0 §4).

    Raises:
        CredentialsError: the URL is neither https nor on loopback.
    """
    return checked_url(issuer.rstrip("/") + "/.well-known/openid-configuration")


def checked_url(url: str) -> str:
    """Return the URL if a secret may be sent there.

    Raises:
        CredentialsError: it is neither https nor on loopback, or its address
            is ambiguous for HTTP clients.
    """
    where = _where(url)
    if where is None:
        raise credentials_error(f"{_shown(url)} is not a URL of an issuer", "Use the issuer's https URL.")
    if not where.tls and not where.local:
        raise credentials_error(f"{_shown(url)} is not an https URL", "Use the issuer's https URL.")
    return url


def proxy_allowed(url: str) -> bool:
    """Return whether a request to a checked URL may use a proxy of the environment."""
    where = _where(url)
    return where is not None and may_use_proxy(tls=where.tls is True, local=where.local)


def dialled(url: str) -> tuple[tuple[str, str], ...]:
    """Return the URLs to try for a checked one, each with its `Host` header.

    They differ for `http://localhost` only, which is not resolved: the client
    tries both loopback addresses.
    """
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.partition(":")
    if scheme.lower() != "http" or not is_loopback(host) or host[:1].isdigit():
        return ((url, authority),)
    return tuple(
        (f"{scheme}://{address}{colon}{port}{slash}{path}", authority) for address in ("127.0.0.1", "[::1]")
    )


def _where(url: str) -> Endpoint | None:
    """Return the address in a URL; None if the URL is malformed or ambiguous."""
    scheme, separator, rest = url.partition("://")
    if not _URL.fullmatch(url) or not separator or scheme.lower() not in {"http", "https"}:
        return None
    try:
        return parse_endpoint(f"{scheme}://{re.split('[/?]', rest, maxsplit=1)[0]}")
    except ValueError:
        return None


def token_endpoint(status: int, body: bytes, issuer: str) -> TokenEndpoint:
    """Return the token endpoint of a discovery document.

    Raises:
        CredentialsError: the document is another issuer's or unreadable, or
            the issuer takes no client secret.
    """
    document = _document(status, body, "the issuer's discovery document")
    if str(document.get("issuer", "")).rstrip("/") != issuer.rstrip("/"):
        raise credentials_error(
            f"the discovery document is of issuer {_shown(document.get('issuer'))}, not {issuer!r}",
            "Give the issuer exactly as it names itself.",
        )
    endpoint = document.get("token_endpoint")
    if not isinstance(endpoint, str):
        raise credentials_error("the discovery document names no token endpoint", "Look at the issuer.")
    return TokenEndpoint(checked_url(endpoint), _methods(document))


def _methods(document: Mapping[str, object]) -> tuple[SecretMethod, ...]:
    """Return the accepted methods of sending the secret, best first."""
    named = document.get("token_endpoint_auth_methods_supported")
    if not isinstance(named, list) or not named:
        # The default is Basic (Discovery 1.0 §3), but some servers do not take it.
        return tuple(SecretMethod)
    found = tuple(method for method in SecretMethod if method.value in cast("list[object]", named))
    if not found:
        raise credentials_error(
            "the issuer takes a client secret neither as client_secret_basic nor as client_secret_post",
            "Give OidcAuth(token=...) a function that gets tokens another way.",
        )
    return found


#: Parts of the messages of libraries, and the cause in plain words.
_UNREACHABLE: Final = (
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ("WRONG_VERSION_NUMBER", "it speaks no TLS"),
    ("onnection refused", "nothing listens there"),
    ("Name or service not known", "its name is not known"),
    ("name resolution", "its name is not known"),
    ("nodename nor servname", "its name is not known"),
    ("All connection attempts failed", "nothing listens there"),
)


def token_request(
    credentials: ClientCredentials, method: SecretMethod
) -> tuple[dict[str, str], dict[str, str]]:
    """Return form and headers of a token request."""
    form = {"grant_type": "client_credentials"}
    headers = dict[str, str]()
    if method is SecretMethod.POST:
        form |= {"client_id": credentials.client_id, "client_secret": credentials.client_secret}
    else:
        # Each half is form-encoded before they are joined, which preserves a
        # colon or a percent sign in it (RFC 6749 §2.3.1).
        pair = f"{quote_plus(credentials.client_id)}:{quote_plus(credentials.client_secret)}"
        headers["authorization"] = "Basic " + b64encode(pair.encode()).decode()
    if credentials.scope:
        form["scope"] = credentials.scope
    if credentials.audience:
        form["audience"] = credentials.audience
    return form, headers


def secret_not_taken(status: int, body: bytes) -> bool:
    """Return whether the issuer did not recognise the client, and another method may help (RFC 6749 §5.2)."""
    if status not in {400, 401}:
        return False
    return _fields(body).get("error") == "invalid_client" or status == 401


def token_answer(status: int, body: bytes) -> tuple[str, float]:
    """Return the token and its lifetime in seconds.

    Raises:
        CredentialsError: the answer has no token; the message has the issuer's error code.
    """
    document = _document(status, body, "the issuer's answer to the token request")
    token, kind = document.get("access_token"), document.get("token_type", "Bearer")
    if not isinstance(token, str) or not token:
        raise credentials_error("the issuer's answer has no access_token", "Look at the issuer.")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise credentials_error(
            f"the issuer's token is of type {_shown(kind)}, and only Bearer can be sent",
            "Look at the issuer.",
        )
    return token, _lifetime(document.get("expires_in"))


def _lifetime(said: object) -> float:
    """Return the lifetime; `expires_in` is optional (RFC 6749 §5.1), and some issuers send it as text."""
    if said is None:
        return UNSAID_LIFETIME_SECONDS
    seconds = math.nan
    if isinstance(said, int | float | str) and not isinstance(said, bool):
        try:
            seconds = float(said)
        except OverflowError:
            seconds = MAX_LIFETIME_SECONDS
        except ValueError:
            pass
    if not math.isfinite(seconds) or seconds <= 0:
        raise credentials_error(
            f"the issuer's expires_in is {_shown(said)}, not a number of seconds", "Look at the issuer."
        )
    return min(seconds, MAX_LIFETIME_SECONDS)


def unreachable_words(error: BaseException) -> str:
    """Return the cause of a failed request in plain words.

    Args:
        error: of the HTTP client; its causes are searched, too.
    """
    found: BaseException | None = error
    chain = list[BaseException]()
    while found is not None and found not in chain:
        chain.append(found)
        found = found.__cause__ or found.__context__
    told = " ".join(map(str, chain))
    for sign, words in _UNREACHABLE:
        if sign in told:
            return words
    if any("Timeout" in type(one).__name__ for one in chain):
        return "it does not answer in time"
    return str(error) or "the connection broke"


def credentials_error(message: str, fix: str) -> CredentialsError:
    """Return the error of a call without a token."""
    return CredentialsError(message, ErrorFacts(LocalReason.CREDENTIALS, fix=fix))


def _document(status: int, body: bytes, what: str) -> Mapping[str, object]:
    fields = _fields(body)
    if 300 <= status < 400:
        raise credentials_error(
            f"{what} has status {status}, a redirect, which is not followed",
            "Give the issuer exactly as it names itself.",
        )
    if status != 200:
        # The error code only: the description might repeat a secret.
        code = fields.get("error")
        said = f" ({code})" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""
        raise credentials_error(f"{what} has status {status}{said}", "Check issuer, client id and secret.")
    if not fields:
        raise credentials_error(f"{what} is not a JSON object", "Look at the issuer.")
    return fields


def _fields(body: bytes) -> Mapping[str, object]:
    """Return the members of a JSON object; none if the body is no JSON object."""
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", document) if isinstance(document, dict) else {}


def _shown(value: object) -> str:
    """Return a value of the issuer for a message: short, and without control characters."""
    text = ascii(value)
    return text if len(text) <= 200 else text[:200] + "..."
