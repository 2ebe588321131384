"""Several clients write one file at once (must hold 4): one of them wins, and everybody knows who."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from digest_values import words_of
from kill_client import content_of
from kill_scene import STAGING_PREFIX
from openshell_files import AsyncFilesClient, Condition, Durability, OidcAuth
from openshell_files.errors import FileExists
from openshell_files.results import UploadResult
from openshell_files_gateway.dev.stack import DevelopmentStack, StackSettings
from rename_watch import RenameWatch

ROUNDS = 100


@dataclass(frozen=True)
class Writers:
    """Clients with connections of their own."""

    clients: list[AsyncFilesClient]
    directory: Path

    async def write(
        self, number: int, content: bytes, name: str, condition: Condition | None
    ) -> UploadResult | FileExists:
        sandbox = self.clients[number].sandbox("demo")
        try:
            return await sandbox.upload(content, name, condition=condition, durability=Durability.RENAME)
        except FileExists as error:
            return error

    async def write_all(
        self, contents: list[bytes], name: str, condition: Condition | None = None
    ) -> list[UploadResult | FileExists]:
        return await asyncio.gather(
            *(self.write(number, content, name, condition) for number, content in enumerate(contents))
        )


@asynccontextmanager
async def writers(root: Path, count: int) -> AsyncGenerator[Writers, None]:
    async with DevelopmentStack(StackSettings(root=root)) as stack, AsyncExitStack() as exits:
        description = stack.describe()
        clients = [
            await exits.enter_async_context(
                AsyncFilesClient(description.endpoint, auth=OidcAuth(description.token))
            )
            for _ in range(count)
        ]
        yield Writers(clients, Path(stack.sandboxes[0].root) / "sandbox")


def _content(label: str, number: int) -> bytes:
    """Return a small file; every fourth is too large to be sent without StartUpload."""
    return content_of(label, 300_000 if number % 4 == 0 else 5_000 + number)


async def test_the_last_one_stands(tmp_path: Path) -> None:
    """UPL-8, UPL-42: one of the two whole files is there, and each caller's answer is about its own."""
    async with writers(tmp_path / "stack", 2) as scene:
        for number in range(ROUNDS):
            contents = [_content(f"{number} of {name}", number) for name in "ab"]
            with RenameWatch(scene.directory) as watch:
                results = await scene.write_all(contents, "file")
                order = watch.published("file")
            there = (scene.directory / "file").read_bytes()
            assert there in contents, f"round {number}: neither of the two files"
            now = await scene.clients[0].sandbox("demo").stat("file", digest=True)
            assert now.digest == words_of(there)
            for content, result in zip(contents, results, strict=True):
                assert isinstance(result, UploadResult)
                assert result.digest == words_of(content)
                assert result.size == len(content)
                # Who sees his own version knows that his file is there, and only he does.
                assert (result.version == now.version) == (content == there), f"round {number}"
            # WriteFile, which a small file travels by, names no upload.
            names = [
                f"{STAGING_PREFIX}{result.upload_id}" if result.upload_id else ""
                for result in results
                if isinstance(result, UploadResult)
            ]
            assert len(order) == len(names), f"round {number}: each is published exactly once"
            assert {name for name in names if name} <= set(order), f"round {number}: each is published"
            if order[-1] in names:
                last = names.index(order[-1])
                assert there == contents[last], f"round {number}: an earlier publisher's content stands"
        assert await scene.clients[0].sandbox("demo").uploads() == []
        assert [path.name for path in scene.directory.iterdir()] == ["file"]


async def test_create_only_has_one_winner(tmp_path: Path) -> None:
    """CND-3: exactly one of several concurrent callers wins, the others get FILE_EXISTS."""
    async with writers(tmp_path / "stack", 3) as scene:
        for number in range(ROUNDS):
            name = f"file-{number}"
            contents = [_content(f"{number} of {one}", number) for one in "abc"]
            results = await scene.write_all(contents, name, Condition.absent())
            won = [index for index, result in enumerate(results) if isinstance(result, UploadResult)]
            assert len(won) == 1, f"round {number}: {len(won)} winners"
            assert (scene.directory / name).read_bytes() == contents[won[0]]
            winner = results[won[0]]
            assert isinstance(winner, UploadResult)
            assert winner.digest == words_of(contents[won[0]])
            (scene.directory / name).unlink()
        assert await scene.clients[0].sandbox("demo").uploads() == []
        assert list(scene.directory.iterdir()) == []
