"""Operations on directories, for tests of the agent."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.agent_harness import Peer, call, until
from openshell_files_protocol.pb.openshell.v1 import directories_pb2
from openshell_supervisor_sim.agent import FileAgent

NEVER = directories_pb2.REPLACE_POLICY_NEVER
FILE = directories_pb2.REPLACE_POLICY_FILE


async def page(
    agent: FileAgent, path: str | bytes = "/", **fields: Any
) -> directories_pb2.ListDirectoryResponse:
    request = directories_pb2.ListDirectoryRequest(path=os.fsencode(path), **fields)
    return (await call(agent, list_directory=request)).list_directory


async def listed(
    agent: FileAgent, path: str | bytes = "/", **fields: Any
) -> list[directories_pb2.DirectoryEntry]:
    """Return all entries, page by page."""
    found: list[directories_pb2.DirectoryEntry] = []
    token = b""
    while True:
        answer = await page(agent, path, page_token=token, **fields)
        found += answer.entries
        if not answer.next_page_token:
            return found
        assert answer.entries
        assert answer.next_page_token != token, "the same page again"
        token = answer.next_page_token


def names(entries: Sequence[directories_pb2.DirectoryEntry]) -> list[str]:
    return [os.fsdecode(entry.name) for entry in entries]


async def make(agent: FileAgent, path: str | bytes, **fields: Any) -> directories_pb2.MakeDirectoryResponse:
    request = directories_pb2.MakeDirectoryRequest(path=os.fsencode(path), **fields)
    return (await call(agent, make_directory=request)).make_directory


async def remove(agent: FileAgent, path: str | bytes, **fields: Any) -> int:
    request = directories_pb2.RemovePathRequest(path=os.fsencode(path), **fields)
    return (await call(agent, remove_path=request)).remove_path.removed_entries


async def move(
    agent: FileAgent, source: str | bytes, destination: str | bytes, **fields: Any
) -> directories_pb2.MovePathResponse:
    request = directories_pb2.MovePathRequest(
        source=os.fsencode(source), destination=os.fsencode(destination), **fields
    )
    return (await call(agent, move_path=request)).move_path


async def copy(
    agent: FileAgent, source: str | bytes, destination: str | bytes, **fields: Any
) -> directories_pb2.CopyPathResponse:
    request = directories_pb2.CopyPathRequest(
        source=os.fsencode(source), destination=os.fsencode(destination), **fields
    )
    return (await call(agent, copy_path=request)).copy_path


def manifest(root: Path) -> dict[str, tuple[object, ...]]:
    """Return what a tree is: type, mode, time, content and hard links of each entry, by relative path."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    for directory, below, files in os.walk(root):
        for name in sorted([*below, *files]):
            path = Path(directory) / name
            status = path.lstat()
            shown = str(path.relative_to(root))
            kind = stat.S_IFMT(status.st_mode)
            facts: tuple[object, ...] = (kind, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
            if stat.S_ISLNK(status.st_mode):
                facts = (kind, status.st_mtime_ns, os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                same = first.setdefault((status.st_dev, status.st_ino), shown)
                facts = (*facts, path.read_bytes(), same)
            found[shown] = facts
    return found


def small_tree(top: Path) -> None:
    """Make a tree with an entry of every kind that is copied."""
    (top / "empty").mkdir(parents=True)
    (top / "sub/deeper").mkdir(parents=True)
    (top / "file").write_bytes(b"content")
    (top / "sub/deeper/large").write_bytes(os.urandom(3_000_000))
    (top / "sub/none").touch(mode=0o400)
    os.link(top / "file", top / "sub/linked")
    os.link(top / "file", top / "sub/deeper/linked")
    (top / "sub/link").symlink_to("../file")
    (top / "dangling").symlink_to("/nowhere")
    os.makedirs(os.fsencode(top) + b"/caf\xe9\n")
    (top / "sub/program").write_text("#!/bin/sh\n")
    (top / "sub/program").chmod(0o751)
    for number, path in enumerate(sorted(top.rglob("*"))):
        moment = 1_500_000_000_123_456_789 + number
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    (top / "sub/deeper").chmod(0o555)
    os.utime(top, ns=(1_400_000_000_000_000_001, 1_400_000_000_000_000_001))


async def leave(peer: Peer, way: str) -> None:
    """Let the caller leave, or the relay end; return when the agent has noticed."""
    if way == "cancelled":
        await peer.input_end(cancelled=True)
    else:
        peer.to_agent.end()
    await until(lambda: peer.to_agent.size == 0)
    for _ in range(5):
        await asyncio.sleep(0)
