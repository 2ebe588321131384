"""Assembles the gateway from its settings, starts it and stops it."""

from __future__ import annotations

import asyncio
import os
import pwd
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from openshell_files_protocol.reasons import Reason

from openshell_files_gateway.auth.assembly import Access
from openshell_files_gateway.config.consistency import database_path
from openshell_files_gateway.config.errors import ConfigurationError
from openshell_files_gateway.config.permissive_settings import find_permissive_settings
from openshell_files_gateway.config.settings import GatewaySettings
from openshell_files_gateway.config.supervisor_name import local_address
from openshell_files_gateway.config.tables import ComputeSettings, SandboxSettings
from openshell_files_gateway.files.agents import FileAgents
from openshell_files_gateway.files.capabilities import CapabilityMethods
from openshell_files_gateway.files.methods import FileMethods
from openshell_files_gateway.files.options.core.lane_budget import LaneStatistics
from openshell_files_gateway.files.options.directories import DirectoryMethods
from openshell_files_gateway.files.options.lanes import ARRIVAL_SECONDS, LaneTable
from openshell_files_gateway.files.options.trees import TreeMethods
from openshell_files_gateway.installed import command
from openshell_files_gateway.relay.broker import BrokerStatistics, RelayBroker
from openshell_files_gateway.relay.core.relay_states import RelayState
from openshell_files_gateway.relay.core.waiting_relays import RelayTable
from openshell_files_gateway.relay.pool import MAX_IDLE, RelayPool
from openshell_files_gateway.relay.supervisor_methods import SupervisorMethods
from openshell_files_gateway.sandboxes.directory import AgentPort, Sandbox, SandboxDirectory
from openshell_files_gateway.server.calls import CallGuard
from openshell_files_gateway.server.core.transfer_limits import TransferLimits, TransferStatistics
from openshell_files_gateway.server.first_message import FIRST_MESSAGE_SECONDS, FirstMessages
from openshell_files_gateway.server.health import health_method
from openshell_files_gateway.server.public_services import PublicServices
from openshell_files_gateway.server.server import GatewayServer, authority
from openshell_files_gateway.server.service import build_handlers
from openshell_files_gateway.server.turn_queue import TurnQueue
from openshell_files_gateway.simulation.command_methods import CommandMethods
from openshell_files_gateway.simulation.core.sandbox_message import new_message
from openshell_files_gateway.simulation.lifecycle import SandboxLifecycle
from openshell_files_gateway.simulation.processes.process_driver import ProcessDriver, ProcessOptions
from openshell_files_gateway.simulation.sandbox_methods import SandboxMethods
from openshell_files_gateway.simulation.store import SandboxStore, StoreError

log = structlog.get_logger("openshell_files_gateway")

#: Least limit on open calls per connection; RFC 9113 §6.5.2 advises at least 100.
_LEAST_STREAMS: Final = 128


@dataclass(frozen=True, slots=True)
class GatewayStatistics:
    """Statistics of the gateway's parts: current numbers, and counts since its start."""

    broker: BrokerStatistics
    relays: Counter[RelayState]
    transfers: TransferStatistics
    silent: TransferStatistics
    commands: TransferStatistics
    lanes: LaneStatistics

    @property
    def idle(self) -> bool:
        """True if no supervisor is connected, and no operation runs or waits."""
        broker = self.broker
        held = (
            broker.sessions.current,
            broker.relays.pending,
            broker.waiting_for_session,
            broker.waiting_for_claim,
            self.transfers.active,
            self.transfers.waiting,
            self.silent.active,
            self.commands.active,
            self.lanes.taken,
            self.lanes.waiting,
        )
        return not any(held)


class Gateway:
    """All parts of a gateway, and the order in which they start and stop.

    Args:
        settings: the configuration.
        access: authentication and authorization, made from the same settings.
        lifeline: descriptor of a pipe that stops the supervisors which this
            gateway starts, when its other end closes; None if they outlive
            the gateway.
    """

    def __init__(self, settings: GatewaySettings, access: Access, *, lifeline: int | None = None) -> None:
        self._settings = settings
        self._access = access
        #: True once it listens; a gateway that could not start logs no end.
        self._serves = False
        relay = settings.relay
        directory = SandboxDirectory(map(_configured, settings.sandboxes), access.membership)
        self._broker = RelayBroker(
            RelayTable(
                max_pending=relay.max_pending,
                max_pending_per_sandbox=relay.max_pending_per_sandbox,
                pending_seconds=relay.claim_timeout,
            ),
            session_wait_seconds=relay.session_wait_timeout,
            claim_wait_seconds=relay.claim_timeout,
        )
        self._pool = RelayPool(self._broker)
        limits = settings.limits
        self._transfers = TurnQueue(
            TransferLimits(
                max_total=limits.max_transfers,
                max_per_sandbox=limits.max_transfers_per_sandbox,
                share=limits.principal_share,
                max_waiting=limits.max_transfers,
            ),
            limits.transfer_wait,
        )
        self._silent = TurnQueue(
            TransferLimits(
                max_total=limits.max_transfers,
                max_per_sandbox=limits.max_transfers,
                share=limits.principal_share,
                what="uploads without a first message",
            )
        )
        # A command may run for days, so no call waits for its slot.
        self._commands = TurnQueue(
            TransferLimits(
                max_total=limits.max_commands,
                max_per_sandbox=limits.max_commands_per_sandbox,
                share=limits.principal_share,
                what="commands",
                reason=Reason.TOO_MANY_COMMANDS,
            )
        )
        self._lanes = LaneTable(
            limits.max_upload_lanes, min(ARRIVAL_SECONDS, limits.idle_timeout), limits.principal_share
        )
        agents = FileAgents(directory, self._pool, self._transfers, limits)
        first_messages = FirstMessages(self._silent, min(FIRST_MESSAGE_SECONDS, limits.idle_timeout))
        capabilities = CapabilityMethods(
            directory,
            self._broker,
            limits,
            lanes=self._lanes,
            most_transfers=self._transfers.most_of_one_principal,
        )
        commands = CommandMethods(directory, self._broker, self._commands, limits.idle_timeout)
        store = SandboxStore(_database(settings))
        self._driver = (
            ProcessDriver(
                _process_options(settings, settings.compute.directory, lifeline),
                access.sandbox_tokens,
                self._supervisor_failed,
            )
            if settings.compute.directory is not None
            else None
        )
        self._lifecycle = SandboxLifecycle(
            directory, store, self._driver, self._broker, max_sandboxes=settings.compute.max_sandboxes
        )
        sandboxes = SandboxMethods(directory, self._lifecycle, store)
        supervisors = SupervisorMethods(
            directory,
            self._broker,
            access.sandbox_tokens,
            self._lifecycle,
            heartbeat_seconds=relay.heartbeat_interval,
            silence_seconds=relay.silence_timeout,
        )
        self._public = PublicServices()
        handlers = build_handlers(
            CallGuard(access.authenticator, access.policy),
            {"Health": health_method(lambda: self._public.serving)}
            | sandboxes.implementations()
            | commands.implementations()
            | FileMethods(agents, first_messages, self._lanes, limits).implementations()
            | DirectoryMethods(agents).implementations()
            | TreeMethods(agents, first_messages, limits).implementations()
            | capabilities.implementations()
            | supervisors.implementations(),
        )
        self._server = GatewayServer(
            settings.server, settings.tls, handlers, self._public, _streams_per_connection(settings)
        )

    async def start(self) -> str:
        """Listen and serve.

        Returns:
            The address, HOST:PORT.

        Raises:
            ConfigurationError: the address is not available, or a TLS file or
                the database cannot be opened.
        """
        try:
            await self._lifecycle.load()
        except (StoreError, ValueError) as error:
            raise ConfigurationError.of(
                "database_url", str(error), "name the file of this gateway, or move the old one away"
            ) from error
        self._access.start()
        port = await self._server.start()
        self._serves = True
        endpoint = authority(self._settings.server.bind_address, port)
        if self._driver is not None:
            self._driver.listen_at(
                self._settings.compute.endpoint
                or authority(local_address(self._settings.server.bind_address), port)
            )
        await self._lifecycle.resume()
        log.info(
            "gateway listens",
            endpoint=endpoint,
            tls=not self._settings.tls.disabled,
            issuer=self._settings.oidc.issuer if self._settings.oidc else None,
            sandboxes=len(self._settings.sandboxes),
        )
        for permissive in find_permissive_settings(self._settings):
            log.warning(permissive.effect, because=permissive.cause)
        return endpoint

    async def stop(self) -> None:
        """Refuse new calls, wait for the running ones, and end; all within the stop timeout (RLY-19, RLY-21).

        Relays are calls of their own, so transfers continue after the
        supervisors' sessions have ended. A caller can resume an upload that
        the timeout interrupts.
        """
        loop = asyncio.get_running_loop()
        budget = self._settings.server.stop_timeout
        deadline = loop.time() + budget
        running, cut = self._running(), 0

        def count() -> None:
            nonlocal cut
            cut = self._running()

        if self._serves:
            log.info("gateway stops", stop_timeout=budget, running=running)
        # Before the first refusal, so that callers who check health first send no call that is refused.
        self._public.refuse_soon()
        # While callers wait for a supervisor, new calls still get a status
        # with a reason.
        await self._broker.drain(min(budget / 2, self._settings.relay.claim_timeout))
        # Fires before the server's own timer, which is created later.
        timer = loop.call_at(deadline, count)
        try:
            await self._server.stop(max(0.0, deadline - loop.time()))
        finally:
            timer.cancel()
            await self._lifecycle.aclose()
            if self._driver is not None:
                await self._driver.aclose(stop=self._settings.compute.stop_with_gateway)
            await self._access.aclose()
        if self._serves:
            log.info("gateway stopped", running=running, cut=cut)
        # grpc.aio runs its last callbacks one turn of the loop later.
        await asyncio.sleep(0)

    def statistics(self) -> GatewayStatistics:
        """Return the statistics of all parts."""
        return GatewayStatistics(
            self._broker.statistics(),
            self._pool.statistics(),
            self._transfers.statistics(),
            self._silent.statistics(),
            self._commands.statistics(),
            self._lanes.statistics(),
        )

    def _running(self) -> int:
        """Return the number of running transfers and commands."""
        return self._transfers.statistics().active + self._commands.statistics().active

    def _supervisor_failed(self, sandbox_id: str, why: str) -> None:
        self._lifecycle.failed(sandbox_id, why)


def _streams_per_connection(settings: GatewaySettings) -> int:
    """Return the limit on open calls per connection: enough for every call of one supervisor.

    A supervisor has its session, one relay for each operation that runs or waits in its sandbox, and idle relays.
    """
    limits, relay = settings.limits, settings.relay
    needed = (
        limits.max_transfers_per_sandbox + limits.max_commands_per_sandbox + relay.max_pending_per_sandbox
    )
    return max(_LEAST_STREAMS, needed + MAX_IDLE + 2)


def _configured(settings: SandboxSettings) -> Sandbox:
    agent = None
    if settings.agent_port is not None and settings.agent_secret is not None:
        agent = AgentPort(settings.agent_port, settings.agent_secret)
    return Sandbox(
        id=settings.id,
        name=settings.name,
        workspace=settings.workspace,
        message=new_message(settings.id, settings.name, settings.workspace, time.time()),
        agent=agent,
    )


def _database(settings: GatewaySettings) -> Path | None:
    """Return the file of the database; None if the gateway makes no sandboxes and needs none."""
    if settings.database_url is not None:
        return database_path(settings.database_url)
    directory = settings.compute.directory
    return None if directory is None else directory / "gateway.db"


def _process_options(settings: GatewaySettings, directory: Path, lifeline: int | None) -> ProcessOptions:
    compute: ComputeSettings = settings.compute
    tls_ca = None if settings.tls.disabled else compute.tls_ca or settings.tls.certificate
    return ProcessOptions(
        # Absolute, because supervisors change their working directory.
        directory=directory.absolute(),
        command=[command("openshell-supervisor-sim"), "run"],
        arguments=compute.supervisor_arguments,
        tls_ca=None if tls_ca is None else tls_ca.absolute(),
        owner=None if compute.user is None else _owner(compute.user),
        lifeline=lifeline,
    )


def _owner(user: str) -> tuple[int, int]:
    """Return user and group id of a user of this machine.

    Raises:
        ConfigurationError: the user does not exist, or this process may not
            start processes of that user.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigurationError.of(
            "compute.user", f"there is no user {user!r}", "name one that exists"
        ) from None
    if os.geteuid() not in (0, entry.pw_uid):
        raise ConfigurationError.of(
            "compute.user",
            f"only root can start processes of {user!r}",
            "unset it, or run the gateway as root",
        )
    return entry.pw_uid, entry.pw_gid
