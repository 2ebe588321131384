"""The other end of `processes.Worker`: one JSON object per line in, one out."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

Answer = Mapping[str, Any] | None


def timed(work: Callable[[], Answer]) -> dict[str, Any]:
    """Run something; return its answer with wall seconds and this process's CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    answer = work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu} | dict(answer or {})


def serve(questions: Mapping[str, Callable[..., Answer]], **ready: object) -> None:
    """Answer questions until standard input ends.

    Args:
        questions: by the value of `do`; the other keys are the arguments.
        ready: said first.
    """
    print(json.dumps({"ready": True} | ready), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        work = questions[question.pop("do")]
        try:
            answer = timed(partial(work, **question))
        except Exception as error:  # noqa: BLE001 - told to who asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
