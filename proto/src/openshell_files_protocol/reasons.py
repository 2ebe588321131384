"""The error table: gRPC code, retry class, fault, meaning and fix of every reason.

Servers turn a row into a gRPC status with `google.rpc` details, the SDK turns
the status into an exception, and docs/errors.md is generated from the table
(`python -m openshell_files_protocol.error_docs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Final

#: `google.rpc.ErrorInfo.domain` of every error of this service.
ERROR_DOMAIN: Final = "openshell.nvidia.com"


class Code(IntEnum):
    """The gRPC status codes that the table uses."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Blame(StrEnum):
    """The party that has to change something."""

    CALLER = "caller"
    SANDBOX = "sandbox"
    SUPERVISOR = "supervisor"
    GATEWAY = "gateway"
    ISSUER = "identity provider"
    NETWORK = "network"


class Retry(StrEnum):
    """Retry class: how a client may retry by itself."""

    NEVER = "never"
    #: Repeat the call at once; an upload resumes at its staged offset.
    AGAIN = "again"
    #: Repeat the call after the delay in RetryInfo, or the client's own backoff.
    LATER = "later"
    #: Start a new transfer.
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        code: gRPC status code.
        retry: retry class.
        blame: party at fault.
        meaning: description of the error, for a person.
        fix: action that solves it, for a person.
    """

    code: Code
    retry: Retry
    blame: Blame
    meaning: str
    fix: str


class Reason(Enum):
    """Value of `google.rpc.ErrorInfo.reason`, with its row."""

    # The request
    INVALID_REQUEST = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "A field or the order of messages is wrong.",
        "See the field violations.",
    )
    INVALID_PATH = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The path cannot name a file.",
        "Give the path of the file itself, without `..` and without a trailing slash.",
    )
    ARCHIVE_UNSUPPORTED = Row(
        Code.UNIMPLEMENTED,
        Retry.NEVER,
        Blame.CALLER,
        "Archives are not transferred.",
        "Transfer single files.",
    )
    DIGEST_UNSUPPORTED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The server supports none of the caller's digests.",
        "Add DIGEST_ALGORITHM_SHA256 to accepted_digests: every server supports it.",
    )
    METHOD_UNSUPPORTED = Row(
        Code.UNIMPLEMENTED,
        Retry.NEVER,
        Blame.CALLER,
        "The server does not have this method.",
        "Use a server that has it.",
    )
    CHUNK_TOO_LARGE = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "A chunk is larger than the server's limit.",
        "Send chunks of at most max_chunk_bytes of GetTransferCapabilities.",
    )
    FILE_TOO_LARGE = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The file is larger than the server's limit.",
        "Split the file or ask the operator to raise the limit.",
    )
    ARCHIVE_INVALID = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The content is not a complete tar archive.",
        "Send a tar archive with its end, plain or compressed by gzip or zstd.",
    )
    ARCHIVE_TOO_LARGE = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The archive has more entries, or becomes larger, than the agent's limits allow.",
        "Split the archive or ask the operator to raise the limit.",
    )
    TREE_TOO_LARGE = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The tree has more entries than the receiver's limit.",
        "Send parts of the tree, exclude directories or ask the operator to raise the limit.",
    )
    # Authentication
    TOKEN_MISSING = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The call has no bearer token.",
        "Send `authorization: Bearer <token>`.",
    )
    TOKEN_MALFORMED = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The bearer token is not a valid JWT.",
        "Send the issuer's access token unchanged.",
    )
    TOKEN_EXPIRED = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token has expired.",
        "Get a new token.",
    )
    TOKEN_NOT_YET_VALID = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token is not valid yet.",
        "Compare the clocks of issuer and gateway.",
    )
    TOKEN_WRONG_AUDIENCE = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token is for another audience.",
        "Ask the issuer for a token with the gateway's audience.",
    )
    TOKEN_WRONG_ISSUER = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token is from another issuer.",
        "Use a token of the gateway's issuer.",
    )
    TOKEN_UNKNOWN_KEY = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token names a key that the issuer does not publish.",
        "Use a token of the gateway's issuer.",
    )
    TOKEN_BAD_ALGORITHM = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token is not signed with the algorithm of its key.",
        "Use a token of the gateway's issuer.",
    )
    TOKEN_BAD_SIGNATURE = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token's signature does not match.",
        "Get a new token.",
    )
    TOKEN_CLAIM_INVALID = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "A required claim is missing or has the wrong type.",
        "Ask the issuer's operator to add the claim.",
    )
    ISSUER_UNAVAILABLE = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.ISSUER,
        "The issuer's keys cannot be fetched, so tokens cannot be verified.",
        "Wait, or check the issuer.",
    )
    # Authorization
    ROLE_REQUIRED = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.CALLER,
        "The caller's role does not allow this method.",
        "Ask for the role.",
    )
    SCOPE_REQUIRED = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.CALLER,
        "The token lacks a scope.",
        "Request a token with the scope; with client credentials, the issuer has to allow it to the client.",
    )
    PRINCIPAL_NOT_ALLOWED = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.CALLER,
        "The method is for the other kind of caller.",
        "Call file methods with a user's token, the relay's methods with a sandbox's token.",
    )
    SANDBOX_MISMATCH = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "A sandbox's token was used for another sandbox.",
        "Give each supervisor its own token.",
    )
    # The sandbox
    SANDBOX_NOT_FOUND = Row(
        Code.NOT_FOUND,
        Retry.NEVER,
        Blame.CALLER,
        "The sandbox does not exist, or the caller may not use it.",
        "Check name, workspace and membership.",
    )
    SANDBOX_NOT_READY = Row(
        Code.FAILED_PRECONDITION,
        Retry.LATER,
        Blame.SANDBOX,
        "The sandbox is not running.",
        "Start it or wait until it is ready.",
    )
    SUPERVISOR_NOT_CONNECTED = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.SUPERVISOR,
        "The sandbox's supervisor is not connected to this gateway.",
        "Wait; check the supervisor if it does not connect.",
    )
    FILES_UNSUPPORTED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "The sandbox's supervisor does not serve files.",
        "Update the supervisor.",
    )
    EXEC_UNSUPPORTED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "The sandbox's supervisor does not run commands for this gateway.",
        "Use a supervisor that announces commands over the relay.",
    )
    SESSION_OUTDATED = Row(
        Code.ABORTED,
        Retry.LATER,
        Blame.SUPERVISOR,
        "A later connection of the same supervisor is registered already.",
        "Nothing; the later connection stays in use.",
    )
    # Creating and changing sandboxes
    WORKSPACE_NOT_FOUND = Row(
        Code.NOT_FOUND,
        Retry.NEVER,
        Blame.CALLER,
        "The workspace does not exist, or the caller is not a member.",
        "Check name and membership.",
    )
    SANDBOX_EXISTS = Row(
        Code.ALREADY_EXISTS,
        Retry.NEVER,
        Blame.CALLER,
        "The workspace has a sandbox of that name.",
        "Choose another name, or delete that one.",
    )
    SANDBOX_NOT_MANAGED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The sandbox is defined in the gateway's configuration, so calls cannot stop, start or delete it.",
        "Change the configuration.",
    )
    COMPUTE_UNAVAILABLE = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.GATEWAY,
        "This gateway creates no sandboxes.",
        "Ask its operator to set compute.directory.",
    )
    TOO_MANY_SANDBOXES = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.NEVER,
        Blame.CALLER,
        "The gateway's limit on sandboxes is reached.",
        "Delete a sandbox.",
    )
    REQUEST_ID_PAYLOAD_MISMATCH = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "A different request had the same request_id before.",
        "Use a new request_id for each request; reuse it only to repeat the same request.",
    )
    # The relay
    RELAY_REFUSED = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.SUPERVISOR,
        "The supervisor could not open the relay.",
        "Check the supervisor's log.",
    )
    RELAY_TIMEOUT = Row(
        Code.DEADLINE_EXCEEDED,
        Retry.LATER,
        Blame.SUPERVISOR,
        "The supervisor did not claim the relay in time.",
        "Check the supervisor's log.",
    )
    RELAY_LOST = Row(
        Code.UNAVAILABLE,
        Retry.AGAIN,
        Blame.NETWORK,
        "The relay broke before the operation ended.",
        "Retry; an upload resumes at its staged offset.",
    )
    RELAY_UNKNOWN = Row(
        Code.NOT_FOUND,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "No relay waits under this channel id.",
        "Claim each channel once, and in time.",
    )
    SUPERVISOR_FLOODS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.SUPERVISOR,
        "The supervisor sends small messages above the rate limit.",
        "Send content in larger pieces; reconnect after the delay in RetryInfo.",
    )
    RELAY_REQUESTER_GONE = Row(
        Code.INTERNAL,
        Retry.NEVER,
        Blame.CALLER,
        "The caller that requested the relay has left.",
        "Nothing.",
    )
    AGENT_PROTOCOL_ERROR = Row(
        Code.INTERNAL,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "The file agent broke the protocol.",
        "Report it with the transfer id.",
    )
    AGENT_UNAUTHENTICATED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.SANDBOX,
        "The file agent behind a port, or the gateway, does not know the shared secret.",
        "Give both the same secret, and check which process listens on the port.",
    )
    TRANSFER_IDLE = Row(
        Code.DEADLINE_EXCEEDED,
        Retry.AGAIN,
        Blame.NETWORK,
        "The transfer made no progress for the idle timeout.",
        "Retry; an upload resumes at its staged offset.",
    )
    GATEWAY_SHUTTING_DOWN = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.GATEWAY,
        "The gateway is shutting down.",
        "Retry; another gateway takes over.",
    )
    # The file system
    FILE_NOT_FOUND = Row(
        Code.NOT_FOUND,
        Retry.NEVER,
        Blame.CALLER,
        "There is no file at the path.",
        "Check the path.",
    )
    PARENT_NOT_FOUND = Row(
        Code.NOT_FOUND,
        Retry.NEVER,
        Blame.CALLER,
        "A directory on the way to the file does not exist.",
        "Create it, or set create_parents.",
    )
    IS_A_DIRECTORY = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The path is a directory.",
        "Give the path of the file itself: the directory, a slash and a name.",
    )
    NOT_A_DIRECTORY = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "Something on the way to the file is not a directory.",
        "Check the path.",
    )
    NOT_A_REGULAR_FILE = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The path is a FIFO, socket or device.",
        "Only regular files are transferred.",
    )
    LEAF_IS_LINK = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The path is a symbolic link.",
        "Give the path of the file itself, or set a link policy that follows or replaces links.",
    )
    PATH_FORBIDDEN = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.CALLER,
        "The path leads to a forbidden place: a kernel interface, a file of the supervisor, or a directory "
        "where commands see the machine's files instead.",
        "Use a path on an ordinary file system of the sandbox, outside the directory in `covered_by`.",
    )
    ACCESS_DENIED = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.SANDBOX,
        "The sandbox's user lacks the permission.",
        "Choose a directory that the sandbox's user owns.",
    )
    READ_ONLY_FILE_SYSTEM = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.SANDBOX,
        "The file system is mounted read-only.",
        "Choose another directory.",
    )
    FILE_EXISTS = Row(
        Code.ALREADY_EXISTS,
        Retry.NEVER,
        Blame.CALLER,
        "The destination exists, and the condition requires that it does not.",
        "Choose another name or drop the condition.",
    )
    CONDITION_FAILED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The destination is not the file that the condition names.",
        "Read the file's state and decide again.",
    )
    DIRECTORY_NOT_EMPTY = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The directory has entries.",
        "Remove it recursively, or choose another destination.",
    )
    OTHER_FILE_SYSTEM = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "Source and destination of a move are on different file systems.",
        "Copy the source to the destination, then remove the source.",
    )
    MOUNT_POINT = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.SANDBOX,
        "A file system is mounted at the path or below it.",
        "Unmount it, or name the entries beside it.",
    )
    DISK_FULL = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.SANDBOX,
        "The file system is full.",
        "Free space in the sandbox.",
    )
    QUOTA_EXCEEDED = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.SANDBOX,
        "A quota is exhausted.",
        "Abort unfinished uploads or free space.",
    )
    IO_ERROR = Row(
        Code.INTERNAL,
        Retry.LATER,
        Blame.SANDBOX,
        "The file system failed.",
        "Check the sandbox's storage.",
    )
    # The transfer
    OFFSET_MISMATCH = Row(
        Code.OUT_OF_RANGE,
        Retry.AGAIN,
        Blame.CALLER,
        "A chunk's offset is not the end of the received bytes.",
        "Resume at the offset in `expected_offset`.",
    )
    RANGE_INVALID = Row(
        Code.OUT_OF_RANGE,
        Retry.NEVER,
        Blame.CALLER,
        "The range starts after the end of the file.",
        "Request a range inside the file.",
    )
    CHUNK_CHECKSUM = Row(
        Code.DATA_LOSS,
        Retry.AGAIN,
        Blame.NETWORK,
        "A chunk's CRC-32C does not match its bytes.",
        "Resume at the staged offset.",
    )
    SIZE_MISMATCH = Row(
        Code.DATA_LOSS,
        Retry.RESTART,
        Blame.CALLER,
        "The number of bytes differs from the declared size.",
        "Send the file from the start.",
    )
    DIGEST_MISMATCH = Row(
        Code.DATA_LOSS,
        Retry.RESTART,
        Blame.CALLER,
        "The digest of the received content differs from the declared one.",
        "Send the file from the start.",
    )
    UPLOAD_INCOMPLETE = Row(
        Code.ABORTED,
        Retry.AGAIN,
        Blame.CALLER,
        "The stream ended without a finish.",
        "Resume the upload, and send UploadFinish.",
    )
    UPLOAD_UNKNOWN = Row(
        Code.NOT_FOUND,
        Retry.RESTART,
        Blame.CALLER,
        "The sandbox does not know this upload, or another caller started it.",
        "Start a new upload.",
    )
    UPLOAD_EXPIRED = Row(
        Code.NOT_FOUND,
        Retry.RESTART,
        Blame.CALLER,
        "The upload has expired.",
        "Start a new upload.",
    )
    UPLOAD_ABORTED = Row(
        Code.ABORTED,
        Retry.NEVER,
        Blame.CALLER,
        "The upload was aborted.",
        "Start a new upload.",
    )
    UPLOAD_CONFLICT = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The request differs from the one that started the upload.",
        "Repeat the request unchanged, or start a new upload.",
    )
    FINISH_CONFLICT = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The upload was finished with another size or digest.",
        "Read the upload's state with GetUpload.",
    )
    SUPERSEDED = Row(
        Code.ABORTED,
        Retry.NEVER,
        Blame.CALLER,
        "A newer attempt has taken over the upload.",
        "Leave the upload to the newer attempt.",
    )
    ARCHIVE_INCOMPLETE = Row(
        Code.DATA_LOSS,
        Retry.NEVER,
        Blame.CALLER,
        "Some entries of the archive or of the directory were left out; all others arrived.",
        "See the entries in the error's message and metadata.",
    )
    TREE_INCOMPLETE = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "An entry of the tree did not arrive, and the tree was to be published as a whole or not at all.",
        "See the problems of the entries; exclude these entries, or send the tree without `atomic`.",
    )
    FILE_CHANGED = Row(
        Code.ABORTED,
        Retry.RESTART,
        Blame.SANDBOX,
        "The file changed during the download.",
        "Download it again, or allow changes.",
    )
    VERSION_MISMATCH = Row(
        Code.FAILED_PRECONDITION,
        Retry.RESTART,
        Blame.SANDBOX,
        "The file is not the requested version.",
        "Download it from the start.",
    )
    TOO_MANY_UPLOADS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "The limit on unfinished uploads is reached.",
        "List them with `openshell-files uploads`, and abort some with `openshell-files abort`.",
    )
    TOO_MANY_TRANSFERS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "The limit on concurrent transfers is reached.",
        "Wait for a transfer to end.",
    )
    TOO_MANY_CALLS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "The limit on calls of unauthenticated callers is reached.",
        "Wait for other calls to end.",
    )
    TOO_MANY_LANES = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.AGAIN,
        Blame.CALLER,
        "The upload asks for more streams than are free; none of its messages reached the sandbox.",
        "Use at most the number of streams in `lanes` of the error's metadata, after a new StartUpload.",
    )
    LANE_LOST = Row(
        Code.UNAVAILABLE,
        Retry.AGAIN,
        Blame.NETWORK,
        "One of the upload's streams broke or did not arrive.",
        "Retry, with one stream if it happens again; the upload resumes at its staged offset.",
    )
    # Commands
    COMMAND_NOT_STARTED = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.SANDBOX,
        "The sandbox could not start a process for the command.",
        "Wait for other commands to end, or check the supervisor's log.",
    )
    COMMAND_LOST = Row(
        Code.UNKNOWN,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "The command was started, and its outcome is unknown.",
        "Check the effects of the command before you repeat it.",
    )
    TOO_MANY_COMMANDS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "The limit on concurrent commands is reached.",
        "Wait for a command to end.",
    )
    INTERNAL = Row(
        Code.INTERNAL,
        Retry.NEVER,
        Blame.GATEWAY,
        "A bug.",
        "Report it with the transfer id.",
    )

    @property
    def row(self) -> Row:
        """The reason's row."""
        return self.value


def reason_named(name: str) -> Reason | None:
    """Return the reason with that name; None for an unknown one."""
    return Reason.__members__.get(name)
