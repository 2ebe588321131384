"""A client process that applies manifests of OpenAI's Agents SDK, with the session of tests/adapters."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

# The session is a test's: it is kept once.
sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from adapters.sandbox_session import OpenShellSession
from agents.sandbox.entries import LocalDir
from agents.sandbox.manifest import Manifest
from openshell_files import AsyncFilesClient, OidcAuth, TlsConfig

from harness.answering import serve
from harness.connection import AUTHORITY, WORKSPACE

TOKEN = os.environ["OPENSHELL_FILES_TOKEN"]
ENDPOINT = os.environ["OPENSHELL_FILES_ENDPOINT"]


async def main() -> None:
    async with AsyncFilesClient(
        ENDPOINT,
        tls=TlsConfig(ca_path=AUTHORITY) if AUTHORITY else None,
        auth=OidcAuth(TOKEN),
        workspace=WORKSPACE,
    ) as client:
        loop = asyncio.get_running_loop()

        def apply(sandbox: str, root: str, source: str) -> dict[str, Any]:
            """Apply a manifest with one local directory; a manifest takes only those below the current one."""
            os.chdir(Path(source).parent)
            manifest = Manifest(root=root, entries={"skills": LocalDir(src=Path(Path(source).name))})
            session = OpenShellSession(client.sandbox(sandbox), manifest)
            result = asyncio.run_coroutine_threadsafe(session.apply_manifest(), loop).result()
            return {"files": len(result.files)}

        await asyncio.to_thread(serve, {"apply": apply})


if __name__ == "__main__":
    asyncio.run(main())
