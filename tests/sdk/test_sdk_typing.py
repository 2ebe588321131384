"""What callers' type checkers see. The checks are made by mypy and pyright, which read this file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import assert_type

from openshell_files import (
    AsyncFilesClient,
    AsyncSandboxFiles,
    ClientCredentials,
    DownloadResult,
    FileInfo,
    FilesClient,
    FilesError,
    OidcAuth,
    SandboxFiles,
    UploadInfo,
    UploadResult,
    errors,
)


def blocking(client: FilesClient) -> None:
    with client as entered:
        assert_type(entered, FilesClient)
    assert_type(FilesClient.from_sandbox_client(client), FilesClient)
    files = client.sandbox("demo")
    assert_type(files, SandboxFiles)
    assert_type(files.upload_path("a", "b"), UploadResult)
    assert_type(files.upload([b"a"], "b"), UploadResult)
    assert_type(files.download_path("a", "b"), DownloadResult)
    assert_type(files.download("a", print), DownloadResult)
    assert_type(files.iter_download("a"), Generator[bytes, None, None])
    assert_type(files.read_bytes("a"), bytes)
    assert_type(files.stat("a"), FileInfo)
    assert_type(files.uploads(), list[UploadInfo])


async def asynchronous(client: AsyncFilesClient) -> None:
    async with client as entered:
        assert_type(entered, AsyncFilesClient)
    files = client.sandbox(id="sb")
    assert_type(files, AsyncSandboxFiles)
    assert_type(await files.upload_path("a", "b"), UploadResult)
    assert_type(await files.download_path("a", "b"), DownloadResult)
    assert_type(files.iter_download("a"), AsyncGenerator[bytes, None])
    assert_type(await files.read_bytes("a"), bytes)
    assert_type(await files.abort_upload("u"), UploadInfo)


def tokens() -> None:
    async def later() -> str:
        return "token"

    OidcAuth("token")
    OidcAuth(lambda: "token")
    OidcAuth(later)
    assert_type(OidcAuth.client_credentials("i", "c", "s"), ClientCredentials)


def test_errors_are_caught_as_builtins() -> None:
    for kind, builtin in (
        (errors.FileNotFound, FileNotFoundError),
        (errors.IsADirectory, IsADirectoryError),
        (errors.DeadlineExceeded, TimeoutError),
        (errors.Unavailable, ConnectionError),
        (errors.AccessDenied, PermissionError),
    ):
        assert issubclass(kind, FilesError)
        assert issubclass(kind, builtin)
