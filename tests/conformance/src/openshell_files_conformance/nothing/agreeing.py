"""Says yes to everything and does nothing.

As a gateway it answers every call with OK and an empty message; as a supervisor it answers every
operation with an empty success (`supervisor.py`); as an
SDK's adapter it reports success of whatever it is asked for. It claims every capability.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from openshell_files_conformance.nothing.supervisor import AgreeingSupervisor
from openshell_files_conformance.registry import load_cases


def capabilities() -> list[str]:
    """Return every capability that a case needs."""
    return sorted({name for case in load_cases().values() for name in case.needs})


class _Agree(grpc.GenericRpcHandler):
    """Answers every method with one empty message."""

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        del handler_call_details
        return grpc.stream_stream_rpc_method_handler(_empty)


def _empty(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    del requests, context
    yield b""


def _gateway() -> dict[str, Any]:
    server = grpc.server(ThreadPoolExecutor(32), handlers=[_Agree()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # Kept by the module, or it would stop.
    _kept.append(server)
    return {"endpoint": f"127.0.0.1:{port}"}


_kept: list[object] = []


def _said_to(request: dict[str, Any]) -> dict[str, Any]:
    if "id" in request:
        return {"id": request["id"], "outcome": "ok", "capabilities": capabilities()}
    facts: dict[str, Any] = {}
    if request["role"] == "gateway":
        facts = _gateway()
    else:
        sandbox = request["sandbox"]
        _kept.append(AgreeingSupervisor(request["endpoint"], sandbox["id"], sandbox["token"]))
    # Where it may, it pretends to have the sandbox itself, so that the suite does not play its supervisor.
    sandboxes = {
        one["name"]: {"id": one["name"]}
        if one.get("supervisor") == "own"
        else {"id": one["name"], "supervisor_token": "none"}
        for one in request.get("sandboxes", [])
    }
    return {
        "type": "ready",
        "pid": os.getpid(),
        "capabilities": capabilities(),
        "sandboxes": sandboxes,
        **facts,
    }


def main() -> None:
    """Agree to each line, until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_said_to(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
