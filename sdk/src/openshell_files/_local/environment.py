"""The connection that the `OPENSHELL_FILES_*` variables describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openshell_files._core.token_exchange import credentials_error
from openshell_files.auth import Auth, ClientCredentials, OidcAuth
from openshell_files.options import TlsConfig

PREFIX: Final = "OPENSHELL_FILES_"

#: No token is larger; a device would never end.
_MAX_TOKEN_FILE_BYTES: Final = 64 * 1024
_FILE_FIX: Final = "Check the path of the token file, and its permissions."


@dataclass(frozen=True, slots=True)
class FileToken:
    """Reads a token for every call, so that a rotated token is used at once.

    Attributes:
        path: the file that holds the token and nothing else.
    """

    path: Path

    def __call__(self) -> str:
        """Return the token.

        Raises:
            CredentialsError: the file cannot be read, is empty, or is larger
                than a token can be (64 KiB).
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(_MAX_TOKEN_FILE_BYTES + 1)
        except OSError as error:
            raise credentials_error(
                f"cannot read the token file {self.path}: {error.strerror or error}", _FILE_FIX
            ) from error
        token = content.decode("ascii", "replace").strip()
        if not token or len(content) > _MAX_TOKEN_FILE_BYTES:
            what = "is empty" if not token else "is too large for a token"
            raise credentials_error(f"the token file {self.path} {what}", _FILE_FIX)
        return token


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the environment says about a connection.

    Attributes:
        endpoint: the gateway.
        auth: who is calling; None if no variable names a token or an issuer.
        workspace: where sandbox names are looked up.
        tls: None if no variable names a certificate.
    """

    endpoint: str
    auth: Auth | None
    workspace: str
    tls: TlsConfig | None


def surroundings(environment: Mapping[str, str]) -> Surroundings:
    """Read the variables that the command line reads, too. An empty variable counts as unset.

    Args:
        environment: usually `os.environ`.

    Raises:
        ValueError: `OPENSHELL_FILES_ENDPOINT` is unset, or variables contradict each other. The message names them.
    """
    endpoint = _variable(environment, "ENDPOINT")
    if endpoint is None:
        raise ValueError(
            f"{PREFIX}ENDPOINT is not set: export the gateway's host:port or URL, "
            "or pass `endpoint` to the client"
        )
    ca, certificate, key = (_variable(environment, name) for name in ("TLS_CA", "TLS_CERT", "TLS_KEY"))
    tls = None
    if ca or certificate or key:
        tls = TlsConfig(*(Path(one) if one else None for one in (ca, certificate, key)))
    return Surroundings(endpoint, _auth(environment), _variable(environment, "WORKSPACE") or "default", tls)


def _auth(environment: Mapping[str, str]) -> Auth | None:
    token, file, issuer = (_variable(environment, name) for name in ("TOKEN", "TOKEN_FILE", "OIDC_ISSUER"))
    if sum(way is not None for way in (token, file, issuer)) > 1:
        raise ValueError(
            f"set one of {PREFIX}TOKEN, {PREFIX}TOKEN_FILE and {PREFIX}OIDC_ISSUER, and unset the others"
        )
    if file is not None:
        return OidcAuth(token=FileToken(Path(file)))
    if issuer is not None:
        client_id, secret = (_variable(environment, f"OIDC_CLIENT_{name}") for name in ("ID", "SECRET"))
        if client_id is None or secret is None:
            raise ValueError(
                f"{PREFIX}OIDC_ISSUER needs {PREFIX}OIDC_CLIENT_ID and {PREFIX}OIDC_CLIENT_SECRET"
            )
        return ClientCredentials(
            issuer,
            client_id,
            secret,
            _variable(environment, "OIDC_AUDIENCE") or "",
            _variable(environment, "OIDC_SCOPE") or "",
        )
    return None if token is None else OidcAuth(token=token)


def _variable(environment: Mapping[str, str], name: str) -> str | None:
    return environment.get(PREFIX + name) or None
