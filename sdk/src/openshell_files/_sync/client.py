# Written by sdk/unasync.py from _async/client.py. Change that file instead.
"""Client of one gateway with one identity, for many sandboxes."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from openshell_files_protocol.endpoints import parse_endpoint
from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files._arguments import checked
from openshell_files._core.endpoints import CHANNEL_OPTIONS, check_token_may_be_sent
from openshell_files._core.malloc_tuning import keep_buffers
from openshell_files._core.requests import NamedSandbox, SandboxHolder, sandbox_address
from openshell_files._local.environment import read_environment
from openshell_files._local.tls import channel_credentials
from openshell_files._sync._calls import Connection
from openshell_files._sync.rpc import Rpc
from openshell_files._sync.sandbox import SandboxFiles
from openshell_files._sync.tokens.source import TokenSource
from openshell_files.auth import Auth
from openshell_files.options import RetryPolicy, TlsConfig


class GatewayClient:
    """Connects to a gateway. Use it as a context manager, or call `close`.

    Nothing is sent before the first call. An asynchronous client belongs to
    the event loop of its first call; many threads may use a blocking client.
    The public class is `FilesClient`.

    Args:
        endpoint: `host:port`, `unix:/path`, or a URL `http://host:port` or
            `https://host:port`.
        auth: source of the bearer token; None calls without a token.
        workspace: of the sandbox names.
        tls: None for plaintext, unless the endpoint is an https URL.
        timeout: of each call without content, in seconds.
        idle_timeout: seconds without movement after which an attempt of a
            transfer fails. A whole transfer has no limit unless its call
            sets one.
        retry: retries of each call.
        allow_insecure_token: send tokens without TLS to other machines.

    Raises:
        ValueError: the endpoint is malformed, a token would be sent over
            plaintext to another machine, or the key of `tls` does not fit
            its certificate.
        LocalFileError: a file of `tls` cannot be read, or has no certificate
            or key.
    """

    @checked
    def __init__(
        self,
        endpoint: str,
        *,
        auth: Auth | None = None,
        workspace: str = DEFAULT_WORKSPACE,
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
        """Return a client for the gateway of the environment variables.

        They are the variables of the command line: `OPENSHELL_FILES_ENDPOINT`;
        one of `OPENSHELL_FILES_TOKEN`, `OPENSHELL_FILES_TOKEN_FILE` and
        `OPENSHELL_FILES_OIDC_ISSUER` (with `..._OIDC_CLIENT_ID`,
        `..._OIDC_CLIENT_SECRET`, `..._OIDC_AUDIENCE`, `..._OIDC_SCOPE`);
        `OPENSHELL_FILES_WORKSPACE`; `OPENSHELL_FILES_TLS_CA`, `..._TLS_CERT`
        and `..._TLS_KEY`.

        Args:
            timeout: of each call without content, in seconds.
            idle_timeout: seconds without movement after which an attempt of a
                transfer fails.
            retry: retries of each call.

        Raises:
            ValueError: `OPENSHELL_FILES_ENDPOINT` is unset or malformed,
                variables contradict each other, or a token would be sent over
                plaintext to another machine.
            LocalFileError: a certificate's file cannot be read.
        """
        found = read_environment(os.environ)
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
        """Set the connection and the defaults of all calls."""
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
        id: str = "",  # noqa: A002 - the protocol's term
        workspace: str | None = None,
    ) -> SandboxFiles:
        """Return the files of a sandbox; nothing is sent yet.

        Args:
            name: the sandbox's name, or an object of the official SDK: a
                `SandboxRef`, a `SandboxSession` or a `Sandbox`, which have
                their workspace.
            id: its id, instead of the name.
            workspace: of the name; None takes the client's.

        Raises:
            ValueError: neither name nor id is given, or both; or the workspace
                is another than that of `name`.
        """
        return SandboxFiles(self._rpc, sandbox_address(name, id, workspace, self._workspace))

    def close(self) -> None:
        """Close the connection; running transfers end."""
        self._rpc.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
