"""Messages in transcripts: short, whatever is in them."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from openshell_files_conformance.checks import shown
from openshell_files_conformance.message_text import message_text
from openshell_files_conformance.pb.openshell.v1 import file_relay_pb2, files_pb2

SHA256 = files_pb2.DIGEST_ALGORITHM_SHA256


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (files_pb2.UploadFileRequest(), "{}"),
        (files_pb2.UploadFileRequest(chunk=b"abc"), "chunk: b'abc'"),
        (
            files_pb2.UploadFileRequest(chunk=b"x" * 1000),
            f"chunk: {b'x' * 24!r}… (1000 bytes)",
        ),
        (
            files_pb2.UploadFileRequest(metadata=files_pb2.UploadFileMetadata(remote_path="a", mode=5)),
            "metadata: {remote_path: 'a' mode: 5}",
        ),
        (file_relay_pb2.FileRelayOpen(digests=[SHA256, files_pb2.DIGEST_ALGORITHM_BLAKE3]), None),
        (file_relay_pb2.FileRelayOpen(digests=[SHA256] * 9), None),
        (file_relay_pb2.FileRelayError(metadata={"a": "1"}), "metadata: {'a': '1'}"),
    ],
)
def test_the_fields_that_are_set_are_shown(message: Message, text: str | None) -> None:
    shown_text = message_text(message)
    if text is None:
        assert shown_text.startswith("digests: [DIGEST_ALGORITHM_SHA256, ")
        assert ("(9 in all)" in shown_text) is (len(message.ListFields()[0][1]) == 9)
    else:
        assert shown_text == text


def test_a_value_that_is_not_known_is_its_number() -> None:
    message = file_relay_pb2.FileRelayOpen.FromString(
        file_relay_pb2.FileRelayOpen().SerializeToString() + b"\x3a\x01\x63"
    )
    assert message_text(message) == "digests: [99]"


def test_what_a_check_saw_may_be_a_message() -> None:
    assert shown(files_pb2.UploadFileRequest(chunk=b"abc")) == "chunk: b'abc'"
