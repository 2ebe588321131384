"""Bytes, speed and time left, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

from openshell_files.cli.report import printable
from openshell_files.results import Progress, ProgressCallback


@contextmanager
def progress_bar(label: str, *, shown: bool) -> Generator[ProgressCallback | None]:
    """Show a bar on standard error while the context lasts.

    Args:
        label: what is moved.
        shown: False shows nothing; neither does a standard error that is no terminal.
    """
    if not shown or not sys.stderr.isatty():
        yield None
        return
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(printable(label), total=None)

        def update(progress: Progress) -> None:
            bar.update(task, completed=progress.transferred, total=progress.total)

        yield update
