"""The sandbox's token, as each call gets it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from openshell_supervisor_sim.session.token_file import TokenFile, TokenFileError


async def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """Also by a token of the same length, in a file as old as the one before."""
    file, other = tmp_path / "token", tmp_path / "other"
    file.write_text("first")
    token = TokenFile(file)
    assert await token.metadata() == (("authorization", "Bearer first"),)
    other.write_text("other")
    status = file.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    assert await token.metadata() == (("authorization", "Bearer other"),)


async def test_a_file_that_stayed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every relay asks."""
    file = tmp_path / "token"
    file.write_text("first")
    token = TokenFile(file)
    reads: list[str] = []
    read = TokenFile.read

    def counted(self: TokenFile) -> str:
        reads.append("read")
        return read(self)

    monkeypatch.setattr(TokenFile, "read", counted)
    for _ in range(3):
        await token.metadata()
    assert len(reads) == 1
    token.replace("first", "renewed")
    assert await token.metadata() == (("authorization", "Bearer renewed"),)


async def test_a_file_that_is_gone_or_became_wrong_is_found_out(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first")
    token = TokenFile(file)
    await token.metadata()
    file.write_text("two tokens")
    with pytest.raises(TokenFileError, match="more than one token"):
        await token.metadata()
    file.unlink()
    with pytest.raises(TokenFileError, match="No such file"):
        await token.metadata()
