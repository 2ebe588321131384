"""Entry point of the command: handles signals and descriptors before the slow imports.

`main` imports the other modules after it has installed the signal handlers
and opened missing standard descriptors.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from typing import Final, NoReturn

from openshell_files_process.standard_streams import hold_standard_streams

from openshell_files._core.resources import lacks_resources
from openshell_files.cli.leaving import Told, end_at_once, leaving, no_resources_words

#: If set, the traceback of a bug is printed.
TRACEBACK_VARIABLE = "OPENSHELL_FILES_TRACEBACK"

#: Chooses protobuf's implementation when it is imported.
_PROTOBUF_VARIABLE: Final = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"
_PROTOBUF_IMPLEMENTATIONS: Final = ("python", "upb")


def main() -> NoReturn:
    """Run the command line and exit with the status of `exit_codes`."""
    leaving.install()
    # Imports make many objects that stay. Looking through them for garbage takes a tenth of the start;
    # `with_connection` enables it again before a command works.
    gc.disable()
    hold_standard_streams()
    # gRPC would write its own lines between ours; the error has the same information.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if TRACEBACK_VARIABLE not in os.environ:
        sys.unraisablehook = _not_raised
        threading.excepthook = _ignore_thread_failure
    _check_protobuf_variable()
    try:
        from openshell_files.cli.app import run  # noqa: PLC0415 - signals are handled first, see above
    except Exception as error:  # noqa: BLE001 - the environment or the installation is at fault
        _cannot_start(error)

    status = run(TRACEBACK_VARIABLE)
    # At its end Python would flush failed output again, and change the exit status;
    # a signal at that moment would print a traceback.
    os._exit(status)


def _check_protobuf_variable() -> None:
    """Refuse a value of protobuf's variable with which its import would raise or warn."""
    implementation = os.environ.get(_PROTOBUF_VARIABLE)
    if implementation not in {None, *_PROTOBUF_IMPLEMENTATIONS}:
        message = f"{_PROTOBUF_VARIABLE} is {implementation!a}, which protobuf cannot load"
        end_at_once(message, 2, "USAGE", f"Unset it, or set it to {' or '.join(_PROTOBUF_IMPLEMENTATIONS)}.")


def _cannot_start(error: Exception) -> NoReturn:
    """Say why the command's modules cannot be imported, and exit.

    The statuses are those of `exit_codes`, which may be what cannot be imported.
    """
    if TRACEBACK_VARIABLE in os.environ:
        traceback.print_exception(error)
    if lacks_resources(error):
        end_at_once(
            no_resources_words(error), 11, "EXHAUSTED", "Raise its limits (`ulimit -v`, `ulimit -u`)."
        )
    words = " ".join(str(error).split())
    message = f"openshell-files cannot be loaded ({type(error).__name__}: {words})"
    end_at_once(message, 1, "BUG", f"Install it again; {TRACEBACK_VARIABLE}=1 shows more.")


def _not_raised(lost: sys.UnraisableHookArgs) -> None:
    """Deliver a signal again whose exception was lost in a place that cannot raise."""
    if isinstance(lost.exc_value, Told):
        leaving.again(lost.exc_value.number)


def _ignore_thread_failure(_failure: threading.ExceptHookArgs) -> None:
    """Print nothing: the code that waits for the thread gets its failure."""
