"""A client process that speaks the wire with chunks of any size, and with as many digests as it is told.

The SDK takes the largest chunks that the gateway allows and every digest, and
has no option for less: only a sweep wants that.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from openshell_files_protocol import methods
from openshell_files_protocol.chunks import crc32c, decode_chunk, encode_chunk, encode_plain
from openshell_files_protocol.digests import DigestAlgorithm, DigestHasher
from openshell_files_protocol.limits import STREAM_OPTIONS
from openshell_files_protocol.pb.openshell.v1 import files_pb2

from harness.answering import serve
from harness.connection import metadata, open_channel

CRC, SHA = "CRC32C", "SHA-256"
#: A transfer has one of them at most.
ALGORITHMS = {SHA: DigestAlgorithm.SHA256, "BLAKE3": DigestAlgorithm.BLAKE3}
METADATA = metadata()

channel = open_channel(STREAM_OPTIONS)


def hasher_of(digests: Collection[str]) -> DigestHasher | None:
    return next((DigestHasher(ALGORITHMS[name]) for name in digests if name in ALGORITHMS), None)


def messages(
    sandbox_id: str, source: str, remote: str, chunk: int, digests: Collection[str]
) -> Iterator[bytes]:
    size, digest, offset = os.path.getsize(source), hasher_of(digests), 0
    yield files_pb2.UploadFileRequest(
        metadata=files_pb2.UploadFileMetadata(
            sandbox_id=sandbox_id,
            remote_path=remote,
            size_bytes=size,
            # Without a digest there is nothing to finish with: the last byte publishes (UPL-2).
            explicit_finish=digest is not None,
            accepted_digests=[digest.algorithm.wire] if digest is not None else [],
            durability=files_pb2.DURABILITY_RENAME,
        )
    ).SerializeToString()
    with open(source, "rb", buffering=0) as file:
        while data := file.read(chunk):
            if digest is not None:
                digest.update(data)
            parts = encode_chunk(offset, data, crc32c(data)) if CRC in digests else encode_plain(data)
            yield b"".join(parts)
            offset += len(data)
    if digest is not None:
        yield files_pb2.UploadFileRequest(
            finish=files_pb2.UploadFinish(size_bytes=size, digest=digest.digest().message)
        ).SerializeToString()


def upload(
    sandbox_id: str, source: str, remote: str, chunk: int, digests: Collection[str] = (CRC, SHA)
) -> dict[str, Any]:
    call = channel.stream_unary(
        methods.UPLOAD_FILE, response_deserializer=files_pb2.UploadFileResponse.FromString
    )
    answer = call(messages(sandbox_id, source, remote, chunk, digests), metadata=METADATA)
    return {"size": answer.bytes_written}


def download(
    sandbox_id: str, remote: str, target: str, chunk: int, digests: Collection[str] = (CRC, SHA)
) -> dict[str, Any]:
    call = channel.unary_stream(
        methods.DOWNLOAD_FILE, request_serializer=files_pb2.DownloadFileRequest.SerializeToString
    )
    request = files_pb2.DownloadFileRequest(
        sandbox_id=sandbox_id, remote_path=remote, checked=bool(digests), max_chunk_bytes=chunk
    )
    digest = hasher_of(digests)
    if digest is not None:
        request.accepted_digests.append(digest.algorithm.wire)
    Path(target).unlink(missing_ok=True)
    size, expected = 0, files_pb2.Digest()
    with open(target, "wb", buffering=0) as file:
        for message in call(request, metadata=METADATA):
            piece = decode_chunk(message)
            if piece is None:
                expected = files_pb2.DownloadFileResponse.FromString(message).trailer.digest
                continue
            if CRC in digests and crc32c(piece.data) != piece.crc32c:
                raise ValueError(f"the chunk at {piece.offset} arrived changed")
            if digest is not None:
                digest.update(piece.data)
            size += file.write(piece.data)
    if digest is not None and digest.digest().message != expected:
        raise ValueError("the file arrived changed")
    return {"size": size}


if __name__ == "__main__":
    serve({"upload": upload, "download": download})
