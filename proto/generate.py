#!/usr/bin/env python3
# /// script
# requires-python = ">=3.11"
# dependencies = [
#   # protoc 31.1: the oldest generator whose output loads beside the official
#   # SDK's, so that the SDK asks no newer protobuf of its users than that does.
#   "grpcio-tools==1.75.1",
#   "mypy-protobuf==5.1.0",
#   # grpcio-tools still imports pkg_resources.
#   "setuptools<81",
# ]
# ///
"""Generate the Python messages from the .proto files.

Usage: ``generate.py [--check]``. With ``--check`` nothing is written; the
program ends with status 1 if the committed code differs from what the .proto
files give.

No service stubs are generated: both ends call methods by path (see
``methods.py``), because the service symbol belongs to the official SDK.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
PACKAGE = "openshell_files_protocol.pb"
TARGET = HERE / "src" / PACKAGE.replace(".", "/")
SOURCES = sorted(path.relative_to(HERE).as_posix() for path in (HERE / "openshell").rglob("*.proto"))

# protoc imports by the .proto's path; `openshell` is the official SDK's
# package, so ours is moved below our own.
IMPORT = re.compile(r"^(from|import) openshell\.", re.MULTILINE)


def generate(out: Path) -> dict[str, str]:
    """Run protoc into `out` and return the files it should give, by path."""
    well_known = files("grpc_tools").joinpath("_proto")
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={HERE}",
            f"--proto_path={well_known}",
            f"--python_out={out}",
            f"--mypy_out=quiet:{out}",
            *SOURCES,
        ]
    )
    if status != 0:
        sys.exit(f"protoc ended with status {status}")
    result: dict[str, str] = {}
    for path in sorted(out.rglob("*.py*")):
        text = IMPORT.sub(rf"\1 {PACKAGE}.openshell.", path.read_text("utf-8"))
        result[path.relative_to(out).as_posix()] = text
    directories = {Path(name).parent for name in result}
    for directory in {parent for d in directories for parent in (d, *d.parents)}:
        result[(directory / "__init__.py").as_posix()] = ""
    return result


def committed() -> dict[str, str]:
    """Return the files in the source tree, by path."""
    return {
        path.relative_to(TARGET).as_posix(): path.read_text("utf-8")
        for path in sorted(TARGET.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        wanted = generate(Path(directory))
    present = committed()
    if arguments.check:
        differing = sorted(
            name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
        )
        if differing:
            sys.exit("generated code differs, run `make proto`: " + ", ".join(differing))
        print(f"{len(wanted)} generated files are up to date")
        return
    for name in present.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, text in wanted.items():
        (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / name).write_text(text, "utf-8")
    print(f"{len(wanted)} files written")


if __name__ == "__main__":
    main()
