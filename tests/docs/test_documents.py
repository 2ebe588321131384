"""Whatever a reader may copy from a document works as it stands, in order, in a clean terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import trustme
from dev_command import command
from documents import RUN, SHOWN, Block, Reader, blocks, made_targets, reader
from openshell_files_gateway.dev.identity_provider import DevelopmentClient, DevelopmentIdentityProvider

ROOT = Path(__file__).parents[2]

DOCUMENTS = sorted(
    {
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("tests/*/README.md"),
        *ROOT.glob("docs/**/*.md"),
    }
)

#: Documents that are followed one after the other, since each goes on where the one before it ended.
FOLLOWED = {
    "the stack for development": ("README.md", "sdk/README.md"),
    "serving for real": ("docs/operations.md",),
}

#: Its sections are followed one by one, each with the tools of its language.
LANGUAGES = "proto/README.md"

#: By section: the program that its reader has, and where that keeps what it once fetched.
TOOLS: dict[str, tuple[str, dict[str, str]]] = {
    "Go": ("go", {"GOMODCACHE": "pkg/mod", "GOCACHE": "cache"}),
    "TypeScript": ("npm", {"NPM_CONFIG_USERCONFIG": ".npmrc", "NPM_CONFIG_CACHE": ".npm"}),
    "Rust": ("cargo", {"CARGO_HOME": ".cargo", "RUSTUP_HOME": ".rustup"}),
    "Python": ("python3", {}),
}

#: How this machine reaches the registries, if it has to be told.
NETWORK = (
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
    "no_proxy",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "CARGO_HTTP_CAINFO",
)


def names(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def runnable(block: Block) -> bool:
    """Whether a reader does something with the block."""
    return block.language not in SHOWN and block.directive not in {"not run", "added to"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_block_says_what_it_is(document: Path) -> None:
    for block in blocks(document, ROOT):
        assert block.language, f"{block.place}: name a language; `text` if it only shows something"
        if block.language not in RUN | SHOWN:
            assert block.directive in {"saved as", "added to", "yours", "not run"}, (
                f"{block.place}: say what a reader does with it"
            )


def test_every_document_with_something_to_run_is_followed() -> None:
    with_commands = {names(path) for path in DOCUMENTS if any(map(runnable, blocks(path, ROOT)))}
    assert with_commands == {name for some in FOLLOWED.values() for name in some} | {LANGUAGES}


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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture
def issuer() -> Generator[DevelopmentIdentityProvider]:
    """An issuer that knows one caller."""
    caller = DevelopmentClient("alice", "a secret for tests")
    with DevelopmentIdentityProvider(audience="openshell-cli", clients=[caller]) as running:
        yield running


@pytest.fixture
def yours(issuer: DevelopmentIdentityProvider) -> dict[str, str]:
    """What a reader has that the documents cannot know."""
    port = free_port()
    site = {
        "GATEWAY": f"localhost:{port}",
        "OPENSHELL_BIND_ADDRESS": "127.0.0.1",
        "OPENSHELL_SERVER_PORT": str(port),
        "OPENSHELL_OIDC_ISSUER": issuer.issuer,
        "OPENSHELL_OIDC_DANGEROUSLY_ALLOW_INSECURE_HTTP": "true",
        "OPENSHELL_FILES_OIDC_CLIENT_ID": issuer.client_id,
        "OPENSHELL_FILES_OIDC_CLIENT_SECRET": issuer.client_secret,
    }
    exports = [f"export {name}={shlex.quote(value)}" for name, value in site.items()]
    lines = [f'export PATH={shlex.quote(sys.prefix)}/bin:"$PATH"', *exports]
    return {
        "site.env": "\n".join(["cat > site.env <<'END'", *lines, "END"]),
        "the agent's port": f". ./site.env\nexport AGENT_PORT={free_port()}",
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("followed", FOLLOWED)
def test_what_a_reader_copies_works(followed: str, tmp_path: Path, yours: dict[str, str]) -> None:
    # Who serves for real has the checkout elsewhere.
    with reader(tmp_path, ROOT, yours, elsewhere="docs/operations.md" in FOLLOWED[followed]) as typing:
        follow(typing, FOLLOWED[followed])
    made = [
        entry.name
        for entry in (tmp_path / "checkout").iterdir()
        if not entry.is_symlink() and not entry.name.startswith("block-") and entry.is_file()
    ]
    assert [name for name in made if not is_ignored(name)] == [], "a clone stays clean: name it in .gitignore"


def is_ignored(name: str) -> bool:
    """Whether git leaves a file at the root of the repository out."""
    return subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=False).returncode == 0


def test_what_may_be_added_to_the_settings_is_accepted(tmp_path: Path) -> None:
    """Each addition of operations.md by itself, in the directory where the settings are."""
    found = blocks(ROOT / "docs/operations.md", ROOT)
    settings = next(
        block.text for block in found if block.value == "gateway.toml" and block.directive == "saved as"
    )
    additions = [block for block in found if block.directive == "added to"]
    assert additions
    authority = trustme.CA()
    certificate = authority.issue_cert("gateway.example.com")
    certificate.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    (tmp_path / "demo-agent-secret").write_text("s" * 64, "ascii")
    (tmp_path / "demo-agent-secret").chmod(0o600)
    for block in additions:
        (tmp_path / "gateway.toml").write_text(
            settings + block.text.replace("/var/lib/openshell", str(tmp_path))
        )
        done = subprocess.run(
            [command("openshell-files-gateway"), "sandbox-token", "5f1c9a52-5d0c-4b57-9f38-0c5f6e1f2a3b",
             "--config", "gateway.toml"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.place}: {done.stderr}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("language", TOOLS)
def test_a_client_in_another_language(language: str, tmp_path: Path) -> None:
    """Generated, compiled and run as proto/README.md says; needs the language's registry."""
    program, kept = TOOLS[language]
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}")
    home = Path.home()
    tools = {"PATH": str(Path(found).parent)} | {
        name: os.environ.get(name, str(home / place))
        for name, place in kept.items()
        if (home / place).exists()
    }
    tools |= {name: os.environ[name] for name in NETWORK if name in os.environ}
    with reader(tmp_path, ROOT, tools=tools) as typing:
        typing.patience = 600
        serving = next(
            block for block in blocks(ROOT / "README.md", ROOT) if block.directive == "serves until"
        )
        typing.follow(serving)
        typing.follow(Block("the terminal", "console", "$ . ./dev.env\n"))
        for block in blocks(ROOT / LANGUAGES, ROOT):
            if block.section in {"A compiler", language}:
                typing.follow(block)


def follow(typing: Reader, documents: tuple[str, ...]) -> None:
    for document in documents:
        for block in blocks(ROOT / document, ROOT):
            if runnable(block):
                typing.follow(block)
