"""The gRPC server: port, transport settings, health and reflection."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from openshell_files_protocol.limits import MAX_MESSAGE_BYTES, STREAM_OPTIONS
from openshell_files_protocol.methods import SERVICE

from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.settings import ServerSettings, TlsSettings


class GatewayServer:
    """Listens and serves until stopped."""

    def __init__(self, settings: ServerSettings, tls: TlsSettings, handlers: grpc.GenericRpcHandler) -> None:
        self._settings = settings
        self._tls = tls
        self._server = grpc.aio.server(options=_options(settings))
        self._server.add_generic_rpc_handlers((handlers,))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self) -> int:
        """Listen and serve.

        Returns:
            The port.

        Raises:
            ConfigurationError: the address cannot be used, or a TLS file
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
                "server.port", f"cannot listen on {target}", "stop what listens there, or choose another port"
            ) from error
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let running ones finish for a while, cut the rest."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)


def authority(address: IPv4Address | IPv6Address, port: int) -> str:
    """Return HOST:PORT as a client takes it; an IPv6 address has brackets (RFC 3986 §3.2.2)."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    merged = dict(STREAM_OPTIONS) | {
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": int(settings.keepalive_interval * 1000),
        "grpc.keepalive_timeout_ms": int(settings.keepalive_timeout * 1000),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.max_pings_without_data": 0,
        # Real supervisors ping every 10 s, also while idle; the default would
        # send them away.
        "grpc.http2.min_ping_interval_without_data_ms": int(settings.min_ping_interval * 1000),
        # Two gateways on one port would share its connections silently.
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
        raise ConfigurationError.of(key, "required", "name the file, or set tls.disabled")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError.of(key, str(error), "name a PEM file that can be read") from error
