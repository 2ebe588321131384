"""What the gateway's and the supervisor's processes have in common.

Not part of the protocol; it lives here because both depend on this package
and neither on the other. Needs the extra `server`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, Literal, TextIO, cast

import structlog
from openshell_files_protocol.limits import MIB

from openshell_files_process.log_writer import LogWriter

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: New containers before the collector looks at the young ones. A message is a
#: few dozen, so the default of 700 looks every couple of messages.
_YOUNG_OBJECTS: Final = 10_000

# gRPC writes lines of its own to descriptor 2, one for every TLS handshake that
# fails. Strangers could fill a pipe that nobody reads, and whichever of gRPC's
# threads writes would then wait for ever, also one that the end of the process
# waits for. Here and not in a function, since gRPC looks when it is imported;
# who sets the variable wants the lines.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

LogFormat = Literal["console", "json"]


def tune_allocator() -> bool:
    """Keep glibc from giving every chunk's buffer back to the kernel.

    A buffer above the mmap threshold costs a mapping, a page fault per 4 KiB
    and an unmapping, for every chunk. Kept, it costs nothing; the process
    holds on to what it needed at its peak, which is bounded by the buffers
    that ARCHITECTURE.md lists. Few arenas keep that peak from being held once
    per thread.

    Returns:
        Whether the C library could be told; another one is left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    mallopt.restype = ctypes.c_int
    results = [
        mallopt(_M_MMAP_THRESHOLD, 32 * MIB),
        mallopt(_M_TRIM_THRESHOLD, 32 * MIB),
        mallopt(_M_ARENA_MAX, 2),
    ]
    return all(results)


def settle_heap() -> None:
    """Take what the start made out of the garbage collector's sight; call it once everything runs.

    Modules, settings and descriptors stay until the end. Looking through them
    for cycles, again and again, took a sixteenth of a gateway's CPU time while
    it did nothing but pass content on.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


#: Of this process, once its logs are configured.
_log_writers: Final[list[LogWriter]] = []


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Write structured logs to standard error.

    From `wait_for_stop` on, a standard error that takes nothing holds nobody
    up: lines wait in a bounded queue, and what finds it full is counted.

    Args:
        log_format: lines for people, or one JSON object per line.
        level: least level, e.g. ``info``.
    """
    stderr: TextIO | None = sys.stderr  # None if the process was started without
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=stderr is not None and stderr.isatty())
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]

    def left_out(count: int) -> str:
        """Make the line about lines that found the queue full."""
        event: structlog.typing.EventDict = {"event": "log lines were left out", "lines": count}
        for processor in (structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso")):
            event = processor(None, "warning", event)
        return cast("str", renderer(None, "warning", event)) + "\n"

    writer = LogWriter(stderr.fileno() if stderr is not None else None, left_out)
    _log_writers[:] = [writer]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", writer)),
        cache_logger_on_first_use=True,
    )
    # What libraries and the agent log through the standard library comes out
    # the same way, with the transfer id of the call it belongs to.
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO))
    # Every request for the issuer's keys would be a line.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _log_what_python_would_print()


def _log_what_python_would_print() -> None:
    """Send what the interpreter writes to standard error by itself the same way: it must not wait either."""
    logger = logging.getLogger("python")

    def thread_failed(failure: threading.ExceptHookArgs) -> None:
        name = failure.thread.name if failure.thread is not None else "?"
        error = failure.exc_value
        logger.error("thread %s failed", name, exc_info=error and (type(error), error, failure.exc_traceback))

    def not_raised(lost: sys.UnraisableHookArgs) -> None:
        error = lost.exc_value
        logger.error(
            "%s: %r", lost.err_msg or "exception ignored in", lost.object,
            exc_info=error and (type(error), error, lost.exc_traceback),
        )  # fmt: skip

    logging.captureWarnings(True)
    threading.excepthook = thread_failed
    sys.unraisablehook = not_raised


async def wait_for_stop(*, stdin_closes: bool = False) -> str:
    """Wait until the process is asked to stop.

    From here on logs are written by a thread: a loop that is to hear a signal
    must not wait for whoever reads standard error.

    Args:
        stdin_closes: also stop when standard input ends. Whoever started the
            process holds the other end, so it stops even if that one is
            killed.

    Returns:
        What asked: the name of the signal, or ``stdin``.
    """
    for writer in _log_writers:
        writer.start()
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()

    def ask(by: str) -> None:
        if not asked.done():
            asked.set_result(by)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask, number.name)
    reader = _watch_stdin(loop, ask) if stdin_closes else None
    try:
        return await asked
    finally:
        if reader is not None:
            loop.remove_reader(reader)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _watch_stdin(loop: asyncio.AbstractEventLoop, ask: Callable[[str], None]) -> int | None:
    """Ask when standard input ends; returns the descriptor that is watched."""
    stdin: TextIO | None = sys.stdin  # None if the process was started without
    if stdin is None:
        ask("stdin")
        return None
    descriptor = stdin.fileno()
    os.set_blocking(descriptor, False)
    try:
        loop.add_reader(descriptor, _at_end, descriptor, ask)
    except PermissionError:
        # A file, or /dev/null: it cannot be waited for, and nobody holds the
        # other end.
        ask("stdin")
        return None
    return descriptor


def _at_end(descriptor: int, ask: Callable[[str], None]) -> None:
    try:
        ended = not os.read(descriptor, 4096)
    except BlockingIOError:
        return
    except OSError:  # of a terminal that was closed, for one
        ended = True
    if ended:
        ask("stdin")
