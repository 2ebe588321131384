"""Whatever a reader may copy from a document works as it stands, in order, in a clean terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import RUN, SHOWN, Block, Reader, blocks, made_targets, reader

ROOT = Path(__file__).parents[2]

DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/**/*.md")})

#: Documents that are followed one after the other, since each goes on where the one before it ended.
FOLLOWED = {
    "the stack for development": ("README.md", "sdk/README.md"),
}


def names(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def runnable(block: Block) -> bool:
    """Whether a reader does something with the block."""
    return block.language not in SHOWN and block.directive != "not run"


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_block_says_what_it_is(document: Path) -> None:
    for block in blocks(document, ROOT):
        assert block.language, f"{block.place}: name a language; `text` if it only shows something"
        if block.language not in RUN | SHOWN:
            assert block.directive in {"saved as", "not run"}, (
                f"{block.place}: say what a reader does with it"
            )


def test_every_document_with_something_to_run_is_followed() -> None:
    with_commands = {names(path) for path in DOCUMENTS if any(map(runnable, blocks(path, ROOT)))}
    assert with_commands == {name for some in FOLLOWED.values() for name in some}


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_target_of_make_that_is_named_is_there(document: Path) -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = document.read_text("utf-8")
    named = {
        target
        for code in re.findall(r"`(make [^`]+)`", text) + [block.text for block in blocks(document, ROOT)]
        for target in made_targets(code)
    }
    assert named <= known


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8"))
        if not link.startswith("https://") and not leads_somewhere(document, link)
    ]
    assert broken == []


def leads_somewhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    if not target.exists():
        return False
    return not anchor or target.suffix != ".md" or anchor in anchors(target)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("followed", FOLLOWED)
def test_what_a_reader_copies_works(followed: str, tmp_path: Path) -> None:
    with reader(tmp_path, ROOT) as typing:
        follow(typing, FOLLOWED[followed])


def follow(typing: Reader, documents: tuple[str, ...]) -> None:
    for document in documents:
        for block in blocks(ROOT / document, ROOT):
            if runnable(block):
                typing.follow(block)
