"""A client process that moves trees with our SDK, and runs commands between with the official one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from openshell import SandboxClient
from openshell import TlsConfig as OfficialTlsConfig
from openshell_files import Durability, FilesClient, OidcAuth, TlsConfig, TreeResult

from harness.answering import serve
from harness.connection import AUTHORITY, WORKSPACE

TOKEN = os.environ["OPENSHELL_FILES_TOKEN"]
ENDPOINT = os.environ["OPENSHELL_FILES_ENDPOINT"]

client = FilesClient(
    ENDPOINT,
    tls=TlsConfig(ca_path=AUTHORITY) if AUTHORITY else None,
    auth=OidcAuth(TOKEN),
    workspace=WORKSPACE,
)
official = SandboxClient(
    ENDPOINT,
    tls=OfficialTlsConfig(ca_path=Path(AUTHORITY)) if AUTHORITY else None,
    bearer_token=TOKEN,
)


def facts(result: TreeResult) -> dict[str, Any]:
    if not result.complete:
        raise RuntimeError(f"entries failed: {result.problems[:3]}")
    return {"sent": result.sent, "unchanged": result.unchanged, "moved": result.content_bytes}


def up(sandbox: str, source: str, remote: str) -> dict[str, Any]:
    result = client.sandbox(sandbox).upload_tree(source, remote, durability=Durability.RENAME)
    return facts(result)


def down(sandbox: str, remote: str, target: str) -> dict[str, Any]:
    return facts(client.sandbox(sandbox).download_tree(remote, target))


def mirror(sandbox: str, source: str, remote: str, command: list[str]) -> dict[str, Any]:
    """Send a tree, run a command in the sandbox, and get the tree back into its source."""
    there = up(sandbox, source, remote)
    result = official.exec(sandbox, command, workspace=WORKSPACE, timeout_seconds=60)
    if result.exit_code != 0:
        raise RuntimeError(f"{command} ended with {result.exit_code}: {result.stderr[:200]}")
    return {"there": there, "back": down(sandbox, remote, source)}


def extract(sandbox: str, archive: str, remote: str) -> dict[str, Any]:
    """Send a tar archive that is unpacked in the sandbox."""
    client.sandbox(sandbox).upload_archive(Path(archive), remote, durability=Durability.RENAME)
    return {}


def plain(sandbox: str, source: str, remote: str) -> dict[str, Any]:
    """Send the same file as it is."""
    client.sandbox(sandbox).upload_path(Path(source), remote, durability=Durability.RENAME)
    return {}


def forget(directories: list[str]) -> None:
    """Remove directories of this machine; not measured."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    serve({"up": up, "down": down, "mirror": mirror, "extract": extract, "plain": plain, "forget": forget})
