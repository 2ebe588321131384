"""Reads and checks the PEM files of a `TlsConfig`."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Final

import grpc

from openshell_files.errors import ErrorFacts, LocalFileError, LocalReason, local_file_error
from openshell_files.options import TlsConfig

#: Names the file of gRPC's default root certificates. If that file has none, gRPC
#: ends the process without a message.
ROOTS_VARIABLE: Final = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"

#: Reasons of OpenSSL for a key of another certificate; the last one for another algorithm.
_APART: Final = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})

#: Key in an error's metadata for the field of `TlsConfig`.
FIELD: Final = "field"


class KeysApartError(ValueError):
    """The key of a `TlsConfig` does not fit its certificate."""


def channel_credentials(config: TlsConfig) -> grpc.ChannelCredentials:
    """Return gRPC's credentials for a configuration.

    All files are checked here, because a failed handshake does not report its
    cause.

    Raises:
        LocalFileError: a PEM file cannot be read, or has no certificate or key;
            or the file of `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`, if it is needed.
            The metadata names the field.
        KeysApartError: the key does not fit the certificate.
    """
    authority = _read(config.ca_path, "ca_path")
    if authority is None:
        _check_default_roots(os.environ.get(ROOTS_VARIABLE, ""))
    else:
        _check_certificate(
            authority, str(config.ca_path), "ca_path", "Name the PEM file of the gateway's CA."
        )
    certificate, key = _read(config.cert_path, "cert_path"), _read(config.key_path, "key_path")
    if certificate is not None and key is not None:
        fix = "Name the PEM file of this client's certificate."
        _check_certificate(certificate, str(config.cert_path), "cert_path", fix)
        _check_key(key, str(config.cert_path), str(config.key_path))
    return grpc.ssl_channel_credentials(
        root_certificates=authority, private_key=key, certificate_chain=certificate
    )


def _check_certificate(pem: bytes, path: str, field: str, fix: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:
        raise _fault(f"{path} holds no PEM certificate", path, field, fix) from error


def _check_key(key: bytes, cert_path: str, path: str) -> None:
    if b"PRIVATE KEY-----" not in key:
        fix = "Name the PEM file of the certificate's private key."
        raise _fault(f"{path} holds no PEM private key", path, "key_path", fix)
    if b"ENCRYPTED" in key:
        fix = "Name a file with the key as it is without its passphrase."
        raise _fault(f"the key in {path} is encrypted", path, "key_path", fix)
    if not (os.path.isfile(cert_path) and os.path.isfile(path)):
        # A pipe can be read once, and OpenSSL reads the files again.
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The gateway decides whether a key is strong enough.
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    try:
        context.load_cert_chain(cert_path, path, password="")
    except ssl.SSLError as error:
        if error.reason in _APART:
            raise KeysApartError(
                f"key_path: the key in {path} is not that of the certificate in {cert_path}"
            ) from error
        fix = "Name the PEM file of the certificate's private key."
        raise _fault(f"the PEM private key in {path} is damaged", path, "key_path", fix) from error


def _fault(message: str, path: str, field: str, fix: str) -> LocalFileError:
    return LocalFileError(
        message, ErrorFacts(LocalReason.LOCAL_FILE, fix=fix, metadata={FIELD: field}), path=path
    )


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


def _read(path: str | PathLike[str] | None, field: str) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        made = local_file_error(error, str(Path(path)), "cannot read")
        made.facts = replace(made.facts, metadata={FIELD: field})
        raise made from error
