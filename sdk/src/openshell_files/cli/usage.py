"""Commands, options and values of the command line: their form in `--help`, and messages about wrong ones.

As in manual pages: a word for each value, and no types in brackets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click
from openshell_files_process.command_help import CommandHelp

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_T = TypeVar("_T")

#: A function, or what other decorators have made of it.
_Decorated = TypeVar("_Decorated", bound=Callable[..., object])

#: Word for the value of an option by the end of its name; others get the name in capitals.
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


class Option(click.Option):
    """An option whose help says its variable and its default, and stands in a section."""

    def __init__(self, names: Sequence[str], *, section: str = "", **attributes: Any) -> None:  # noqa: ANN401 - those of click
        attributes.setdefault("show_default", attributes.get("default") not in {None, ""})
        super().__init__(names, show_envvar=True, **attributes)
        self.section = section
        if self.metavar is None and not self.is_flag and not isinstance(self.type, click.Choice):
            name = self.name or ""
            known = (value for ending, value in _VALUES if name.endswith(ending))
            self.metavar = next(known, name.upper().replace("_", "-"))


class Argument(click.Argument):
    """A word of the command line whose help says if it is required, or its default."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return name and description."""
        name, words = super().get_help_record(ctx)
        return name, f"{words} [required]" if self.required else f"{words} [default: {self.default}]"


def option(*names: str, **attributes: Any) -> Callable[[_Decorated], _Decorated]:  # noqa: ANN401 - those of click
    """Declare an option of a command; see `Option`."""
    return click.option(*names, cls=Option, **attributes)


def flag(*names: str, **attributes: Any) -> Callable[[_Decorated], _Decorated]:  # noqa: ANN401 - those of click
    """Declare an option without a value."""
    return click.option(*names, cls=Option, is_flag=True, **attributes)


def argument(name: str, metavar: str, **attributes: Any) -> Callable[[_Decorated], _Decorated]:  # noqa: ANN401 - those of click
    """Declare a word, or all further words, of a command; see `Argument`."""
    return click.argument(name, cls=Argument, metavar=metavar, **attributes)


def local_files(
    _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a word by the names of local files."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - no command needs it

    return [CompletionItem(incomplete, type="file")]


class Whole(click.IntRange):
    """A whole number within bounds."""

    def __init__(self, least: int, most: int) -> None:
        super().__init__(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's signature
        """Return the number."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            _refuse(value, f"a whole number from {self.min} to {self.max}", param, ctx)


class Seconds(click.FloatRange):
    """A number of seconds, at least a millisecond."""

    def __init__(self) -> None:
        super().__init__(0.001)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Return the number."""
        wanted = f"a number of seconds, at least {self.min}"
        try:
            seconds = super().convert(value, param, ctx)
        except click.BadParameter:
            _refuse(value, wanted, param, ctx)
        # Bounds do not refuse NaN, which is neither below nor above any.
        return seconds if seconds == seconds else _refuse(value, wanted, param, ctx)  # noqa: PLR0124


class OneOf(click.Choice[_T]):
    """One of several texts, or of the values of an enumeration."""

    def normalize_choice(self, choice: object, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        """Return what is written for a choice."""
        return str(getattr(choice, "value", choice))

    def written(self) -> list[str]:
        """Return all choices as they are written."""
        return [self.normalize_choice(choice, None) for choice in self.choices]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002 - click's signature
        """Return the word for the value."""
        return f"<{'|'.join(self.written())}>"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> _T:  # noqa: ANN401 - click's signature
        """Return the choice."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            _refuse(value, f"one of {', '.join(self.written())}", param, ctx)


def _refuse(value: object, wanted: str, param: click.Parameter | None, ctx: click.Context | None) -> NoReturn:
    raise click.BadParameter(f"must be {wanted}, and is {value!a}", ctx, param) from None


class Command(CommandHelp, click.Command):
    """A command whose usage reads `upload [OPTIONS] NAME LOCAL... [DEST]`."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the words after the command's name."""
        arguments = [p for p in self.params if isinstance(p, click.Argument)]
        return ["[OPTIONS]", *(argument.human_readable_name for argument in arguments)]


class Group(CommandHelp, click.Group):
    """The command with its subcommands, each of which is imported when it is used.

    Args:
        homes: the module of each subcommand; the command has its name there.
        summaries: the help of each subcommand, for that of the whole.
        **attributes: those of click.
    """

    def __init__(self, *, homes: Mapping[str, str], summaries: Mapping[str, str], **attributes: Any) -> None:  # noqa: ANN401 - those of click
        super().__init__(**attributes)
        self._homes = homes
        self.summaries = summaries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the subcommands."""
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import a subcommand."""
        if cmd_name not in self._homes:
            return None
        command: object = getattr(import_module(self._homes[cmd_name]), cmd_name)
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the subcommand of a command line; a mistake in its name is answered with similar names."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as mistake:
            raise click.NoSuchCommand(mistake.command_name, None, self._homes, ctx) from None


def usage_words(mistake: click.ClickException, words: Iterable[str]) -> tuple[str, str]:
    """Return the fault of a command line and its fix; empty if there was no word to judge.

    Args:
        mistake: exception of click.
        words: the command line.
    """
    message = _message(mistake)
    context = mistake.ctx if isinstance(mistake, click.UsageError) else None
    if not message or context is None:
        return message, "See `openshell-files --help`."
    if message.startswith(_COUNT):
        # A wrong number of words may be the form of scp and kubectl.
        from openshell_files.cli.transfer.destinations import is_elsewhere  # noqa: PLC0415 - not for `--help`

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


def _message(mistake: click.ClickException) -> str:
    """Return an exception of click in words, in one line."""
    parameter = mistake.param if isinstance(mistake, click.BadParameter) else None
    if isinstance(parameter, click.Option) and not isinstance(mistake, click.MissingParameter):
        return f"{max(parameter.opts, key=len)}: {mistake.message}"
    if isinstance(mistake, click.NoSuchOption | click.NoSuchCommand) and mistake.possibilities:
        similar = ", ".join(map(repr, mistake.possibilities))
        return f"{mistake.message.rstrip('.')} (did you mean {similar}?)"
    return " ".join(mistake.format_message().split())
