"""TLS handshake errors of each address of `localhost`.

gRPC reports only the address that it tried last. For a gateway that listens on
127.0.0.1 alone that is ::1, where no server listens.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from openshell_files_protocol.endpoints import parse_endpoint

_SECONDS: Final = 2.0
_ADDRESSES: Final = ("127.0.0.1", "::1")
_NAME: Final = "localhost"


def tls_failures(endpoint: str, authority: Path | None) -> str:
    """Return the TLS error of each address; empty if the endpoint has one address only.

    Args:
        endpoint: of the gateway, which could not be reached.
        authority: PEM file of the trusted certificates; None for those of the system.
    """
    parsed = parse_endpoint(endpoint)
    name, _, port = parsed.address.rpartition(":")
    if name != _NAME:
        return ""
    return "; ".join(_failures(int(port), authority))


def _failures(port: int, authority: Path | None) -> Iterator[str]:
    for address in _ADDRESSES:
        try:
            context = ssl.create_default_context(cafile=authority)
            with socket.create_connection((address, port), _SECONDS) as connection:
                context.wrap_socket(connection, server_hostname=_NAME).close()
        except ssl.SSLCertVerificationError as error:
            yield f"CERTIFICATE_VERIFY_FAILED: {error.verify_message}"
        except ssl.SSLError as error:
            yield f"SSL: {error.reason}"
        except OSError:
            # No server listens there: gRPC has reported it.
            continue
        else:
            # The system trusts the certificate; gRPC has its own list and does not.
            yield "CERTIFICATE_VERIFY_FAILED"
