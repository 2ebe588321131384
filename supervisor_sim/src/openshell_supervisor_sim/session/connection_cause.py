"""The cause of a failed connection, which gRPC reports only as a closed socket.

If no process listens at the address, gRPC reports its own list of attempts. If one side speaks TLS and the other does not, or if a certificate is not trusted, gRPC reports
"Socket closed", as for a gateway that does not run. So a supervisor that finds no gateway opens
another connection, which carries nothing, to find the cause.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from dataclasses import dataclass
from typing import Final

#: Timeout of each check, in seconds.
_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ConnectionCause:
    """Finds the cause of a failed connection.

    Attributes:
        endpoint: HOST:PORT of the gateway; for another form no cause is found.
        authority: PEM certificates of `--tls-ca`; None for a plain connection.
    """

    endpoint: str
    authority: bytes | None

    async def find(self) -> str:
        """Return the cause in one sentence, with its remedy if there is one; "" if none is found."""
        host, _, port = self.endpoint.rpartition(":")
        host = host.strip("[]")
        if not host or not port.isdecimal():
            return ""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await self._look(host, int(port))
        except (TimeoutError, ValueError):
            # It sends nothing, or the name cannot be looked up at all.
            return ""
        except OSError as error:
            return f"no gateway at {self.endpoint}: {_words(error)}"

    async def _look(self, host: str, port: int) -> str:
        context = self._context()
        try:
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            return (
                f"the certificate of {self.endpoint} is not accepted: {error.verify_message}; "
                "--tls-ca has to name the authority that signed it, and --endpoint a name in it"
            )
        except (ssl.SSLError, ConnectionResetError, asyncio.IncompleteReadError) as error:
            return self._not_tls(error)
        writer.transport.abort()
        if self.authority is not None:
            return ""
        return f"{self.endpoint} speaks TLS; give --tls-ca with the authority of the gateway's certificate"

    def _not_tls(self, error: Exception) -> str:
        """Return the cause of a failed handshake."""
        answered = isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER"
        if self.authority is None:
            # A server that refuses this handshake, for a missing client certificate for example, still speaks TLS.
            if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
                return f"{self.endpoint} speaks TLS; give --tls-ca with the authority of the gateway's certificate"
            return ""
        if answered or isinstance(error, ssl.SSLEOFError | ConnectionResetError):
            return f"{self.endpoint} does not speak TLS; omit --tls-ca, or name the port that does"
        return f"the TLS handshake with {self.endpoint} failed: {error.reason if isinstance(error, ssl.SSLError) else error}"

    def _context(self) -> ssl.SSLContext:
        if self.authority is not None:
            return trusting(self.authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        # This only checks whether the server speaks TLS; nothing is sent.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def _words(error: OSError) -> str:
    """Return why a connection failed. asyncio writes addresses instead of the system's words."""
    # A name with several addresses has one error without a number, whose text has the numbers.
    found = re.search(r"\[Errno (\d+)\]", str(error))
    number = error.errno or (int(found[1]) if found else 0)
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def trusting(authority: bytes) -> ssl.SSLContext:
    """Return a TLS context that trusts only certificates of some authorities.

    Args:
        authority: certificates in PEM.

    Raises:
        ValueError: the text contains no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError("there is no certificate in PEM in it") from None
    return context
