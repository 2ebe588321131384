"""The process of the command: what has to be in order before anything else is imported.

Everything heavy is imported inside of `main`, after the signals are handled
and the standard descriptors are held.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

from openshell_files_process.standard_streams import hold_standard_streams

from openshell_files.cli.leaving import Told, leaving

#: Shows the traceback of a bug, for a report.
TRACEBACK_VARIABLE = "OPENSHELL_FILES_TRACEBACK"


def main() -> NoReturn:
    """Run the command line and exit with the status of `exit_codes`."""
    leaving.install()
    hold_standard_streams()
    # gRPC would write its own lines between ours; what they say is in the error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if TRACEBACK_VARIABLE not in os.environ:
        sys.unraisablehook = _not_raised
        threading.excepthook = _ignore_thread_failure
    from openshell_files.cli.app import run  # noqa: PLC0415 - signals are handled first, see above

    status = run(TRACEBACK_VARIABLE)
    # What Python does at its end would flush again what could not be written,
    # and change the status for it; a signal would end in a traceback there.
    os._exit(status)


def _not_raised(lost: sys.UnraisableHookArgs) -> None:
    """Take a signal's exception out of a place that cannot raise it, and deliver it again."""
    if isinstance(lost.exc_value, Told):
        leaving.again(lost.exc_value.number)


def _ignore_thread_failure(_failure: threading.ExceptHookArgs) -> None:
    """Say nothing: whoever waits for the thread hears of its failure."""
