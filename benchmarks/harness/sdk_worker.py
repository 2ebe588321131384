"""A client process: our SDK as users have it. Reads where to connect from the environment, as the command does."""

from __future__ import annotations

import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from openshell_files import Durability, FilesClient, OidcAuth, TlsConfig

from harness.answering import serve
from harness.connection import AUTHORITY, WORKSPACE

client = FilesClient(
    os.environ["OPENSHELL_FILES_ENDPOINT"],
    tls=TlsConfig(ca_path=AUTHORITY) if AUTHORITY else None,
    auth=OidcAuth(os.environ["OPENSHELL_FILES_TOKEN"]),
    workspace=WORKSPACE,
)


def durability(name: str) -> Durability:
    return Durability[name.upper()]


def upload(sandbox: str, source: str, remote: str, durable: str = "rename") -> dict[str, Any]:
    result = client.sandbox(sandbox).upload_path(Path(source), remote, durability=durability(durable))
    return {"size": result.size, "attempts": result.attempts, "moved": result.bytes_sent}


def download(sandbox: str, remote: str, target: str) -> dict[str, Any]:
    Path(target).unlink(missing_ok=True)
    result = client.sandbox(sandbox).download_path(remote, Path(target))
    return {"size": result.size, "attempts": result.attempts, "moved": result.bytes_received}


def upload_tree(sandbox: str, tree: str, remote: str, packer: str) -> dict[str, Any]:
    """Send a directory as a tar archive, through a program that packs it unless `packer` is "none"."""
    archive = ["tar", "-C", tree, "--exclude=site-packages", "--exclude=__pycache__", "-c", "."]
    with ExitStack() as running:
        tar = last = running.enter_context(subprocess.Popen(archive, stdout=subprocess.PIPE))
        if packer != "none":
            last = running.enter_context(
                subprocess.Popen([packer, "-c"], stdin=tar.stdout, stdout=subprocess.PIPE)
            )
        assert last.stdout is not None
        result = client.sandbox(sandbox).upload(last.stdout, remote, durability=Durability.RENAME)
        for program in (last, tar):
            if program.wait():
                raise RuntimeError(f"{program.args!r} failed with {program.returncode}")
    return {"size": result.size}


def write_many(sandbox: str, remote: str, size: int, count: int, durable: str = "rename") -> dict[str, Any]:
    """Write a small file again and again; each call's time."""
    files, content, seconds = client.sandbox(sandbox), bytes(size), list[float]()
    for number in range(count):
        began = time.perf_counter()
        files.write_bytes(f"{remote}-{number}", content, durability=durability(durable))
        seconds.append(time.perf_counter() - began)
    return {"each": seconds}


def read_many(sandbox: str, remote: str, count: int) -> dict[str, Any]:
    """Read a small file again and again; each call's time."""
    files, seconds = client.sandbox(sandbox), list[float]()
    for _ in range(count):
        began = time.perf_counter()
        files.read_bytes(remote)
        seconds.append(time.perf_counter() - began)
    return {"each": seconds}


def first_byte(sandbox: str, remote: str, count: int) -> dict[str, Any]:
    """Begin a download again and again; the time until its first bytes."""
    files, seconds = client.sandbox(sandbox), list[float]()
    for _ in range(count):
        began = time.perf_counter()
        with closing(files.iter_download(remote)) as stream:
            next(stream)
            seconds.append(time.perf_counter() - began)
    return {"each": seconds}


def many_at_once(
    sandboxes: list[str], source: str, remote: str, count: int, direction: str
) -> dict[str, Any]:
    """Run transfers at once; when each ended, in seconds after all began."""
    began = time.perf_counter()

    def one(number: int) -> float:
        sandbox = sandboxes[number % len(sandboxes)]
        if direction == "upload":
            upload(sandbox, source, f"{remote}-{number}")
        else:
            download(sandbox, f"{remote}-{number}", f"{source}.got-{number}")
        return time.perf_counter() - began

    with ThreadPoolExecutor(count) as pool:
        return {"ends": list(pool.map(one, range(count)))}


if __name__ == "__main__":
    serve(
        {
            "upload": upload,
            "download": download,
            "upload_tree": upload_tree,
            "write_many": write_many,
            "read_many": read_many,
            "first_byte": first_byte,
            "many_at_once": many_at_once,
        }
    )
