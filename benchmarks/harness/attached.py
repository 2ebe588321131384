"""Somebody else's gateway: found by BENCH_* settings, and asked once whether they are right before anything is measured."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.datamodel.v1 import datamodel_pb2
from openshell_files_protocol.pb.openshell.v1 import sandboxes_pb2

from harness.stack import MEMORY, Sandbox, Stack

#: An answer to one small question takes no longer, also from far away.
_PATIENCE_SECONDS: Final = 10.0


class AttachError(Exception):
    """The settings do not lead to a sandbox; the text names the one that is wrong, and what to do."""


def is_wanted() -> bool:
    """Whether another gateway is to be measured."""
    return "BENCH_ENDPOINT" in os.environ


@contextmanager
def attached(settings: Mapping[str, str]) -> Generator[Stack]:
    """Use the gateway that BENCH_ENDPOINT names.

    Args:
        settings: BENCH_ENDPOINT, BENCH_TOKEN and BENCH_SANDBOX (a name); if
            they are needed, BENCH_WORKSPACE and BENCH_TLS_CA (a file).

    Raises:
        AttachError: one of them is missing or wrong.
    """
    missing = [name for name in ("BENCH_TOKEN", "BENCH_SANDBOX") if not settings.get(name)]
    if missing:
        raise AttachError(
            f"BENCH_ENDPOINT is set, and {' and '.join(missing)} not. Set BENCH_TOKEN to a token that the gateway "
            "takes and BENCH_SANDBOX to the name of a sandbox that runs, or unset BENCH_ENDPOINT to measure "
            "processes of our own."
        )
    sandbox = Sandbox(settings["BENCH_SANDBOX"], _sandbox_id(settings), None, "/sandbox")
    environment = {
        "OPENSHELL_FILES_ENDPOINT": settings["BENCH_ENDPOINT"],
        "OPENSHELL_FILES_TOKEN": settings["BENCH_TOKEN"],
        "OPENSHELL_FILES_WORKSPACE": _workspace(settings),
    }
    if settings.get("BENCH_TLS_CA"):
        environment["OPENSHELL_FILES_TLS_CA"] = str(Path(settings["BENCH_TLS_CA"]).absolute())
    scratch = Path(tempfile.mkdtemp(prefix="openshell-bench-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield Stack(settings["BENCH_ENDPOINT"], environment, (sandbox,), {}, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _workspace(settings: Mapping[str, str]) -> str:
    return settings.get("BENCH_WORKSPACE") or "default"


def _sandbox_id(settings: Mapping[str, str]) -> str:
    """Ask the gateway for the sandbox's id, which the RFC's own messages need; that tries everything else too."""
    authority = settings.get("BENCH_TLS_CA")
    if authority and not Path(authority).is_file():
        raise AttachError(
            f"BENCH_TLS_CA={authority}: there is no such file. Set it to the certificate, in PEM, of the authority "
            "that signed the gateway's."
        )
    endpoint = settings["BENCH_ENDPOINT"]
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or "/" in endpoint:
        raise AttachError(
            f"BENCH_ENDPOINT={endpoint} is not HOST:PORT. Set it to the gateway's address, as 127.0.0.1:8080, "
            "without http:// before it."
        )
    request = sandboxes_pb2.GetSandboxRequest(
        name=settings["BENCH_SANDBOX"],
        workspace_scope=datamodel_pb2.WorkspaceSelector(workspace=_workspace(settings)),
    )
    with _channel(endpoint, authority) as channel:
        ask = channel.unary_unary(
            methods.GET_SANDBOX,
            sandboxes_pb2.GetSandboxRequest.SerializeToString,
            sandboxes_pb2.SandboxResponse.FromString,
        )
        bearer = ("authorization", f"Bearer {settings['BENCH_TOKEN']}")
        try:
            answer: sandboxes_pb2.SandboxResponse = ask(
                request, metadata=(bearer,), timeout=_PATIENCE_SECONDS
            )
        except grpc.RpcError as error:
            raise AttachError(_explained(error, settings)) from None
    return answer.sandbox.metadata.id


def _channel(endpoint: str, authority: str | None) -> grpc.Channel:
    if not authority:
        return grpc.insecure_channel(endpoint)
    return grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(Path(authority).read_bytes()))


def _explained(error: grpc.RpcError, settings: Mapping[str, str]) -> str:
    code, text = error.code(), error.details()
    endpoint, sandbox = settings["BENCH_ENDPOINT"], settings["BENCH_SANDBOX"]
    match code:
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return (
                f"BENCH_ENDPOINT={endpoint}: no gateway answers there ({text}). Check that it runs and listens on "
                "this address; one that serves with TLS needs BENCH_TLS_CA as well."
            )
        case grpc.StatusCode.UNAUTHENTICATED:
            return (
                f"BENCH_TOKEN: the gateway at {endpoint} does not take it ({text}). Set it to a token that is "
                "valid now, without `Bearer` before it."
            )
        case grpc.StatusCode.PERMISSION_DENIED:
            return (
                f"BENCH_TOKEN: the gateway at {endpoint} knows it and does not let it use the sandbox {sandbox!r} "
                f"({text}). Set it to a token of somebody who may read and write there."
            )
        case grpc.StatusCode.NOT_FOUND:
            return (
                f"BENCH_SANDBOX={sandbox}: the gateway at {endpoint} has no such sandbox in the workspace "
                f"{_workspace(settings)!r} ({text}). Set it to the name of a sandbox that runs, and "
                "BENCH_WORKSPACE to its workspace."
            )
        case _:
            return (
                f"The gateway at BENCH_ENDPOINT={endpoint} does not say which sandbox BENCH_SANDBOX={sandbox} is: "
                f"{code.name} ({text})."
            )
