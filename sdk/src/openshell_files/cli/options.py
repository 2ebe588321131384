"""Options of several commands: those of the connection, and common ones.

They are declarations alone, which `--help` and completions import; nothing here imports the client.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, get_args

import click
from openshell_files_protocol.methods import DEFAULT_WORKSPACE

from openshell_files.cli.usage import OneOf, Seconds, Whole, argument, flag, option
from openshell_files.options import DigestChoice, Durability

_GROUP: Final = "Connection"

#: Largest number in a message of the protocol.
MOST: Final = 2**63 - 1

DIGESTS: Final[tuple[DigestChoice, ...]] = get_args(DigestChoice)

_FILE: Final = click.Path(path_type=Path)

#: The connection options of every command. Their names are the fields of `Connecting`.
CONNECTION: Final = (
    option(
        "--endpoint",
        required=True,
        envvar="OPENSHELL_FILES_ENDPOINT",
        help="Gateway: host:port or a URL.",
        section=_GROUP,
    ),
    option(
        "--token",
        envvar="OPENSHELL_FILES_TOKEN",
        help="Bearer token. Other users can see command lines: prefer the variable or a file.",
        section=_GROUP,
    ),
    option(
        "--token-file",
        type=_FILE,
        envvar="OPENSHELL_FILES_TOKEN_FILE",
        help="File with the bearer token; read for every call, a pipe once.",
        section=_GROUP,
    ),
    option(
        "--issuer",
        envvar="OPENSHELL_FILES_OIDC_ISSUER",
        help="Get tokens by client credentials from this issuer. The secret comes from "
        "OPENSHELL_FILES_OIDC_CLIENT_SECRET.",
        section=_GROUP,
    ),
    option("--client-id", envvar="OPENSHELL_FILES_OIDC_CLIENT_ID", section=_GROUP),
    option("--client-secret", envvar="OPENSHELL_FILES_OIDC_CLIENT_SECRET", hidden=True),
    option("--audience", default="", envvar="OPENSHELL_FILES_OIDC_AUDIENCE", section=_GROUP),
    option("--scope", default="", envvar="OPENSHELL_FILES_OIDC_SCOPE", section=_GROUP),
    option(
        "--workspace",
        default=DEFAULT_WORKSPACE,
        envvar="OPENSHELL_FILES_WORKSPACE",
        help="Workspace of NAME.",
        section=_GROUP,
    ),
    option(
        "--tls-ca",
        type=_FILE,
        envvar="OPENSHELL_FILES_TLS_CA",
        help="File of PEM certificates to trust.",
        section=_GROUP,
    ),
    option(
        "--tls-cert",
        type=_FILE,
        envvar="OPENSHELL_FILES_TLS_CERT",
        help="File of this client's certificate.",
        section=_GROUP,
    ),
    option(
        "--tls-key", type=_FILE, envvar="OPENSHELL_FILES_TLS_KEY", help="File of its key.", section=_GROUP
    ),
    flag("--allow-insecure-token", help="Send the token without TLS.", section=_GROUP),
    option(
        "--call-timeout",
        type=Seconds(),
        default=30.0,
        help="Seconds for each call without content.",
        section=_GROUP,
    ),
    option(
        "--idle-timeout",
        type=Seconds(),
        default=120.0,
        help="Seconds without movement after which an attempt fails.",
        section=_GROUP,
    ),
    option(
        "--attempts",
        type=Whole(1, MOST),
        default=6,
        help="Attempts without progress before the command fails; more during an outage of the gateway.",
        section=_GROUP,
    ),
)

name: Final = argument("name", "NAME", help="Name of the sandbox.")
by_id: Final = flag("--by-id", help="NAME is the sandbox's id.")
timeout: Final = option("--timeout", type=Seconds(), help="Seconds for the whole command.")
as_json: Final = flag("--json", "as_json", help="Print one line of JSON, even about a failure.")
quiet: Final = flag("-q", "--quiet", help="Print neither progress nor success.")

mode: Final = option("--mode", help="Permission bits, octal. Default: those of the source.")
follow: Final = flag("--follow", help="Follow a symbolic link at the remote path.")
no_dereference: Final = flag(
    "-P", "--no-dereference", help="Describe a symbolic link itself, not its target."
)
digest: Final = option(
    "--digest",
    type=OneOf(DIGESTS),
    default="auto",
    help="Digest of the content; `auto` is blake3 if the server computes it, else sha256.",
)
durability_type: Final = OneOf(Durability)
preserve_mtime: Final = option(
    "--preserve-mtime/--no-preserve-mtime", default=True, help="Keep the modification time."
)
