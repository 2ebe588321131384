"""Reads the PEM files of a `TlsConfig`."""

from __future__ import annotations

import os
import ssl
from os import PathLike
from pathlib import Path
from typing import Final

import grpc

from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason, local_file_error
from openshell_files.options import TlsConfig

#: Where gRPC takes the certificates from that are trusted unless others are given. If it
#: finds none there, it ends the process without a word.
ROOTS_VARIABLE: Final = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"


def channel_credentials(config: TlsConfig) -> grpc.ChannelCredentials:
    """Return gRPC's credentials for a configuration.

    Raises:
        LocalFileError: a PEM file cannot be read, or holds no certificate; or
            this is so of the one that `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH` names,
            and it is needed.
    """
    authority = _read(config.ca_path)
    if authority is None:
        _check_default_roots(os.environ.get(ROOTS_VARIABLE, ""))
    else:
        _check_authority(authority, str(config.ca_path))
    return grpc.ssl_channel_credentials(
        root_certificates=authority,
        private_key=_read(config.key_path),
        certificate_chain=_read(config.cert_path),
    )


def _check_authority(pem: bytes, path: str) -> None:
    """Find out before the first connection, whose failure would not say why."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise LocalFileError(
            f"{path} holds no PEM certificate",
            ErrorFacts(LocalReason.LOCAL_FILE, fix="Name the PEM file of the gateway's CA."),
            path=path,
        ) from error


def _check_default_roots(path: str) -> None:
    if not path:
        return
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise local_file_error(error, f"{path}, which {ROOTS_VARIABLE} names", "cannot read") from error
    if _CERTIFICATE not in content:
        raise LocalFileError(
            f"{path}, which {ROOTS_VARIABLE} names, has no certificate",
            ErrorFacts(LocalReason.LOCAL_FILE, fix=f"Unset {ROOTS_VARIABLE}, or name a PEM file."),
            path=path,
        )


def _read(path: str | PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise local_file_error(error, str(Path(path)), "cannot read") from error
