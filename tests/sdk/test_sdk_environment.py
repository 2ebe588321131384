"""A client from the environment: the variables that the command line reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme
from openshell_files import AsyncFilesClient, ClientCredentials, FilesClient, OidcAuth, TlsConfig
from openshell_files._local import token_file
from openshell_files._local.environment import EnvironmentSettings, read_environment
from openshell_files._local.token_file import FileToken
from openshell_files.errors import CredentialsError, LocalFileError

HERE = {"OPENSHELL_FILES_ENDPOINT": "127.0.0.1:1"}
ISSUER = {
    "OPENSHELL_FILES_OIDC_ISSUER": "https://issuer.example",
    "OPENSHELL_FILES_OIDC_CLIENT_ID": "build",
    "OPENSHELL_FILES_OIDC_CLIENT_SECRET": "s",
}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, EnvironmentSettings("127.0.0.1:1", None, "default", None)),
        ({"OPENSHELL_FILES_TOKEN": ""}, EnvironmentSettings("127.0.0.1:1", None, "default", None)),
        (
            {"OPENSHELL_FILES_TOKEN": "t"},
            EnvironmentSettings("127.0.0.1:1", OidcAuth(token="t"), "default", None),
        ),
        (
            {"OPENSHELL_FILES_TOKEN_FILE": "/t"},
            EnvironmentSettings("127.0.0.1:1", OidcAuth(token=FileToken(Path("/t"))), "default", None),
        ),
        (
            ISSUER | {"OPENSHELL_FILES_OIDC_AUDIENCE": "a", "OPENSHELL_FILES_OIDC_SCOPE": "b c"},
            EnvironmentSettings(
                "127.0.0.1:1",
                ClientCredentials("https://issuer.example", "build", "s", "a", "b c"),
                "default",
                None,
            ),
        ),
        ({"OPENSHELL_FILES_WORKSPACE": "w"}, EnvironmentSettings("127.0.0.1:1", None, "w", None)),
        (
            {"OPENSHELL_FILES_TLS_CA": "/ca"},
            EnvironmentSettings("127.0.0.1:1", None, "default", TlsConfig(Path("/ca"))),
        ),
    ],
)
def test_variables_describe_the_connection(variables: dict[str, str], expected: EnvironmentSettings) -> None:
    assert read_environment(HERE | variables) == expected


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OPENSHELL_FILES_ENDPOINT": ""}, ["OPENSHELL_FILES_ENDPOINT"]),
        (
            {"OPENSHELL_FILES_TOKEN": "t", "OPENSHELL_FILES_TOKEN_FILE": "/t"},
            ["OPENSHELL_FILES_TOKEN", "OPENSHELL_FILES_TOKEN_FILE"],
        ),
        (ISSUER | {"OPENSHELL_FILES_TOKEN": "t"}, ["OPENSHELL_FILES_TOKEN", "OPENSHELL_FILES_OIDC_ISSUER"]),
        (
            {"OPENSHELL_FILES_OIDC_ISSUER": "https://issuer.example"},
            ["OPENSHELL_FILES_OIDC_CLIENT_ID", "OPENSHELL_FILES_OIDC_CLIENT_SECRET"],
        ),
        ({"OPENSHELL_FILES_TLS_CERT": "/c"}, ["cert_path", "key_path"]),
    ],
)
def test_variables_that_do_not_fit_are_named(variables: dict[str, str], named: list[str]) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the names are the point
        read_environment(HERE | variables)
    assert all(name in str(raised.value) for name in named)
    assert "'t'" not in str(raised.value)


@pytest.mark.parametrize("flavour", [FilesClient, AsyncFilesClient])
def test_a_client_is_made_of_them(
    flavour: type[FilesClient | AsyncFilesClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENSHELL_FILES_ENDPOINT", raising=False)
    with pytest.raises(ValueError, match="OPENSHELL_FILES_ENDPOINT"):
        flavour.from_env()
    monkeypatch.setenv("OPENSHELL_FILES_ENDPOINT", "127.0.0.1:1")
    assert type(flavour.from_env()) is flavour


def test_a_token_file_is_read_for_every_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    token = FileToken(file)
    for text in ("one\n", "two\n"):
        file.write_text(text)
        assert token() == text.strip()


@pytest.mark.parametrize("text", [b"secret", b"secret\n"])
def test_a_token_from_a_pipe_is_read_once(tmp_path: Path, text: bytes) -> None:
    """It is not waited for a second time, and its writer need not close it behind the line."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)
    os.write(writer, text)
    if text.endswith(b"secret"):
        reader = os.open(pipe, os.O_RDONLY)
        os.close(writer)
        writer = reader
    token = FileToken(pipe)
    assert token() == "secret"
    assert token() == "secret"
    os.close(writer)


@pytest.mark.parametrize("writer", [False, True], ids=["no writer", "a writer that says nothing"])
def test_a_pipe_without_a_token_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, writer: bool
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(token_file, "PIPE_SECONDS", 0.1)
    held = os.open(pipe, os.O_RDWR) if writer else None
    with pytest.raises(CredentialsError, match=r"pipe: it gave no token within 0\.1 s"):
        FileToken(pipe)()
    if held is not None:
        os.close(held)


@pytest.mark.parametrize("what", ["nothing", "a directory", "no certificate", "empty"])
@pytest.mark.parametrize("flavour", [FilesClient, AsyncFilesClient])
def test_roots_that_grpc_would_abort_for(
    flavour: type[FilesClient | AsyncFilesClient], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends the process with SIGABRT, and says nothing."""
    roots = tmp_path / "roots"
    if what == "a directory":
        roots.mkdir()
    elif what != "nothing":
        roots.write_bytes(b"" if what == "empty" else b"x")
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(roots))
    with pytest.raises(LocalFileError, match="GRPC_DEFAULT_SSL_ROOTS_FILE_PATH") as caught:
        flavour("https://127.0.0.1:1")
    assert str(roots) in caught.value.message


def test_a_bundle_with_words_beside_its_certificates(tmp_path: Path) -> None:
    """Names of authorities, in any script; only the certificates count."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes("# F\u0151tan\u00fas\u00edtv\u00e1ny\n".encode() + trustme.CA().cert_pem.bytes())
    FilesClient("https://127.0.0.1:1", tls=TlsConfig(ca_path=bundle)).close()
