"""Results as JUnit's XML: a test case for each check."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from openshell_files_conformance.clauses import clauses
from openshell_files_conformance.report.lines import is_bad
from openshell_files_conformance.report.model import Results


def junit(results: Results) -> str:
    """Return the XML."""
    root = ET.Element("testsuites", name=f"{results['suite']['name']} {results['role']}")
    for case in results["cases"]:
        checks = case["checks"]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=case["id"],
            tests=str(len(checks)),
            failures=str(sum(is_bad(check) for check in checks)),
            skipped=str(sum(check["verdict"] == "unsupported" for check in checks)),
            time=str(case["seconds"]),
            timestamp=results["started"],
        )
        for check in checks:
            item = ET.SubElement(
                suite,
                "testcase",
                classname=case["id"].replace("/", "."),
                name=f"{check['name']} {check['clause']}",
                # A case takes its time as a whole.
                time=str(case["seconds"] if check is checks[0] else 0),
            )
            text = _text(case["reproduce"], check)
            if is_bad(check):
                ET.SubElement(item, "failure", type=check["verdict"], message=_message(check)).text = text
            elif check["verdict"] == "unsupported" or check["expected_failure"]:
                ET.SubElement(item, "skipped", message=_message(check))
            elif check["verdict"] == "warn":
                ET.SubElement(item, "system-out").text = text
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _message(check: dict[str, str]) -> str:
    return _printable(check["reason"] or f"expected {check['expected']}, seen {check['seen']}")


def _text(reproduce: str, check: dict[str, str]) -> str:
    return _printable(f"{clauses().get(check['clause'], check['clause'])}\n{_message(check)}\n{reproduce}")


def _printable(text: str) -> str:
    """Return the text without what XML cannot hold."""
    return "".join(one if one >= " " or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)
