"""What pages are made of: the style, tables, numbers, and names for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from harness.svg import COLOUR_NAMES

#: Told apart also by people who see few colours (Okabe and Ito); the last is black on white and the other way round.
_LIGHT: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9", "#000000")
_DARK: Final = ("#56b4e9", "#ff8c42", "#2fcf9f", "#e39cc4", "#f0c04a", "#8ab8ff", "#ffffff")


def _variables(colours: Sequence[str], **others: str) -> str:
    both = dict(zip(COLOUR_NAMES, colours, strict=True)) | {
        f"--{name}": value for name, value in others.items()
    }
    return "; ".join(f"{name}: {value}" for name, value in both.items())


STYLE: Final = f"""
:root {{ color-scheme: light dark; {_variables(_LIGHT, text="#222", ground="#fff", rule="#ddd", ok="#00705a", miss="#b34700")} }}
@media (prefers-color-scheme: dark) {{
:root {{ {_variables(_DARK, text="#e4e4e4", ground="#17191c", rule="#3c4147", ok="#4fd1a5", miss="#ff9a5c")} }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--text); background: var(--ground) }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; margin: .5rem 0 1.5rem }}
th, td {{ padding: .2rem .7rem; border-bottom: 1px solid var(--rule); vertical-align: top }} th {{ text-align: left }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums }} td.n {{ white-space: nowrap }}
td:first-child {{ white-space: nowrap }} svg {{ max-width: 100%; height: auto }} svg text {{ font: 11px system-ui, sans-serif }}
.ok {{ color: var(--ok) }} .miss {{ color: var(--miss); font-weight: 600 }} .key {{ margin-right: 1rem; white-space: nowrap }}
.key i {{ display: inline-block; width: .7rem; height: .7rem; margin-right: .3rem }}
h2 {{ margin-top: 2.5rem }} h3 {{ margin-bottom: .3rem }} summary {{ cursor: pointer }} code {{ overflow-wrap: anywhere }}
@media (max-width: 45rem) {{ body {{ margin: 1rem auto; padding: 0 .6rem; font-size: 14px }} h1 {{ font-size: 1.5rem }}
.wide svg {{ max-width: none }} tr:has(th) {{ display: none }} table, tbody {{ display: block }}
tr {{ display: block; padding: .4rem 0; border-bottom: 1px solid var(--rule) }}
td, td.n {{ display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; text-align: right; white-space: normal }}
td:empty {{ display: none }} td::before {{ content: attr(data-head); text-align: left; opacity: .7 }}
td:first-child {{ font-weight: 600; text-align: left; white-space: normal }} td:first-child::before {{ content: none }} }}
"""


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a table; nothing if it has no rows. A column without anything in it is left out.

    Args:
        head: names of the columns.
        rows: cells, as HTML.
        text_columns: how many are text; the others are numbers.
    """
    rows = list(rows)
    shown = [column for column in range(len(head)) if any(row[column] for row in rows)]
    if not shown:
        return ""
    kind = ["" if column < text_columns else ' class="n"' for column in range(len(head))]
    top = "".join(f"<th{kind[column]}>{escape(head[column])}</th>" for column in shown)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td{kind[column]} data-head="{escape(head[column])}">{row[column]}</td>' for column in shown
        )
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def people_name(test: str) -> str:
    """Return a test's name for people: `test_upload_against_tar[default cipher]` is "upload against tar, default cipher"."""
    name, bracket, parameters = test.removeprefix("test_").partition("[")
    name = (
        name.replace("_", " ")
        .replace("bare tcp", "bare TCP")
        .replace(" cpu ", " CPU ")
        .replace("rfc ", "RFC ")
        .replace(" kib", " KiB")
    )
    direction, dash, rest = parameters.removesuffix("]").partition("-")
    if direction not in {"upload", "download"} or not dash:
        return f"{name}, {parameters.removesuffix(']')}" if bracket else name
    return f"{name}, {direction}, {rest}"


def people_bytes(value: float) -> str:
    """Return a number of bytes with its unit."""
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        # A chunk of 4092 KiB is not 3.996 MiB.
        if value >= size and (value % size == 0 or value >= 100 * size or unit == "KiB"):
            return f"{value / size:.4g} {unit}"
    return f"{value:g} B"
