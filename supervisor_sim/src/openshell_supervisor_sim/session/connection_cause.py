"""Why a gateway cannot be reached, where gRPC only says that a socket was closed.

A connection that fails because one side speaks TLS and the other does not, or
because a certificate is not trusted, looks to gRPC like a gateway that is
away: "Socket closed", for ever. So a supervisor that found no gateway looks
once more, with a connection of its own that carries nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final

#: For each look, in seconds.
_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class ConnectionCause:
    """Looks why a connection fails.

    Attributes:
        endpoint: HOST:PORT of the gateway; of another form, nothing is found.
        authority: PEM certificates that `--tls-ca` named; None if the connection is plain.
    """

    endpoint: str
    authority: bytes | None

    async def find(self) -> str:
        """Return the cause and its remedy in one sentence, or "" if it has nothing to do with TLS."""
        host, _, port = self.endpoint.rpartition(":")
        host = host.strip("[]")
        if not host or not port.isdecimal():
            return ""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                return await self._look(host, int(port))
        except (OSError, TimeoutError, ValueError):
            # Nobody listens there, or whoever listens says nothing.
            return ""

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
        """Say what a handshake that failed means."""
        answered = isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER"
        if self.authority is None:
            # A server of TLS that refuses this handshake, for want of a certificate, say, still speaks TLS.
            if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
                return f"{self.endpoint} speaks TLS; give --tls-ca with the authority of the gateway's certificate"
            return ""
        if answered or isinstance(error, ssl.SSLEOFError | ConnectionResetError):
            return f"{self.endpoint} does not speak TLS; leave --tls-ca out, or name the port that does"
        return f"the TLS handshake with {self.endpoint} failed: {error.reason if isinstance(error, ssl.SSLError) else error}"

    def _context(self) -> ssl.SSLContext:
        if self.authority is not None:
            return trusting(self.authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        # It is only asked whether TLS is spoken; nothing is sent.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context


def trusting(authority: bytes) -> ssl.SSLContext:
    """Return what trusts certificates of these authorities only.

    Args:
        authority: certificates in PEM.

    Raises:
        ValueError: there is no certificate in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cadata=authority.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ValueError("there is no certificate in PEM in it") from None
    return context
