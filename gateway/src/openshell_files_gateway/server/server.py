"""The gRPC server: port, transport settings, health and reflection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

import grpc
from openshell_files_protocol.limits import KIB, MAX_MESSAGE_BYTES, STREAM_OPTIONS

from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.tables import ServerSettings, TlsSettings
from openshell_files_gateway.server.calls import MAX_METADATA_BYTES
from openshell_files_gateway.server.public_services import PublicServices
from openshell_files_gateway.server.service import UnknownMethods

#: Messages up to this much above the limit reach the gateway, which refuses them with a reason; gRPC refuses larger ones (UPL-23).
_REFUSED_BYTES: Final = 64 * KIB

#: Time for cancelled calls to end, in seconds.
_END_SECONDS: Final = 3.0


class GatewayServer:
    """The gRPC server of the gateway.

    Args:
        settings: address, port and HTTP/2 settings.
        tls: certificate and key.
        handlers: handlers of the OpenShell service.
        public: the services without authentication.
        streams_per_connection: limit on open calls per connection.
    """

    def __init__(
        self,
        settings: ServerSettings,
        tls: TlsSettings,
        handlers: grpc.GenericRpcHandler,
        public: PublicServices,
        streams_per_connection: int,
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._server = grpc.aio.server(options=_options(settings, streams_per_connection))
        self._server.add_generic_rpc_handlers((handlers, *public.handlers(), UnknownMethods()))
        self._public = public

    async def start(self) -> int:
        """Listen and serve.

        Returns:
            The port it listens on.

        Raises:
            ConfigurationError: the address is not available, or a TLS file
                cannot be read.
        """
        target = authority(self._settings.bind_address, self._settings.port)
        try:
            if self._tls.disabled:
                port = self._server.add_insecure_port(target)
            else:
                port = self._server.add_secure_port(target, _credentials(self._tls))
        except RuntimeError as error:
            raise ConfigurationError.of(
                "server.port",
                f"cannot listen on {target}",
                "stop the program that listens there, or set another port",
            ) from error
        await self._server.start()
        self._public.begin()
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, wait up to `grace_seconds` for the running ones, and cancel the rest."""
        async with asyncio.TaskGroup() as stopping:
            stopping.create_task(self._stopped(grace_seconds), name="server-stop")
            # Concurrently: health watchers that do not read would use up the time of the other calls.
            await self._public.aclose()

    async def _stopped(self, grace_seconds: float) -> None:
        """Stop the server, and bound the wait for cancelled calls.

        grpc.aio would wait for ever for a call whose last write is blocked
        because its peer does not read.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds + _END_SECONDS):
                await self._server.stop(grace_seconds)


def authority(address: IPv4Address | IPv6Address, port: int) -> str:
    """Return HOST:PORT for a client, with brackets around an IPv6 address (RFC 3986 §3.2.2)."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _options(settings: ServerSettings, streams_per_connection: int) -> list[tuple[str, int]]:
    merged = dict(STREAM_OPTIONS) | {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES + _REFUSED_BYTES,
        "grpc.keepalive_time_ms": int(settings.keepalive_interval * 1000),
        "grpc.keepalive_timeout_ms": int(settings.keepalive_timeout * 1000),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # Upstream's supervisors ping every 10 s, even while idle; with the
        # default, gRPC would close their connections.
        "grpc.http2.min_ping_interval_without_data_ms": int(settings.min_ping_interval * 1000),
        # One limit instead of gRPC's pair of 8 and 16 KiB, between which it refuses at random. HTTP/2 settings announce it;
        # `CallGuard` refuses callers that exceed it nevertheless.
        "grpc.max_metadata_size": MAX_METADATA_BYTES,
        "grpc.absolute_max_metadata_size": MAX_METADATA_BYTES,
        # Limits what a peer may hold before it is authenticated. gRPC stops counting a reset stream before it has freed
        # it, so a low limit makes a flood of resets cheaper (docs/adr/0020).
        "grpc.max_concurrent_streams": streams_per_connection,
        "grpc.max_allowed_incoming_connections": settings.max_connections,
        # With it, a second gateway could take half of the connections of this port without an error.
        "grpc.so_reuseport": 0,
    }
    if settings.max_connection_age is not None:
        merged |= {
            "grpc.max_connection_age_ms": int(settings.max_connection_age * 1000),
            "grpc.max_connection_age_grace_ms": int(settings.connection_age_grace * 1000),
        }
    return list(merged.items())


def _credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    key = _read("tls.key", tls.key)
    certificate = _read("tls.certificate", tls.certificate)
    client_ca = _read("tls.client_ca", tls.client_ca) if tls.client_ca is not None else None
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
    )


def _read(key: str, path: Path | None) -> bytes:
    if path is None:
        raise ConfigurationError.of(key, "required", "set the path of the PEM file, or set tls.disabled")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError.of(key, str(error), "set the path of a readable PEM file") from error
