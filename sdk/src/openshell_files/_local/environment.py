"""Connection settings from the variables `OPENSHELL_FILES_*`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files._local.token_file import FileToken
from openshell_files.auth import Auth, ClientCredentials, OidcAuth
from openshell_files.options import TlsConfig

PREFIX: Final = "OPENSHELL_FILES_"


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """Connection settings of the environment.

    Attributes:
        endpoint: the gateway.
        auth: source of the bearer token; None if no variable names a token or an issuer.
        workspace: of the sandbox names.
        tls: None if no variable names a certificate.
    """

    endpoint: str
    auth: Auth | None
    workspace: str
    tls: TlsConfig | None


def read_environment(environment: Mapping[str, str]) -> EnvironmentSettings:
    """Read the variables of the command line. An empty variable counts as unset.

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
    return EnvironmentSettings(
        endpoint, _auth(environment), _variable(environment, "WORKSPACE") or DEFAULT_WORKSPACE, tls
    )


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
