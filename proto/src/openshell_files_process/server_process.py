"""Process setup of the gateway and the supervisor: allocator, garbage collector, logs, stop signals.

It is in this distribution because both programs depend on it and not on each
other. Requires the extra `server`.
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

#: Threshold of the garbage collector's first generation, in new containers. A
#: message has a few dozen, so the default of 700 collects every few messages.
_YOUNG_OBJECTS: Final = 10_000

# gRPC writes lines of its own to descriptor 2, one for every failed TLS
# handshake. Any peer could fill a pipe without a reader that way, and block
# gRPC's threads for ever, even one that the end of the process joins. At module
# level, since gRPC reads the variable at import; a value in the environment
# stays in effect.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

LogFormat = Literal["console", "json"]


def tune_allocator() -> bool:
    """Keep glibc from returning every chunk's buffer to the kernel.

    A buffer above the mmap threshold costs a mapping, a page fault per 4 KiB
    and an unmapping, for every chunk. A buffer that stays in the heap costs
    nothing; the process then keeps its peak of memory, which the buffers in
    ARCHITECTURE.md limit. Few arenas keep that peak from existing once per
    thread.

    Returns:
        True if the C library accepted the settings; False for another library.
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
    """Exclude the objects of the start from garbage collection. Call it once the server runs.

    Modules, settings and descriptors live until the end of the process.
    Scanning them for cycles took a sixteenth of a gateway's CPU time while it
    forwarded content.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


#: The log writers of this process; empty until `configure_logs`.
_log_writers: Final[list[LogWriter]] = []


def configure_logs(log_format: LogFormat, level: str) -> None:
    """Write structured logs to standard error.

    From `wait_for_stop` on, a blocked standard error does not block the
    process: lines wait in a bounded queue, and lines that do not fit are
    counted and dropped.

    Args:
        log_format: ``console`` for a terminal, ``json`` for one object per line.
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
        """Return the line about dropped lines."""
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
    # Libraries and the agent log with the standard library; their lines get the
    # same format, with the transfer id of their call.
    handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.INFO))
    # httpx logs every request for the issuer's keys at INFO.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _log_what_python_would_print()


def _log_what_python_would_print() -> None:
    """Log the messages that the interpreter itself would write to standard error, where a write could block."""
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
    """Wait for a request to stop: SIGINT, SIGTERM or the end of standard input.

    From here on a thread writes the logs, since a blocked standard error must
    not keep the loop from handling a signal.

    Args:
        stdin_closes: also stop at the end of standard input. If the parent
            process has the other end of that pipe, this process stops even
            when the parent is killed.

    Returns:
        The cause: the name of the signal, or ``stdin``.
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
    """Call `ask` at the end of standard input; return the watched descriptor."""
    stdin: TextIO | None = sys.stdin  # None if the process was started without
    if stdin is None:
        ask("stdin")
        return None
    descriptor = stdin.fileno()
    os.set_blocking(descriptor, False)
    try:
        loop.add_reader(descriptor, _at_end, descriptor, ask)
    except PermissionError:
        # A regular file or /dev/null: the loop cannot watch it, and it has no
        # other end that could close.
        ask("stdin")
        return None
    return descriptor


def _at_end(descriptor: int, ask: Callable[[str], None]) -> None:
    try:
        ended = not os.read(descriptor, 4096)
    except BlockingIOError:
        return
    except OSError:  # for example, a closed terminal
        ended = True
    if ended:
        ask("stdin")
