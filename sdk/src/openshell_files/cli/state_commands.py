"""The commands `stat`, `uploads` and `abort`."""

from __future__ import annotations

import click

from openshell_files.cli import options, shared
from openshell_files.cli.command import Failing, with_connection
from openshell_files.cli.connecting import Connecting
from openshell_files.cli.leaving import leaving
from openshell_files.cli.mistakes import reading_options
from openshell_files.cli.output.progress_bar import progress_bar
from openshell_files.cli.output.report import Report
from openshell_files.cli.output.results_in_words import (
    file_fields,
    file_words,
    listing_words,
    upload_info_fields,
)
from openshell_files.cli.transfer import destinations
from openshell_files.cli.usage import Command, OneOf, argument, option
from openshell_files.options import DigestChoice


@click.command(cls=Command)
@options.name
@argument("path", "PATH", help="The path in the sandbox.")
@option("--digest", type=OneOf(options.DIGESTS), help="Compute a digest with this algorithm.")
@options.follow
@options.no_dereference
@options.by_id
@options.timeout
@options.as_json
@with_connection
def stat(
    connecting: Connecting,
    name: str,
    path: str,
    *,
    digest: DigestChoice | None,
    follow: bool,
    no_dereference: bool,
    by_id: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Describe a file, directory or link."""
    out = Report(as_json=as_json)
    with reading_options():
        path = destinations.remote_path(name, path, "stat")
        link = shared.described_link(follow=follow, no_dereference=no_dereference)
        if digest and no_dereference:
            raise ValueError("--digest: a link itself has no digest; leave --no-dereference out")
    where = connecting.where(name, path, by_id=by_id)
    with Failing(out, where), connecting.client() as client, progress_bar("", where, shown=True):
        sandbox = shared.sandbox(client, name, by_id=by_id)
        found = sandbox.stat(path, digest=digest or False, leaf_link=link, timeout=timeout)
    out.lines(file_words(found), file_fields(found))


@click.command(cls=Command)
@options.name
@options.by_id
@options.timeout
@options.as_json
@with_connection
def uploads(connecting: Connecting, name: str, *, by_id: bool, timeout: float | None, as_json: bool) -> None:
    """List your unfinished uploads."""
    out = Report(as_json=as_json)
    with reading_options():
        destinations.remote_path(name, "/", "uploads")
    where = connecting.where(name, by_id=by_id)
    with Failing(out, where), connecting.client() as client, progress_bar("", where, shown=True):
        found = shared.sandbox(client, name, by_id=by_id).uploads(timeout=timeout)
    if not found:
        out.note(f"you have no unfinished uploads in {where.sandbox_words()}")
    out.lines([listing_words(u) for u in found], {"uploads": [upload_info_fields(u) for u in found]})


@click.command(cls=Command)
@options.name
@argument("upload_id", "UPLOAD", help="Id from `openshell-files uploads`.")
@options.by_id
@options.timeout
@options.as_json
@with_connection
def abort(
    connecting: Connecting, name: str, upload_id: str, *, by_id: bool, timeout: float | None, as_json: bool
) -> None:
    """Abort an unfinished upload and free its bytes."""
    out = Report(as_json=as_json)
    with reading_options():
        destinations.remote_path(name, "/", "abort")
        if not upload_id:
            raise ValueError("UPLOAD: must not be empty")
    where = connecting.where(name, f"upload {upload_id}", by_id=by_id)
    unknown = "whether it was aborted is unknown; `openshell-files uploads` lists it if it was not"
    with (
        Failing(out, where, lambda _told: unknown),
        connecting.client() as client,
        progress_bar("", where, shown=True),
    ):
        state = shared.sandbox(client, name, by_id=by_id).abort_upload(upload_id, timeout=timeout)
        leaving.settle()
    out.success(f"{upload_id} is {state.state}", upload_info_fields(state))
