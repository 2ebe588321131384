"""Form of a command line in `--help`: as in manual pages, without types in brackets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import typer
from openshell_files_process.command_help import CommandHelp
from openshell_files_process.command_mistakes import mistake_words
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from openshell_files.cli.transfer.destinations import is_elsewhere

#: Metavariable of an option by the end of its name; others get the name in capitals.
_VALUES: Final = (
    ("timeout", "SECONDS"),
    ("bytes", "BYTES"),
    ("offset", "BYTES"),
    ("length", "BYTES"),
    ("tail", "BYTES"),
    ("attempts", "NUMBER"),
    ("mode", "OCTAL"),
    ("version", "VERSION"),
    ("match_digest", "ALGORITHM:HEX"),
    ("file", "FILE"),
    ("tls_ca", "FILE"),
    ("tls_cert", "FILE"),
    ("tls_key", "FILE"),
)

#: Beginnings of the messages about a missing or superfluous word.
_COUNT: Final = ("Missing argument", "Got unexpected extra argument")


def usage_words(mistake: typer.TyperException, words: Sequence[str]) -> tuple[str, str]:
    """Return the fault of a command line and its fix; empty if there was no word to judge.

    Args:
        mistake: exception of typer.
        words: the command line.
    """
    message = mistake_words(mistake)
    context: Any = getattr(mistake, "ctx", None)
    if not message or context is None:
        return message, "See `openshell-files --help`."
    if message.startswith(_COUNT):
        elsewhere = next((word for word in words if is_elsewhere(word) and "://" not in word), "")
        if elsewhere:
            sandbox, _, path = elsewhere.partition(":")
            return message, (
                "Write sandbox and path as two words, the sandbox first: "
                f"openshell-files {context.info_name} {sandbox} {path}".rstrip()
            )
        pieces = " ".join(context.command.collect_usage_pieces(context))
        return message, f"Usage: {context.command_path} {pieces}"
    return message, f"See `{context.command_path} --help`."


class PlainCommand(CommandHelp, TyperCommand):
    """A command whose usage reads `upload [OPTIONS] NAME LOCAL... [DEST]`."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's context has no public name
        """Return the parameters, and that of `--help`."""
        return _plain(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - as above; the signature is typer's
        """Return the words after the command's name."""
        arguments = [p for p in self.params if isinstance(p, TyperArgument)]
        return ["[OPTIONS]", *(argument.display_name_raw for argument in arguments)]


class PlainGroup(CommandHelp, TyperGroup):
    """The command with its subcommands."""

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - typer's context has no public name
        """Return the parameters, and that of `--help`."""
        return _plain(super().get_params(ctx))


def _plain(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.metavar is None:
            parameter.metavar = _value(parameter)
        elif isinstance(parameter, TyperArgument):
            # Set on the instance, because typer has no option for it.
            vars(parameter)["display_type_rich"] = _no_type
    return parameters


def _value(option: TyperOption) -> str | None:
    if option.is_flag:
        return ""
    if option.type_descriptor.is_choice:
        return None
    name = option.name or ""
    for ending, value in _VALUES:
        if name.endswith(ending):
            return value
    return name.upper().replace("_", "-")


def _no_type(*, ctx: object) -> None:  # noqa: ARG001 - the signature is typer's
    return None
