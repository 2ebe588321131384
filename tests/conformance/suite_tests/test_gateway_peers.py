"""The suite's own ends around a gateway: tokens, issuer, TCP faults, raw HTTP/2, and the sandbox in memory."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
import jwt
import pytest
from conditions import until
from google.protobuf.empty_pb2 import Empty
from google.rpc import error_details_pb2, status_pb2
from openshell_files_conformance.checks import CannotGoOnError, Transcript
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2
from openshell_files_conformance.peers.caller import data, digest_of, finish
from openshell_files_conformance.peers.client import Channel, brief, ended_with
from openshell_files_conformance.peers.idp import IdentityProvider
from openshell_files_conformance.peers.model_files import ModelFiles, Refused, Upload, chosen
from openshell_files_conformance.peers.model_uploads import begin, start_upload, write_file
from openshell_files_conformance.peers.tcp_faults import FaultyTcp
from openshell_files_conformance.peers.tokens import hmac_of_public_key, new_key, tampered, unsigned
from openshell_files_conformance.peers.wire import Wire, framed


def opened(**fields: Any) -> file_relay_pb2.FileRelayOpen:
    known: dict[str, Any] = {"principal": "one", **fields}
    return file_relay_pb2.FileRelayOpen(**known)


def metadata(path: str = "file", **fields: Any) -> files_pb2.UploadFileMetadata:
    known: dict[str, Any] = {"remote_path": path, **fields}
    return files_pb2.UploadFileMetadata(**known)


# Tokens and issuer


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_a_right_token_is_verified_by_the_published_key(algorithm: str) -> None:
    async with IdentityProvider() as idp:
        key = next(one for one in idp.keys.values() if one.algorithm == algorithm)
        token = idp.maker.sign(key, idp.maker.claims("someone"))
        document = await asyncio.to_thread(_fetch, f"{idp.issuer}/.well-known/openid-configuration")
        published = await asyncio.to_thread(_fetch, document["jwks_uri"])
        public = jwt.PyJWK(next(one for one in published["keys"] if one["kid"] == key.kid))
        claims = jwt.decode(
            token, public.key, algorithms=[algorithm], audience=idp.audience, issuer=idp.issuer
        )
        assert claims["sub"] == "someone"
        with pytest.raises(jwt.InvalidSignatureError):
            jwt.decode(tampered(token), public.key, algorithms=[algorithm], audience=idp.audience)


def _fetch(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def test_wrong_tokens_are_what_they_claim_to_be() -> None:
    key = new_key("k", "RS256")
    assert jwt.get_unverified_header(unsigned({"sub": "x"}, "k"))["alg"] == "none"
    assert jwt.get_unverified_header(hmac_of_public_key(key, {"sub": "x"}))["alg"] == "HS256"


async def test_an_issuer_that_is_down_answers_nothing_else() -> None:
    async with IdentityProvider() as idp:
        idp.down = True
        with pytest.raises(urllib.error.HTTPError):
            await asyncio.to_thread(_fetch, f"{idp.issuer}/keys")
        assert idp.requests["/keys"] == 1


# Statuses


def test_details_of_a_status_are_read() -> None:
    status = status_pb2.Status(code=5)
    info = error_details_pb2.ErrorInfo(
        reason="FILE_NOT_FOUND", domain="openshell.nvidia.com", metadata={"a": "b"}
    )
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    for detail in (info, retry):
        status.details.add().Pack(detail)
    ended = ended_with(
        grpc.StatusCode.NOT_FOUND, "gone", [("grpc-status-details-bin", status.SerializeToString())]
    )
    assert (ended.reason, ended.metadata, ended.retry_after, ended.ok) == (
        "FILE_NOT_FOUND",
        {"a": "b"},
        1.5,
        False,
    )


def test_a_status_without_details_has_no_reason() -> None:
    assert ended_with(grpc.StatusCode.INTERNAL, "", []).reason == "INTERNAL without a reason"


def test_broken_details_end_the_case_and_not_the_suite() -> None:
    with pytest.raises(CannotGoOnError):
        ended_with(grpc.StatusCode.INTERNAL, "", [("grpc-status-details-bin", b"\xff\xff")])


def test_large_messages_are_shown_by_their_size() -> None:
    assert (
        brief(files_pb2.UploadFileRequest(chunk=bytes(10_000)))
        == "UploadFileRequest of 10003 bytes with chunk"
    )


# Wire and TCP


class _Echo(grpc.GenericRpcHandler):
    """Answers every call with its messages, and counts those that were cancelled."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        del handler_call_details
        handler: Any = cast(Any, grpc).stream_stream_rpc_method_handler(self._echo)
        return handler

    async def _echo(self, requests: Any, context: Any) -> AsyncGenerator[bytes]:
        del context
        try:
            async for message in requests:
                yield message
            self.ended.append("half-closed")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise


@asynccontextmanager
async def echoing() -> AsyncGenerator[tuple[str, _Echo]]:
    server, echo = grpc.aio.server(), _Echo()
    server.add_generic_rpc_handlers((echo,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}", echo
    finally:
        await server.stop(None)


async def test_a_raw_call_has_its_status_and_messages() -> None:
    async with echoing() as (endpoint, _), Wire(endpoint, "a/case", Transcript()) as wire:
        number = await wire.open("Any", token=None)
        await wire.send(number, framed(b"one") + framed(b"two"), end=True)
        ended = await wire.end(number)
        assert (ended.reason, wire.messages(number)) == ("OK", [b"one", b"two"])


async def test_a_raw_reset_is_no_half_close() -> None:
    async with echoing() as (endpoint, echo), Wire(endpoint, "a/case", Transcript()) as wire:
        number = await wire.open("Any", token=None)
        await wire.send(number, framed(b"one"))
        while not wire.messages(number):
            assert await wire.receive(5)
        await wire.reset(number)
        await until(lambda: bool(echo.ended), "the call ended there")
        assert not wire.gone


async def test_a_call_that_waits_in_vain_can_go_on() -> None:
    async with echoing() as (endpoint, _), Channel(endpoint, "a/case", Transcript()) as channel:
        call = channel.open("Health", token=None)
        with pytest.raises(CannotGoOnError):
            await call.next(0.05)
        await call.send(Empty())
        assert await call.next() is not None
        await call.half_close()
        assert (await call.end()).ok


async def test_a_connection_is_cut_after_so_many_bytes() -> None:
    got = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while part := await reader.read(1000):
                got.extend(part)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, FaultyTcp(f"127.0.0.1:{port}") as proxy:
        host, _, own = proxy.endpoint.partition(":")
        reader, writer = await asyncio.open_connection(host, int(own))
        proxy.cut_after(1500)
        writer.write(bytes(4000))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readexactly(1), 5)
        writer.close()
        assert proxy.sent <= 1500
        assert len(got) <= 1500


# The sandbox in memory


def test_a_finish_publishes_and_is_repeated() -> None:
    files, first = ModelFiles(), metadata(explicit_finish=True, request_id="r")
    attempt = begin(files, opened(), first)
    assert attempt.take(data(0, b"abc")) is None
    told = attempt.take(finish(b"abc"))
    assert told is not None
    assert attempt.publish(told).file.digest == digest_of(b"abc")
    assert files.files["/sandbox/file"].content == b"abc"
    again = begin(files, opened(), first)
    told = again.take(finish(b"abc"))
    assert told is not None
    assert again.publish(told).replayed


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (data(1, b"x"), "OFFSET_MISMATCH"),
        (data(0, b"x", 1), "CHUNK_CHECKSUM"),
        (finish(b"other"), "SIZE_MISMATCH"),
        (files_pb2.UploadFileRequest(), "INVALID_REQUEST"),
    ],
)
def test_what_is_wrong_in_a_stream_is_refused(message: files_pb2.UploadFileRequest, reason: str) -> None:
    attempt = begin(ModelFiles(), opened(), metadata(explicit_finish=True))
    with pytest.raises(Refused, match=reason):
        attempt.take(message)


def test_an_upload_is_taken_over() -> None:
    files = ModelFiles()
    upload = start_upload(files, opened(), files_pb2.StartUploadRequest(metadata=metadata()))
    old = begin(files, opened(), metadata(upload_id=upload.upload_id, epoch=1))
    old.take(data(0, b"abc"))
    request = files_pb2.StartUploadRequest(metadata=metadata(upload_id=upload.upload_id))
    assert start_upload(files, opened(), request).epoch == 2
    assert old.outdated
    with pytest.raises(Refused, match="SUPERSEDED"):
        old.take(data(3, b"d"))
    assert bytes(upload.staged) == b"abc"


def test_an_upload_of_another_principal_is_unknown() -> None:
    files = ModelFiles()
    upload = start_upload(files, opened(), files_pb2.StartUploadRequest(metadata=metadata()))
    with pytest.raises(Refused, match="UPLOAD_UNKNOWN"):
        begin(files, opened(principal="two"), metadata(upload_id=upload.upload_id, epoch=1))


def test_the_oldest_idle_upload_makes_room() -> None:
    files, limits = ModelFiles(), file_relay_pb2.FileRelayLimits(max_uploads_per_principal=1)
    first, second = (
        start_upload(files, opened(limits=limits), files_pb2.StartUploadRequest(metadata=metadata(name)))
        for name in ("a", "b")
    )
    assert first.failure == "TOO_MANY_UPLOADS"
    second.streams = 1
    with pytest.raises(Refused, match="TOO_MANY_UPLOADS"):
        start_upload(files, opened(limits=limits), files_pb2.StartUploadRequest(metadata=metadata("c")))


def test_a_small_file_that_is_refused_is_forgotten() -> None:
    files = ModelFiles()
    request = files_pb2.WriteFileRequest(
        metadata=metadata(request_id="r"), content=b"x", crc32c=1, digest=digest_of(b"x")
    )
    with pytest.raises(Refused, match="CHUNK_CHECKSUM"):
        write_file(files, opened(), request)
    assert not files.uploads
    assert not files.files


@pytest.mark.parametrize("path", ["", "a/", "a/../b", "./a", "a\0", "x" * 256, "/" + "a/" * 2048])
def test_what_names_no_file_is_no_path(path: str) -> None:
    with pytest.raises(Refused, match="INVALID_PATH"):
        ModelFiles().resolved(path, field_name="remote_path")


def test_the_first_known_digest_is_chosen() -> None:
    assert chosen([99, 2, 1], []) == 2
    assert chosen([], [2, 1]) == 1
    with pytest.raises(Refused, match="DIGEST_UNSUPPORTED"):
        chosen([2], [1])


def test_an_upload_without_a_byte_expires() -> None:
    files = ModelFiles()
    upload: Upload = start_upload(files, opened(), files_pb2.StartUploadRequest(metadata=metadata()))
    files.expire(1000)
    assert upload.state == files_pb2.UPLOAD_STATE_RECEIVING
    upload.updated -= 2
    files.expire(1)
    assert upload.state == files_pb2.UPLOAD_STATE_EXPIRED
