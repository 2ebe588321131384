"""RFC-1, RFC-2, RFC-3: code generated from the RFC's text understands ours, and the reverse."""

from __future__ import annotations

import pytest
import rfc_messages
from descriptor_sets import file_set
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st
from openshell_files_protocol import methods
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from wire_differences import elements
from wire_strategies import uint64s

every_message = pytest.mark.parametrize("name", list(rfc_messages.FIELDS))

uint32s = st.one_of(st.sampled_from([0, 0o644, 0o100000, 2**32 - 1]), st.integers(0, 2**32 - 1))
#: What protobuf's strings can hold; surrogates they cannot.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)

metadata = st.builds(
    rfc_messages.UploadFileMetadata,
    sandbox_id=texts,
    remote_path=texts,
    size_bytes=uint64s,
    mode=uint32s,
    is_archive=st.booleans(),
)
upload_requests = st.one_of(
    st.builds(rfc_messages.UploadFileRequest, metadata=metadata),
    st.builds(rfc_messages.UploadFileRequest, chunk=st.binary(max_size=100)),
    st.just(rfc_messages.UploadFileRequest()),
)
upload_responses = st.builds(rfc_messages.UploadFileResponse, bytes_written=uint64s)
download_requests = st.builds(
    rfc_messages.DownloadFileRequest, sandbox_id=texts, remote_path=texts, as_archive=st.booleans()
)
headers = st.builds(
    rfc_messages.DownloadFileHeader, size_bytes=uint64s, mode=uint32s, is_archive=st.booleans()
)
download_responses = st.one_of(
    st.builds(rfc_messages.DownloadFileResponse, header=headers),
    st.builds(rfc_messages.DownloadFileResponse, chunk=st.binary(max_size=100)),
    st.just(rfc_messages.DownloadFileResponse()),
)

timestamps = st.integers(0, 2**33).map(lambda seconds: {"seconds": seconds})
file_infos = st.builds(
    files_pb2.FileInfo,
    path=texts,
    size_bytes=uint64s,
    version=texts,
    digest=st.builds(files_pb2.Digest, value=st.binary(max_size=32)),
)
our_metadata = st.builds(
    files_pb2.UploadFileMetadata,
    sandbox_id=texts,
    remote_path=texts,
    size_bytes=uint64s,
    mode=uint32s,
    is_archive=st.booleans(),
    sandbox=texts,
    workspace=texts,
    explicit_finish=st.booleans(),
    upload_id=texts,
    request_id=texts,
    condition=st.builds(files_pb2.UploadCondition, absent=st.just(Empty())),
    modified_time=timestamps,
    durability=st.sampled_from([files_pb2.DURABILITY_UNSPECIFIED, files_pb2.DURABILITY_FSYNC]),
    epoch=uint64s,
)
our_upload_responses = st.builds(
    files_pb2.UploadFileResponse,
    bytes_written=uint64s,
    file=file_infos,
    upload_id=texts,
    replayed=st.booleans(),
    resumed_from=uint64s,
)
our_headers = st.builds(
    files_pb2.DownloadFileHeader, size_bytes=uint64s, mode=uint32s, file=file_infos, start_offset=uint64s
)
our_download_requests = st.builds(
    files_pb2.DownloadFileRequest,
    sandbox_id=texts,
    remote_path=texts,
    as_archive=st.booleans(),
    checked=st.booleans(),
    offset=uint64s,
    length=st.one_of(st.none(), uint64s),
)


@every_message
def test_fields_of_the_rfc_have_the_rfcs_shape(name: str) -> None:
    """RFC-1: number, name, type, label and oneof of every field of the RFC."""
    rfc = elements(FileDescriptorSet(file=[rfc_messages.file_descriptor()]))[f"openshell.v1.{name}"]
    ours = elements(file_set(files_pb2.DESCRIPTOR))[f"openshell.v1.{name}"]
    assert rfc.parts
    assert {part: ours.parts[part] for part in rfc.parts} == rfc.parts


@every_message
def test_extensions_begin_at_ten(name: str) -> None:
    """RFC-5: the numbers below belong to the RFC's authors, who find nothing there that they had to edit."""
    descriptor = files_pb2.DESCRIPTOR.message_types_by_name[name]
    in_rfc = {number for number, _, _ in rfc_messages.FIELDS[name]}
    extensions = {field.number for field in descriptor.fields} - in_rfc
    assert {number for number in extensions if number < 10} == set()


def test_nothing_is_reserved() -> None:
    """RFC-5: in no message of the file methods."""
    messages = file_set(files_pb2.DESCRIPTOR).file[-1].message_type
    assert {m.name for m in messages} >= set(rfc_messages.FIELDS)
    assert [m.name for m in messages if m.reserved_range or m.reserved_name] == []


@pytest.mark.parametrize(
    ("ours", "rfc"),
    [(methods.UPLOAD_FILE, rfc_messages.UPLOAD_FILE), (methods.DOWNLOAD_FILE, rfc_messages.DOWNLOAD_FILE)],
)
def test_methods_have_the_rfcs_paths(ours: str, rfc: str) -> None:
    """RFC-4: methods of openshell.v1.OpenShell."""
    assert ours == rfc


@settings(deadline=None)
@given(message=upload_requests)
def test_an_upload_request_of_the_rfc(message: rfc_messages.UploadFileRequest) -> None:
    """RFC-2: nothing is unknown, nothing is lost, and the bytes are the same."""
    wire = message.SerializeToString()
    ours = files_pb2.UploadFileRequest.FromString(wire)
    assert ours.WhichOneof("payload") == message.WhichOneof("payload")
    assert not UnknownFieldSet(ours)
    assert not UnknownFieldSet(ours.metadata)
    assert ours.chunk == message.chunk
    for _, field, _ in rfc_messages.FIELDS["UploadFileMetadata"]:
        assert getattr(ours.metadata, field) == getattr(message.metadata, field)
    assert ours.SerializeToString() == wire


@settings(deadline=None)
@given(message=download_requests)
def test_a_download_request_of_the_rfc(message: rfc_messages.DownloadFileRequest) -> None:
    """RFC-2, RFC-3: and it asks for no extension."""
    wire = message.SerializeToString()
    ours = files_pb2.DownloadFileRequest.FromString(wire)
    assert (ours.sandbox_id, ours.remote_path, ours.as_archive) == (
        message.sandbox_id,
        message.remote_path,
        message.as_archive,
    )
    assert (ours.checked, ours.HasField("length"), ours.offset, ours.tail_bytes) == (False, False, 0, 0)
    assert ours.SerializeToString() == wire


@settings(deadline=None)
@given(answer=upload_responses, stream=download_responses)
def test_answers_of_a_server_that_knows_only_the_rfc(
    answer: rfc_messages.UploadFileResponse, stream: rfc_messages.DownloadFileResponse
) -> None:
    """RFC-1: our client reads them, and sees that the extensions are missing."""
    upload = files_pb2.UploadFileResponse.FromString(answer.SerializeToString())
    assert upload.bytes_written == answer.bytes_written
    assert not upload.HasField("file")
    download = files_pb2.DownloadFileResponse.FromString(stream.SerializeToString())
    assert download.WhichOneof("payload") == stream.WhichOneof("payload")
    assert download.chunk == stream.chunk
    assert (download.header.size_bytes, download.header.mode, download.header.is_archive) == (
        stream.header.size_bytes,
        stream.header.mode,
        stream.header.is_archive,
    )
    assert not download.header.HasField("file")
    assert download.SerializeToString() == stream.SerializeToString()


@settings(deadline=None)
@given(upload=our_metadata, answer=our_upload_responses, request=our_download_requests, header=our_headers)
def test_extension_fields_pass_through_code_of_the_rfc(
    upload: files_pb2.UploadFileMetadata,
    answer: files_pb2.UploadFileResponse,
    request: files_pb2.DownloadFileRequest,
    header: files_pb2.DownloadFileHeader,
) -> None:
    """RFC-6: extension fields in a message of the RFC are allowed: they are kept, and in nobody's way."""
    sent = files_pb2.UploadFileRequest(metadata=upload)
    seen = rfc_messages.UploadFileRequest.FromString(sent.SerializeToString())
    assert seen.WhichOneof("payload") == "metadata"
    for _, field, _ in rfc_messages.FIELDS["UploadFileMetadata"]:
        assert getattr(seen.metadata, field) == getattr(upload, field)
    assert files_pb2.UploadFileRequest.FromString(seen.SerializeToString()) == sent

    answered = rfc_messages.UploadFileResponse.FromString(answer.SerializeToString())
    assert answered.bytes_written == answer.bytes_written
    assert files_pb2.UploadFileResponse.FromString(answered.SerializeToString()) == answer

    asked = rfc_messages.DownloadFileRequest.FromString(request.SerializeToString())
    assert (asked.sandbox_id, asked.remote_path) == (request.sandbox_id, request.remote_path)
    assert files_pb2.DownloadFileRequest.FromString(asked.SerializeToString()) == request

    begun = files_pb2.DownloadFileResponse(header=header)
    head = rfc_messages.DownloadFileResponse.FromString(begun.SerializeToString())
    assert head.WhichOneof("payload") == "header"
    assert (head.header.size_bytes, head.header.mode) == (header.size_bytes, header.mode)
    assert files_pb2.DownloadFileResponse.FromString(head.SerializeToString()) == begun


@pytest.mark.parametrize(
    "message",
    [
        files_pb2.UploadFileRequest(data=files_pb2.FileChunk(data=b"x")),
        files_pb2.UploadFileRequest(finish=files_pb2.UploadFinish(size_bytes=1)),
        files_pb2.DownloadFileResponse(data=files_pb2.FileChunk(data=b"x")),
        files_pb2.DownloadFileResponse(trailer=files_pb2.DownloadTrailer(end_offset=1)),
    ],
    ids=["upload data", "finish", "download data", "trailer"],
)
def test_a_message_of_an_extension_is_empty_to_code_of_the_rfc(
    message: files_pb2.UploadFileRequest | files_pb2.DownloadFileResponse,
) -> None:
    """RFC-3: why it must not be sent unasked: the content would vanish without a word."""
    of_rfc = (
        rfc_messages.UploadFileRequest
        if isinstance(message, files_pb2.UploadFileRequest)
        else rfc_messages.DownloadFileResponse
    )
    assert of_rfc.FromString(message.SerializeToString()).WhichOneof("payload") is None
