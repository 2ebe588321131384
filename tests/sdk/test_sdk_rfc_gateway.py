"""A gateway of the RFC alone: every method and command is refused, names what the gateway lacks, and changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_scene import Cli
from openshell_files import FilesClient, SandboxFiles
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.errors import Unsupported
from openshell_files_protocol.limits import MIB
from rfc_gateway import RfcGateway
from sdk_flavours import Connect

OLD = b"the old content"

#: Method → call, and what the error names.
METHODS: dict[str, tuple[Callable[[SandboxFiles, Path], object], str]] = {
    "upload_path": (lambda files, local: files.upload_path(local, "x"), "StartUpload"),
    "upload": (lambda files, _: files.upload(b"new", "x"), "StartUpload"),
    "upload an empty file": (lambda files, _: files.upload(b"", "x"), "StartUpload"),
    "upload a large file": (lambda files, _: files.upload(bytes(MIB), "x"), "StartUpload"),
    "upload a stream": (lambda files, _: files.upload(io.BytesIO(bytes(MIB)), "x"), "StartUpload"),
    "resume": (lambda files, _: files.upload(b"new", "x", upload_id="upload-1"), "GetUpload"),
    "write_bytes": (lambda files, _: files.write_bytes("x", b"new"), "StartUpload"),
    "download_path": (
        lambda files, local: files.download_path("x", local),
        "DownloadFile only as in the RFC",
    ),
    "download": (lambda files, _: files.download("x", io.BytesIO()), "DownloadFile only as in the RFC"),
    "iter_download": (lambda files, _: list(files.iter_download("x")), "DownloadFile only as in the RFC"),
    "read_bytes": (lambda files, _: files.read_bytes("x"), "DownloadFile only as in the RFC"),
    "stat": (lambda files, _: files.stat("x"), "StatFile"),
    "uploads": (lambda files, _: files.uploads(), "ListUploads"),
    "upload_status": (lambda files, _: files.upload_status("upload-1"), "GetUpload"),
    "abort_upload": (lambda files, _: files.abort_upload("upload-1"), "AbortUpload"),
    "list_directory": (lambda files, _: list(files.list_directory("x")), "ListDirectory"),
    "make_directory": (lambda files, _: files.make_directory("d"), "MakeDirectory"),
    "remove": (lambda files, _: files.remove("x"), "RemovePath"),
    "move": (lambda files, _: files.move("x", "y"), "MovePath"),
    "copy": (lambda files, _: files.copy("x", "y"), "CopyPath"),
    "upload_tree": (lambda files, local: files.upload_tree(local.parent, "t"), "transfer directories"),
    "download_tree": (
        lambda files, local: files.download_tree("t", local.parent / "t"),
        "transfer directories",
    ),
    "upload_archive": (lambda files, _: files.upload_archive(b"new", "t"), "GetTransferCapabilities"),
}
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "upload": (("upload", "demo", "{local}", "x"), "StartUpload"),
    "download": (("download", "demo", "x", "{local}"), "DownloadFile only as in the RFC"),
    "stat": (("stat", "demo", "x"), "StatFile"),
    "uploads": (("uploads", "demo"), "ListUploads"),
    "abort": (("abort", "demo", "upload-1"), "AbortUpload"),
    "ls": (("ls", "demo"), "ListDirectory"),
    "mkdir": (("mkdir", "demo", "d"), "MakeDirectory"),
    "rm": (("rm", "demo", "x"), "RemovePath"),
    "mv": (("mv", "demo", "x", "y"), "StatFile"),
    "cp": (("cp", "demo", "x", "y"), "StatFile"),
}


@pytest.fixture
def gateway() -> Iterator[RfcGateway]:
    """Take the place of the fake gateway behind `connect` and `cli`."""
    rfc = RfcGateway()
    rfc.files["x"] = OLD
    rfc.start()
    yield rfc
    rfc.stop()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "local"
    path.write_bytes(b"local content")
    return path


def unchanged(gateway: RfcGateway, local: Path) -> bool:
    return (gateway.files, gateway.uploads, local.read_bytes()) == ({"x": OLD}, 0, b"local content")


def test_every_method_is_in_the_table() -> None:
    public = {name for name in dir(SandboxFiles) if not name.startswith("_")}
    # as_archive is a field of the RFC, so its gateway may have it.
    assert public - {name.split()[0] for name in METHODS} == {"open", "download_archive"}


@pytest.mark.parametrize("method", METHODS)
def test_methods(connect: Connect, gateway: RfcGateway, local: Path, method: str) -> None:
    """RFC-8: no stream reaches the gateway."""
    call, lacks = METHODS[method]
    with pytest.raises(Unsupported, match=lacks) as caught:
        call(connect(), local)
    assert any(word in caught.value.fix for word in ("extensions", "with trees", "with archives"))
    assert unchanged(gateway, local)


def test_after_a_connection_exists(connect: Connect, gateway: RfcGateway, local: Path) -> None:
    """RFC-8: WriteFile is then the first question; its refusal sends no stream either."""
    files = connect()
    for _ in range(2):
        with pytest.raises(Unsupported):
            files.stat("x")
        with pytest.raises(Unsupported):
            files.write_bytes("x", b"new")
    assert unchanged(gateway, local)


def test_file_objects(gateway: RfcGateway, local: Path) -> None:
    with FilesClient(gateway.address) as client:
        files = client.sandbox("demo")
        with pytest.raises(Unsupported, match="StatFile"):
            files.open("x")
        writer = files.open("x", "wb")
        writer.write(b"new")
        with pytest.raises(Unsupported, match="StartUpload"):
            writer.close()
    assert unchanged(gateway, local)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(cli: Cli, gateway: RfcGateway, local: Path, command: str) -> None:
    words, lacks = COMMANDS[command]
    ended = cli(*(word.format(local=local) for word in words))
    assert ended.status == ExitCode.UNSUPPORTED
    assert lacks in ended.err
    assert "extensions" in ended.err
    assert unchanged(gateway, local)
