"""Options that every command has: which gateway, who is calling, how it is trusted."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from openshell_files_protocol.endpoints import parse_endpoint

from openshell_files import ClientCredentials, FilesClient, OidcAuth, RetryPolicy, TlsConfig
from openshell_files._local.tls import FIELD, KeysApartError
from openshell_files._local.token_file import FileToken
from openshell_files.auth import Auth
from openshell_files.cli.output.wording import Where
from openshell_files.errors import LocalFileError

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
        help="File with the bearer token; read for every call, a pipe once.",
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
        help="Attempts without progress before giving up; more while a gateway that answered is away.",
        rich_help_panel=_GROUP,
        min=1,
    ),
]
Timeout = Annotated[float | None, typer.Option(help="Seconds for everything.", min=0.001)]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON, also about a failure.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no words about success.")]


#: Options of which one is needed to know who is calling.
_WAYS: Final = ("token", "token_file", "issuer")
#: Variables of options that can contradict others.
_VARIABLES: Final[Mapping[str, str]] = {
    "endpoint": "OPENSHELL_FILES_ENDPOINT",
    "token": "OPENSHELL_FILES_TOKEN",
    "token_file": "OPENSHELL_FILES_TOKEN_FILE",
    "issuer": "OPENSHELL_FILES_OIDC_ISSUER",
    "tls_ca": "OPENSHELL_FILES_TLS_CA",
    "tls_cert": "OPENSHELL_FILES_TLS_CERT",
    "tls_key": "OPENSHELL_FILES_TLS_KEY",
}


#: Options by the field of `TlsConfig` that they become.
_TLS_FIELDS: Final[Mapping[str, str]] = {
    "ca_path": "tls_ca",
    "cert_path": "tls_cert",
    "key_path": "tls_key",
}


class UsageMistake(Exception):  # noqa: N818 - not an error of the program
    """The command line cannot be carried out as it is."""


@contextmanager
def reading_options() -> Generator[None]:
    """Take a `ValueError` inside as the command line's fault."""
    try:
        yield
    except ValueError as error:
        raise UsageMistake(str(error)) from None


@functools.cache
def _file_token(path: Path) -> FileToken:
    """Return the one reader of a token file: a pipe gives its token once, and a command has a client for each file."""
    return FileToken(path)


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
    #: Options whose values come from the environment.
    variables: frozenset[str] = frozenset()

    def client(self) -> FilesClient:
        """Make the client.

        Raises:
            UsageMistake: the options do not fit together.
            LocalFileError: a PEM file cannot be read.
        """
        with reading_options(), self._naming_files():
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

    @contextmanager
    def _naming_files(self) -> Generator[None]:
        """Name the option of a PEM file that is at fault."""
        try:
            yield
        except KeysApartError:
            raise ValueError(
                f"{self._named('tls_key')}: the key in {self.tls_key} is not that of the certificate in {self.tls_cert}; "
                f"give the two files that belong together with {self._named('tls_cert')} and {self._named('tls_key')}"
            ) from None
        except LocalFileError as error:
            option = _TLS_FIELDS.get(error.metadata.get(FIELD, ""))
            if option is not None:
                error.reword(f"{self._named(option)}: {error.message}")
            raise

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
            raise ValueError(
                f"give both of {self._named('tls_cert')} and {self._named('tls_key')}, or neither"
            )
        endpoint = parse_endpoint(self.endpoint)
        given = self.tls_ca or self.tls_cert or self.tls_key
        if given and endpoint.tls is False:
            named = [self._named(name) for name in ("tls_ca", "tls_cert", "tls_key") if getattr(self, name)]
            raise ValueError(
                f"{' and '.join(named)} and {self._named('endpoint')} with http:// contradict each other: write https://, "
                "or unset the certificates"
            )
        if (
            self._ways()
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
        ways = self._ways()
        if len(ways) > 1:
            verb = "set" if self.variables.issuperset(ways) else "give"
            raise ValueError(f"{verb} one of {', '.join(map(self._named, ways))}, and leave the others out")
        if self.token_file is not None and "token_file" in ways:
            return OidcAuth(token=_file_token(self.token_file))
        if self.issuer is not None and "issuer" in ways:
            if not self.client_id or not self.client_secret:
                raise ValueError("--issuer needs --client-id and OPENSHELL_FILES_OIDC_CLIENT_SECRET")
            return ClientCredentials(
                self.issuer, self.client_id, self.client_secret, self.audience, self.scope
            )
        return None if self.token is None else OidcAuth(token=self.token)

    def _ways(self) -> list[str]:
        """Return how tokens are to be had; an option wins over the variable of another way."""
        given = [name for name in _WAYS if getattr(self, name) is not None]
        return [name for name in given if name not in self.variables] or given

    def _named(self, name: str) -> str:
        """Return an option as it was given: by itself, or by its variable."""
        return _VARIABLES[name] if name in self.variables else f"--{name.replace('_', '-')}"
