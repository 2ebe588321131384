"""What the documents name is there: clauses, reasons, modules, settings, options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openshell_files_protocol.reasons import Reason

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("docs/*.md"),
        *(ROOT / "proto").rglob("openshell/**/*.proto"),
    }
)

_CLAUSE = re.compile(
    r"\b(?:RFC|AUT|CAP|UPL|RSM|CRS|DIG|CND|DWN|PTH|DIR|TRE|ARC|LAN|WAI|FRM|EXE|RLY|SBX)-\d+\b"
)

#: Documents of the standards' body, which have the form of a clause.
_STANDARDS = re.compile(r"RFC-\d{3,}")


def names(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def clauses() -> set[str]:
    return set(re.findall(r"\*\*([A-Z]{3}-\d+)\*\*", (ROOT / "docs/protocol.md").read_text("utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_clause_that_is_named_is_there(document: Path, clauses: set[str]) -> None:
    named = {name for name in _CLAUSE.findall(document.read_text("utf-8")) if not _STANDARDS.match(name)}
    assert named <= clauses


@pytest.mark.parametrize(
    "document", ["ARCHITECTURE.md", "docs/protocol.md", "docs/operations.md", "docs/proposal.md", "README.md"]
)
def test_every_reason_that_is_named_is_in_the_table(document: str) -> None:
    """Words in capitals that are no reason belong to enumerations of the messages, or to gRPC."""
    text = (ROOT / document).read_text("utf-8")
    enumerations = "".join(path.read_text("utf-8") for path in (ROOT / "proto").rglob("openshell/**/*.proto"))
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", text))
    unknown = {
        name
        for name in named
        if name not in Reason.__members__ and not re.search(rf"\b{name}\b", enumerations)
    }
    settings = (ROOT / "docs/settings.md").read_text("utf-8")
    assert {
        name for name in unknown if name not in settings and not name.startswith(("OPENSHELL_", "LD_"))
    } <= ENVIRONMENT


#: Variables of the environment that are nobody's setting.
ENVIRONMENT = {"LC_ALL"}


def test_every_module_of_the_architecture_is_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    packages = [
        ROOT / "gateway/src/openshell_files_gateway",
        ROOT / "supervisor_sim/src/openshell_supervisor_sim",
        ROOT / "sdk/src/openshell_files",
        ROOT / "proto/src/openshell_files_protocol",
        ROOT / "proto/src/openshell_files_process",
        ROOT / "proto/src/openshell_files_disk",
    ]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    missing = [
        name
        for row in rows
        for name in re.findall(r"`([\w/]+\.py|[\w/]+/)`", row)
        if not any((package / name).exists() for package in packages) and not (ROOT / name).exists()
    ]
    assert rows
    assert missing == []


def test_every_setting_of_the_operations_is_there() -> None:
    settings = (ROOT / "docs/settings.md").read_text("utf-8")
    tables = set(re.findall(r"^\| `(\w+)\.", settings, re.MULTILINE))
    named = {
        name
        for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", (ROOT / "docs/operations.md").read_text("utf-8"))
        if name.partition(".")[0] in tables and not name.endswith(".crt")
    }
    assert named
    assert {name for name in named if f"`{name}`" not in settings} == set()


def test_every_option_of_the_documents_is_there() -> None:
    """Options of our commands, in the sources where they are declared."""
    sources = "".join(
        path.read_text("utf-8")
        for package in ("gateway", "supervisor_sim", "sdk")
        for path in (ROOT / package / "src").rglob("*.py")
    )
    for document in ("README.md", "sdk/README.md", "docs/operations.md"):
        text = (ROOT / document).read_text("utf-8")
        for option in set(re.findall(r"`(--[a-z-]+)", text)):
            declared = re.search(rf'["/]{option}\b', sources) or re.search(
                rf"\b{option[2:].removeprefix('no-').replace('-', '_')}\b\s*:", sources
            )
            assert declared, f"{document}: {option}"
