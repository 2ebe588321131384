"""Checks that the gateway's certificate has the name by which its own supervisors reach it."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from cryptography import x509
from openshell_files_protocol.endpoints import parse_endpoint

from openshell_files_gateway.config.errors import Problem

if TYPE_CHECKING:
    from openshell_files_gateway.config.settings import GatewaySettings

_TITLE: Final = "compute.endpoint (OPENSHELL_COMPUTE_ENDPOINT)"


def local_address(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the address at which local processes reach a listener: loopback for an unspecified address."""
    if not address.is_unspecified:
        return address
    return IPv4Address("127.0.0.1") if address.version == 4 else IPv6Address("::1")


def check_supervisors_name(settings: GatewaySettings) -> Iterator[Problem]:
    """Check that the certificate has the name of the endpoint that supervisors call; the file must be readable."""
    endpoint = settings.compute.endpoint
    if endpoint is None:
        called = str(local_address(settings.server.bind_address))
    else:
        try:
            called = parse_endpoint(endpoint).address.rpartition(":")[0].strip("[]")
        except ValueError as error:
            yield Problem(_TITLE, str(error), "give HOST:PORT")
            return
    certificate = settings.tls.certificate
    if certificate is None:
        return
    names = _names(certificate.read_bytes())
    if not any(_matches(called, name) for name in names):
        what = f"'{endpoint}'" if endpoint else f"is not set, so supervisors call {called}; that"
        yield Problem(
            _TITLE,
            f"{what} is not in the gateway's certificate, which names {', '.join(names) or 'nothing'}",
            "set it to HOST:PORT with a name of the certificate",
        )


def _names(pem: bytes) -> list[str]:
    """Return the names of the first certificate as gRPC reads them: its alternative names, else its common name."""
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return [str(attribute.value) for attribute in common]
    return [
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    ]


def _matches(called: str, name: str) -> bool:
    called, name = called.lower().removesuffix("."), name.lower().removesuffix(".")
    if name.startswith("*."):
        # A wildcard covers one label (RFC 9525 §6.3).
        return bool(called.partition(".")[0]) and called.partition(".")[2] == name[2:]
    return called == name
