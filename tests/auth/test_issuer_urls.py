"""AUT-2: where an issuer's documents may come from."""

from __future__ import annotations

import httpx
import pytest
from openshell_files_gateway.config.issuer_urls import (
    UnsafeUrlError,
    check_issuer,
    check_url,
    discovery_url,
    origin,
)


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example",
        "https://issuer.example:8443/realms/a",
        "https://[2001:db8::1]/x",
        "HTTPS://A.example",
    ],
)
def test_https_is_accepted(url: str) -> None:
    check_issuer(url, allow_insecure_loopback=False)


@pytest.mark.parametrize("url", ["http://127.0.0.1:80", "http://127.9.9.9/x", "http://[::1]:8080"])
def test_http_is_accepted_on_a_loopback_address_if_allowed(url: str) -> None:
    check_issuer(url, allow_insecure_loopback=True)
    with pytest.raises(UnsafeUrlError, match="https"):
        check_issuer(url, allow_insecure_loopback=False)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8080",
        "http://issuer.example",
        "http://127.0.0.1.issuer.example",
        "http://2130706433",
        "http://[::ffff:10.0.0.1]",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "//issuer.example",
        "issuer.example",
        "https://",
        "https:///path",
        "https://user:password@issuer.example",
        "https://issuer.example\\@attacker.example",
        "https://issuer example",
        "https://issuer.example/a|b",
        "https://issuer.example/#fragment",
        "https://[::1",
        "https://issuer.example:99999",
        "",
        "https://issüer.example",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(UnsafeUrlError):
        check_url(url, allow_insecure_loopback=True)


@pytest.mark.parametrize(
    "url", ["https://issuer.example?tenant=1", "https://issuer.example/?", "https://a.example#"]
)
def test_an_issuer_has_no_query(url: str) -> None:
    with pytest.raises(UnsafeUrlError):
        check_issuer(url, allow_insecure_loopback=False)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example", "https://A.example:443/path", True),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example", "http://a.example:443", False),
        ("https://a.example", "https://b.a.example", False),
        ("http://[::1]:80", "http://[::1]", True),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, *, same: bool) -> None:
    assert (origin(httpx.URL(one)) == origin(httpx.URL(other))) is same


@pytest.mark.parametrize("issuer", ["https://a.example/realm", "https://a.example/realm/"])
def test_discovery_is_below_the_issuer(issuer: str) -> None:
    assert discovery_url(issuer) == "https://a.example/realm/.well-known/openid-configuration"
