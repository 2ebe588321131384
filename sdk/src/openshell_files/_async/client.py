"""The client: one gateway, one identity, many sandboxes."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from openshell_files_protocol.endpoints import parse_endpoint

from openshell_files._arguments import checked
from openshell_files._async._calls import Connection
from openshell_files._async.credentials import TokenSource
from openshell_files._async.rpc import Rpc
from openshell_files._async.sandbox import AsyncSandboxFiles
from openshell_files._core.endpoints import CHANNEL_OPTIONS, check_token_may_be_sent
from openshell_files._core.heap import keep_buffers
from openshell_files._core.requests import NamedSandbox, SandboxHolder, sandbox_address
from openshell_files._local.environment import surroundings
from openshell_files._local.tls import channel_credentials
from openshell_files.auth import Auth
from openshell_files.options import RetryPolicy, TlsConfig


class AsyncFilesClient:
    """Connects to a gateway. Use it as a context manager, or call `aclose`.

    Nothing is sent before the first call. An asynchronous client belongs to
    the event loop of its first call; a blocking one may serve many threads.

    Args:
        endpoint: `host:port`, `unix:/path`, or a URL `http://host:port` or
            `https://host:port`.
        auth: who is calling; None calls without a token.
        workspace: where sandbox names are looked up.
        tls: None for plaintext, unless the endpoint is an https URL.
        timeout: for calls that carry no content, in seconds.
        idle_timeout: seconds in which nothing moves before a transfer's
            attempt is given up. There is no limit for a transfer as a whole
            unless its call sets one.
        retry: how often to try.
        allow_insecure_token: send tokens without TLS to other machines.

    Raises:
        ValueError: the endpoint is malformed, a token would be sent over
            plaintext to another machine, or the key of `tls` is not that of
            its certificate.
        LocalFileError: a file of `tls` cannot be read, or does not hold what
            it has to.
    """

    @checked
    def __init__(
        self,
        endpoint: str,
        *,
        auth: Auth | None = None,
        workspace: str = "default",
        tls: TlsConfig | None = None,
        timeout: float = 30.0,
        idle_timeout: float = 120.0,
        retry: RetryPolicy | None = None,
        allow_insecure_token: bool = False,
    ) -> None:
        where = parse_endpoint(endpoint)
        if where.tls is False and tls is not None:
            raise ValueError(f"endpoint {endpoint!r} is http, but tls is given")
        if where.tls and tls is None:
            tls = TlsConfig()
        if auth is not None:
            check_token_may_be_sent(where, tls=tls is not None, allowed=allow_insecure_token)
        options = (*CHANNEL_OPTIONS, *where.options(tls=tls is not None))
        connection = Connection(where.target, channel_credentials(tls) if tls else None, options)
        self._use(connection, auth, workspace, timeout, idle_timeout, retry)

    @classmethod
    def from_env(
        cls, *, timeout: float = 30.0, idle_timeout: float = 120.0, retry: RetryPolicy | None = None
    ) -> Self:
        """Return a client for the gateway that the environment describes.

        It reads the variables of the command line: `OPENSHELL_FILES_ENDPOINT`;
        one of `OPENSHELL_FILES_TOKEN`, `OPENSHELL_FILES_TOKEN_FILE` and
        `OPENSHELL_FILES_OIDC_ISSUER` (with `..._OIDC_CLIENT_ID`,
        `..._OIDC_CLIENT_SECRET`, `..._OIDC_AUDIENCE`, `..._OIDC_SCOPE`);
        `OPENSHELL_FILES_WORKSPACE`; `OPENSHELL_FILES_TLS_CA`, `..._TLS_CERT`
        and `..._TLS_KEY`.

        Args:
            timeout: for calls that carry no content, in seconds.
            idle_timeout: seconds in which nothing moves before a transfer's
                attempt is given up.
            retry: how often to try.

        Raises:
            ValueError: `OPENSHELL_FILES_ENDPOINT` is unset or malformed,
                variables contradict each other, or a token would be sent over
                plaintext to another machine.
            LocalFileError: a certificate's file cannot be read.
        """
        found = surroundings(os.environ)
        return cls(
            found.endpoint,
            auth=found.auth,
            workspace=found.workspace,
            tls=found.tls,
            timeout=timeout,
            idle_timeout=idle_timeout,
            retry=retry,
        )

    @checked
    def _use(
        self,
        connection: Connection,
        auth: Auth | None,
        workspace: str,
        timeout: float,
        idle_timeout: float,
        retry: RetryPolicy | None,
    ) -> None:
        """Make this the client of a connection."""
        keep_buffers()
        self._workspace = workspace
        self._rpc = Rpc(
            connection,
            TokenSource(auth),
            timeout=timeout,
            idle=idle_timeout,
            policy=retry or RetryPolicy(),
        )

    def sandbox(
        self,
        name: str | NamedSandbox | SandboxHolder = "",
        *,
        id: str = "",  # noqa: A002 - the protocol's own word
        workspace: str | None = None,
    ) -> AsyncSandboxFiles:
        """Return the files of a sandbox; nothing is sent yet.

        Args:
            name: the sandbox's name, or what the official SDK has for it: a
                `SandboxRef`, a `SandboxSession` or a `Sandbox`. Those bring
                their workspace.
            id: its id, instead of the name.
            workspace: where the name is looked up; None takes the client's.

        Raises:
            ValueError: neither name nor id is given, or both; or a workspace
                besides the one that `name` brings.
        """
        return AsyncSandboxFiles(self._rpc, sandbox_address(name, id, workspace, self._workspace))

    async def aclose(self) -> None:
        """Close the connection; transfers that are running end."""
        await self._rpc.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
