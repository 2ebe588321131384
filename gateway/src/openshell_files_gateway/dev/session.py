"""`openshell-files-gateway dev`: the stack for a person or a script."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from openshell_files_protocol.server_process import wait_for_stop

from openshell_files_gateway.dev.process import ChildFailedError
from openshell_files_gateway.dev.stack import DevelopmentStack, StackDescription, StackSettings


async def run_dev(*, port: int, root: Path | None, sandboxes: int, json_line: bool) -> int:
    """Run the stack until it is told to stop.

    Returns:
        The exit status.
    """
    stopping = asyncio.create_task(wait_for_stop())
    starting = asyncio.create_task(_start(StackSettings(port=port, root=root, sandboxes=sandboxes)))
    await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            return 0
        stack = starting.result()
    except (ChildFailedError, OSError) as error:
        print(f"openshell-files-gateway dev: {error}", file=sys.stderr)
        return 1
    else:
        description = stack.describe()
        print(description.to_json() if json_line else _for_people(description, stack.root), flush=True)
        await stopping
        return 0
    finally:
        stopping.cancel()
        starting.cancel()
        results = await asyncio.gather(starting, return_exceptions=True)
        if isinstance(results[0], DevelopmentStack):
            await results[0].stop()


async def _start(settings: StackSettings) -> DevelopmentStack:
    stack = DevelopmentStack(settings)
    await stack.start()
    return stack


def _for_people(description: StackDescription, root: Path) -> str:
    sandboxes = "\n".join(
        f"  {sandbox.name}: / is {sandbox.root}, relative paths start in {sandbox.workdir}"
        for sandbox in description.sandboxes
    )
    return f"""The stack is ready. In another terminal:

  export OPENSHELL_FILES_ENDPOINT={description.endpoint}
  export OPENSHELL_FILES_WORKSPACE={description.workspace}
  export OPENSHELL_FILES_TOKEN={description.token}
  openshell-files upload {description.sandboxes[0].name} README.md
  openshell-files download {description.sandboxes[0].name} README.md /tmp/

Sandboxes:
{sandboxes}

Logs are in {root}. Ctrl-C stops everything."""
