"""The client of a command, by its connection options: gateway, token, certificates, timeouts."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from openshell_files_protocol.endpoints import parse_endpoint

from openshell_files._local.token_file import FileToken
from openshell_files.auth import Auth, ClientCredentials, OidcAuth
from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.output.wording import Retries, Where
from openshell_files.errors import LocalFileError
from openshell_files.options import RetryPolicy, TlsConfig

if TYPE_CHECKING:
    from openshell_files import FilesClient

#: Options that provide a token; at most one is used.
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


#: Option of each field of `TlsConfig`.
_TLS_FIELDS: Final[Mapping[str, str]] = {
    "ca_path": "tls_ca",
    "cert_path": "tls_cert",
    "key_path": "tls_key",
}


@functools.cache
def _file_token(path: Path) -> FileToken:
    """Return the only reader of a token file: a pipe can be read once, and a command has a client per file."""
    return FileToken(path)


@dataclass(frozen=True, slots=True)
class Connecting:
    """The connection options of one command line.

    Attributes:
        variables: options whose values come from the environment.
        retries: of all clients of the command, for its waiting line.
    """

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
    variables: frozenset[str] = frozenset()
    retries: Retries = field(default_factory=Retries)

    def import_client(self) -> None:
        """Import what `client` needs: gRPC, and httpx for an issuer. Help and wrong command lines do not wait for it."""
        import_module("openshell_files._official.blocking")
        if self.issuer is not None:
            import_module("openshell_files._sync.tokens.requests")

    def client(self) -> FilesClient:
        """Make the client.

        Raises:
            UsageMistake: the options contradict each other.
            LocalFileError: a PEM file cannot be read.
        """
        # See `import_client`.
        from openshell_files import FilesClient  # noqa: PLC0415 - see above

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
                retry=RetryPolicy(attempts=self.attempts, on_retry=self.retries.note),
                allow_insecure_token=self.allow_insecure_token,
            )

    @contextmanager
    def _naming_files(self) -> Generator[None]:
        """Add the option to the error of a PEM file."""
        from openshell_files._local.tls import FIELD, KeysApartError  # noqa: PLC0415 - it imports gRPC

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
        """True if the connection uses TLS."""
        return self.endpoint.lower().startswith("https://") or self.tls_ca is not None

    def where(
        self, sandbox: str, path: str = "", *, by_id: bool, uploading: bool = False, target: str = ""
    ) -> Where:
        """Return the subject of a command, for its messages."""
        return Where(
            sandbox,
            by_id,
            self.workspace,
            self.endpoint,
            path,
            uploading=uploading,
            encrypted=self.encrypted,
            authority=self.tls_ca,
            target=target,
            retries=self.retries,
        )

    def _tls(self) -> TlsConfig | None:
        """Return the certificates; None for plaintext.

        Raises:
            ValueError: the options contradict each other. The SDK's own message
                would name its arguments instead of the options.
        """
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                f"give both of {self._named('tls_cert')} and {self._named('tls_key')}, or neither"
            )
        try:
            endpoint = parse_endpoint(self.endpoint)
        except ValueError as error:
            raise ValueError(f"{self._named('endpoint')}: {str(error).removeprefix('endpoint ')}") from None
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
        """Return the given options of a token; an option overrides the variable of another one."""
        given = [name for name in _WAYS if getattr(self, name) is not None]
        return [name for name in given if name not in self.variables] or given

    def _named(self, name: str) -> str:
        """Return the name of an option, or of its variable if that gave the value."""
        return _VARIABLES[name] if name in self.variables else f"--{name.replace('_', '-')}"
