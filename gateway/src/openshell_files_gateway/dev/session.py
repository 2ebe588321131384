"""`openshell-files-gateway dev`: runs the development stack until it is stopped, for a person or a script."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from openshell_files_process.server_process import wait_for_stop
from openshell_files_process.tasks import TaskScope

from openshell_files_gateway.dev.process import ChildFailedError
from openshell_files_gateway.dev.stack import DevelopmentStack, StackDescription, StackSettings
from openshell_files_gateway.installed import command


async def run_dev(
    *, port: int, root: Path | None, sandboxes: int, json_line: bool, env_file: Path | None = None
) -> int:
    """Run the stack until a signal stops it.

    Args:
        port: port of the gateway; 0 for a free one.
        root: directory for all files; None for a temporary one.
        sandboxes: number of sandboxes.
        json_line: print one line of JSON instead of text.
        env_file: file with the environment of a client, for a shell to
            source. It is written when the stack is ready, readable by its
            owner only, and removed at the end.

    Returns:
        The exit status.
    """
    stack = DevelopmentStack(StackSettings(port=port, root=root, sandboxes=sandboxes))
    try:
        async with TaskScope() as tasks:
            stopping = tasks.start(wait_for_stop(), "stop-signal")
            starting = tasks.start(stack.start(), "stack-start")
            await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return 0
            starting.result()
            return await _serve_people(stack, stopping, json_line=json_line, env_file=env_file)
    except OSError as error:
        fault = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"openshell-files-gateway dev: {fault}; name another --root", file=sys.stderr)
        return 1
    except ChildFailedError as error:
        print(f"openshell-files-gateway dev: {error}", file=sys.stderr)
        return 1
    finally:
        await stack.stop()


async def _serve_people(
    stack: DevelopmentStack, stopping: asyncio.Task[str], *, json_line: bool, env_file: Path | None
) -> int:
    """Print how a client uses the stack, and wait for the stop."""
    description = stack.describe()
    with ExitStack() as cleanup:
        if env_file is not None:
            try:
                cleanup.enter_context(_private_file(env_file, _exports(description)))
            except OSError as error:
                print(
                    f"openshell-files-gateway dev: --env-file {env_file}: {error.strerror}; "
                    "name a file that can be written",
                    file=sys.stderr,
                )
                return 1
        print(
            description.to_json() if json_line else _for_people(description, stack.root, env_file), flush=True
        )
        await stopping
    return 0


def _exports(description: StackDescription) -> str:
    """Return shell commands that export the path of the client and the values that it needs."""
    commands = str(Path(command("openshell-files")).parent)
    variables = {
        "OPENSHELL_FILES_ENDPOINT": description.endpoint,
        "OPENSHELL_FILES_WORKSPACE": description.workspace,
        "OPENSHELL_FILES_TOKEN": description.token,
    }
    lines = [f'export PATH={shlex.quote(commands)}:"$PATH"']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def _private_file(path: Path, text: str) -> Generator[None, None, None]:
    """Write a file that only its owner may read, even if it existed before; remove it at the end of the context.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
    try:
        yield
    finally:
        # Its token is of no use without the stack. Another stack may have written its own there.
        with suppress(OSError, UnicodeDecodeError):
            if path.read_text("utf-8") == text:
                path.unlink()


def _for_people(description: StackDescription, root: Path, env_file: Path | None) -> str:
    sandboxes = "\n".join(
        f"  {sandbox.name}: / is {sandbox.root}, relative paths start in {sandbox.workdir}"
        for sandbox in description.sandboxes
    )
    use = (
        "".join(f"  {line}\n" for line in _exports(description).splitlines())
        if env_file is None
        else f"  . {shlex.quote(str(env_file.absolute()))}\n"
    )
    name = description.sandboxes[0].name
    return f"""The stack is ready. In another terminal:

{use}  echo hello > hello.txt
  openshell-files upload {name} hello.txt
  openshell-files download {name} hello.txt /tmp/

Sandboxes:
{sandboxes}

Logs are in {root}. Ctrl-C stops everything."""
