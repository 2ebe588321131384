"""Local targets of a download: modes, paths that are no files, flushes, and failures."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files._local.umask import current_umask
from openshell_files.errors import DeadlineExceeded, DiskFull, LocalFileError
from openshell_files_protocol.errors import TransferError
from openshell_files_protocol.reasons import Reason
from sdk_flavours import big_content

CONTENT = big_content()


@pytest.fixture
def mask() -> Iterator[Any]:
    """Return a function that sets the umask for one test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o777, 0o4755, 0o640, 0o400, 0o000])
def test_modes_and_the_umask(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, mask: Any, umask: int, mode: int
) -> None:
    """A downloaded mode is masked, unless the caller gives one or asks to keep it."""
    gateway.files["x"] = FakeFile(b"1", mode=mode)
    mask(umask)
    cases: dict[str, tuple[dict[str, Any], int]] = {
        "masked": ({}, mode & 0o777 & ~umask),
        "kept": ({"preserve_mode": True}, mode & 0o777),
        "given": ({"mode": 0o666}, 0o666),
    }
    for name, (options, expected) in cases.items():
        sandbox.download_path("x", tmp_path / name, **options)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected, name


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o777])
@pytest.mark.parametrize("told", [True, False])
def test_the_umask_is_known(monkeypatch: pytest.MonkeyPatch, mask: Any, umask: int, *, told: bool) -> None:
    mask(umask)

    def untold(*_: object) -> None:
        raise FileNotFoundError

    if not told:
        monkeypatch.setattr("builtins.open", untold)
    assert current_umask() == umask
    assert os.umask(umask) == umask, "it is as it was"


# Nodes


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("linked", [False, True])
def test_a_fifo_is_written_into(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, fifo: Path, *, linked: bool
) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    target = tmp_path / "link" if linked else fifo
    if linked:
        target.symlink_to(fifo)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    sandbox.download_path("x", target)
    reader.join()
    assert got == [CONTENT]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert target.is_symlink() is linked


def test_a_fifo_that_nobody_reads(gateway: FakeGateway, sandbox: Any, fifo: Path) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    with pytest.raises(DeadlineExceeded):
        sandbox.download_path("x", fifo, timeout=0.3)
    assert stat.S_ISFIFO(fifo.lstat().st_mode)


def test_a_reader_that_leaves(gateway: FakeGateway, sandbox: Any, fifo: Path) -> None:
    gateway.files["x"] = FakeFile(CONTENT)

    def read_a_little() -> None:
        with fifo.open("rb") as file:
            file.read(10)

    reader = threading.Thread(target=read_a_little)
    reader.start()
    with pytest.raises(LocalFileError) as caught:
        sandbox.download_path("x", fifo)
    reader.join()
    assert caught.value.errno == errno.EPIPE


def test_devices_are_written_into(gateway: FakeGateway, sandbox: Any, tmp_path: Path) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    assert sandbox.download_path("x", link).size == len(CONTENT)
    assert link.is_symlink()
    link.unlink()
    link.symlink_to("/dev/full")
    with pytest.raises(LocalFileError) as caught:
        sandbox.download_path("x", link)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize(("kind", "device"), [(stat.S_IFCHR, (1, 3)), (stat.S_IFBLK, (7, 199))])
def test_a_device_is_never_replaced(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, kind: int, device: tuple[int, int]
) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    node = tmp_path / "node"
    try:
        os.mknod(node, kind | 0o666, os.makedev(*device))
    except PermissionError:
        pytest.fail("the tests need to make devices when they run as root")
    if kind == stat.S_IFBLK:
        with pytest.raises(LocalFileError, match="a block device"):
            sandbox.download_path("x", node)
    else:
        try:
            sandbox.download_path("x", node)
        except LocalFileError as error:
            # A file system that is mounted without devices.
            assert error.errno == errno.EACCES  # noqa: PT017 - either way
    assert stat.S_IFMT(node.lstat().st_mode) == kind


def test_a_socket_is_refused(gateway: FakeGateway, sandbox: Any, tmp_path: Path) -> None:
    gateway.files["x"] = FakeFile(CONTENT)
    node = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(node))
        with pytest.raises(LocalFileError, match="a socket"):
            sandbox.download_path("x", node)
    assert stat.S_ISSOCK(node.lstat().st_mode)


def test_a_name_for_an_open_file_is_refused(gateway: FakeGateway, sandbox: Any, tmp_path: Path) -> None:
    """As `/dev/stdout` when the shell sends it to a file."""
    gateway.files["x"] = FakeFile(CONTENT)
    with (tmp_path / "out").open("wb") as file:
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{file.fileno()}")
        with pytest.raises(LocalFileError, match="open file"):
            sandbox.download_path("x", link)
        assert link.is_symlink()
        for name in (f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}"):
            with pytest.raises(LocalFileError, match="open file"):
                sandbox.download_path("x", name)


# Flushes and failures


def test_file_and_directory_are_flushed_in_order(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content before the name, the name before the answer."""
    gateway.files["x"] = FakeFile(b"1")
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def rename(*args: Any, **kwargs: Any) -> None:
        done.append("rename")
        replace(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    sandbox.download_path("x", tmp_path / "x")
    assert done == ["file", "rename", "directory"]
    done.clear()
    sandbox.download_path("x", tmp_path / "x", fsync=False)
    assert done == ["rename"]


@pytest.mark.parametrize("failing", ["unlink", "close"])
def test_the_first_error_is_the_one_that_is_shown(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """As on a file system that became read-only."""
    gateway.files["x"] = FakeFile(b"1")
    gateway.on_download = lambda _number, _honest: iter(_refusing())
    real = getattr(os, failing)

    def fail(what: Any, *args: Any, **kwargs: Any) -> None:
        real(what, *args, **kwargs)
        if failing == "unlink" or _is_part(tmp_path):
            raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(DiskFull):
        sandbox.download_path("x", tmp_path / "x")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


def _is_part(directory: Path) -> bool:
    return any(path.suffix == ".part" for path in directory.iterdir())


def _refusing() -> Iterator[Any]:
    raise TransferError(Reason.DISK_FULL, "the first error", retry_delay=3600.0)
    yield


def test_a_close_that_loses_content_is_an_error(
    gateway: FakeGateway, sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may say only then that it has no room: the old file stays."""
    gateway.files["x"] = FakeFile(b"1")
    target = tmp_path / "x"
    target.write_bytes(b"old")
    close = os.close

    def full(descriptor: int) -> None:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        name = os.readlink(f"/proc/self/fd/{descriptor}") if regular else ""
        close(descriptor)
        if name.endswith(".part"):
            raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "close", full)
    with pytest.raises(LocalFileError) as caught:
        sandbox.download_path("x", target, fsync=False)
    monkeypatch.undo()
    assert caught.value.errno == errno.EDQUOT
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("failing", "renamed", "words"),
    [
        ("replace", False, "cannot write"),
        # A network file system may lose the answer of a rename that was done.
        ("replace", True, "is in place and whole, but may not survive a power loss"),
        ("fsync", True, "is in place and whole, but may not survive a power loss"),
    ],
)
def test_a_failure_at_the_rename_says_what_is_so(
    gateway: FakeGateway,
    sandbox: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    words: str,
    *,
    renamed: bool,
) -> None:
    gateway.files["x"] = FakeFile(b"new")
    target = tmp_path / "x"
    target.write_bytes(b"old")
    real = getattr(os, failing)

    def fail(*args: Any, **kwargs: Any) -> None:
        last = failing == "replace" or stat.S_ISDIR(os.fstat(args[0]).st_mode)
        if renamed or not last:
            real(*args, **kwargs)
        if last:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(LocalFileError, match=words) as caught:
        sandbox.download_path("x", target)
    monkeypatch.undo()
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(target))
    assert target.read_bytes() == (b"new" if renamed else b"old")
    assert os.listdir(tmp_path) == ["x"]
