"""A process that confines itself as a supervisor does, and says what it still can do.

    python confinement_probe.py MODE ROOT STATE TOKEN ATTEMPT...

Each attempt is OPERATION:PATH. It prints one JSON object.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import sys
from collections.abc import Callable

from openshell_supervisor_sim.confinement import kernel, landlock
from openshell_supervisor_sim.confinement.own_process import confine, interpreter_places
from openshell_supervisor_sim.confinement.places import of_agent


def _read(path: str) -> None:
    if os.path.isdir(path):
        os.listdir(path)
        return
    with open(path, "rb") as file:
        file.read(1)


def _write(path: str) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def _rename(path: str) -> None:
    with open(f"{path}.new", "xb") as file:
        file.write(b"renewed")
    os.replace(f"{path}.new", path)


def _nameless(path: str) -> None:
    """Publish as the agent does: a file without a name gets one through /proc."""
    directory = os.open(os.path.dirname(path), os.O_PATH)
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=directory)
    name = os.path.basename(path)
    os.link(f"/proc/self/fd/{descriptor}", name, dst_dir_fd=directory, follow_symlinks=True)
    os.close(os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR))
    os.close(descriptor)
    os.close(directory)


def _run(path: str) -> None:
    # Without the interpreter's own words about a failed start.
    os.posix_spawn(path, [path], {})


def _signal(path: str) -> None:
    os.kill(int(path), 0)


def _abstract(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + path)


def _mount(path: str) -> None:
    kernel.mount("tmpfs", path, "tmpfs", 0)


def _late_import(path: str) -> None:
    __import__(path)


OPERATIONS: dict[str, Callable[[str], None]] = {
    "read": _read,
    "write": _write,
    "rename": _rename,
    "nameless": _nameless,
    "run": _run,
    "signal": _signal,
    "abstract": _abstract,
    "mount": _mount,
    "import": _late_import,
}


def main() -> None:
    mode, root, state, token, *attempts = sys.argv[1:]
    if mode.startswith("old-kernel-"):
        mode = mode.removeprefix("old-kernel-")
        landlock.abi_version = lambda: 0
    confinement = confine(
        mode=mode,
        user=None,
        rules=of_agent(root=root, state_dir=state, token_file=token, readable=interpreter_places()),
    )
    results: dict[str, str] = {}
    for attempt in attempts:
        operation, _, path = attempt.partition(":")
        try:
            OPERATIONS[operation](path)
        except OSError as error:
            results[attempt] = errno.errorcode.get(error.errno or 0, str(error))
        else:
            results[attempt] = "done"
    libc = ctypes.CDLL(None)
    print(
        json.dumps(
            {
                "confinement": confinement.described(),
                "results": results,
                "files": resource.getrlimit(resource.RLIMIT_NOFILE),
                "core": resource.getrlimit(resource.RLIMIT_CORE),
                "capabilities": kernel.effective_capabilities(),
                "no_new_privs": libc.prctl(39, 0, 0, 0, 0),
            }
        )
    )


if __name__ == "__main__":
    main()
