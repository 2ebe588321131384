"""The run of a confined supervisor, or of an agent behind a port: connect, serve, drain, stop."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
from openshell_files_process.server_process import settle_heap, wait_for_stop
from openshell_files_process.tasks import TaskScope
from openshell_files_protocol.endpoints import Endpoint
from openshell_files_protocol.limits import STREAM_OPTIONS

from openshell_supervisor_sim.agent import FileAgent
from openshell_supervisor_sim.agent_port import AgentPort
from openshell_supervisor_sim.commands.connection import CommandServer
from openshell_supervisor_sim.faults import Fault
from openshell_supervisor_sim.relay.targets import RelayTargets
from openshell_supervisor_sim.session.backoff import Backoff
from openshell_supervisor_sim.session.connection_cause import ConnectionCause
from openshell_supervisor_sim.session.control_stream import SupervisorSession
from openshell_supervisor_sim.session.token_file import TokenFile
from openshell_supervisor_sim.session.token_renewal import TokenRenewal
from openshell_supervisor_sim.startup import Places, Started

log = structlog.get_logger("openshell_supervisor_sim")

#: Keepalive pings as the real supervisor sends them, even while idle.
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The session has its own backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """The settings of a running supervisor.

    Attributes:
        places: root and working directory.
        endpoint: of the gateway.
        sandbox_id: of the token.
        tokens: for every call.
        authority: PEM certificates that sign the gateway's; None for a plain connection.
        backoff: between attempts.
        stdin_closes: stop when standard input ends.
        json_line: print a line when first connected.
        drain_timeout: seconds to wait for running transfers when stopping.
        faults: that may pause a transfer for good.
    """

    places: Places
    endpoint: Endpoint
    sandbox_id: str
    tokens: TokenFile
    authority: bytes | None
    backoff: Backoff
    stdin_closes: bool
    json_line: bool
    drain_timeout: float
    faults: Sequence[Fault]


async def serve_sandbox(started: Started, agent: FileAgent | None, settings: RunSettings) -> None:
    """Serve until asked to stop, and then drain."""
    async with AsyncExitStack() as stack:
        # First, because a signal without a handler would kill the process, and its children would
        # not be stopped.
        waiting = await stack.enter_async_context(TaskScope())
        stopping = waiting.start(wait_for_stop(stdin_closes=settings.stdin_closes), "wait-for-stop")
        commands = None
        if started.host is not None:
            await stack.enter_async_context(started.host)
            commands = CommandServer(
                started.host,
                root=started.command_root,
                workdir=settings.places.workdir,
                environment=started.environment,
            )
        if agent is not None:
            await agent.start()
            stack.push_async_callback(agent.aclose)
        channel = await stack.enter_async_context(_channel(settings))
        session = SupervisorSession(
            channel=channel,
            sandbox_id=settings.sandbox_id,
            token=settings.tokens,
            targets=RelayTargets(files=agent, commands=commands),
            backoff=settings.backoff,
            cause=ConnectionCause(settings.endpoint.address, settings.authority).find,
        )
        settle_heap()
        serving = await stack.enter_async_context(TaskScope())
        running = serving.start(session.run(), "session")
        renewal = TokenRenewal(channel=channel, tokens=settings.tokens)
        renewing = serving.start(renewal.run(), "token-renewal")
        if settings.json_line:
            serving.start(_print_when_connected(session, started), "print-when-connected")
        await asyncio.wait({running, renewing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, renewing):
            if task.done():
                task.result()
        await _drain(session, settings)
    log.info("stopped", by=stopping.result())


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRunSettings:
    """The settings of a running agent behind a port.

    Attributes:
        listener: socket of the port.
        secret: shared with the gateway.
        stdin_closes: stop when standard input ends.
        json_line: print a line when it listens.
        drain_timeout: seconds to wait for running transfers when stopping.
        faults: that may pause a transfer for good.
    """

    listener: socket.socket
    secret: bytes
    stdin_closes: bool
    json_line: bool
    drain_timeout: float
    faults: Sequence[Fault]


async def serve_agent(started: Started, agent: FileAgent, settings: AgentRunSettings) -> None:
    """Serve a file agent on a port until asked to stop, and then drain."""
    async with AsyncExitStack() as stack:
        waiting = await stack.enter_async_context(TaskScope())
        stopping = waiting.start(wait_for_stop(stdin_closes=settings.stdin_closes), "wait-for-stop")
        stack.enter_context(settings.listener)
        await agent.start()
        stack.push_async_callback(agent.aclose)
        port = AgentPort(agent, settings.secret)
        serving = await stack.enter_async_context(TaskScope())
        accepting = serving.start(port.serve(settings.listener), "agent-port")
        settle_heap()
        host, number = settings.listener.getsockname()[:2]
        address = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
        log.info("listening", address=address)
        if settings.json_line:
            print(json.dumps({"listening": address, "confinement": started.described()}), flush=True)
        await asyncio.wait({accepting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if accepting.done():
            accepting.result()
        await serving.end()
        _end_if_held(settings.faults)
        left = await port.drain(settings.drain_timeout)
        if left:
            log.warning("operations were cut off", operations=left)
    log.info("stopped", by=stopping.result())


async def _drain(session: SupervisorSession, settings: RunSettings) -> None:
    _end_if_held(settings.faults)
    left = await session.drain(settings.drain_timeout)
    if left:
        log.warning("relays are cut off", relays=left)
    _end_if_held(settings.faults)


def _end_if_held(faults: Sequence[Fault]) -> None:
    """End the process if a fault pauses a transfer, which cannot be stopped in order and must not continue."""
    if any(fault.holds_a_transfer for fault in faults):
        os._exit(0)


@asynccontextmanager
async def _channel(settings: RunSettings) -> AsyncGenerator[grpc.aio.Channel]:
    encrypted = settings.authority is not None
    options = [*STREAM_OPTIONS, *_KEEPALIVE, *settings.endpoint.options(tls=encrypted)]
    if settings.authority is None:
        channel = grpc.aio.insecure_channel(settings.endpoint.target, options)
    else:
        credentials = grpc.ssl_channel_credentials(settings.authority)
        channel = grpc.aio.secure_channel(settings.endpoint.target, credentials, options)
    try:
        yield channel
    finally:
        await channel.close()


async def _print_when_connected(session: SupervisorSession, started: Started) -> None:
    await session.connected.wait()
    line = {"connected": session.sandbox_id, "confinement": started.described()}
    print(json.dumps(line), flush=True)
