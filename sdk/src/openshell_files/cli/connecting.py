"""Options that every command has: which gateway, who is calling, how it is trusted."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from openshell_files_protocol.endpoints import parse_endpoint

from openshell_files import ClientCredentials, FilesClient, OidcAuth, RetryPolicy, TlsConfig
from openshell_files._local.environment import FileToken
from openshell_files.auth import Auth
from openshell_files.cli.wording import Where

_GROUP = "Connection"

Endpoint = Annotated[
    str,
    typer.Option(
        envvar="OPENSHELL_FILES_ENDPOINT", help="Gateway: host:port or a URL.", rich_help_panel=_GROUP
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="OPENSHELL_FILES_TOKEN",
        help="Bearer token. Others can see command lines: better the variable or a file.",
        rich_help_panel=_GROUP,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="OPENSHELL_FILES_TOKEN_FILE",
        help="File with the bearer token; read anew for every call.",
        rich_help_panel=_GROUP,
    ),
]
Issuer = Annotated[
    str | None,
    typer.Option(
        envvar="OPENSHELL_FILES_OIDC_ISSUER",
        help="Get tokens by client credentials from this issuer. The secret comes from "
        "OPENSHELL_FILES_OIDC_CLIENT_SECRET.",
        rich_help_panel=_GROUP,
    ),
]
ClientId = Annotated[
    str | None, typer.Option(envvar="OPENSHELL_FILES_OIDC_CLIENT_ID", rich_help_panel=_GROUP)
]
ClientSecret = Annotated[str | None, typer.Option(envvar="OPENSHELL_FILES_OIDC_CLIENT_SECRET", hidden=True)]
Audience = Annotated[str, typer.Option(envvar="OPENSHELL_FILES_OIDC_AUDIENCE", rich_help_panel=_GROUP)]
Scope = Annotated[str, typer.Option(envvar="OPENSHELL_FILES_OIDC_SCOPE", rich_help_panel=_GROUP)]
Workspace = Annotated[
    str,
    typer.Option(envvar="OPENSHELL_FILES_WORKSPACE", help="Where NAME is looked up.", rich_help_panel=_GROUP),
]
ById = Annotated[bool, typer.Option("--by-id", help="NAME is the sandbox's id.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(envvar="OPENSHELL_FILES_TLS_CA", help="PEM certificates to trust.", rich_help_panel=_GROUP),
]
TlsCert = Annotated[
    Path | None,
    typer.Option(
        envvar="OPENSHELL_FILES_TLS_CERT", help="This client's certificate.", rich_help_panel=_GROUP
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option(envvar="OPENSHELL_FILES_TLS_KEY", help="Its key.", rich_help_panel=_GROUP),
]
InsecureToken = Annotated[
    bool,
    typer.Option("--allow-insecure-token", help="Send the token without TLS.", rich_help_panel=_GROUP),
]
CallTimeout = Annotated[
    float,
    typer.Option(help="Seconds for calls that carry no content.", rich_help_panel=_GROUP, min=0.001),
]
IdleTimeout = Annotated[
    float,
    typer.Option(
        help="Seconds in which nothing moves before an attempt ends.", rich_help_panel=_GROUP, min=0.001
    ),
]
Attempts = Annotated[
    int,
    typer.Option(
        help="Tries that bring nothing before giving up; more while a gateway that answered is away.",
        rich_help_panel=_GROUP,
        min=1,
    ),
]
Timeout = Annotated[float | None, typer.Option(help="Seconds for everything.", min=0.001)]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON, also about a failure.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words about success.")]


class UsageMistake(Exception):  # noqa: N818 - not an error of the program
    """The command line cannot be carried out as it is."""


@contextmanager
def reading_options() -> Generator[None]:
    """Take a `ValueError` inside as the command line's fault."""
    try:
        yield
    except ValueError as error:
        raise UsageMistake(str(error)) from None


@dataclass(frozen=True, slots=True)
class Connecting:
    """The connection options of one command line."""

    endpoint: str
    token: str | None
    token_file: Path | None
    issuer: str | None
    client_id: str | None
    client_secret: str | None
    audience: str
    scope: str
    workspace: str
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    allow_insecure_token: bool
    call_timeout: float
    idle_timeout: float
    attempts: int

    def client(self) -> FilesClient:
        """Make the client.

        Raises:
            UsageMistake: the options do not fit together.
            LocalFileError: a PEM file cannot be read.
        """
        with reading_options():
            tls = self._tls()
            auth = self._auth()
            return FilesClient(
                self.endpoint,
                auth=auth,
                workspace=self.workspace,
                tls=tls,
                timeout=self.call_timeout,
                idle_timeout=self.idle_timeout,
                retry=RetryPolicy(attempts=self.attempts),
                allow_insecure_token=self.allow_insecure_token,
            )

    @property
    def encrypted(self) -> bool:
        """Whether the connection uses TLS."""
        return self.endpoint.lower().startswith("https://") or self.tls_ca is not None

    def where(self, sandbox: str, path: str = "", *, by_id: bool, uploading: bool = False) -> Where:
        """Return what a command is about, for its messages."""
        return Where(
            sandbox,
            by_id,
            self.workspace,
            self.endpoint,
            path,
            uploading=uploading,
            encrypted=self.encrypted,
            authority=self.tls_ca,
        )

    def _tls(self) -> TlsConfig | None:
        """Return how the gateway is recognised; None for plaintext.

        Raises:
            ValueError: the options do not fit together. What the SDK would
                say of them is for programmers.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("give both of --tls-cert and --tls-key, or neither")
        endpoint = parse_endpoint(self.endpoint)
        given = self.tls_ca or self.tls_cert or self.tls_key
        if given and endpoint.tls is False:
            raise ValueError("--tls-ca and its like need an endpoint with https:// or without a scheme")
        authenticated = self.token is not None or self.token_file is not None or self.issuer is not None
        if (
            authenticated
            and not given
            and not endpoint.tls
            and not endpoint.local
            and not self.allow_insecure_token
        ):
            raise ValueError(
                f"the token would go to {endpoint.address} without TLS: use https:// or --tls-ca, or "
                "--allow-insecure-token if you know the network"
            )
        return TlsConfig(self.tls_ca, self.tls_cert, self.tls_key) if given else None

    def _auth(self) -> Auth | None:
        ways = [self.token is not None, self.token_file is not None, self.issuer is not None]
        if sum(ways) > 1:
            raise ValueError("give one of --token, --token-file and --issuer")
        if self.token_file is not None:
            return OidcAuth(token=FileToken(self.token_file))
        if self.issuer is not None:
            if not self.client_id or not self.client_secret:
                raise ValueError("--issuer needs --client-id and OPENSHELL_FILES_OIDC_CLIENT_SECRET")
            return ClientCredentials(
                self.issuer, self.client_id, self.client_secret, self.audience, self.scope
            )
        return None if self.token is None else OidcAuth(token=self.token)
