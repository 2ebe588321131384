"""The error table: one row per reason.

Servers turn a row into a gRPC status with `google.rpc` details, the SDK turns
the status back into its exceptions, and docs/errors.md is written from it
(`python -m openshell_files_protocol.error_docs`). Nothing else decides a code.
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
    """Who has to change something."""

    CALLER = "caller"
    SANDBOX = "sandbox"
    SUPERVISOR = "supervisor"
    GATEWAY = "gateway"
    ISSUER = "identity provider"
    NETWORK = "network"


class Retry(StrEnum):
    """What a client may do without asking anybody."""

    NEVER = "never"
    #: The same call again; an upload goes on where it stopped.
    AGAIN = "again"
    #: The same call, after the delay in RetryInfo or the client's own.
    LATER = "later"
    #: From the start, as a new upload.
    RESTART = "restart"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table.

    Attributes:
        code: gRPC status.
        retry: what a client may do by itself.
        blame: whose fault it is.
        meaning: what happened, for a person.
        fix: what that person can do.
    """

    code: Code
    retry: Retry
    blame: Blame
    meaning: str
    fix: str


class Reason(Enum):
    """`google.rpc.ErrorInfo.reason`, and the row that belongs to it."""

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
        "The server computes none of the digests that the caller takes.",
        "List DIGEST_ALGORITHM_SHA256 in accepted_digests, too: every server takes it.",
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
        "Keep chunks within max_chunk_bytes of GetTransferCapabilities.",
    )
    FILE_TOO_LARGE = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The file is larger than the server's limit.",
        "Split the file or ask the operator to raise the limit.",
    )
    # Who is asking
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
        "The bearer token is not a JWT that can be read.",
        "Send the access token that the issuer gave.",
    )
    TOKEN_EXPIRED = Row(
        Code.UNAUTHENTICATED,
        Retry.NEVER,
        Blame.CALLER,
        "The token's time is over.",
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
        "A claim that must be there is missing or has the wrong type.",
        "Ask the issuer's operator to add the claim.",
    )
    ISSUER_UNAVAILABLE = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.ISSUER,
        "The issuer's keys cannot be fetched, so no token can be checked.",
        "Wait, or look at the issuer.",
    )
    # What they may do
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
        "Ask the issuer for a token with the scope.",
    )
    PRINCIPAL_NOT_ALLOWED = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.CALLER,
        "The method is for another kind of caller.",
        "Users call file methods, supervisors the relay's.",
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
        "There is no such sandbox, or not for this caller.",
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
        "Wait; look at the supervisor if it stays away.",
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
        "A later connection of the same supervisor is here already.",
        "Nothing; the later connection is used.",
    )
    # The life of a sandbox
    WORKSPACE_NOT_FOUND = Row(
        Code.NOT_FOUND,
        Retry.NEVER,
        Blame.CALLER,
        "The workspace does not exist, or the caller does not belong to it.",
        "Check the name and membership.",
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
        "The sandbox is from the gateway's configuration, so nobody can stop, start or delete it by a call.",
        "Change the configuration.",
    )
    COMPUTE_UNAVAILABLE = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.GATEWAY,
        "This gateway makes no sandboxes.",
        "Have its operator set compute.directory.",
    )
    TOO_MANY_SANDBOXES = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.NEVER,
        Blame.CALLER,
        "As many sandboxes exist as may.",
        "Delete one.",
    )
    REQUEST_ID_PAYLOAD_MISMATCH = Row(
        Code.INVALID_ARGUMENT,
        Retry.NEVER,
        Blame.CALLER,
        "The request_id belongs to a different request.",
        "Use a new request_id for each request, and the same one only to repeat it.",
    )
    # The relay
    RELAY_REFUSED = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.SUPERVISOR,
        "The supervisor could not open the relay.",
        "Look at the supervisor's log.",
    )
    RELAY_TIMEOUT = Row(
        Code.DEADLINE_EXCEEDED,
        Retry.LATER,
        Blame.SUPERVISOR,
        "The supervisor did not take up the relay in time.",
        "Look at the supervisor's log.",
    )
    RELAY_LOST = Row(
        Code.UNAVAILABLE,
        Retry.AGAIN,
        Blame.NETWORK,
        "The relay broke before the operation was over.",
        "Try again; an upload goes on where it stopped.",
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
        "The supervisor sends so many small messages that other sandboxes would feel it.",
        "Send content in larger pieces; connect again after the time that RetryInfo says.",
    )
    RELAY_REQUESTER_GONE = Row(
        Code.INTERNAL,
        Retry.NEVER,
        Blame.CALLER,
        "The caller for whom the relay was opened is gone.",
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
        "The file agent behind a port, or the gateway, did not prove that it knows the shared secret.",
        "Give both the same secret, and look at what listens on the port.",
    )
    TRANSFER_IDLE = Row(
        Code.DEADLINE_EXCEEDED,
        Retry.AGAIN,
        Blame.NETWORK,
        "Nothing moved for longer than the idle timeout.",
        "Try again; an upload goes on where it stopped.",
    )
    GATEWAY_SHUTTING_DOWN = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.GATEWAY,
        "The gateway is shutting down.",
        "Try again; another gateway takes over.",
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
        "Create it, or ask for parents to be created.",
    )
    IS_A_DIRECTORY = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The path is a directory.",
        "Give the path of the file itself.",
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
        "Name the file itself, or say that links are followed or replaced.",
    )
    PATH_FORBIDDEN = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.CALLER,
        "The path leads to a place that is never transferred: a kernel interface, a file of the supervisor, or a place "
        "where commands see the machine's files instead.",
        "Use a path on an ordinary file system of the sandbox, outside the place that `covered_by` names.",
    )
    ACCESS_DENIED = Row(
        Code.PERMISSION_DENIED,
        Retry.NEVER,
        Blame.SANDBOX,
        "The sandbox's user may not do this.",
        "Choose a place that the sandbox's user owns.",
    )
    READ_ONLY_FILE_SYSTEM = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.SANDBOX,
        "The file system is mounted read-only.",
        "Choose another place.",
    )
    FILE_EXISTS = Row(
        Code.ALREADY_EXISTS,
        Retry.NEVER,
        Blame.CALLER,
        "A file is there already, and the condition says that none may be.",
        "Choose another name or drop the condition.",
    )
    CONDITION_FAILED = Row(
        Code.FAILED_PRECONDITION,
        Retry.NEVER,
        Blame.CALLER,
        "The file there is not the one that the condition names.",
        "Look at the file and decide anew.",
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
        "A quota would be exceeded.",
        "Abort unfinished uploads or free space.",
    )
    IO_ERROR = Row(
        Code.INTERNAL,
        Retry.LATER,
        Blame.SANDBOX,
        "The file system failed.",
        "Look at the sandbox's storage.",
    )
    # The transfer
    OFFSET_MISMATCH = Row(
        Code.OUT_OF_RANGE,
        Retry.AGAIN,
        Blame.CALLER,
        "A chunk does not follow the bytes received.",
        "Go on at the offset in `expected_offset`.",
    )
    RANGE_INVALID = Row(
        Code.OUT_OF_RANGE,
        Retry.NEVER,
        Blame.CALLER,
        "The range begins behind the end of the file.",
        "Ask for a range inside the file.",
    )
    CHUNK_CHECKSUM = Row(
        Code.DATA_LOSS,
        Retry.AGAIN,
        Blame.NETWORK,
        "A chunk's CRC-32C does not match its bytes.",
        "Send it again from the staged offset.",
    )
    SIZE_MISMATCH = Row(
        Code.DATA_LOSS,
        Retry.RESTART,
        Blame.CALLER,
        "The number of bytes is not the one that was declared.",
        "Send the file from the start.",
    )
    DIGEST_MISMATCH = Row(
        Code.DATA_LOSS,
        Retry.RESTART,
        Blame.CALLER,
        "The digest of what arrived is not the one that was declared.",
        "Send the file from the start.",
    )
    UPLOAD_INCOMPLETE = Row(
        Code.ABORTED,
        Retry.AGAIN,
        Blame.CALLER,
        "The stream ended without a finish.",
        "Send the rest and UploadFinish.",
    )
    UPLOAD_UNKNOWN = Row(
        Code.NOT_FOUND,
        Retry.RESTART,
        Blame.CALLER,
        "The sandbox does not know this upload, or it is not this caller's.",
        "Start a new upload.",
    )
    UPLOAD_EXPIRED = Row(
        Code.NOT_FOUND,
        Retry.RESTART,
        Blame.CALLER,
        "The upload's time ran out.",
        "Start a new upload.",
    )
    UPLOAD_ABORTED = Row(
        Code.ABORTED,
        Retry.NEVER,
        Blame.CALLER,
        "The upload was given up.",
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
        "Ask for the upload's state.",
    )
    SUPERSEDED = Row(
        Code.ABORTED,
        Retry.NEVER,
        Blame.CALLER,
        "A newer attempt has taken the upload over.",
        "Leave it to the newer one.",
    )
    FILE_CHANGED = Row(
        Code.ABORTED,
        Retry.RESTART,
        Blame.SANDBOX,
        "The file changed while it was read.",
        "Read it again, or allow changes.",
    )
    VERSION_MISMATCH = Row(
        Code.FAILED_PRECONDITION,
        Retry.RESTART,
        Blame.SANDBOX,
        "The file is not the version that was asked for.",
        "Read it from the start.",
    )
    TOO_MANY_UPLOADS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "The sandbox keeps as many unfinished uploads as it may.",
        "Look at them with `openshell-files uploads`, and end some with `openshell-files abort`.",
    )
    TOO_MANY_TRANSFERS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "As many transfers are running as may.",
        "Wait for one to end.",
    )
    TOO_MANY_CALLS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "More calls than the gateway takes from callers whom it does not know yet.",
        "Wait for some to end.",
    )
    TOO_MANY_LANES = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.AGAIN,
        Blame.CALLER,
        "The upload asks for more streams than are free; nothing of it reached the sandbox.",
        "Use as many as `lanes` in the metadata says, after StartUpload took the upload over.",
    )
    LANE_LOST = Row(
        Code.UNAVAILABLE,
        Retry.AGAIN,
        Blame.NETWORK,
        "One of the streams that an upload travels over broke or did not come.",
        "Try again, with one stream if it happens again; the upload goes on where it stopped.",
    )
    # Commands
    COMMAND_NOT_STARTED = Row(
        Code.UNAVAILABLE,
        Retry.LATER,
        Blame.SANDBOX,
        "The sandbox could not make a process for the command.",
        "Wait for other commands to end, or look at the supervisor's log.",
    )
    COMMAND_LOST = Row(
        Code.UNKNOWN,
        Retry.NEVER,
        Blame.SUPERVISOR,
        "The command was started, and how it ended is not known.",
        "Find out what the command did before it is run again.",
    )
    TOO_MANY_COMMANDS = Row(
        Code.RESOURCE_EXHAUSTED,
        Retry.LATER,
        Blame.CALLER,
        "As many commands are running in the sandbox as may.",
        "Wait for one to end.",
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
    """Return the reason of that name; None if the table does not have it."""
    return Reason.__members__.get(name)
