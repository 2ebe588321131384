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
TARGETS = {
    "openshell_files_protocol.pb": HERE / "src",
    # The conformance suite imports nothing of what it judges, so it has messages of its own.
    "openshell_files_conformance.pb": HERE.parent / "tests" / "conformance" / "src",
}
SOURCES = sorted(path.relative_to(HERE).as_posix() for path in (HERE / "openshell").rglob("*.proto"))

# protoc imports by the .proto's path; `openshell` is the official SDK's
# package, so ours is moved below our own.
IMPORT = re.compile(r"^(from|import) openshell\.", re.MULTILINE)


def compiled(out: Path) -> dict[str, str]:
    """Run protoc into `out` and return what it wrote, by path."""
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
    return {path.relative_to(out).as_posix(): path.read_text("utf-8") for path in sorted(out.rglob("*.py*"))}


def moved(texts: dict[str, str], package: str) -> dict[str, str]:
    """Return the files that a package should have below it, by path."""
    result = {name: IMPORT.sub(rf"\1 {package}.openshell.", text) for name, text in texts.items()}
    directories = {Path(name).parent for name in result}
    for directory in {parent for d in directories for parent in (d, *d.parents)}:
        result[(directory / "__init__.py").as_posix()] = ""
    return result


def committed(target: Path) -> dict[str, str]:
    """Return the files in the source tree, by path."""
    return {
        path.relative_to(target).as_posix(): path.read_text("utf-8")
        for path in sorted(target.rglob("*.py*"))
        if "__pycache__" not in path.parts
    }


def write(target: Path, wanted: dict[str, str]) -> None:
    """Make the files below `target` those that are wanted, and no others."""
    for name in committed(target).keys() - wanted.keys():
        (target / name).unlink()
    for name, text in wanted.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        texts = compiled(Path(directory))
    for package, source in TARGETS.items():
        target, wanted = source / package.replace(".", "/"), moved(texts, package)
        if not arguments.check:
            write(target, wanted)
            print(f"{package}: {len(wanted)} files written")
            continue
        present = committed(target)
        differing = sorted(
            name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
        )
        if differing:
            sys.exit(f"{package}: generated code differs, run `make proto`: " + ", ".join(differing))
        print(f"{package}: {len(wanted)} generated files are up to date")


if __name__ == "__main__":
    main()
