"""Manifests of OpenAI's Agents SDK in a sandbox, without a command there (DIR-1)."""

from __future__ import annotations

import asyncio
import io
import tarfile
from pathlib import Path

import pytest
from adapters.sandbox_session import OpenShellSession
from agents.sandbox.entries import LocalDir
from agents.sandbox.manifest import Manifest
from dev_command import DevStack
from openshell_files import AsyncFilesClient, OidcAuth


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory of 300 files below the current one: a manifest takes no other."""
    monkeypatch.chdir(tmp_path)
    for number in range(300):
        directory = tmp_path / "source" / f"d{number // 20}" / "sub"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(bytes([number % 256]) * (number * 7))
    return tmp_path / "source"


def test_a_local_directory_arrives(stack: DevStack, source: Path) -> None:
    """`Manifest` with a `LocalDir`: each file of it by `session.write`, and the whole workspace back as tar."""
    sandbox = stack.sandboxes[0]
    manifest = Manifest(
        root=f"{sandbox.workdir}/manifest", entries={"skills": LocalDir(src=Path(source.name))}
    )

    async def apply() -> bytes:
        async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            session = OpenShellSession(client.sandbox(sandbox.name), manifest)
            result = await session.apply_manifest()
            assert len(result.files) == 300
            packed: bytes = (await session.persist_workspace()).read()
            return packed

    with tarfile.open(fileobj=io.BytesIO(asyncio.run(apply()))) as packed:
        there = {member.name: packed.extractfile(member) for member in packed if member.isfile()}
    here = {f"skills/{path.relative_to(source)}": path for path in source.rglob("*") if path.is_file()}
    assert there.keys() == here.keys()
    for name, content in there.items():
        assert content is not None
        assert content.read() == here[name].read_bytes()
