"""The commands: what they take, and which call they make."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer

from openshell_files import (
    Condition,
    DigestChoice,
    Durability,
    FilesClient,
    LeafLink,
    Progress,
    SandboxFiles,
)
from openshell_files.cli import destinations, report
from openshell_files.cli.command import Failing, Terminated, with_connection
from openshell_files.cli.connecting import (
    ById,
    Connecting,
    Json,
    Quiet,
    Timeout,
    UsageMistake,
    reading_options,
)
from openshell_files.cli.destinations import STANDARD_STREAM
from openshell_files.cli.exit_codes import ExitCode
from openshell_files.cli.progress_bar import progress_bar
from openshell_files.cli.report import Report
from openshell_files.cli.resume_store import ResumeStore
from openshell_files.errors import FilesError
from openshell_files.results import ProgressCallback, UploadResult

#: What leaving in order takes at most, unless something hangs.
_LEAVING_SECONDS: Final = 5.0

app = typer.Typer(
    name="openshell-files",
    help="Move files in and out of OpenShell sandboxes.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The sandbox.")]
Mode = Annotated[str | None, typer.Option(help="Permission bits, octal. Default: those of the source.")]
Follow = Annotated[bool, typer.Option("--follow", help="Follow a symbolic link at the remote path.")]
Digest = Annotated[
    DigestChoice,
    typer.Option(help="What sparse files are compared by; `sha256` takes the time of their size."),
]
MTime = Annotated[bool, typer.Option("--preserve-mtime/--no-preserve-mtime", help="Keep the time.")]


@app.command()
@with_connection
def upload(
    connecting: Connecting,
    name: Name,
    local: Annotated[str, typer.Argument(metavar="LOCAL", help="A file, or `-` for standard input.")],
    dest: Annotated[
        str | None, typer.Argument(metavar="[DEST]", help="The file; ending with `/`, a directory.")
    ] = None,
    *,
    parents: Annotated[bool, typer.Option("--parents", help="Create missing directories.")] = False,
    mode: Mode = None,
    preserve_mtime: MTime = True,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only where nothing is.")] = False,
    if_present: Annotated[bool, typer.Option("--if-present", help="Only over a file.")] = False,
    if_match_version: Annotated[str | None, typer.Option(help="Only over this version.")] = None,
    if_match_sha256: Annotated[str | None, typer.Option(help="Only over this content.")] = None,
    follow: Follow = False,
    replace_link: Annotated[bool, typer.Option("--replace-link", help="Replace a symbolic link.")] = False,
    durability: Annotated[Durability, typer.Option(help="What survives a power loss.")] = Durability.FSYNC,
    skip_identical: Annotated[
        bool, typer.Option("--skip-identical", help="Send nothing if the same content is there.")
    ] = False,
    digest: Digest = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last unfinished upload of this file.")
    ] = False,
    upload_id: Annotated[str, typer.Option(help="Go on with this unfinished upload.")] = "",
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a file; without DEST to its name in the sandbox's working directory."""
    out = Report(as_json=as_json, quiet=quiet)
    with reading_options():
        remote = destinations.upload_destination(local, dest)
        bits = _mode(mode)
        link = _leaf_link(follow=follow, replace=replace_link)
        condition = _condition(
            absent=if_absent, present=if_present, version=if_match_version, sha256=if_match_sha256
        )
    store = ResumeStore(connecting.endpoint, connecting.workspace, name, remote, local)
    memory = _UploadMemory(store, out, upload_id or (store.load() if resume else ""))

    def send(sandbox: SandboxFiles, progress: ProgressCallback) -> UploadResult:
        if local == STANDARD_STREAM:
            return sandbox.upload(
                sys.stdin.buffer,
                remote,
                mode=bits,
                parents=parents,
                leaf_link=link,
                condition=condition,
                durability=durability,
                upload_id=memory.upload_id,
                timeout=timeout,
                progress=progress,
            )
        return sandbox.upload_path(
            local,
            remote,
            mode=bits,
            preserve_mtime=preserve_mtime,
            parents=parents,
            leaf_link=link,
            condition=condition,
            durability=durability,
            skip_identical=skip_identical,
            digest=digest,
            upload_id=memory.upload_id,
            timeout=timeout,
            progress=progress,
        )

    with (
        Failing(out, f"{name}:{remote}", memory.on_interrupt, memory.on_failure),
        connecting.client() as client,
        progress_bar(os.path.basename(local) or local, shown=not quiet) as bar,
    ):
        result = send(_sandbox(client, name, by_id=by_id), memory.watching(bar))
    memory.finished()
    out.success(report.upload_words(local, result), report.upload_fields(local, result))


@app.command()
@with_connection
def download(
    connecting: Connecting,
    name: Name,
    src: Annotated[str, typer.Argument(metavar="SRC", help="The file in the sandbox.")],
    dest: Annotated[
        str | None,
        typer.Argument(metavar="[DEST]", help="The file, a directory, or `-` for standard output."),
    ] = None,
    *,
    parents: Annotated[bool, typer.Option("--parents", help="Create missing local directories.")] = False,
    mode: Mode = None,
    preserve_mtime: MTime = True,
    offset: Annotated[int, typer.Option(min=0, help="First byte.")] = 0,
    length: Annotated[int | None, typer.Option(min=0, help="So many bytes at most.")] = None,
    tail: Annotated[int | None, typer.Option(min=1, help="The last so many bytes.")] = None,
    if_version: Annotated[str, typer.Option(help="Only this version of the file.")] = "",
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Carry on if the file changes meanwhile; for logs.")
    ] = False,
    max_bytes: Annotated[int | None, typer.Option(min=0, help="Refuse more.")] = None,
    digest: Digest = "auto",
    follow: Follow = False,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a file; without DEST to its name in the current directory."""
    out = Report(as_json=as_json, quiet=quiet, content_on_stdout=dest == STANDARD_STREAM)
    with reading_options():
        local = destinations.download_destination(src, dest)
        bits = _mode(mode)
    link = LeafLink.FOLLOW if follow else LeafLink.REFUSE
    with (
        Failing(out, f"{name}:{src}", lambda: "nothing was changed here"),
        connecting.client() as client,
        progress_bar(src, shown=not quiet) as bar,
    ):
        sandbox = _sandbox(client, name, by_id=by_id)
        if local == STANDARD_STREAM:
            result = sandbox.download(
                src,
                sys.stdout.buffer,
                offset=offset,
                length=length,
                tail=tail,
                if_version=if_version,
                allow_changes=allow_changes,
                leaf_link=link,
                max_bytes=max_bytes,
                digest=digest,
                timeout=timeout,
                progress=bar,
            )
            sys.stdout.buffer.flush()
        else:
            if parents:
                os.makedirs(os.path.dirname(local) or ".", exist_ok=True)
            result = sandbox.download_path(
                src,
                local,
                mode=bits,
                preserve_mtime=preserve_mtime,
                offset=offset,
                length=length,
                tail=tail,
                if_version=if_version,
                allow_changes=allow_changes,
                leaf_link=link,
                max_bytes=max_bytes,
                digest=digest,
                timeout=timeout,
                progress=bar,
            )
    out.success(report.download_words(local, result), report.download_fields(local, result))


@app.command()
@with_connection
def stat(
    connecting: Connecting,
    name: Name,
    path: Annotated[str, typer.Argument(metavar="PATH", help="The path in the sandbox.")],
    *,
    digest: Annotated[bool, typer.Option("--digest", help="Compute the SHA-256.")] = False,
    follow: Follow = False,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Describe what is at a path."""
    out = Report(as_json=as_json)
    with Failing(out, f"{name}:{path}"), connecting.client() as client:
        sandbox = _sandbox(client, name, by_id=by_id)
        link = LeafLink.FOLLOW if follow else LeafLink.REFUSE
        found = sandbox.stat(path, digest=digest, leaf_link=link, timeout=timeout)
    out.lines(report.file_words(found), asdict(found))


@app.command()
@with_connection
def uploads(
    connecting: Connecting,
    name: Name,
    *,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """List your unfinished uploads."""
    out = Report(as_json=as_json)
    with Failing(out, name), connecting.client() as client:
        found = _sandbox(client, name, by_id=by_id).uploads(timeout=timeout)
    out.lines([report.listing_words(u) for u in found], {"uploads": [asdict(u) for u in found]})


@app.command()
@with_connection
def abort(
    connecting: Connecting,
    name: Name,
    upload_id: Annotated[str, typer.Argument(metavar="UPLOAD", help="As `uploads` lists it.")],
    *,
    by_id: ById = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Give an unfinished upload up and free its bytes."""
    out = Report(as_json=as_json)
    with Failing(out, f"{name}:{upload_id}"), connecting.client() as client:
        state = _sandbox(client, name, by_id=by_id).abort_upload(upload_id, timeout=timeout)
    out.success(f"{upload_id} is {state.state}", asdict(state))


class _UploadMemory:
    """Notes the upload's id as soon as there is one, for `--resume`."""

    def __init__(self, store: ResumeStore, out: Report, upload_id: str) -> None:
        self._store = store
        self._out = out
        self._seen = ""
        self._staged: int | None = None
        self.upload_id = upload_id

    def watching(self, bar: ProgressCallback | None) -> ProgressCallback:
        """Return the callback that notes the id, and then moves the bar."""

        def watch(progress: Progress) -> None:
            if progress.upload_id and progress.upload_id != self._seen:
                self._seen = progress.upload_id
                self._touching(lambda: self._store.save(self._seen), "remember")
            if bar is not None:
                bar(progress)

        return watch

    def finished(self) -> None:
        """Forget: it is published."""
        self._touching(self._store.forget, "forget")

    def on_failure(self, error: FilesError) -> None:
        """Forget what cannot be gone on with."""
        if self._seen and not error.upload_id:
            self._touching(self._store.forget, "forget")

    def on_interrupt(self) -> str:
        """Say whether the upload can be gone on with."""
        if self._seen or self.upload_id:
            return f"upload {self._seen or self.upload_id} is kept; repeat the command with --resume to go on"
        return "nothing was published"

    def _touching(self, change: Callable[[], None], verb: str) -> None:
        try:
            change()
        except OSError as error:
            # The upload itself goes on; only --resume in a later process is lost.
            self._out.note(f"cannot {verb} the upload: {error}")


def _sandbox(client: FilesClient, name: str, *, by_id: bool) -> SandboxFiles:
    with reading_options():
        return client.sandbox(id=name) if by_id else client.sandbox(name)


def _mode(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise ValueError(f"--mode: {text!r} is not from 000 to 777")
    return bits


def _leaf_link(*, follow: bool, replace: bool) -> LeafLink:
    if follow and replace:
        raise ValueError("give one of --follow and --replace-link")
    return LeafLink.FOLLOW if follow else LeafLink.REPLACE if replace else LeafLink.REFUSE


def _condition(*, absent: bool, present: bool, version: str | None, sha256: str | None) -> Condition | None:
    if absent + present + (version is not None) + (sha256 is not None) > 1:
        raise ValueError("give one of --if-absent, --if-present, --if-match-version, --if-match-sha256")
    if absent:
        return Condition.absent()
    if present:
        return Condition.present()
    if version is not None:
        return Condition.version(version)
    return None if sha256 is None else Condition.sha256(sha256)


def main() -> NoReturn:
    """Run the command line and exit with the status of `exit_codes`."""
    leave = _LeavingOnce()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Who starts a command in the background may have SIGINT ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)
    out = Report(as_json="--json" in sys.argv[1:])
    try:
        status = app(standalone_mode=False)
    except UsageMistake as mistake:
        out.failure(str(mistake), ExitCode.USAGE)
        sys.exit(ExitCode.USAGE)
    except typer.TyperException as mistake:
        out.failure(" ".join(mistake.format_message().split()), ExitCode.USAGE)
        sys.exit(ExitCode.USAGE)
    sys.exit(status if isinstance(status, int) else ExitCode.OK)


class _LeavingOnce:
    """Handles SIGINT and SIGTERM: the first one makes the command leave in order.

    A second one soon after, as when a shell and a parent both send theirs, is
    the same wish. It must not break into the leaving: gRPC's `close`, once
    interrupted, waits for ever the next time.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is not None and now - self._since < _LEAVING_SECONDS:
            return
        self._since = now
        if number == signal.SIGTERM:
            raise Terminated
        raise KeyboardInterrupt
