"""Local file of a download: refused paths, links, the rename, and what a failure leaves."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from fake_file_gateway import FakeFile, FakeGateway
from openshell_files import Progress, SandboxFiles
from openshell_files.errors import (
    LocalFileError,
    LocalIsADirectory,
)
from sdk_flavours import big_content

CONTENT = big_content()


@pytest.fixture(autouse=True)
def remote(gateway: FakeGateway) -> None:
    gateway.files["big"] = FakeFile(CONTENT, mode=0o4751, version="v9")


def test_directory_is_refused_before_anything_is_asked(
    gateway: FakeGateway, sandbox: SandboxFiles, tmp_path: Path
) -> None:
    for path in (tmp_path, f"{tmp_path}/", f"{tmp_path}/.", f"{tmp_path}/.."):
        with pytest.raises(LocalIsADirectory):
            sandbox.download_path("big", path)
    assert gateway.calls == []


def test_link_is_replaced_and_not_followed(sandbox: SandboxFiles, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "out").symlink_to(victim)
    sandbox.download_path("big", tmp_path / "out")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == CONTENT


def test_missing_local_directory(sandbox: SandboxFiles, tmp_path: Path) -> None:
    with pytest.raises(LocalFileError) as caught:
        sandbox.download_path("big", tmp_path / "no" / "out")
    assert caught.value.errno == 2


def test_longest_name(sandbox: SandboxFiles, tmp_path: Path) -> None:
    """The temporary name does not get too long."""
    name = "ü" * 127
    sandbox.download_path("big", tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_reader_sees_old_or_new(sandbox: SandboxFiles, tmp_path: Path) -> None:
    """While content arrives, the name still shows the old file, and the temporary one is private."""
    target = tmp_path / "out"
    target.write_bytes(b"old")
    seen: list[bytes] = []

    def look(_progress: Progress) -> None:
        seen.append(target.read_bytes())
        (temporary,) = [p for p in tmp_path.iterdir() if p.name != "out"]
        assert temporary.name.startswith(".out.openshell-")
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600

    sandbox.download_path("big", target, progress=look)
    assert set(seen) == {b"old"}
    assert target.read_bytes() == CONTENT


def test_what_a_callback_raises_cleans_up(sandbox: SandboxFiles, tmp_path: Path) -> None:
    def fail(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sandbox.download_path("big", tmp_path / "out", progress=fail)
    assert os.listdir(tmp_path) == []
