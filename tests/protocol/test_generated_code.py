"""The generated code loads wherever the distribution may be installed."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from openshell_files_protocol import pb

PACKAGE = Path(pb.__path__[0])
GENERATED = sorted(PACKAGE.rglob("*_pb2.py"))

#: The generator of the official SDK: asking for a newer runtime than it does
#: would split its users' environments.
NEWEST_GENERATOR = (6, 31, 1)

Version = tuple[int, ...]


def version(text: str) -> Version:
    return tuple(map(int, text.split(".")))


def generator(source: str) -> Version:
    """Return the version that generated code asks the runtime to have, from its own check."""
    check = re.search(r"ValidateProtobufRuntimeVersion\(\s*\S+,\s*(\d+),\s*(\d+),\s*(\d+),\s*''", source)
    assert check is not None
    return tuple(map(int, check.groups()))


def test_every_proto_file_was_generated() -> None:
    assert [path.relative_to(PACKAGE).as_posix() for path in GENERATED] == [
        "openshell/datamodel/v1/datamodel_pb2.py",
        "openshell/options/v1/options_pb2.py",
        "openshell/v1/directories_pb2.py",
        "openshell/v1/exec_pb2.py",
        "openshell/v1/exec_relay_pb2.py",
        "openshell/v1/file_options_pb2.py",
        "openshell/v1/file_relay_pb2.py",
        "openshell/v1/files_pb2.py",
        "openshell/v1/openshell_pb2.py",
        "openshell/v1/sandboxes_pb2.py",
        "openshell/v1/trees_pb2.py",
    ]


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.stem)
def test_the_generator_is_no_newer_than_the_official_sdks(path: Path) -> None:
    assert generator(path.read_text("utf-8")) <= NEWEST_GENERATOR


def test_the_required_runtime_is_no_older_than_the_generator() -> None:
    """The lower bound of the distribution is what the generated code checks for."""
    (requirement,) = (
        one for one in metadata.requires("openshell-files-protocol") or [] if one.startswith("protobuf")
    )
    bound = re.search(r">=\s*([\d.]+)", requirement)
    assert bound is not None
    assert version(bound[1]) == max(generator(path.read_text("utf-8")) for path in GENERATED)


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.stem)
def test_the_types_are_generated_too(path: Path) -> None:
    assert path.with_suffix(".pyi").is_file()
