"""Text of `--help` for the programs' command lines: no name that must be typed is cut, at any width.

Tables in boxes give each column a share of the terminal and cut what does not fit. This text has one
paragraph per option, and moves its description to the next line if the name is long. The objects are
those of click or of typer, which has click's interface; this distribution imports neither.
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any, Final

#: Columns of the names; a longer name has its description on the next line.
_NAME_COLUMNS: Final = 26

#: Columns below which every description is on the next line.
_NARROW: Final = 70

#: Most columns of a line; longer lines are hard to read.
_WIDEST: Final = 100


class CommandHelp:
    """Mixin for commands and groups: prints this module's text for `--help`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - of click or typer, see above
        """Write the help of this command.

        Args:
            ctx: the context.
            formatter: takes the text as it is.
        """
        formatter.write(help_text(self, ctx, shutil.get_terminal_size().columns))


def help_text(command: Any, ctx: Any, columns: int) -> str:  # noqa: ANN401 - of click or typer, see above
    """Return the help of a command or group.

    Args:
        command: the command.
        ctx: its context.
        columns: width of the terminal.
    """
    width = max(1, min(columns, _WIDEST))
    parts = [
        _wrapped(
            f"Usage: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}", width, "", "    "
        )
    ]
    if command.help:
        parts.append(_wrapped(inspect.cleandoc(command.help), width))
    parts.extend(_section(title, rows, width) for title, rows in _sections(command, ctx).items())
    if command.epilog:
        parts.append(_wrapped(inspect.cleandoc(command.epilog), width))
    return "\n\n".join(parts) + "\n"


def _sections(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:  # noqa: ANN401 - of click or typer, see above
    """Return names and descriptions by section."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record: tuple[str, str] | None = parameter.get_help_record(ctx)
        if record is not None:
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panel: str | None = getattr(parameter, "section", "") or getattr(
                parameter, "rich_help_panel", None
            )
            sections.setdefault(panel or kind, []).append(record)
    # Subcommands that are not imported yet have their summaries in the group.
    summaries: dict[str, str] = getattr(command, "summaries", None) or {
        name: subcommand.help or ""
        for name, subcommand in getattr(command, "commands", {}).items()
        if not subcommand.hidden
    }
    if summaries:
        sections["Commands"] = [(name, " ".join(words.split())) for name, words in summaries.items()]
    return sections


def _section(title: str, rows: Iterable[tuple[str, str]], width: int) -> str:
    return "\n".join([f"{title}:", *(_row(name.strip(), words, width) for name, words in rows)])


def _row(name: str, words: str, width: int) -> str:
    if not words:
        return f"  {name}"
    if width < _NARROW:
        return f"  {name}\n{_wrapped(words, width, '    ', '    ')}"
    indent = " " * (_NAME_COLUMNS + 4)
    if len(name) > _NAME_COLUMNS:
        return f"  {name}\n{_wrapped(words, width, indent, indent)}"
    return _wrapped(words, width, f"  {name:{_NAME_COLUMNS}}  ", indent)


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> str:
    """Return text in lines; a word that is wider than a line stays whole."""
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
