"""The file with a development stack's environment, which a shell reads."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from openshell_files_gateway.dev.session import _private_file


def test_a_stack_removes_its_own_file_only(tmp_path: Path) -> None:
    """A second stack writes to the same name; the first one, at its end, leaves that."""
    path = tmp_path / "dev.env"
    with ExitStack() as second:
        with _private_file(path, "first"):
            second.enter_context(_private_file(path, "second"))
        assert path.read_text() == "second"
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
