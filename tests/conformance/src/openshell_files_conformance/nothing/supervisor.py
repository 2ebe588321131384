"""A supervisor that takes up every relay, and answers every operation at once with a success that says nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import Message

from openshell_files_conformance.pb.openshell.v1 import (
    exec_relay_pb2,
    file_relay_pb2,
    files_pb2,
    openshell_pb2,
)
from openshell_files_conformance.peers import relay_frames

SERVICE = "/openshell.v1.OpenShell/"


class AgreeingSupervisor:
    """Connects in a thread of its own, and serves until the process ends."""

    def __init__(self, endpoint: str, sandbox_id: str, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._sandbox_id = sandbox_id
        self._channel = grpc.insecure_channel(endpoint)
        self._out: queue.SimpleQueue[openshell_pb2.SupervisorMessage] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _stream(self, name: str, sent: Iterator[Any], response: type[Any]) -> Iterator[Any]:
        call: Any = self._channel.stream_stream(
            SERVICE + name,
            request_serializer=_serialized,
            response_deserializer=response.FromString,
        )
        answers: Iterator[Any] = call(sent, metadata=self._metadata, wait_for_ready=True)
        return answers

    def _serve(self) -> None:
        hello = openshell_pb2.SupervisorHello(
            sandbox_id=self._sandbox_id,
            instance_id="agreeing",
            connection_epoch=1,
            file_transfer=file_relay_pb2.FileTransferCapability(
                protocol_version=1,
                keeps_relays=True,
                takes_waiting=True,
                serves_directories=True,
                serves_trees=True,
                serves_archives=True,
                digests=[files_pb2.DIGEST_ALGORITHM_SHA256, files_pb2.DIGEST_ALGORITHM_BLAKE3],
            ),
            exec=exec_relay_pb2.ExecCapability(),
        )
        self._out.put(openshell_pb2.SupervisorMessage(hello=hello))
        try:
            for message in self._stream(
                "ConnectSupervisor", iter(self._out.get, None), openshell_pb2.GatewayMessage
            ):
                if message.HasField("relay_open"):
                    threading.Thread(target=self._relay, args=(message.relay_open,), daemon=True).start()
        except grpc.RpcError:
            return

    def _relay(self, opened: openshell_pb2.RelayOpen) -> None:
        result = openshell_pb2.RelayOpenResult(channel_id=opened.channel_id, success=True)
        self._out.put(openshell_pb2.SupervisorMessage(relay_open_result=result))
        out: queue.SimpleQueue[openshell_pb2.RelayFrame | None] = queue.SimpleQueue()
        out.put(openshell_pb2.RelayFrame(init=openshell_pb2.RelayInit(channel_id=opened.channel_id)))
        commands = opened.HasField("exec")
        decoder: relay_frames.FrameDecoder[Any] = (
            relay_frames.exec_requests() if commands else relay_frames.requests()
        )
        try:
            for frame in self._stream("RelayStream", iter(out.get, None), openshell_pb2.RelayFrame):
                for request in decoder.feed(frame.data):
                    for answer in _command_answers() if commands else _answers(request):
                        data = relay_frames.encode_frame(answer)
                        out.put(openshell_pb2.RelayFrame(data=data))
        except (grpc.RpcError, relay_frames.FramingError):
            pass
        finally:
            out.put(None)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def _command_answers() -> Iterator[exec_relay_pb2.ExecRelayResponse]:
    answer = exec_relay_pb2.ExecRelayResponse()
    answer.event.exit.exit_code = 0
    yield answer


def _answers(request: file_relay_pb2.FileRelayRequest) -> Iterator[file_relay_pb2.FileRelayResponse]:
    """Yield `accepted` and an empty result of the operation that a frame opens."""
    operation = request.open.WhichOneof("operation")
    if request.WhichOneof("frame") != "open" or operation is None:
        return
    yield file_relay_pb2.FileRelayResponse(accepted=file_relay_pb2.FileRelayAccepted(protocol_version=1))
    result = file_relay_pb2.FileRelayResponse()
    getattr(result, operation).SetInParent()
    yield result
    if operation == "download":
        yield file_relay_pb2.FileRelayResponse(download_end=file_relay_pb2.FileRelayDownloadEnd())
    if operation in {"upload_tree", "download_tree"}:
        yield file_relay_pb2.FileRelayResponse(tree_end=file_relay_pb2.FileRelayTreeEnd())
