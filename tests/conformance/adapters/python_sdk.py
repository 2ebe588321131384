"""Adapter of this repository's Python SDK: JSON lines on stdin and stdout; see guides/sdk.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from openshell_files import (
    AsyncFilesClient,
    AsyncSandboxFiles,
    ClientCredentials,
    Condition,
    Durability,
    FilesError,
    OidcAuth,
    RetryPolicy,
    TreeResult,
    errors,
)

CAPABILITIES = (
    "blake3",
    "cancel",
    "client-credentials",
    "directories",
    "lanes",
    "ranges",
    "resume",
    "token-file",
    "trees",
)

Request = Mapping[str, Any]
Fields = dict[str, Any]


# Clients


def _auth(request: Request) -> OidcAuth | ClientCredentials | None:
    auth = request.get("auth", {})
    if "token_file" in auth:
        # Called for each call, so a token that changed is seen.
        return OidcAuth(token=lambda: Path(auth["token_file"]).read_text("utf-8").strip())
    if "client_credentials" in auth:
        given = auth["client_credentials"]
        return ClientCredentials(
            given["issuer"], given["client_id"], given["client_secret"], audience=given.get("audience", "")
        )
    return OidcAuth(token=auth["token"]) if "token" in auth else None


def _client(request: Request) -> AsyncFilesClient:
    attempts = request.get("options", {}).get("attempts")
    retry = RetryPolicy() if attempts is None else RetryPolicy(attempts=attempts, outage_attempts=attempts)
    return AsyncFilesClient(request["endpoint"], auth=_auth(request), retry=retry)


class Clients:
    """Clients that several requests share."""

    def __init__(self) -> None:
        self._kept = dict[str, AsyncFilesClient]()

    @contextlib.asynccontextmanager
    async def sandbox(self, request: Request) -> AsyncGenerator[AsyncSandboxFiles]:
        """Yield the sandbox of a request."""
        name = request.get("client")
        if name is None:
            async with _client(request) as client:
                yield client.sandbox(request["sandbox"])
            return
        key = json.dumps([name, request["endpoint"], request.get("auth")], sort_keys=True)
        if key not in self._kept:
            self._kept[key] = _client(request)
        yield self._kept[key].sandbox(request["sandbox"])

    async def close(self) -> None:
        """Close them."""
        for client in self._kept.values():
            await client.aclose()


# Operations


def _timeout(options: Request) -> float | None:
    return options["timeout_ms"] / 1000 if "timeout_ms" in options else None


def _writing(options: Request) -> Fields:
    made: Fields = {
        name: options[name] for name in ("mode", "modified_ns", "parents", "digest") if name in options
    }
    if "condition" in options:
        made["condition"] = {"absent": Condition.absent(), "present": Condition.present()}[
            options["condition"]
        ]
    if "durability" in options:
        made["durability"] = Durability(options["durability"])
    return made


async def _upload(files: AsyncSandboxFiles, request: Request) -> Fields:
    options = request.get("options", {})
    result = await files.upload_path(
        request["local"],
        request["remote"],
        upload_id=request.get("upload_id", ""),
        timeout=_timeout(options),
        **_writing(options),
    )
    return {
        "size": result.size,
        "digest": result.digest,
        "version": result.version,
        "upload_id": result.upload_id,
    }


async def _download(files: AsyncSandboxFiles, request: Request) -> Fields:
    options = request.get("options", {})
    names = ("offset", "length", "tail", "if_version", "digest")
    result = await files.download_path(
        request["remote"],
        request["local"],
        timeout=_timeout(options),
        **{name: options[name] for name in names if name in options},
    )
    return {"size": result.size, "digest": result.digest, "version": result.version}


async def _stat(files: AsyncSandboxFiles, request: Request) -> Fields:
    found = await files.stat(request["remote"])
    return {"size": found.size, "mode": found.mode, "version": found.version}


def _tree_options(options: Request) -> Fields:
    renamed = {"delete_others": "delete", "compare_content": "checksum"}
    names = ("delete_others", "compare_content", "atomic", "dry_run", "parents")
    made: Fields = {renamed.get(name, name): options[name] for name in names if name in options}
    if "durability" in options:
        made["durability"] = Durability(options["durability"])
    return made


def _tree(result: TreeResult) -> Fields:
    problems = [{"path": one.path, "reason": one.reason} for one in result.problems]
    return {"complete": result.complete, "problems": problems, "size": result.content_bytes}


async def _upload_tree(files: AsyncSandboxFiles, request: Request) -> Fields:
    options = request.get("options", {})
    return _tree(
        await files.upload_tree(
            request["local"], request["remote"], timeout=_timeout(options), **_tree_options(options)
        )
    )


async def _download_tree(files: AsyncSandboxFiles, request: Request) -> Fields:
    options = request.get("options", {})
    return _tree(
        await files.download_tree(
            request["remote"], request["local"], timeout=_timeout(options), **_tree_options(options)
        )
    )


async def _remove(files: AsyncSandboxFiles, request: Request) -> Fields:
    await files.remove(request["remote"])
    return {}


async def _move(files: AsyncSandboxFiles, request: Request) -> Fields:
    await files.move(request["remote"], request["destination"])
    return {}


OPERATIONS: Mapping[str, Callable[[AsyncSandboxFiles, Request], Awaitable[Fields]]] = {
    "upload": _upload,
    "resume": _upload,
    "download": _download,
    "stat": _stat,
    "upload_tree": _upload_tree,
    "download_tree": _download_tree,
    "remove": _remove,
    "move": _move,
}


# Answers


async def _cancelled_when_exists(work: asyncio.Task[Fields], path: str) -> None:
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.005)
    work.cancel()


async def _carried_out(clients: Clients, request: Request) -> Fields:
    operation = OPERATIONS[request["op"]]

    async def work() -> Fields:
        async with clients.sandbox(request) as files:
            return await operation(files, request)

    task = asyncio.create_task(work())
    cancel = request.get("cancel")
    watching = asyncio.create_task(_cancelled_when_exists(task, cancel["when_exists"])) if cancel else None
    try:
        return {"outcome": "ok", **await task}
    except asyncio.CancelledError:
        return {"outcome": "cancelled"}
    except FilesError as error:
        facts = {
            "outcome": "error",
            "code": error.code.name if error.code is not None else "",
            "reason": error.reason,
            "message": str(error),
            "outcome_unknown": isinstance(error, errors.OutcomeUnknown),
            "upload_id": error.upload_id,
        }
        return {key: value for key, value in facts.items() if value != ""}
    finally:
        if watching is not None:
            watching.cancel()


async def _answer(clients: Clients, request: Request) -> Fields:
    match request["op"]:
        case "hello":
            implementation = {"name": "openshell-files", "version": "0.1.0", "language": "python"}
            return {"outcome": "ok", "implementation": implementation, "capabilities": list(CAPABILITIES)}
        case op if op in OPERATIONS:
            return await _carried_out(clients, request)
        case _:
            return {"outcome": "unsupported"}


async def main() -> None:
    """Answer each line; requests run beside each other."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    clients = Clients()

    async def serve(line: bytes) -> None:
        request = json.loads(line)
        try:
            answer = await _answer(clients, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the SDK's answer
            answer = {"outcome": "error", "message": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps({"id": request["id"], **answer}) + "\n")
        sys.stdout.flush()

    async with asyncio.TaskGroup() as requests:
        while line := await reader.readline():
            requests.create_task(serve(line))
    await clients.close()


if __name__ == "__main__":
    asyncio.run(main())
