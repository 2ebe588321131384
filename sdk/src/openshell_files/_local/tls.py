"""Reads the PEM files of a `TlsConfig`."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import grpc

from openshell_files.errors import local_file_error
from openshell_files.options import TlsConfig


def channel_credentials(config: TlsConfig) -> grpc.ChannelCredentials:
    """Return gRPC's credentials for a configuration.

    Raises:
        LocalFileError: a PEM file cannot be read.
    """
    return grpc.ssl_channel_credentials(
        root_certificates=_read(config.ca_path),
        private_key=_read(config.key_path),
        certificate_chain=_read(config.cert_path),
    )


def _read(path: str | PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise local_file_error(error, str(Path(path)), "cannot read") from error
