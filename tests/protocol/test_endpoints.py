"""What is checked is what is dialled: an endpoint has one meaning, for us, for gRPC and for a resolver."""

from __future__ import annotations

from typing import Any, cast

import pytest
from openshell_files_protocol.endpoints import is_loopback, parse_endpoint

BOTH = "ipv6:[::ffff:127.0.0.1]:80,[::1]:80"

#: text: (target, tls, local)
ACCEPTED: dict[str, tuple[str, bool | None, bool]] = {
    "127.0.0.1:8082": ("ipv4:127.0.0.1:8082", None, True),
    "127.9.9.9:1": ("ipv4:127.9.9.9:1", None, True),
    "10.0.0.1:65535": ("ipv4:10.0.0.1:65535", None, False),
    "0.0.0.0:1": ("ipv4:0.0.0.0:1", None, False),
    "[::1]:8082": ("ipv6:[::1]:8082", None, True),
    "[0:0:0:0:0:0:0:1]:8082": ("ipv6:[::1]:8082", None, True),
    "[::]:1": ("ipv6:[::]:1", None, False),
    "[2001:db8::1]:1": ("ipv6:[2001:db8::1]:1", None, False),
    "[::ffff:127.0.0.1]:1": ("ipv6:[::ffff:7f00:1]:1", None, True),
    "[::ffff:10.0.0.1]:1": ("ipv6:[::ffff:a00:1]:1", None, False),
    "localhost:80": (BOTH, None, True),
    "LocalHost:80": (BOTH, None, True),
    "http://localhost": (BOTH, False, True),
    "localhost.:80": ("dns:///localhost.:80", None, False),
    "localhost.evil:1": ("dns:///localhost.evil:1", None, False),
    "x.localhost:1": ("dns:///x.localhost:1", None, False),
    "gateway.example:00443": ("dns:///gateway.example:443", None, False),
    "xn--bcher-kva.example:1": ("dns:///xn--bcher-kva.example:1", None, False),
    # Names that gRPC alone would take for schemes of its own.
    "xds:80": ("dns:///xds:80", None, False),
    "vsock:80": ("dns:///vsock:80", None, False),
    "http://10.0.0.1:80/": ("ipv4:10.0.0.1:80", False, False),
    "HTTPS://gateway.example": ("dns:///gateway.example:443", True, False),
    "https://[::1]": ("ipv6:[::1]:443", True, True),
    "dns:///gateway.example:1": ("dns:///gateway.example:1", None, False),
    "dns:///127.0.0.1:1": ("ipv4:127.0.0.1:1", None, True),
    "ipv4:127.0.0.1:1": ("ipv4:127.0.0.1:1", None, True),
    "ipv6:[::1]:1": ("ipv6:[::1]:1", None, True),
    "unix:/run/x": ("unix:/run/x", None, True),
    "unix:relative": ("unix:relative", None, True),
    "unix:///run/x": ("unix:/run/x", None, True),
    "unix:/run/50% ?#é": ("unix:/run/50%25%20%3F%23%C3%A9", None, True),
}

REFUSED = (
    "", "host", ":1", "host:", "host:port", "host:0", "host:65536", "127.0.0.1:99999", "host:-1", "host:+1",
    "host:1.0", "host:0x50", "host:\uff18\uff10", "host:80 ", " host:80", "host :80", "host:80\n", "ho\tst:80", "host\0:80",
    "::1:8082", "::1", "[::1]", "[::1]8082", "[::1", "[]:1", "[::1]:1:2", "[127.0.0.1]:1", "[::g]:1",
    "[::1%lo]:1", "[fe80::1%eth0]:1", "[::1%25lo]:1",
    "127.1:1", "2130706433:1", "0x7f000001:1", "0x7f.0.0.1:1", "0177.0.0.1:1", "127.0.0.01:1", "127.0.0.1.:1",
    "127.0.0.256:1", "1.2.3.4.5:1", "evil.127:1",
    "user@127.0.0.1:1", "http://user@localhost:1", "http://127.0.0.1:1@evil:2", "http://127.0.0.1\\@evil:1",
    "\uff4cocalhost:1", "bücher.example:1", "\udcff:1", "%6cocalhost:1", "a..b:1", ".a:1", "-a:1", "a-:1", "a" * 64 + ":1",
    "a,b:1", "127.0.0.1:1,10.0.0.1:1",
    "ftp://x", "xds:///x:1", "dns://8.8.8.8/localhost:1", "dns:///", "ipv4:localhost:1", "ipv4:10.0.0.1:1,127.0.0.1:2",
    "ipv6:127.0.0.1:1", "http://x/path", "http://x?q", "http://x#f", "http://", "https://x:", "http://x//",
    "unix:", "unix://host/x", "unix:" + "x" * 108, "unix:a\0b", "unix:\udcff",
)  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.target, endpoint.tls, endpoint.local) == ACCEPTED[text]


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^endpoint "):
        parse_endpoint(text)


@pytest.mark.parametrize("text", ["::1:8082", "::1", "2001:db8::1:443", "http://::1:80"])
def test_an_address_without_brackets_says_so(text: str) -> None:
    """Nobody can tell where such an address ends and its port begins."""
    with pytest.raises(ValueError, match="in brackets"):
        parse_endpoint(text)


@pytest.mark.parametrize("wrong", [None, b"localhost:1", 8082, ("localhost", 1)])
def test_what_is_no_text(wrong: object) -> None:
    with pytest.raises(TypeError, match="endpoint: give a str"):
        parse_endpoint(cast("Any", wrong))


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::1%lo", False),
     ("localhost.", False), ("0.0.0.0", False), ("127.1", False), ("", False), ("example", False)],
)  # fmt: skip
def test_loopback(host: str, local: bool) -> None:  # noqa: FBT001 - a column of the table
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("text", "tls", "direct"),
    [("localhost:1", False, True), ("localhost:1", True, True), ("unix:/x", False, True), ("h:1", False, True),
     ("h:1", True, False), ("10.0.0.1:1", False, True), ("10.0.0.1:1", True, False)],
)  # fmt: skip
def test_a_proxy_only_where_it_can_read_nothing(text: str, tls: bool, direct: bool) -> None:  # noqa: FBT001 - columns
    options = dict(parse_endpoint(text).options(tls=tls))
    assert ("grpc.enable_http_proxy" in options) is direct
