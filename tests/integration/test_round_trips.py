"""Files go in and come out identical (must hold 3)."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import pytest
from cli_command import cli_result
from dev_command import DevSandbox, DevStack
from digest_values import words_of
from kill_client import content_of
from openshell_files import AsyncFilesClient, DigestChoice, FilesClient, OidcAuth
from openshell_files.results import DownloadResult, UploadResult
from openshell_files_protocol.digests import DigestAlgorithm, DigestHasher
from openshell_files_protocol.limits import KIB, MAX_CHUNK_BYTES, MIB, MIN_CHUNK_LIMIT_BYTES

#: Every edge at which something is cut, and both sides of it.
SIZES = sorted(
    {0, 1}
    | {
        edge + step
        for edge in (64 * KIB, MIN_CHUNK_LIMIT_BYTES, MAX_CHUNK_BYTES, 4 * MIB)
        for step in (-1, 0, 1)
    }
)

#: The command starts an interpreter each time, so it gets the coarser edges.
CLI_SIZES = (0, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES + 1, 4 * MIB + 1)

CLI_NAMES = ("newline", "quotes", "leading dash", "non-ASCII", "255 bytes", "escape sequence")

SPARSE_BYTES = 2**32 + 1

NAMES = {
    "spaces": " two  spaces and one behind ",
    "quotes": "'single' \"double\" `back` $HOME",
    "newline": "first line\nsecond line\r\ttab",
    "leading dash": "-rf",
    "long option": "--help",
    "non-ASCII": "Grüße-日本語-\N{WASTEBASKET}-e\N{COMBINING ACUTE ACCENT}",
    "255 bytes": "n" * 255,
    "255 bytes of three each": "語" * 85,
    "backslash and glob": "a\\b*?[x]",
    "escape sequence": "\x1b[31mred\x7f",
    "dots": "...",
    "hidden": ".hidden",
}

#: The digest that a result says.
Said = str | None


class Carrier(Protocol):
    """Uploads a local file and downloads it to another; returns what the two results say."""

    def __call__(
        self,
        stack: DevStack,
        sandbox: DevSandbox,
        source: Path,
        remote: str,
        target: Path,
        digest: DigestChoice = "auto",
    ) -> tuple[Said, Said]: ...


def by_sync(
    stack: DevStack,
    sandbox: DevSandbox,
    source: Path,
    remote: str,
    target: Path,
    digest: DigestChoice = "auto",
) -> tuple[Said, Said]:
    """Carry with the synchronous client."""
    with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
        files = client.sandbox(sandbox.name)
        up = files.upload_path(source, remote, digest=digest)
        down = files.download_path(remote, target, digest=digest)
    assert (up.size, down.size) == (source.stat().st_size,) * 2
    assert (up.attempts, down.attempts) == (1, 1), "nothing breaks here"
    return up.digest, down.digest


def by_async(
    stack: DevStack,
    sandbox: DevSandbox,
    source: Path,
    remote: str,
    target: Path,
    digest: DigestChoice = "auto",
) -> tuple[Said, Said]:
    """Carry with the asynchronous client."""

    async def carry() -> tuple[UploadResult, DownloadResult]:
        async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            files = client.sandbox(sandbox.name)
            up = await files.upload_path(source, remote, digest=digest)
            return up, await files.download_path(remote, target, digest=digest)

    up, down = asyncio.run(carry())
    assert (up.size, down.size) == (source.stat().st_size,) * 2
    assert (up.attempts, down.attempts) == (1, 1), "nothing breaks here"
    return up.digest, down.digest


def by_command(
    stack: DevStack,
    sandbox: DevSandbox,
    source: Path,
    remote: str,
    target: Path,
    digest: DigestChoice = "auto",
) -> tuple[Said, Said]:
    """Carry with the command; `--` ends the options, as everywhere."""
    options = ("--json", "--digest", digest, "--")
    up = cli_result(stack, "upload", *options, sandbox.name, str(source), remote)
    down = cli_result(stack, "download", *options, sandbox.name, remote, str(target))
    size, occupied = source.stat().st_size, source.stat().st_blocks * 512
    assert (up["size"], down["size"]) == (size, size)
    assert (up["bytes_sent"], down["bytes_received"]) == (size, size) or occupied < size
    # Around a hole a download sends whole chunks (DWN-7).
    assert max(up["bytes_sent"], down["bytes_received"]) <= min(size, occupied + 4 * MIB)
    assert up["path"] == down["path"]
    assert min(up["seconds"], down["seconds"]) >= 0
    return up["digest"], down["digest"]


BY_SDK = pytest.mark.parametrize("carrier", [by_sync, by_async], ids=["sync", "async"])


def _check_round_trip(stack: DevStack, carrier: Carrier, source: Path, remote: str, target: Path) -> None:
    """Carry a file there and back, and compare everything."""
    sandbox = stack.sandboxes[1]
    content = source.read_bytes()
    digest = words_of(content)
    assert carrier(stack, sandbox, source, remote, target) == (digest, digest)
    stored = sandbox.directory / remote
    for path in (stored, target):
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o7777 == source.stat().st_mode & 0o7777
        assert path.stat().st_mtime_ns == source.stat().st_mtime_ns
    stored.unlink()


@BY_SDK
@pytest.mark.parametrize("size", SIZES)
def test_every_size(stack: DevStack, tmp_path: Path, carrier: Carrier, size: int) -> None:
    """Identical content, mode and modified time (UPL-10, UPL-48)."""
    source = tmp_path / "source"
    source.write_bytes(content_of("size", size))
    source.chmod(0o640 if size % 2 else 0o751)
    _check_round_trip(stack, carrier, source, f"size-{size}", tmp_path / "target")


@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_small_files_one_after_the_other(stack: DevStack, flavour: str) -> None:
    """UPL-16: whichever way a client finds to send them, once it knows its gateway."""
    sandbox = stack.sandboxes[1]
    contents = [content_of("small", size) for size in SIZES if size <= MIN_CHUNK_LIMIT_BYTES + 1] * 2

    async def carry() -> None:
        async with AsyncFilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            files = client.sandbox(sandbox.name)
            for content in contents:
                check(await files.write_bytes("small", content), content)

    def check(result: UploadResult, content: bytes) -> None:
        assert (sandbox.directory / "small").read_bytes() == content
        assert result.digest == words_of(content)
        assert (result.size, result.bytes_sent, result.attempts) == (len(content), len(content), 1)

    if flavour == "async":
        asyncio.run(carry())
    else:
        with FilesClient(stack.endpoint, auth=OidcAuth(stack.token)) as client:
            files = client.sandbox(sandbox.name)
            for content in contents:
                check(files.write_bytes("small", content), content)
    (sandbox.directory / "small").unlink()


@pytest.mark.parametrize("size", CLI_SIZES)
def test_every_size_by_command(stack: DevStack, tmp_path: Path, size: int) -> None:
    """The same with two commands."""
    source = tmp_path / "source"
    source.write_bytes(content_of("size", size))
    source.chmod(0o600 if size % 2 else 0o755)
    _check_round_trip(stack, by_command, source, f"cli-{size}", tmp_path / "target")


@BY_SDK
@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_every_name(stack: DevStack, tmp_path: Path, carrier: Carrier, name: str) -> None:
    """Names mean nothing: not here, not there (PTH-1)."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    source = tmp_path / "here" / name
    source.write_bytes(content_of(name, 3000))
    _check_round_trip(stack, carrier, source, name, tmp_path / "there" / name)
    assert os.listdir(tmp_path / "there") == [name]


def test_names_by_command(stack: DevStack, tmp_path: Path) -> None:
    """Names on a command line, relative and without DEST: the name is kept (`upload NAME LOCAL`)."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    sandbox = stack.sandboxes[1]

    def carry(name: str) -> None:
        (here / name).write_bytes(content_of(name, 3000))
        cli_result(stack, "upload", "--json", "--", sandbox.name, name, cwd=here)
        assert (sandbox.directory / name).read_bytes() == content_of(name, 3000)
        cli_result(stack, "download", "--json", "--", sandbox.name, name, cwd=there)
        assert (there / name).read_bytes() == content_of(name, 3000)
        (sandbox.directory / name).unlink()

    names = [NAMES[name] for name in CLI_NAMES]
    with ThreadPoolExecutor() as threads:
        list(threads.map(carry, names))
    assert sorted(os.listdir(there)) == sorted(names)


def _check_sparse(stack: DevStack, tmp_path: Path, carrier: Carrier, digest: DigestChoice = "auto") -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = content_of("sparse", 100_000)
    expected, position = DigestHasher(DigestAlgorithm["BLAKE3" if digest == "auto" else digest.upper()]), 0
    with source.open("wb") as file:
        for offset in (0, 2**31 + 12_345, SPARSE_BYTES - len(data)):
            file.seek(offset)
            file.write(data)
            expected.zeros(offset - position)
            expected.update(data)
            position = offset + len(data)
    assert source.stat().st_size == SPARSE_BYTES
    sandbox = stack.sandboxes[1]
    try:
        up, down = carrier(stack, sandbox, source, "sparse", target, digest)
        assert up == down == str(expected.digest())
        for path in (sandbox.directory / "sparse", target):
            status = path.stat()
            assert status.st_size == SPARSE_BYTES
            assert status.st_blocks * 512 < 16 * MIB, "the holes were filled"
            with path.open("rb") as file:
                for offset in (0, 2**31 + 12_345, SPARSE_BYTES - len(data)):
                    file.seek(offset)
                    assert file.read(len(data)) == data
    finally:
        (sandbox.directory / "sparse").unlink(missing_ok=True)


BY_EVERY_WAY = pytest.mark.parametrize(
    "carrier", [by_sync, by_async, by_command], ids=["sync", "async", "command"]
)


@BY_EVERY_WAY
def test_a_sparse_file_of_more_than_four_gib(stack: DevStack, tmp_path: Path, carrier: Carrier) -> None:
    """2^32+1 bytes: offsets do not wrap; holes stay holes, there and back (UPL-5, DWN-7, DIG-1)."""
    _check_sparse(stack, tmp_path, carrier)


@pytest.mark.long
@BY_EVERY_WAY
def test_a_sparse_file_by_sha256(stack: DevStack, tmp_path: Path, carrier: Carrier) -> None:
    """The same with `digest="sha256"` (DIG-1)."""
    _check_sparse(stack, tmp_path, carrier, "sha256")
