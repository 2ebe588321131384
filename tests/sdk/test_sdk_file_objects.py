"""`SandboxFiles.open`: file objects that publish when they are closed, and are verified when they are read."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import shutil
import threading
import zipfile
from typing import Any, cast

import pytest
from conditions import block_until, until
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files import (
    NO_RETRY,
    AsyncFilesClient,
    Condition,
    FilesClient,
    OidcAuth,
    RemoteReader,
    RemoteWriter,
    SandboxFiles,
    errors,
)
from openshell_files_protocol import methods
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.limits import KIB, MIB
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from openshell_files_protocol.reasons import Reason
from sdk_flavours import big_content

SIZES = [0, 1, 256 * KIB, MIB, MIB + 1, 3 * MIB + 7]


@pytest.fixture
def files(gateway: FakeGateway) -> Any:
    """Return the blocking sandbox."""
    with FilesClient(gateway.address, auth=OidcAuth("t"), retry=NO_RETRY) as client:
        yield client.sandbox("demo")


def content(size: int) -> bytes:
    return (big_content() * (size // len(big_content()) + 1))[:size]


def receiving(gateway: FakeGateway) -> list[Any]:
    return [u for u in gateway.uploads.values() if u.state == files_pb2.UPLOAD_STATE_RECEIVING]


def fail_with(kind: type[BaseException], file: RemoteWriter, data: bytes) -> None:
    with file:
        file.write(data)
        raise kind


def write_on(file: RemoteWriter, pieces: int) -> None:
    for _ in range(pieces):
        file.write(content(MIB))


# Writing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pieces", [1, 7])
def test_writing(files: SandboxFiles, gateway: FakeGateway, size: int, pieces: int) -> None:
    data, step = content(size), max(1, -(-size // pieces))
    with files.open("x", "wb", permissions=0o600) as file:
        for start in range(0, size, step):
            assert file.write(data[start : start + step]) == len(data[start : start + step])
        assert file.tell() == size
        assert "x" not in gateway.files
    assert gateway.files["x"].content == data
    assert gateway.files["x"].mode == 0o600
    assert file.closed
    assert file.result is not None
    assert file.result.size == size
    file.close()
    file.abort()
    assert gateway.files["x"].content == data


@pytest.mark.parametrize("size", SIZES)
async def test_writing_in_a_loop(gateway: FakeGateway, size: int) -> None:
    data = content(size)
    async with AsyncFilesClient(gateway.address) as client:
        async with client.sandbox("demo").open("x", "wb") as file:
            for start in range(0, size, 300_001):
                await file.write(data[start : start + 300_001])
            assert "x" not in gateway.files
        assert gateway.files["x"].content == data
        assert file.result is not None
        assert file.result.size == size
        with pytest.raises(ValueError, match="closed"):
            await file.write(b"x")


@pytest.mark.parametrize("size", [5, 4 * MIB])
@pytest.mark.parametrize("way", ["raise", "abort", "forget", "interrupt"])
def test_what_is_given_up_is_not_published(
    files: SandboxFiles, gateway: FakeGateway, size: int, way: str
) -> None:
    """After an exception, and for a writer that is never closed, nothing is published and nothing stays staged."""
    gateway.files["x"] = FakeFile(b"old")
    file = files.open("x", "wb")
    if way == "abort":
        file.write(content(size))
        file.abort()
    elif way == "forget":
        file.write(content(size))
        with pytest.warns(ResourceWarning, match="not closed"):
            del file
    else:
        kind = KeyError if way == "raise" else KeyboardInterrupt
        with pytest.raises(kind):
            fail_with(kind, file, content(size))
    block_until(lambda: not receiving(gateway), "what was sent is freed")
    assert gateway.files["x"].content == b"old"


@pytest.mark.parametrize("size", [5, 4 * MIB])
@pytest.mark.parametrize("way", ["raise", "abort", "cancel", "forget"])
async def test_what_is_given_up_in_a_loop(gateway: FakeGateway, size: int, way: str) -> None:
    gateway.files["x"] = FakeFile(b"old")
    async with AsyncFilesClient(gateway.address) as client:
        sandbox = client.sandbox("demo")

        async def write() -> None:
            async with sandbox.open("x", "wb") as file:
                await file.write(content(size))
                if way == "raise":
                    raise KeyError
                await asyncio.Event().wait()

        if way == "abort":
            file = sandbox.open("x", "wb")
            await file.write(content(size))
            await file.abort()
        elif way == "forget":
            file = sandbox.open("x", "wb")
            await file.write(content(size))
            with pytest.warns(ResourceWarning, match="not closed"):
                del file
        elif way == "raise":
            with pytest.raises(KeyError):
                await write()
        else:
            task = asyncio.create_task(write())
            if size > MIB:
                await until(lambda: bool(gateway.uploads), "the upload has begun")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: not receiving(gateway), "what was sent is freed")
    assert gateway.files["x"].content == b"old"


async def test_a_cancelled_write_leaves_no_gap(gateway: FakeGateway) -> None:
    """After a cancelled write, `close` does not publish a file without that piece."""
    held = threading.Event()

    def hold(_number: int, _upload: object, _request: object) -> None:
        held.wait(30)

    gateway.on_upload_message = hold
    async with AsyncFilesClient(gateway.address) as client:
        file = client.sandbox("demo").open("x", "wb")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await file.write(content(64 * MIB))
        held.set()
        with pytest.raises(ValueError, match="interrupted"):
            await file.close()
    assert "x" not in gateway.files


def test_failures_show_when_writing_or_closing(files: SandboxFiles, gateway: FakeGateway) -> None:
    gateway.files["x"] = FakeFile(b"old")
    with pytest.raises(errors.FileExists), files.open("x", "xb") as file:
        file.write(b"new")
    with pytest.raises(errors.ConditionFailed):
        files.open("y", "wb", condition=Condition.present()).close()
    gateway.failures[methods.START_UPLOAD].append(TransferError(Reason.ACCESS_DENIED, "no"))
    file = files.open("x", "wb")
    with pytest.raises(errors.AccessDenied):
        write_on(file, 64)
    with pytest.raises(errors.AccessDenied):
        file.close()
    assert file.closed
    file.close()
    assert gateway.files["x"].content == b"old"


def test_programs_that_want_a_file(files: SandboxFiles, gateway: FakeGateway) -> None:
    """As archives, text and `shutil` use it."""
    with files.open("archive.zip", "wb") as file, zipfile.ZipFile(cast("Any", file), "w") as archive:
        archive.writestr("inside", content(2 * MIB))
    with files.open("archive.zip") as there, zipfile.ZipFile(there) as archive:
        assert archive.read("inside") == content(2 * MIB)
    with io.TextIOWrapper(files.open("text", "wb"), "utf-8") as text:
        json.dump({"é": 1}, text, ensure_ascii=False)
    with io.TextIOWrapper(files.open("text"), "utf-8") as text:
        assert json.load(text) == {"é": 1}
    with files.open("text", "rb") as source, files.open("copy", "wb") as target:
        shutil.copyfileobj(source, target)
    assert gateway.files["copy"].content == gateway.files["text"].content


# Reading


def test_reading(files: SandboxFiles, gateway: FakeGateway) -> None:
    data = content(3 * MIB)
    gateway.files["x"] = FakeFile(data)
    local = io.BytesIO(data)
    numbers = random.Random(1)
    with files.open("x") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.info.size == len(data)
        for _ in range(60):
            whence = numbers.choice([os.SEEK_SET, os.SEEK_SET, os.SEEK_END])
            place = numbers.randrange(len(data)) - (len(data) if whence == os.SEEK_END else 0)
            size = numbers.choice([0, 1, 100, 70_000, MIB])
            assert file.seek(place, whence) == local.seek(place, whence)
            assert file.read(size) == local.read(size)
            assert file.tell() == local.tell()
        file.seek(0)
        assert file.readline() == data[: data.index(b"\n") + 1]
        assert file.read() == data[data.index(b"\n") + 1 :]
        assert file.seek(len(data) + 5) == len(data) + 5
        assert file.read(10) == b""
        with pytest.raises(ValueError, match=r"before the beginning|negative seek"):
            file.seek(-1)


def test_few_fetches(files: SandboxFiles, gateway: FakeGateway) -> None:
    """Small reads that follow each other share windows that grow."""
    gateway.files["x"] = FakeFile(content(16 * MIB))
    with files.open("x") as file:
        while file.read(1000):
            pass
    assert gateway.streams(methods.DOWNLOAD_FILE) <= 8


async def test_reading_in_a_loop(gateway: FakeGateway) -> None:
    data = content(2 * MIB)
    gateway.files["x"] = FakeFile(data)
    async with AsyncFilesClient(gateway.address) as client:
        async with client.sandbox("demo").open("x") as file:
            assert await file.read(10) == data[:10]
            assert await file.seek(-10, os.SEEK_END) == len(data) - 10
            assert await file.read() == data[-10:]
            assert await file.read() == b""
            await file.seek(5)
            assert b"".join([part async for part in file]) == data[5:]
            assert file.tell() == len(data)
            with pytest.raises(ValueError, match="whence"):
                await file.seek(0, 7)
        with pytest.raises(ValueError, match="closed"):
            await file.read()


def test_a_file_that_changes_is_not_mixed(files: SandboxFiles, gateway: FakeGateway) -> None:
    gateway.files["x"] = FakeFile(content(MIB))
    with files.open("x") as file:
        file.read(10)
        gateway.files["x"] = FakeFile(b"y" * MIB, version="v2")
        with pytest.raises(errors.FileChanged):
            file.read()
    with pytest.raises(errors.FileChanged):
        files.open("x", if_version="v1")


def lie_about_the_size(gateway: FakeGateway, real: int, told: int) -> None:
    """Let StatFile tell another size than the download, which sends all of it and a digest."""
    gateway.files["x"] = FakeFile(content(real))
    file = files_pb2.FileInfo(
        path="x", type=files_pb2.FILE_TYPE_REGULAR, size_bytes=told, mode=0o644, version="v1"
    )
    file.modified_time.FromNanoseconds(1)
    gateway.answers[methods.STAT_FILE] = files_pb2.StatFileResponse(file=file).SerializeToString()


LIES = [(1, 0), (300 * KIB, 0), (300 * KIB, 10), (300 * KIB, 256 * KIB), (300 * KIB, MIB), (0, 1), (0, MIB)]


def at_the_end(file: RemoteReader) -> None:
    file.seek(0, os.SEEK_END)
    file.read(5)


def behind_the_end(file: RemoteReader) -> None:
    file.seek(2 * MIB)
    file.read(5)


def into_a_buffer(file: RemoteReader) -> None:
    file.readinto(bytearray(2 * MIB))


@pytest.mark.parametrize(("real", "told"), LIES)
@pytest.mark.parametrize(
    "reading", [RemoteReader.read, RemoteReader.readline, at_the_end, behind_the_end, list, into_a_buffer]
)
def test_a_size_that_the_download_does_not_confirm(
    files: SandboxFiles, gateway: FakeGateway, real: int, told: int, reading: Any
) -> None:
    """No end of the file is believed before: content that is missing is an error."""
    lie_about_the_size(gateway, real, told)
    # Whose end is told too far away may also be asked for what it does not have.
    far = (errors.RangeInvalid,) if told > real else ()
    with files.open("x") as file, pytest.raises((errors.IntegrityError, *far)):
        reading(file)


@pytest.mark.parametrize(("real", "told"), LIES)
async def test_a_size_that_the_download_does_not_confirm_in_a_loop(
    gateway: FakeGateway, real: int, told: int
) -> None:
    lie_about_the_size(gateway, real, told)
    async with AsyncFilesClient(gateway.address, retry=NO_RETRY) as client:
        for reading in (read_all, read_some, read_parts):
            async with client.sandbox("demo").open("x") as file:
                with pytest.raises(
                    (errors.IntegrityError, errors.RangeInvalid) if told > real else errors.IntegrityError
                ):
                    await reading(file)


async def read_all(file: Any) -> None:
    await file.read()


async def read_some(file: Any) -> None:
    await file.seek(0, os.SEEK_END)
    await file.read(5)


async def read_parts(file: Any) -> None:
    async for _ in file:
        pass


async def test_an_empty_file(files: SandboxFiles, gateway: FakeGateway) -> None:
    """Its end is asked for once."""
    gateway.files["x"] = FakeFile(b"")
    with files.open("x") as file:
        assert [file.read(), file.read(5), file.read()] == [b"", b"", b""]
    assert gateway.streams(methods.DOWNLOAD_FILE) == 1
    async with AsyncFilesClient(gateway.address) as client, client.sandbox("demo").open("x") as loop_file:
        assert [await loop_file.read(), await loop_file.read(5)] == [b"", b""]
    assert gateway.streams(methods.DOWNLOAD_FILE) == 2


def test_what_is_not_there(files: SandboxFiles) -> None:
    with pytest.raises(FileNotFoundError):
        files.open("missing")


# Arguments


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mode": "r"}, "mode"), ({"mode": "w"}, "mode"), ({"mode": "ab"}, "mode"), ({"mode": "r+b"}, "mode"),
        ({"mode": None}, "mode"), ({"mode": 0o644}, "mode"), ({"mode": "rb", "parents": True}, "mode"),
        ({"mode": "rb", "permissions": 0o600}, "mode"), ({"mode": "wb", "if_version": "v"}, "if_version"),
        ({"mode": "xb", "condition": Condition.present()}, "condition"), ({"mode": "wb", "permissions": -1}, "permissions"),
        ({"mode": "wb", "parents": 1}, "parents"), ({"remote": b"x"}, "remote"), ({"timeout": 0}, "timeout"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments(gateway: FakeGateway, given: dict[str, Any], named: str) -> None:
    untyped: Any = FilesClient(gateway.address).sandbox("demo")
    with pytest.raises((TypeError, ValueError), match=rf"^(\w+: )?{named}\b"):
        untyped.open(**({"remote": "x"} | given))
    assert gateway.calls == []


@pytest.mark.parametrize("wrong", ["text", None, 1, ["x"]])
def test_wrong_data(files: SandboxFiles, gateway: FakeGateway, wrong: Any) -> None:
    file = files.open("x", "wb")
    with pytest.raises(TypeError):
        file.write(wrong)
    file.abort()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")
    assert not gateway.files
