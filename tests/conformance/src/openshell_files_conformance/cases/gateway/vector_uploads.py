"""The vectors of uploads against a whole server: one stream each, and what its last message leads to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from openshell_files_conformance.cases.supervisor.vector_names import (
    ALGORITHMS,
    digest_of,
    every_clause,
    slug,
)
from openshell_files_conformance.checks import CannotGoOnError
from openshell_files_conformance.pb.openshell.v1 import file_options_pb2, files_pb2
from openshell_files_conformance.peers.caller import OK, Up, data, finish
from openshell_files_conformance.peers.client import Call, Ended
from openshell_files_conformance.peers.gateway_env import GatewayEnv
from openshell_files_conformance.registry import Profile, case
from openshell_files_conformance.vectors_data import value, vectors

#: The limit that the vectors about the largest file have.
_SMALL: Final = {"max_file_bytes": 1000}
#: What an earlier stream staged.
_STAGED: Final = b"s"
_STATES: Final = {True: files_pb2.UPLOAD_STATE_RECEIVING, False: files_pb2.UPLOAD_STATE_ABORTED}


def message_of(given: Mapping[str, Any]) -> Up:
    """Return a message of a vector."""
    match given:
        case {"chunk": content}:
            return Up(chunk=value(content))
        case {"data": fields}:
            return Up(
                data=files_pb2.FileChunk(
                    offset=int(fields.get("offset", "0")),
                    data=value(fields.get("data", "")),
                    crc32c=int(fields.get("crc32c", "0"), 16),
                    hole_bytes=int(fields.get("hole_bytes", "0")),
                )
            )
        case {"finish": fields}:
            told = files_pb2.UploadFinish(
                size_bytes=int(fields["size_bytes"]), digest=digest_of(fields["digest"])
            )
            return Up(finish=told)
        case {"metadata": _}:
            return Up(metadata=files_pb2.UploadFileMetadata(remote_path="other"))
        case {"waiting": _}:
            return Up(waiting=file_options_pb2.UploadWaiting())
        case _:
            return Up()


class _Vector:
    """One vector, carried out by a caller.

    Attributes:
        request_id: names the upload to its queries; empty if it cannot be named.
    """

    def __init__(self, env: GatewayEnv, given: Mapping[str, Any]) -> None:
        self.env = env
        self.given = given
        self.path = env.path()
        self.upload: Mapping[str, Any] = given.get("upload", {})
        self.explicit = bool(self.upload.get("explicit_finish", True))
        self.algorithm = ALGORITHMS[self.upload.get("algorithm", "SHA256")]
        self.request_id = env.fresh_name("request") if _named(given) else ""
        self.staged = int(self.upload.get("staged", "0"))

    def fields(self, **more: Any) -> dict[str, Any]:
        """Return the upload's metadata."""
        found: dict[str, Any] = {"size_bytes": int(self.upload.get("size_bytes") or 0), **more}
        if self.explicit:
            found |= {"explicit_finish": True, "accepted_digests": [self.algorithm]}
        if self.request_id:
            found["request_id"] = self.request_id
        return found

    async def begin(self) -> Call[Any]:
        """Bring the upload to the state before the stream, and open the stream."""
        caller = self.env.caller
        if self.upload.get("published") is not None:
            content = value(self.upload["published"]["digest"]["of"])
            first = await caller.begin(self.path, Up(chunk=content), **self.fields())
            if self.explicit:
                await first.send(finish(content, self.algorithm))
            await first.half_close()
            _expect(await first.end(), "the upload before")
        if not self.staged:
            return await caller.begin(self.path, **self.fields())
        begun = _expect(await caller.start(self.path, **self.fields()), "StartUpload").answer.upload
        named = self.fields(upload_id=begun.upload_id, epoch=begun.epoch)
        first = await caller.begin(self.path, data(0, _STAGED * self.staged), **named)
        await first.half_close()
        await first.end()
        again = await caller.start(self.path, **self.fields(upload_id=begun.upload_id))
        status = _expect(again, "StartUpload again").answer.upload
        return await caller.begin(self.path, **self.fields(upload_id=status.upload_id, epoch=status.epoch))

    async def run(self) -> Ended[Any]:
        """Send the stream, and return how it ended."""
        call = await self.begin()
        ends = [one["end"] for one in self.given["messages"] if "end" in one]
        await call.send(*(message_of(one) for one in self.given["messages"] if "end" not in one))
        if "cancelled" in ends or "lost" in ends:
            # What came before must have arrived, or the case would try something else.
            await self._arrived()
            call.cancel()
        elif ends or self.given["outcome"].get("result") == "more":
            await call.half_close()
        return await call.end()

    async def _arrived(self) -> None:
        """Wait until an upload that can be asked for has what was sent, or is over."""
        if not self.request_id:
            await self.env.caller.stat(self.path)
            return
        size = sum(len(value(one["data"].get("data", ""))) for one in self.given["messages"] if "data" in one)

        async def there() -> bool:
            asked = await self.env.caller.get(request_id=self.request_id)
            return asked.ok and asked.answer.upload.staged_bytes >= self.staged + size

        await self.env.eventually(there)


def _expect(ended: Ended[Any], what: str) -> Ended[Any]:
    if not ended.ok:
        raise CannotGoOnError(f"{what}: {ended}")
    return ended


def _named(given: Mapping[str, Any]) -> bool:
    upload = given.get("upload", {})
    if upload.get("staged", "0") != "0" or upload.get("published"):
        return True
    return bool(
        upload.get("explicit_finish", True) and upload.get("resumable", True) and "reason" in given["outcome"]
    )


def _expected_content(given: Mapping[str, Any]) -> bytes:
    if given.get("upload", {}).get("published"):
        return value(given["upload"]["published"]["digest"]["of"])
    for message in given["messages"]:
        if "finish" in message:
            return value(message["finish"]["digest"]["of"])
    return b"".join(value(message.get("chunk", "")) for message in given["messages"])


async def _published(env: GatewayEnv, vector: _Vector, ended: Ended[Any], clause: str) -> None:
    if ended.code.name == "CANCELLED":

        async def published() -> bool:
            return await env.caller.content(vector.path) == _expected_content(vector.given)

        env.check("published", await env.eventually(published), equals=True, clause=clause)
        return
    env.require("reason", ended.reason, equals=OK, clause=clause)
    replayed = vector.given["outcome"]["result"] == "replayed"
    env.check("replayed", ended.answer.replayed, equals=replayed, clause=clause)
    env.check(
        "content",
        await env.caller.content(vector.path),
        equals=_expected_content(vector.given),
        clause=clause,
    )


async def _refused(env: GatewayEnv, vector: _Vector, ended: Ended[Any], clause: str) -> None:
    outcome, left = vector.given["outcome"], ended.code.name == "CANCELLED"
    unread = "UPL-20" in vector.given["clauses"]
    if not left:
        allowed = (outcome["reason"], OK) if unread else (outcome["reason"],)
        env.check("reason", ended.reason, one_of=allowed, clause=clause)
        if ended.reason == outcome["reason"]:
            if "field" in outcome:
                env.check("field", ended.fields, equals=[outcome["field"]], clause=clause)
            for name, wanted in outcome.get("metadata", {}).items():
                env.check(
                    f"metadata-{name.replace('_', '-')}",
                    ended.metadata.get(name),
                    equals=wanted,
                    clause=clause,
                )
    there = (
        _expected_content(vector.given) if vector.upload.get("published") or ended.ok else "FILE_NOT_FOUND"
    )
    env.check("destination", await env.caller.content(vector.path), equals=there, clause=clause)
    if vector.request_id and there == "FILE_NOT_FOUND":
        wanted = _STATES[outcome.get("kept", True)]

        async def settled() -> bool:
            asked = await env.caller.get(request_id=vector.request_id)
            return asked.ok and asked.answer.upload.state == wanted

        env.check("state", await env.eventually(settled), equals=True, clause=clause)


def _register(given: Mapping[str, Any]) -> None:
    outcome, clauses = given["outcome"], tuple(given["clauses"])
    upload = given.get("upload", {})
    needs = ["waiting"] if any("waiting" in one for one in given["messages"]) else []
    if upload.get("algorithm") == "BLAKE3":
        needs.append("blake3")
    profile: Profile = "core"
    if _named(given):
        profile = "resume"
        needs.append("resume")
    elif not upload.get("explicit_finish", True) and not any(
        set(one) - {"chunk", "end"} for one in given["messages"]
    ):
        profile = "rfc"

    async def run(env: GatewayEnv) -> None:
        vector = _Vector(env, given)
        ended = await vector.run()
        if outcome.get("result") == "more":
            env.check("waits-for-more", ended.reason, equals="UPLOAD_INCOMPLETE", clause=clauses[0])
        elif "result" in outcome:
            await _published(env, vector, ended, clauses[0])
        else:
            await _refused(env, vector, ended, clauses[0])
        every_clause(env, clauses)

    run.__doc__ = f"Vector of uploads: {given['name']}."
    launch = _SMALL if "UPL-27" in clauses else None
    case(
        f"gateway/upload-vectors/{slug(given['name'])}",
        profile=profile,
        clauses=clauses,
        needs=needs,
        launch=launch,
    )(run)


for _given in vectors("uploads")["uploads"]:
    # No gateway may have such a limit on chunks (UPL-6).
    if "UPL-24" not in _given["clauses"] or "UPL-18" in _given["clauses"]:
        _register(_given)
