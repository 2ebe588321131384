"""Checks the URLs from which the issuer's documents may be fetched.

The gateway checks URLs of the configuration at start, and URLs in the issuer's
documents at run time. The HTTP client's own parser parses them, so the checked
address is the one that is called.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

import httpx

#: Characters of a URL (RFC 3986): no spaces, no backslashes, and no `|`, which
#: would make `User.key` ambiguous.
_URL_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")

_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class UnsafeUrlError(ValueError):
    """A URL must not be fetched; the message has the reason, without the URL."""


def check_url(url: str, *, allow_insecure_loopback: bool) -> httpx.URL:
    """Parse a URL and check that it may be fetched.

    Args:
        url: an absolute URL.
        allow_insecure_loopback: accept http for a loopback address in digits,
            not for a name, since a resolver decides its address.

    Raises:
        UnsafeUrlError: the URL is invalid or must not be fetched.
    """
    if not _URL_CHARACTERS.fullmatch(url):
        raise UnsafeUrlError("is not a URL")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise UnsafeUrlError("is not a URL") from None
    if not parsed.host or not _HOST.fullmatch(parsed.host):
        raise UnsafeUrlError("has no host")
    if parsed.port is not None and parsed.port > 65535:
        raise UnsafeUrlError("has a port that does not exist")
    if parsed.userinfo:
        raise UnsafeUrlError("carries credentials")
    if parsed.fragment:
        raise UnsafeUrlError("has a fragment")
    if parsed.scheme == "https":
        return parsed
    if parsed.scheme == "http" and allow_insecure_loopback and is_loopback(parsed.host):
        return parsed
    raise UnsafeUrlError("is not https")


def check_issuer(url: str, *, allow_insecure_loopback: bool) -> httpx.URL:
    """Check an issuer's URL; it has no query (OpenID Connect Discovery 1.0 §3).

    Raises:
        UnsafeUrlError: the URL is not that of an issuer.
    """
    parsed = check_url(url, allow_insecure_loopback=allow_insecure_loopback)
    if parsed.query or "?" in url or "#" in url:
        raise UnsafeUrlError("has a query or fragment, which an issuer never has")
    return parsed


def discovery_url(issuer: str) -> str:
    """Return the URL of an issuer's configuration (Discovery 1.0 §4)."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def origin(url: httpx.URL) -> str:
    """Return scheme, host and port; a default port is written out."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host.lower()}:{url.port or _DEFAULT_PORTS[url.scheme]}"


def is_loopback(host: str) -> bool:
    """Return True if the host is a loopback address in digits."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
