"""Files beside commands: our client on the official SDK's connection, as a program of its own.

It ends with status 0 if a file that one of them wrote is what the other one reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from digest_values import SHA256, value_of, words_of
from openshell import SandboxClient
from openshell_files import NO_RETRY, FilesClient, Progress, errors

ENDPOINT, TOKEN, WORKSPACE = (
    os.environ[f"OPENSHELL_FILES_{name}"] for name in ("ENDPOINT", "TOKEN", "WORKSPACE")
)
NAME = "files-beside-commands"
#: More than all buffers on the way hold, so that a part is staged when it is cut.
CONTENT = bytes(range(251)) * 100_000


class CutError(KeyboardInterrupt):
    """Ctrl-C: an upload whose name was told is kept (RSM-10)."""


class Bearer:
    """A token provider whose tokens expire: each is asked for, and one of them is too old."""

    def __init__(self) -> None:
        self.asked = 0
        self.expired = False

    def __call__(self) -> str:
        self.asked += 1
        return "too.old.token" if self.expired else TOKEN


def raises(kind: type[errors.FilesError], call: Callable[[], object], reason: str) -> None:
    """Check that a call fails with an error of ours."""
    caught: errors.FilesError | None = None
    try:
        call()
    except kind as error:
        caught = error
    assert caught is not None, f"nothing was refused, {reason} expected"
    assert caught.reason == reason, caught


def content(official: SandboxClient, files: FilesClient, directory: Path) -> None:
    """What is uploaded is what commands see, and the other way round."""
    sandbox = files.sandbox(official.get(NAME, workspace=WORKSPACE))
    local, back = directory / "local", directory / "back"
    local.write_bytes(CONTENT)

    def cut(progress: Progress) -> None:
        if progress.transferred > len(CONTENT) * 3 // 4:
            raise CutError

    try:
        sandbox.upload_path(local, "model/weights", parents=True, progress=cut)
    except CutError:
        pass
    else:
        raise AssertionError("the upload was not cut")
    (unfinished,) = sandbox.uploads()
    result = sandbox.upload_path(local, "model/weights", parents=True, upload_id=unfinished.upload_id)
    assert result.resumed_from > 0
    assert result.digest == words_of(CONTENT)
    info = sandbox.stat("model/weights")
    assert (info.path, info.size) == (result.path, len(CONTENT)), info

    for path in ("model/weights", result.path):
        ran = official.exec(NAME, ["sha256sum", path], workspace=WORKSPACE)
        assert (ran.exit_code, ran.stdout) == (0, f"{value_of(CONTENT, SHA256).hex()}  {path}\n"), ran
    written = official.exec(
        NAME, ["sh", "-c", "mkdir out && cat > out/report"], workspace=WORKSPACE, stdin=CONTENT[:100_000]
    )
    assert written.exit_code == 0, written
    sandbox.download_path("out/report", back)
    assert back.read_bytes() == CONTENT[:100_000]
    raises(errors.FileNotFound, lambda: sandbox.stat("missing"), "FILE_NOT_FOUND")


def identity(official: SandboxClient, files: FilesClient, bearer: Bearer) -> None:
    """Each call asks the official client's provider; what the gateway says of the token is ours to tell."""
    sandbox = files.sandbox(NAME)
    before = bearer.asked
    sandbox.stat("model/weights")
    sandbox.read_bytes("model/weights", max_bytes=len(CONTENT))
    assert bearer.asked >= before + 2
    bearer.expired = True
    raises(errors.Unauthenticated, lambda: sandbox.stat("model/weights"), "TOKEN_MALFORMED")
    raises(errors.Unauthenticated, lambda: sandbox.write_bytes("x", b"x"), "TOKEN_MALFORMED")
    raises(errors.Unauthenticated, lambda: sandbox.read_bytes("model/weights"), "TOKEN_MALFORMED")
    bearer.expired = False
    assert sandbox.stat("model/weights").size == len(CONTENT)
    raises(errors.SandboxNotFound, lambda: files.sandbox("nobody").stat("x"), "SANDBOX_NOT_FOUND")
    assert official.health().status == 1


def main(directory: Path) -> None:
    bearer = Bearer()
    official = SandboxClient(ENDPOINT, bearer_token=bearer)
    made = official.create(workspace=WORKSPACE, name=NAME)
    try:
        official.wait_ready(NAME, workspace=WORKSPACE)
        with FilesClient.from_sandbox_client(official, workspace=WORKSPACE) as files:
            content(official, files, directory)
            identity(official, files, bearer)
        # Ours is closed, theirs is not.
        assert official.exec(NAME, ["cat", "out/report"], workspace=WORKSPACE).exit_code == 0
    finally:
        official.delete(NAME, workspace=WORKSPACE)
        official.wait_deleted(NAME, workspace=WORKSPACE, expected_sandbox_id=made.id)
    late = FilesClient.from_sandbox_client(official, retry=NO_RETRY)
    official.close()
    words = ""
    try:
        late.sandbox(NAME).stat("x")
    except RuntimeError as error:
        words = str(error)
    assert "closed" in words, words
    print("the same files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
