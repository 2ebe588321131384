"""Puts the gateway together from its settings."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from openshell_files_gateway.auth.assembly import Access
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.core.relays import RelayTable
from openshell_files_gateway.core.transfers import TransferLimits
from openshell_files_gateway.relay.broker import RelayBroker
from openshell_files_gateway.rpc.calls import CallGuard
from openshell_files_gateway.rpc.files import FileMethods
from openshell_files_gateway.rpc.health import health
from openshell_files_gateway.rpc.server import GatewayServer, authority
from openshell_files_gateway.rpc.service import build_handlers
from openshell_files_gateway.rpc.supervisors import SupervisorMethods
from openshell_files_gateway.sandboxes import Sandbox, SandboxDirectory

log = structlog.get_logger("openshell_files_gateway")

#: A supervisor that missed so many heartbeats is taken for dead.
_MISSED_HEARTBEATS: Final = 3


class Gateway:
    """Everything the gateway owns, and the order in which it starts and stops.

    Args:
        settings: the configuration.
        access: who gets in, made from the same settings.
    """

    def __init__(self, settings: GatewaySettings, access: Access) -> None:
        self._settings = settings
        self._access = access
        relay = settings.relay
        directory = SandboxDirectory(
            (Sandbox(id=s.id, name=s.name, workspace=s.workspace) for s in settings.sandboxes),
            access.membership,
        )
        self._broker = RelayBroker(
            RelayTable(
                max_pending=relay.max_pending,
                max_pending_per_sandbox=relay.max_pending_per_sandbox,
                pending_seconds=relay.claim_timeout,
            ),
            session_wait_seconds=relay.session_wait_timeout,
            claim_wait_seconds=relay.claim_timeout,
        )
        transfers = TransferLimits(
            max_total=settings.limits.max_transfers, max_per_sandbox=settings.limits.max_transfers_per_sandbox
        )
        files = FileMethods(directory, self._broker, transfers, settings.limits)
        supervisors = SupervisorMethods(
            directory,
            self._broker,
            access.sandbox_tokens,
            heartbeat_seconds=relay.heartbeat_interval,
            silence_seconds=relay.heartbeat_interval * _MISSED_HEARTBEATS,
        )
        handlers = build_handlers(
            CallGuard(access.authenticator, access.policy),
            {"Health": health} | files.implementations() | supervisors.implementations(),
        )
        self._server = GatewayServer(settings.server, settings.tls, handlers)

    async def start(self) -> str:
        """Listen and serve.

        Returns:
            The address, HOST:PORT.

        Raises:
            ConfigurationError: the address or a TLS file cannot be used.
        """
        self._access.start()
        port = await self._server.start()
        endpoint = authority(self._settings.server.bind_address, port)
        log.info(
            "gateway listens",
            endpoint=endpoint,
            tls=not self._settings.tls.disabled,
            issuer=self._settings.oidc.issuer if self._settings.oidc else None,
            sandboxes=len(self._settings.sandboxes),
        )
        return endpoint

    async def stop(self) -> None:
        """Refuse what is new, let transfers finish within the drain timeout, end.

        Relays are calls of their own, so transfers go on although the
        sessions have ended.
        """
        log.info("gateway stops", drain_timeout=self._settings.server.drain_timeout)
        self._broker.shut_down()
        try:
            await self._server.stop(self._settings.server.drain_timeout)
        finally:
            await self._access.aclose()
        # grpc.aio finishes its own callbacks a turn of the loop later.
        await asyncio.sleep(0)
