"""A client that takes every gateway for a far one, so that its uploads have lanes (LAN-1).

Run as a program it uploads a file, prints the upload's id when half is staged
or sent, and falls silent.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest
from openshell_files import NO_RETRY, FilesClient, OidcAuth, Progress
from openshell_files._core.upload import lane_choice


@contextmanager
def everything_is_far() -> Generator[None]:
    """Let all that is uploaded through StartUpload have as many lanes as the gateway allows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_choice, "LEAST_BYTES", 1)
        patch.setattr(lane_choice, "LEAST_ROUND_TRIP_SECONDS", 0.0)
        yield


def _main(endpoint: str, token: str, sandbox: str, local: str, remote: str) -> None:
    def stop_at_half(progress: Progress) -> None:
        if progress.total is not None and progress.transferred * 2 >= progress.total:
            print(progress.upload_id, flush=True)
            threading.Event().wait()

    with (
        everything_is_far(),
        FilesClient(endpoint, auth=OidcAuth(token), retry=NO_RETRY) as client,
    ):
        client.sandbox(sandbox).upload_path(local, remote, progress=stop_at_half)


if __name__ == "__main__":
    _main(*sys.argv[1:])
