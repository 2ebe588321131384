"""`make cancel-check`: breaks uploads of the RFC off on a busy machine, and says how many were published all the same."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

from cancellation.callers import WAYS, broken_off, why_no_node
from dev_command import dev_stack


@contextmanager
def busy(count: int) -> Generator[None]:
    """Run so many loops that do nothing but turn."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> int:
    """Print a line for each way of breaking off; 0 if nothing was published."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=500, help="of each way")
    parser.add_argument("--killed", type=int, default=40, help="of each way that kills a process")
    parser.add_argument("--busy", type=int, default=4, help="busy loops beside")
    parser.add_argument("--only", default="", help="ways whose name has this text")
    arguments = parser.parse_args()
    total = 0
    with dev_stack() as stack, busy(arguments.busy):
        for way in WAYS:
            if arguments.only not in str(way):
                continue
            if way.client == "node" and (missing := why_no_node()):
                print(f"{way}: skipped, {missing}")
                continue
            count = arguments.killed if way.one_each else arguments.uploads
            outcome = broken_off(stack, stack.sandboxes[0], way, count)
            print(f"{way}: {outcome.published} of {outcome.uploads} published", flush=True)
            total += outcome.published
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
