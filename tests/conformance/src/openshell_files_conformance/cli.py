"""The command line: run, list, report, matrix, coverage, export, self-test.

Exit status: 0 conforms; 1 does not conform; 2 wrong usage or configuration; 3 the target was not ready, or cannot be believed;
4 the suite is wrong, or no case ran.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from openshell_files_conformance import coverage, self_test
from openshell_files_conformance.clauses import clauses
from openshell_files_conformance.config import ConfigError, Overrides
from openshell_files_conformance.export import export
from openshell_files_conformance.outcome import Exit
from openshell_files_conformance.registry import PROFILES, ROLES, Case, HarnessError, load_cases
from openshell_files_conformance.report.files import write_rendered
from openshell_files_conformance.report.matrix import matrix
from openshell_files_conformance.report.model import read_results
from openshell_files_conformance.run_command import RunRequest, judge, selected
from openshell_files_conformance.runner import Options
from openshell_files_conformance.target.launch import TargetNotReadyError

PROGRAM = "openshell-files-conformance"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.command(parsed))
    except ConfigError as error:
        return _failed(Exit.USAGE, str(error))
    except TargetNotReadyError as error:
        return _failed(Exit.NOT_READY, f"the target is not ready: {error}")
    except HarnessError as error:
        return _failed(Exit.HARNESS, f"error in the suite: {error}")
    except (Exception, asyncio.CancelledError):  # noqa: BLE001 - whatever it is, it must not look like a verdict
        traceback.print_exc()
        return _failed(Exit.HARNESS, "error in the suite")


def _failed(status: Exit, message: str) -> int:
    sys.stderr.write(f"{PROGRAM}: {message}\n")
    return int(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Judges gateways, supervisors and SDKs.", epilog=__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="judge an implementation")
    _selection(run, required=True)
    run.add_argument("--config", type=Path, metavar="FILE", help="conformance.toml")
    run.add_argument(
        "--command", dest="launcher", default="", help="launcher or adapter, instead of the file's"
    )
    run.add_argument("--endpoint", default="", metavar="HOST:PORT", help="of a target that runs already")
    run.add_argument("--scale", type=float, help="multiplies every time that the suite waits")
    run.add_argument(
        "--expected-failures", type=Path, metavar="FILE", help="list of failures that are expected"
    )
    run.add_argument("--update-baseline", action="store_true", help="write that list anew, after a whole run")
    run.add_argument(
        "--out", type=Path, default=Path("conformance-results"), metavar="DIRECTORY", help="for reports"
    )
    run.add_argument("--jobs", type=_positive, default=4, help="cases that run at the same time (4)")
    run.add_argument("--shuffle", type=int, metavar="SEED", help="run the cases in another order")
    run.add_argument("--repeat", type=_positive, default=1, metavar="N", help="run every case N times")
    run.add_argument("--isolate", action="store_true", help="start a target for every case")
    run.add_argument("--no-probe", action="store_true", help="believe the launcher; for tests of the suite")
    run.add_argument("--no-transcripts", action="store_true", help="print no transcripts of failing cases")
    run.set_defaults(command=_run)

    listing = commands.add_parser("list", help="list cases, with what they try")
    _selection(listing, required=False)
    listing.add_argument("--clauses", action="store_true", help="with the sentences of their clauses")
    listing.add_argument(
        "--options", action="store_true", help="launch settings and capabilities instead of cases"
    )
    listing.set_defaults(command=_list)

    report = commands.add_parser("report", help="make the reports of a results.json anew")
    report.add_argument("results", type=Path)
    report.add_argument("--out", type=Path, metavar="DIRECTORY", help="without it, beside the results")
    report.set_defaults(command=_report)

    table = commands.add_parser("matrix", help="compare several results.json in one table")
    table.add_argument("results", type=Path, nargs="+")
    table.set_defaults(command=_matrix)

    covered = commands.add_parser("coverage", help="print which case checks which clause")
    covered.add_argument(
        "--check", action="store_true", help="fail if a clause with MUST has neither case nor reason"
    )
    covered.set_defaults(command=_coverage)

    exported = commands.add_parser(
        "export", help="write messages, vectors, schemas, guides and clauses as files"
    )
    exported.add_argument("directory", type=Path)
    exported.set_defaults(command=_export)

    own = commands.add_parser("self-test", help="judge implementations that do nothing: they must fail")
    own.add_argument("--target", choices=ROLES, action="append", help="role; may be repeated")
    own.add_argument("--jobs", type=_positive, default=4)
    own.add_argument("--out", type=Path, default=Path("conformance-results/self-test"), metavar="DIRECTORY")
    own.set_defaults(command=_self_test)
    return parser


def _selection(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--target", choices=ROLES, required=required, help="role of the implementation")
    parser.add_argument(
        "--profile", action="append", choices=PROFILES, default=[], help="may be repeated; default: all"
    )
    parser.add_argument(
        "--select",
        action="append",
        default=[],
        metavar="PATTERN",
        help="case, beginning of one up to a slash, pattern with *, or clause; may be repeated",
    )
    parser.add_argument("--quick", action="store_true", help="few cases that still name every clause")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _run(parsed: argparse.Namespace) -> int:
    request = RunRequest(
        role=parsed.target,
        config_file=parsed.config,
        overrides=Overrides(
            command=parsed.launcher,
            endpoint=parsed.endpoint,
            profiles=tuple(parsed.profile),
            scale=parsed.scale,
            expected_failures=parsed.expected_failures,
        ),
        patterns=tuple(parsed.select),
        quick=parsed.quick,
        update_baseline=parsed.update_baseline,
        transcripts=not parsed.no_transcripts,
        out=parsed.out,
        options=Options(
            jobs=parsed.jobs,
            shuffle=parsed.shuffle,
            repeat=parsed.repeat,
            isolate=parsed.isolate,
            probe=not parsed.no_probe,
        ),
    )
    return asyncio.run(judge(request))


def _list(parsed: argparse.Namespace) -> int:
    chosen = selected(load_cases(parsed.target).values(), parsed.profile, parsed.select, quick=parsed.quick)
    lines = _options(chosen) if parsed.options else _cases(chosen, with_clauses=parsed.clauses)
    for line in lines:
        sys.stdout.write(f"{line}\n")
    return Exit.CONFORMS if chosen else Exit.HARNESS


def _cases(cases: Sequence[Case], *, with_clauses: bool) -> Iterator[str]:
    for case in cases:
        options = "".join(f" +{name}" for name in case.needs)
        yield f"{case.id} [{case.profile}{options}] {case.summary}"
        if with_clauses:
            yield from (f"    {clauses()[name]}" for name in case.clauses)


def _options(cases: Sequence[Case]) -> Iterator[str]:
    """Yield what a launcher is asked for, and what a target may declare, with the number of cases that need it."""
    settings = Counter(f"{name} = {value!r}" for case in cases for name, value in case.launch.items())
    needs = Counter(name for case in cases for name in case.needs)
    yield from (f"setting    {name:<40} {number:>4} cases" for name, number in sorted(settings.items()))
    yield from (f"capability {name:<40} {number:>4} cases" for name, number in sorted(needs.items()))


def _report(parsed: argparse.Namespace) -> int:
    results = read_results(parsed.results)
    directory: Path = parsed.out or parsed.results.parent
    directory.mkdir(parents=True, exist_ok=True)
    write_rendered(results, directory)
    return Exit.CONFORMS


def _matrix(parsed: argparse.Namespace) -> int:
    sys.stdout.write(matrix([read_results(file) for file in parsed.results]))
    return Exit.CONFORMS


def _coverage(parsed: argparse.Namespace) -> int:
    cases = list(load_cases().values())
    if not parsed.check:
        sys.stdout.write(coverage.rendered(cases))
        return Exit.CONFORMS
    problems = coverage.gaps(cases)
    sys.stderr.write("".join(f"{line}\n" for line in problems))
    return Exit.NONCONFORMITY if problems else Exit.CONFORMS


def _export(parsed: argparse.Namespace) -> int:
    written = export(parsed.directory)
    sys.stdout.write(f"{len(written)} files in {parsed.directory}\n")
    return Exit.CONFORMS


def _self_test(parsed: argparse.Namespace) -> int:
    return asyncio.run(self_test.run(parsed.target or ROLES, parsed.out, parsed.jobs))


if __name__ == "__main__":
    sys.exit(main())
