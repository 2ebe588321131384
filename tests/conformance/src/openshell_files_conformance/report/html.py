"""Results as one page that needs nothing else: a matrix of clauses by verdict, and every case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from openshell_files_conformance.report.lines import is_bad
from openshell_files_conformance.report.markdown import title
from openshell_files_conformance.report.model import Results

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --pass: #1a7f37; --bad: #cf222e; --warn: #9a6700; --none: #6e7781 }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; overflow-wrap: anywhere }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2rem } h3 { font-size: 1rem; margin: 1rem 0 .3rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid var(--line) }
code, pre { font: .85em/1.4 ui-monospace, monospace } pre { overflow-x: auto; padding: .5rem; border: 1px solid var(--line) }
.grid { display: flex; flex-wrap: wrap; gap: .25rem }
.grid a { color: #fff; text-decoration: none; font: .75rem/1 ui-monospace, monospace; padding: .4rem; border-radius: .25rem }
.pass { background: var(--pass) } .warn { background: var(--warn) } .unsupported { background: var(--none) } .bad { background: var(--bad) }
.word { color: #fff; padding: .05rem .4rem; border-radius: .25rem; font-size: .8rem; white-space: nowrap }
details { border-bottom: 1px solid var(--line); padding: .4rem 0 } summary { cursor: pointer }
dt { font-weight: 600 } dd { margin: 0 0 .4rem }
"""


def html(results: Results) -> str:
    """Return the page."""
    return "\n".join(_page(results)) + "\n"


def _page(results: Results) -> Iterator[str]:
    name, suite = escape(title(results)), results["suite"]
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
    yield f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
    colour = {"success": "pass", "partial": "warn"}.get(results["result"], "bad")
    yield f'<h1>{name} <span class="word {colour}">{results["result"]}</span></h1>'
    yield f"<p>Suite {escape(suite['version'])}, protocol {escape(suite['protocol'])}. Started {escape(results['started'])}; "
    yield f"{results['seconds']:.0f} s. Capabilities: {escape(', '.join(results['capabilities']) or 'none')}.</p>"
    yield f"<p>Reproduce: <code>{escape(results['reproduce'])}</code></p>"
    yield from _profiles(results)
    yield from _complaints(results)
    yield from _matrix(results)
    yield from _clauses(results)
    yield "<h2>Cases</h2>"
    for case in results["cases"]:
        yield from _case(case)
    yield "</body></html>"


def _profiles(results: Results) -> Iterator[str]:
    yield "<h2>Profiles</h2><table><tr><th>profile<th>passed<th>failed<th>unsupported</tr>"
    for name, numbers in results["profiles"].items():
        yield f"<tr><td>{escape(name)}<td>{numbers['passed']}<td>{numbers['failed']}<td>{numbers['unsupported']}</tr>"
    yield "</table>"


def _complaints(results: Results) -> Iterator[str]:
    lines = [
        *results["stale"],
        *(f"{name}: repetitions differ" for name in results["unstable"]),
        *(f"profile {name}: nothing of it is supported" for name in results["missing_profiles"]),
    ]
    if lines:
        yield "<h2>Of the run as a whole</h2><ul>"
        yield from (f"<li>{escape(line)}</li>" for line in lines)
        yield "</ul>"


def _matrix(results: Results) -> Iterator[str]:
    yield "<h2>Clauses by verdict</h2>"
    section = None
    for clause in results["clauses"]:
        if clause["section"] != section:
            if section is not None:
                yield "</div>"
            section = clause["section"]
            yield f'<h3>{escape(section)}</h3><div class="grid">'
        about = escape(f"{clause['verdict']}: {clause['text']}", quote=True)
        yield f'<a class="{_colour(clause)}" href="#{clause["id"]}" title="{about}">{clause["id"]}</a>'
    if section is not None:
        yield "</div>"


def _clauses(results: Results) -> Iterator[str]:
    by_clause: dict[str, list[str]] = {}
    for case in results["cases"]:
        for check in case["checks"]:
            by_clause.setdefault(check["clause"], []).append(case["id"])
    yield "<h2>What the clauses say</h2>"
    for clause in results["clauses"]:
        links = ", ".join(
            f'<a href="#{escape(name, quote=True)}">{escape(name)}</a>'
            for name in dict.fromkeys(by_clause.get(clause["id"], []))
        )
        yield f'<details id="{clause["id"]}"><summary>{clause["id"]} {_word(clause)} {escape(clause["text"])}</summary>'
        yield f"<p>{escape(clause['level'])}. Cases: {links}</p></details>"


def _case(case: Mapping[str, Any]) -> Iterator[str]:
    opened = " open" if any(is_bad(check) for check in case["checks"]) else ""
    yield f'<details id="{escape(case["id"], quote=True)}"{opened}><summary>{_word(case)} <code>{escape(case["id"])}</code></summary>'
    yield f"<p>{escape(case['summary'])}</p><p><code>{escape(case['reproduce'])}</code> ({case['seconds']:.2f} s)</p><dl>"
    for check in case["checks"]:
        expected = " (expected to fail)" if check["expected_failure"] else ""
        yield f'<dt>{_word(check)} {escape(check["name"])}{expected}, <a href="#{check["clause"]}">{check["clause"]}</a></dt>'
        said = [("expected", check["expected"]), ("seen", check["seen"]), ("reason", check["reason"])]
        yield from (f"<dd>{label} {escape(text)}</dd>" for label, text in said if text)
    yield "</dl>"
    if case.get("transcript"):
        yield f"<pre>{escape(chr(10).join(case['transcript']))}</pre>"
    yield "</details>"


def _word(item: Mapping[str, Any]) -> str:
    return f'<span class="word {_colour(item)}">{escape(item["verdict"])}</span>'


def _colour(item: Mapping[str, Any]) -> str:
    return item["verdict"] if item["verdict"] in {"pass", "warn", "unsupported"} else "bad"
