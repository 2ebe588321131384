"""How the harness's own clients connect: with TLS where the SDK would, and with the same token."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc

#: A certificate authority's file, if the gateway serves with TLS.
AUTHORITY: Final = os.environ.get("OPENSHELL_FILES_TLS_CA")
WORKSPACE: Final = os.environ.get("OPENSHELL_FILES_WORKSPACE", "default")


def metadata() -> tuple[tuple[str, str], ...]:
    """Return what goes with every call."""
    return (("authorization", f"Bearer {os.environ['OPENSHELL_FILES_TOKEN']}"),)


def open_channel(options: Sequence[tuple[str, Any]] = ()) -> Any:  # noqa: ANN401 - grpc's channels are not typed
    """Connect to the gateway that the environment names."""
    endpoint, library = os.environ["OPENSHELL_FILES_ENDPOINT"], grpc
    if AUTHORITY is None:
        return library.insecure_channel(endpoint, options)
    credentials = library.ssl_channel_credentials(Path(AUTHORITY).read_bytes())
    return library.secure_channel(endpoint, credentials, options)
