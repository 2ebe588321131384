"""Writing every report of a run into a directory."""

from __future__ import annotations

import json
from pathlib import Path

from openshell_files_conformance.report.html import html
from openshell_files_conformance.report.junit import junit
from openshell_files_conformance.report.markdown import markdown
from openshell_files_conformance.report.model import Results, results_problem


def write_reports(results: Results, directory: Path) -> None:
    """Write results.json, junit.xml, report.md, report.html, and the transcripts of failing cases.

    Raises:
        ValueError: the results do not fit their own schema.
    """
    problem = results_problem(results)
    if problem:
        raise ValueError(f"the results do not fit their schema: {problem}")
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (directory / "results.json").write_text(text, "utf-8")
    write_rendered(results, directory)
    for case in results["cases"]:
        if case.get("transcript"):
            file = directory / "transcripts" / f"{case['id']}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(case["transcript"]) + "\n", "utf-8")


def write_rendered(results: Results, directory: Path) -> None:
    """Write the reports that are made from results.json."""
    (directory / "junit.xml").write_text(junit(results), "utf-8")
    (directory / "report.md").write_text(markdown(results), "utf-8")
    (directory / "report.html").write_text(html(results), "utf-8")
