"""Reads the PEM files of a `TlsConfig`."""

from __future__ import annotations

import ssl
from os import PathLike
from pathlib import Path

import grpc

from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason, local_file_error
from openshell_files.options import TlsConfig


def channel_credentials(config: TlsConfig) -> grpc.ChannelCredentials:
    """Return gRPC's credentials for a configuration.

    Raises:
        LocalFileError: a PEM file cannot be read, or holds no certificate.
    """
    authority = _read(config.ca_path)
    if authority is not None:
        _check_authority(authority, str(config.ca_path))
    return grpc.ssl_channel_credentials(
        root_certificates=authority,
        private_key=_read(config.key_path),
        certificate_chain=_read(config.cert_path),
    )


def _check_authority(pem: bytes, path: str) -> None:
    """Find out before the first connection, whose failure would not say why."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise LocalFileError(
            f"{path} holds no PEM certificate",
            ErrorFacts(LocalReason.LOCAL_FILE, fix="Name the PEM file of the gateway's CA."),
            path=path,
        ) from error


def _read(path: str | PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise local_file_error(error, str(Path(path)), "cannot read") from error
