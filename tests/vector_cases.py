"""The vectors in `tests/vectors`: their shape as types, and how the tests read them.

The types are the source of the JSON schema beside the vectors:

    python tests/vector_cases.py > tests/vectors/schema.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from digest_values import Algorithm as Number
from digest_values import value_of
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

VECTORS: Final = Path(__file__).parent / "vectors"

#: Bytes in hexadecimal, lower case.
Hex = Annotated[str, Field(pattern="^([0-9a-f]{2})*$")]
#: A 64-bit number, as protobuf's JSON writes it: in decimal, as text.
U64 = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,19})$")]
Algorithm = Literal["SHA256", "BLAKE3"]


class Strict(BaseModel):
    """A part of a vector; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(Strict):
    """Bytes that are repeated; `hole` marks zeros that a sparse file does not store."""

    hex: Hex
    times: int = 1
    hole: bool = False

    @property
    def content(self) -> bytes:
        """The bytes."""
        return bytes.fromhex(self.hex) * self.times


Bytes = Hex | list[Part]


class Vectors(Strict):
    """A file of vectors."""

    schema_: Literal["schema.json"] = Field(alias="$schema")
    #: For people.
    about: str


class Case(Strict):
    """What every case has."""

    name: str
    clauses: list[str] = []


class FrameStream(Case):
    """A byte stream of a relay and the frames in it; `error` follows after those frames."""

    stream: Bytes
    frames: list[Bytes]
    unfinished: bool = False
    error: Literal["too long", "no length", "ssh"] | None = None


class RelayMessage(Case):
    """A serialized RelayFrame and its data; null if it carries none."""

    message: Bytes
    data: Bytes | None


class Varint(Case):
    """A varint; `value` is null if the bytes end within it."""

    encoded: Hex
    value: U64 | None = None
    error: bool = False
    shortest: bool = True


class Frames(Vectors):
    """FRM-1, FRM-10, FRM-11, FRM-15."""

    kind: Literal["frames"]
    varints: list[Varint]
    streams: list[FrameStream]
    relay_messages: list[RelayMessage]


class Checksum(Case):
    """CRC-32C of bytes, as eight hexadecimal digits."""

    content: Bytes
    crc32c: Hex


class ContentMessage(Case):
    """A serialized UploadFileRequest or DownloadFileResponse and the chunk in it.

    `canonical` is the encoding that protobuf writes. `offset` is null for `chunk`.
    """

    message: Bytes
    canonical: bool = True
    offset: U64 | None = None
    data: Bytes = ""
    crc32c: Hex | None = None
    hole_bytes: U64 = "0"


class Chunks(Vectors):
    """UPL-7, and the encoding of `chunk` and `data`."""

    kind: Literal["chunks"]
    checksums: list[Checksum]
    messages: list[ContentMessage]


class DigestCase(Case):
    """The digest of content."""

    algorithm: Algorithm
    content: Bytes
    value: Hex


class Digests(Vectors):
    """DIG-1, DIG-10."""

    kind: Literal["digests"]
    digests: list[DigestCase]


class DigestValue(Strict):
    """A digest in a message; its value is computed of `of`, or given."""

    algorithm: int
    of: Bytes | None = None
    value: Hex | None = None


class Published(Strict):
    """The finish of an earlier stream that was carried out."""

    size_bytes: U64
    digest: DigestValue


class Upload(Strict):
    """An upload before the stream: its metadata, its limits, and what is staged of it."""

    size_bytes: U64 | None = None
    explicit_finish: bool = True
    resumable: bool = True
    staged: U64 = "0"
    max_chunk_bytes: int = 100
    max_file_bytes: U64 = "1000"
    algorithm: Algorithm = "SHA256"
    published: Published | None = None


class Data(Strict):
    """FileChunk."""

    offset: U64
    data: Bytes = ""
    crc32c: Hex = "00000000"
    hole_bytes: U64 = "0"


class FinishMessage(Strict):
    """UploadFinish."""

    size_bytes: U64
    digest: DigestValue


class Message(Strict):
    """One message of the caller's stream, or its end; exactly one field is set."""

    metadata: bool = False
    chunk: Bytes | None = None
    data: Data | None = None
    finish: FinishMessage | None = None
    waiting: bool = False
    end: Literal["half-close", "cancelled", "lost"] | None = None


class UploadOutcome(Strict):
    """What the last message leads to.

    `kept` says whether the staged bytes stay after a refusal.
    """

    result: Literal["published", "replayed", "more"] | None = None
    reason: str | None = None
    field: str | None = None
    metadata: dict[str, str] = {}
    kept: bool = True


class UploadCase(Case):
    """A stream; every message but the last is taken without an answer."""

    upload: Upload = Upload()
    messages: list[Message]
    outcome: UploadOutcome


class Uploads(Vectors):
    """The rules of an upload's stream: UPL-1 to UPL-7, UPL-18 to UPL-31, RSM-6, RSM-21, DIG-5, WAI-7."""

    kind: Literal["uploads"]
    uploads: list[UploadCase]


class Range(Case):
    """A range of a file: bytes from `start` up to, not including, `end`."""

    size: U64
    offset: U64 = "0"
    length: U64 | None = None
    tail_bytes: U64 = "0"
    start: U64 | None = None
    end: U64 | None = None
    reason: str | None = None
    field: str | None = None


class PieceSize(Case):
    """The largest piece that is sent where the server's limit is `limit`."""

    limit: int
    wanted: int
    piece: int


class Piece(Strict):
    """A message of a checked download."""

    offset: U64
    length: U64
    hole: bool = False


class Sparse(Case):
    """A file whose content lies in `extents`; the rest is holes."""

    size: U64
    extents: list[tuple[U64, U64]]
    max_chunk_bytes: int
    pieces: list[Piece]


class Ranges(Vectors):
    """DWN-4, DWN-7, DWN-8, DWN-11 to DWN-13, DWN-16."""

    kind: Literal["ranges"]
    ranges: list[Range]
    piece_sizes: list[PieceSize]
    sparse_files: list[Sparse]


class Name(Case):
    """A path as text: where it leads, or null for INVALID_PATH.

    `transfer` is for uploads and downloads, `stat` for StatFile.
    """

    path: list[str]
    workdir: str = "/"
    transfer: str | None
    stat: str | None


class Entry(Strict):
    """A directory, a file with the content `x`, a FIFO, or a symbolic link."""

    path: str
    kind: Literal["directory", "file", "fifo", "link"]
    target: str | None = None


class Access(Strict):
    """A call with a path: the resolved path, or the reason."""

    method: Literal["upload", "download", "stat"]
    path: str
    leaf_link: int = 0
    parents: int = 0
    include_digest: bool = False
    resolved: str | None = None
    reason: str | None = None


class Tree(Case):
    """A sandbox's root, and calls one after the other."""

    workdir: str = "/"
    entries: list[Entry]
    accesses: list[Access]


class Paths(Vectors):
    """PTH-1 to PTH-4, PTH-6, PTH-9, PTH-10, PTH-13, PTH-14, PTH-16 to PTH-18, PTH-23 to PTH-25."""

    kind: Literal["paths"]
    names: list[Name]
    trees: list[Tree]


class There(Strict):
    """What is at the destination."""

    kind: Literal["nothing", "file", "directory", "link"]
    content: Bytes = ""


class ConditionValue(Strict):
    """UploadCondition; `version` is `current` for the version of the file there. `encoded` is the message itself."""

    absent: bool = False
    present: bool = False
    digest: DigestValue | None = None
    version: str | None = None
    encoded: Hex | None = None


class ConditionCase(Case):
    """An upload with a condition to a destination that does not change meanwhile."""

    there: There
    condition: ConditionValue
    published: bool = False
    reason: str | None = None
    field: str | None = None


class Conditions(Vectors):
    """CND-1, CND-2, CND-7, DIG-14."""

    kind: Literal["conditions"]
    conditions: list[ConditionCase]


class ReasonRow(Strict):
    """A reason with its gRPC code and what a client may do by itself."""

    reason: str
    code: str
    retry: Literal["never", "again", "later", "restart"]


class StatusCase(Case):
    """A gRPC status with its `grpc-status-details-bin`, as a client reads it.

    If `of_table` is false the details name no reason of the table that can be believed, and the code decides.
    """

    code: str
    message: str
    details: Hex
    reason: str
    of_table: bool = True
    retry: Literal["never", "again", "later", "restart"]
    retry_delay: float | None = None
    fields: list[str] = []
    metadata: dict[str, str] = {}


class Errors(Vectors):
    """docs/errors.md for programs, and statuses with details."""

    kind: Literal["errors"]
    reasons: list[ReasonRow]
    statuses: list[StatusCase]


class Proof(Case):
    """Both proofs of a handshake with an agent behind a port."""

    secret: Hex
    gateway_nonce: Hex
    agent_nonce: Hex
    agent_proof: Hex
    gateway_proof: Hex


class Handshakes(Vectors):
    """FRM-19."""

    kind: Literal["handshakes"]
    proofs: list[Proof]


AnyVectors = Annotated[
    Frames | Chunks | Digests | Uploads | Ranges | Paths | Conditions | Errors | Handshakes,
    Field(discriminator="kind"),
]
KINDS: Final[tuple[type[Vectors], ...]] = (
    Frames,
    Chunks,
    Digests,
    Uploads,
    Ranges,
    Paths,
    Conditions,
    Errors,
    Handshakes,
)
V = TypeVar("V", bound=Vectors)


def content_of(value: Bytes) -> bytes:
    """Return the bytes that a vector describes."""
    return bytes.fromhex(value) if isinstance(value, str) else b"".join(part.content for part in value)


def digest_message(value: DigestValue) -> files_pb2.Digest:
    """Return the message; the digest of `of` is computed in one go."""
    number = Number(value.algorithm)
    given = bytes.fromhex(value.value or "")
    return files_pb2.Digest(
        algorithm=number, value=given if value.of is None else value_of(content_of(value.of), number)
    )


def file_of(kind: type[Vectors]) -> str:
    """Return the name of the file with the vectors of a kind."""
    return f"{kind.__name__.lower()}.json"


def read(kind: type[V]) -> V:
    """Return the vectors of a kind.

    Raises:
        pydantic.ValidationError: the file does not fit the schema.
    """
    return kind.model_validate_json((VECTORS / file_of(kind)).read_text("utf-8"))


def named(case: object) -> str:
    """Return the name of a case, for pytest's ids."""
    return getattr(case, "name", "")


def schema() -> dict[str, Any]:
    """Return the JSON schema of the files."""
    made = TypeAdapter[Any](AnyVectors).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "OpenShell file vectors",
    } | made


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
