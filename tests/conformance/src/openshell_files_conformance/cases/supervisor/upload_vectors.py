"""The vectors of uploads: one stream each, and what its last message leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from openshell_files_conformance.cases.supervisor.vector_names import (
    ALGORITHMS,
    digest_of,
    every_clause,
    slug,
)
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_conformance.peers.operation import OK, RELAY_ENDED, FileRelay, Outcome, data, finish
from openshell_files_conformance.peers.supervisor_env import SupervisorEnv
from openshell_files_conformance.peers.waiting import until
from openshell_files_conformance.registry import Profile, case
from openshell_files_conformance.vectors_data import value, vectors

#: What an earlier stream staged.
_STAGED = b"s"
_WAITING = files_pb2.UploadFileRequest(waiting=file_options_pb2.UploadWaiting())


def message_of(given: Mapping[str, Any]) -> files_pb2.UploadFileRequest:
    """Return a message of the caller."""
    match given:
        case {"chunk": content}:
            return files_pb2.UploadFileRequest(chunk=value(content))
        case {"data": fields}:
            chunk = files_pb2.FileChunk(
                offset=int(fields.get("offset", "0")),
                data=value(fields.get("data", "")),
                crc32c=int(fields.get("crc32c", "0"), 16),
                hole_bytes=int(fields.get("hole_bytes", "0")),
            )
            return files_pb2.UploadFileRequest(data=chunk)
        case {"finish": fields}:
            size, whole = int(fields["size_bytes"]), digest_of(fields["digest"])
            return files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish(size_bytes=size, digest=whole))
        case {"metadata": _}:
            return files_pb2.UploadFileRequest(metadata=files_pb2.UploadFileMetadata(remote_path="other"))
        case {"waiting": _}:
            return _WAITING
        case _:
            return files_pb2.UploadFileRequest()


class UploadVector:
    """One vector, carried out against an agent.

    Attributes:
        request_id: names the upload to its queries; empty if it cannot be resumed.
    """

    def __init__(self, env: SupervisorEnv, given: Mapping[str, Any]) -> None:
        self.env = env
        self.given = given
        self.upload: Mapping[str, Any] = given.get("upload", {})
        self.algorithm = ALGORITHMS[self.upload.get("algorithm", "SHA256")]
        self.request_id = env.fresh_name("request") if resumed(given) else ""
        self.staged = int(self.upload.get("staged", "0"))

    @property
    def limits(self) -> dict[str, Any]:
        """Limits of the gateway."""
        return {"limits": {"max_file_bytes": int(self.upload.get("max_file_bytes", "1000"))}}

    def fields(self, **more: Any) -> dict[str, Any]:
        """Return the upload's metadata."""
        size = self.upload.get("size_bytes")
        return {
            "size_bytes": int(size) if size is not None else 0,
            "explicit_finish": self.upload.get("explicit_finish", True),
            "accepted_digests": [self.algorithm],
            "request_id": self.request_id,
            **more,
        }

    async def begin(self) -> FileRelay:
        """Bring the upload to the state before the stream, and open the stream."""
        env, path = self.env, self.env.path()
        published = self.upload.get("published")
        if published is not None:
            await self._publish(value(published["digest"]["of"]))
        if not self.staged:
            return await env.begin_upload(path, opening=self.limits, **self.fields())
        started = await env.start_upload(path, opening=self.limits, **self.fields())
        first = await env.begin_upload(path, opening=self.limits, **self._named(started))
        await first.upload(data(0, _STAGED * self.staged))
        await first.input_end()
        await first.outcome()
        again = await env.start_upload(
            path, opening=self.limits, **self.fields(upload_id=started.answer.upload.upload_id)
        )
        return await env.begin_upload(path, opening=self.limits, **self._named(again))

    async def _publish(self, content: bytes) -> None:
        """Carry out the earlier stream, with the finish that the vector's stream has."""
        first = await self.env.begin_upload(self.env.path(), opening=self.limits, **self.fields())
        await first.upload(files_pb2.UploadFileRequest(chunk=content))
        if self.upload.get("explicit_finish", True):
            await first.upload(finish(content, self.algorithm))
        await first.input_end()
        outcome = await first.outcome()
        if not outcome.ok:
            raise CannotGoOnError(f"the upload before: {outcome}")

    def _named(self, started: Outcome) -> dict[str, Any]:
        if not started.ok:
            raise CannotGoOnError(f"StartUpload: {started}")
        status = started.answer.upload
        return self.fields(upload_id=status.upload_id, epoch=status.epoch)

    async def run(self) -> tuple[Outcome, bool]:
        """Send the stream; return how it ended, and whether the agent was still waiting for more."""
        relay = await self.begin()
        await relay.until("accepted")
        messages: Sequence[Mapping[str, Any]] = self.given["messages"]
        with suppress(CannotGoOnError):
            await relay.upload(*(message_of(one) for one in messages if "end" not in one))
            for end in (one["end"] for one in messages if "end" in one):
                if end == "lost":
                    relay.relay.reset()
                    return Outcome(broken=RELAY_ENDED), False
                await relay.input_end(cancelled=end == "cancelled")
        if self.given["outcome"].get("result") == "more":
            await relay.input_end()
            return await relay.outcome(), True
        outcome = await relay.outcome()
        return outcome, False

    async def state(self) -> files_pb2.UploadState | None:
        """Ask for the state of the upload; None if it has no name."""
        if not self.request_id:
            return None
        asked = await self.env.get_upload(request_id=self.request_id)
        return asked.answer.upload.state if asked.ok else None


def resumed(given: Mapping[str, Any]) -> bool:
    """Whether a vector needs an upload that can be named again."""
    upload = given.get("upload", {})
    if upload.get("staged", "0") != "0" or upload.get("published"):
        return True
    # Whether the staged bytes stay can only be asked of an upload that has a name.
    named = upload.get("explicit_finish", True) and upload.get("resumable", True)
    return named and "reason" in given["outcome"]


def sizes_a_chunk(given: Mapping[str, Any]) -> bool:
    """Whether a vector has a limit on chunks that no gateway may have (UPL-6); `chunks.py` has these with a real one."""
    return "UPL-24" in given["clauses"] and "UPL-18" not in given["clauses"]


def expected_content(given: Mapping[str, Any]) -> bytes:
    """Return the content that a vector publishes."""
    upload = given.get("upload", {})
    if upload.get("published"):
        return value(upload["published"]["digest"]["of"])
    for message in given["messages"]:
        if "finish" in message:
            return value(message["finish"]["digest"]["of"])
    return b"".join(value(message.get("chunk", "")) for message in given["messages"])


def _register(given: Mapping[str, Any]) -> None:
    outcome, clauses = given["outcome"], tuple(given["clauses"])
    needs = ["waiting"] if any("waiting" in one for one in given["messages"]) else []
    if given.get("upload", {}).get("algorithm") == "BLAKE3":
        needs.append("blake3")
    explicit = given.get("upload", {}).get("explicit_finish", True)
    profile: Profile = "resume" if resumed(given) else "core" if explicit else "rfc"

    async def run(env: SupervisorEnv) -> None:
        vector = UploadVector(env, given)
        ended, more = await vector.run()
        if more:
            env.check("waits-for-more", ended.reason, equals="UPLOAD_INCOMPLETE", clause=clauses[0])
        elif "result" in outcome:
            await _published(env, ended)
        else:
            await _refused(env, vector, ended)
        every_clause(env, clauses)

    async def _published(env: SupervisorEnv, ended: Outcome) -> None:
        env.require("reason", ended.reason, equals=OK, clause=clauses[0])
        replayed = outcome["result"] == "replayed"
        env.check("replayed", ended.answer.replayed, equals=replayed, clause=clauses[0])
        seen = await env.files.read(env.path())
        env.check("content", seen, equals=expected_content(given), clause=clauses[0])

    async def _refused(env: SupervisorEnv, vector: UploadVector, ended: Outcome) -> None:
        name, clause = outcome["reason"], clauses[0]
        unread = "UPL-20" in clauses
        lost = name == "UPLOAD_INCOMPLETE"
        # Nobody waits for an answer after a cancellation, and none can come after a loss.
        allowed = (name, RELAY_ENDED) if lost else (name, OK) if unread else (name,)
        env.check("reason", ended.reason, one_of=allowed, clause=clause)
        if "field" in outcome and ended.reason == name:
            env.check("field", ended.fields, equals=[outcome["field"]], clause=clause)
        if ended.reason == name:
            for key, wanted in outcome.get("metadata", {}).items():
                env.check(
                    f"metadata-{key.replace('_', '-')}", ended.metadata.get(key), equals=wanted, clause=clause
                )
        published = bool(vector.upload.get("published")) or ended.reason == OK
        if not vector.request_id:
            await until(lambda: _none_left(env), "the staging file is removed", env.scaled(5))
        env.check("nothing-published", await env.files.exists(env.path()), equals=published, clause=clause)
        if vector.request_id and not published and not unread:
            kept = (
                files_pb2.UPLOAD_STATE_RECEIVING
                if outcome.get("kept", True)
                else files_pb2.UPLOAD_STATE_ABORTED
            )
            env.check("state", await vector.state(), equals=kept, clause=clause)

    run.__doc__ = f"Vector of uploads: {given['name']}."
    case(f"supervisor/upload-vectors/{slug(given['name'])}", profile=profile, clauses=clauses, needs=needs)(
        run
    )


async def _none_left(env: SupervisorEnv) -> bool:
    return not await env.left()


for _given in vectors("uploads")["uploads"]:
    if not sizes_a_chunk(_given):
        _register(_given)
