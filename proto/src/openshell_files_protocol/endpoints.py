"""Parses the address of a gateway: the target that gRPC dials, and whether that is this machine.

An endpoint is parsed once. The check whether a secret may be sent and the
address that gRPC dials use the same parsed value (ADR 0026), so that no second
parser can interpret the text differently.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

ChannelOptions = tuple[tuple[str, int | str], ...]

#: Disables both of gRPC's lookups of proxies in the environment: by name
#: (`http_proxy` etc.) and by address (`GRPC_ADDRESS_HTTP_PROXY`).
_NO_PROXY: Final[ChannelOptions] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
)

#: Longest path of a UNIX socket (sun_path without its terminating NUL).
_MAX_SOCKET_PATH_BYTES: Final = 107

_MAX_NAME: Final = 253
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_PORT: Final = re.compile(r"[0-9]{1,8}")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

#: gRPC's own schemes that are accepted in front of one address.
_GRPC_SCHEMES: Final = ("dns:///", "dns:", "ipv4:", "ipv6:")

_FORMS: Final = "give HOST:PORT, [IPV6]:PORT, unix:/PATH, http://HOST:PORT or https://HOST:PORT"

_LOCAL_NAME: Final = "localhost"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The parsed address of a gateway.

    Attributes:
        target: target for gRPC, in a form that gRPC does not interpret further.
        tls: whether the URL's scheme requires TLS; None without a scheme.
        local: True if the target is always on this machine.
        address: address in messages, and authority that the server receives.
    """

    target: str
    tls: bool | None
    local: bool
    address: str

    def options(self, *, tls: bool) -> ChannelOptions:
        """Return the channel options for this endpoint.

        Without TLS, or on this machine, they disable the environment's
        proxies: a proxy could read secrets that may be sent only because the
        connection is local.

        Args:
            tls: True if the channel uses TLS.
        """
        options = () if may_use_proxy(tls=tls, local=self.local) else _NO_PROXY
        if "," in self.target:
            # From two addresses, gRPC would derive an invalid authority.
            options += (("grpc.default_authority", self.address),)
        return options


def is_loopback(host: str) -> bool:
    """Return True if a host is this machine: `localhost`, or a loopback address in digits, without brackets."""
    if host.lower() == _LOCAL_NAME:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        return address.is_loopback or (address.ipv4_mapped is not None and address.ipv4_mapped.is_loopback)
    return address.is_loopback


def may_use_proxy(*, tls: bool, local: bool) -> bool:
    """Return True if a connection may use the environment's proxy.

    Args:
        tls: True if the connection is encrypted to its far end.
        local: True if the far end is on this machine.
    """
    return tls and not local


def parse_endpoint(text: str) -> Endpoint:
    """Parse `host:port`, `[ipv6]:port`, `unix:/path`, `http://host:port` or `https://host:port`.

    gRPC's `dns:///`, `ipv4:` and `ipv6:` are accepted in front of one address.
    `localhost` means 127.0.0.1 and ::1 and is never resolved.

    Raises:
        TypeError: `text` is not a str.
        ValueError: `text` has none of these forms.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise TypeError(f"endpoint: give a str, not {type(text).__name__}")
    if text.startswith("unix:"):
        return _socket_endpoint(text)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"endpoint {text!a}: use printable ASCII without spaces; write an international name in its xn-- form"
        )
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() in {"http", "https"}:
        tls = scheme.lower() == "https"
        _check_authority_alone(rest)
        return _network_endpoint(text, rest.removesuffix("/"), tls=tls, default_port=443 if tls else 80)
    if separator and not text.startswith(_GRPC_SCHEMES):
        raise ValueError(f"endpoint {text!r}: there is no scheme {scheme}://; {_FORMS}")
    for prefix in _GRPC_SCHEMES:
        if text.startswith(prefix):
            found = _network_endpoint(text, text.removeprefix(prefix), tls=None)
            if prefix in {"ipv4:", "ipv6:"} and not found.target.startswith(prefix):
                raise ValueError(f"endpoint {text!r}: {prefix} needs one address of that kind")
            return found
    return _network_endpoint(text, text, tls=None)


def _check_authority_alone(rest: str) -> None:
    """Refuse URLs with more than host and port."""
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in place:
        # The message omits the text, which may contain a password.
        raise ValueError("endpoint with a user name or password: neither is sent; leave them and the `@` out")
    beyond = rest[len(place) :]
    if beyond not in {"", "/"}:
        raise ValueError(f"endpoint {place!r}: {beyond!r} behind the host has no meaning; {_FORMS}")


def _socket_endpoint(text: str) -> Endpoint:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = path.removeprefix("//")
        if not path.startswith("/"):
            raise ValueError(f"endpoint {text!a}: unix:// takes an absolute path, as in unix:///run/gateway")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise ValueError(f"endpoint {text!a}: the path is not valid Unicode") from None
    if not path or "\0" in path or size > _MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"endpoint {text!a}: unix: takes a path of 1 to {_MAX_SOCKET_PATH_BYTES} bytes without NUL"
        )
    # gRPC parses the target as a URI, so "%", "?" and "#" are quoted.
    return Endpoint("unix:" + quote(path), None, local=True, address=text)


def _network_endpoint(text: str, address: str, *, tls: bool | None, default_port: int = 0) -> Endpoint:
    host, port = _split(text, address, default_port)
    if host.startswith("["):
        return _ipv6_endpoint(text, host[1:-1], port, tls=tls)
    if host.lower() == _LOCAL_NAME:
        # Both families in digits, because a resolver could return another address.
        both = f"ipv6:[::ffff:127.0.0.1]:{port},[::1]:{port}"
        return Endpoint(both, tls, local=True, address=f"{_LOCAL_NAME}:{port}")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # Some resolvers parse 127.1, 2130706433 and 0x7f.1 as addresses, others as names.
        try:
            ipv4 = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(
                f"endpoint {text!r}: write an IPv4 address as four decimal numbers, 127.0.0.1"
            ) from None
        return Endpoint(f"ipv4:{ipv4}:{port}", tls, ipv4.is_loopback, f"{ipv4}:{port}")
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in _labels(host)):
        raise ValueError(f"endpoint {text!r}: {host!r} is no host name; {_FORMS}")
    return Endpoint(f"dns:///{host}:{port}", tls, local=False, address=f"{host}:{port}")


def _ipv6_endpoint(text: str, host: str, port: int, *, tls: bool | None) -> Endpoint:
    try:
        ipv6 = ipaddress.IPv6Address(host)
    except ValueError:
        raise ValueError(f"endpoint {text!r}: {host!r} is no IPv6 address") from None
    if ipv6.scope_id is not None:
        raise ValueError(f"endpoint {text!r}: an address with a zone id is not supported")
    return Endpoint(f"ipv6:[{ipv6}]:{port}", tls, is_loopback(str(ipv6)), f"[{ipv6}]:{port}")


def _split(text: str, address: str, default_port: int) -> tuple[str, int]:
    """Return host and port; an IPv6 address keeps its brackets."""
    if address.startswith("["):
        inside, bracket, after = address.partition("]")
        host = inside + bracket
        if not bracket or (after and not after.startswith(":")):
            raise ValueError(f"endpoint {text!r}: {_FORMS}")
        colon, port_text = after[:1], after[1:]
    else:
        if address.count(":") > 1:
            raise ValueError(f"endpoint {text!r}: write an IPv6 address in brackets, [::1]:8082")
        host, colon, port_text = address.partition(":")
    if not host or (not colon and not default_port):
        raise ValueError(f"endpoint {text!r}: {_FORMS}")
    if not colon:
        return host, default_port
    if not _PORT.fullmatch(port_text) or not 1 <= int(port_text) <= 65535:
        raise ValueError(f"endpoint {text!r}: the port must be a number from 1 to 65535")
    return host, int(port_text)


def _labels(host: str) -> list[str]:
    return host.removesuffix(".").split(".")
