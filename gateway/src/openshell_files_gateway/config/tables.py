"""Every setting of the gateway with its default and its range.

Each table of the TOML file is a model, each key a field. `Env` names the
environment variable, which overrides the file; the names are upstream's where
upstream has the setting. All times are in seconds, all sizes in bytes.

`consistency` checks the settings together.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Final, Literal

from openshell_files_protocol.limits import MAX_CHUNK_BYTES, MIN_CHUNK_LIMIT_BYTES, MOST_HEARTBEAT_SECONDS
from openshell_files_protocol.methods import DEFAULT_WORKSPACE
from openshell_files_protocol.pb.openshell.v1 import files_pb2
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from openshell_files_gateway.config.names import Env

#: Tolerated difference of clocks. Upstream's value: a smaller one would refuse
#: tokens that upstream accepts.
DEFAULT_LEEWAY_SECONDS: Final = 60.0

DEFAULT_ADMIN_ROLE: Final = "openshell-admin"
DEFAULT_USER_ROLE: Final = "openshell-user"

#: Characters of a sandbox's id and name: one component of the SPIFFE id in its
#: token, without special meaning in logs and paths.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _address(value: object) -> object:
    # pydantic's union would report every mistake once for each address family.
    return ip_address(value) if isinstance(value, str) else value


DigestWord = Literal["blake3", "sha256"]


def _with_sha256(words: tuple[DigestWord, ...]) -> tuple[DigestWord, ...]:
    if "sha256" not in words:
        raise ValueError("sha256 is missing: callers rely on it (DIG-3)")
    return words


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(_Table):
    """Where the gateway listens."""

    bind_address: Annotated[
        IPv4Address | IPv6Address, BeforeValidator(_address), Env("OPENSHELL_BIND_ADDRESS")
    ] = IPv4Address("127.0.0.1")
    """Address to listen on, in digits."""

    port: Annotated[int, Field(ge=0, le=65535), Env("OPENSHELL_SERVER_PORT")] = 17670
    """Port to listen on; 0 takes a free one."""

    stop_timeout: Annotated[Seconds, Env("OPENSHELL_STOP_TIMEOUT")] = 25.0
    """Longest time to stop: calls that wait for a supervisor get half of it, at most `relay.claim_timeout`; transfers and commands
    get the rest. Kubernetes kills a pod after 30 s."""

    max_connections: Annotated[Count, Env("OPENSHELL_MAX_CONNECTIONS")] = 1000
    """Limit on open connections, those of supervisors included. Each may take 1 MiB before its caller is authenticated."""

    keepalive_interval: Annotated[Seconds, Env("OPENSHELL_KEEPALIVE_INTERVAL")] = 20.0
    """Interval of HTTP/2 pings to a peer."""

    keepalive_timeout: Annotated[Seconds, Env("OPENSHELL_KEEPALIVE_TIMEOUT")] = 10.0
    """Timeout for the answer to a ping."""

    min_ping_interval: Annotated[Seconds, Env("OPENSHELL_MIN_PING_INTERVAL")] = 5.0
    """Least interval at which a peer may ping an idle connection. Upstream's supervisors and CLI ping every 10 s."""

    max_connection_age: Annotated[Seconds | None, Env("OPENSHELL_MAX_CONNECTION_AGE")] = None
    """Age at which a connection is closed, so that load is balanced anew; unset: no limit."""

    connection_age_grace: Annotated[Seconds, Env("OPENSHELL_CONNECTION_AGE_GRACE")] = 3600.0
    """Time for running calls on a connection that reached its maximum age. Uploads that it interrupts can be resumed."""


class TlsSettings(_Table):
    """Transport encryption. It is on unless `disabled`."""

    certificate: Annotated[Path | None, Env("OPENSHELL_TLS_CERT")] = None
    """PEM file with the server's certificate chain."""

    key: Annotated[Path | None, Env("OPENSHELL_TLS_KEY")] = None
    """PEM file with the certificate's private key."""

    client_ca: Annotated[Path | None, Env("OPENSHELL_TLS_CLIENT_CA")] = None
    """PEM file with the authority of client certificates; unset: none are required."""

    disabled: Annotated[bool, Env("OPENSHELL_DISABLE_TLS")] = False
    """Serve without TLS. Loopback only."""


class OidcSettings(_Table):
    """The identity provider of users; absent if users do not log in."""

    issuer: Annotated[NonEmpty, Env("OPENSHELL_OIDC_ISSUER")]
    """URL of the issuer, exactly as in the tokens' `iss`."""

    audience: Annotated[NonEmpty, Env("OPENSHELL_OIDC_AUDIENCE")] = "openshell-cli"
    """Audience that the tokens' `aud` must contain."""

    jwks_ttl: Annotated[Seconds, Env("OPENSHELL_OIDC_JWKS_TTL")] = 3600.0
    """Time for which the issuer's keys are fresh. While the issuer does not answer, they stay in use for three times as long."""

    jwks_allowed_origins: Annotated[
        tuple[NonEmpty, ...], Env("OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS", separator=",")
    ] = ()
    """Origins from which keys may be fetched, besides the issuer's own."""

    dangerously_allow_insecure_http: Annotated[
        bool, Env("OPENSHELL_OIDC_DANGEROUSLY_ALLOW_INSECURE_HTTP")
    ] = False
    """Accept an issuer over http on a loopback address in digits, for development."""

    ca_file: Annotated[Path | None, Env("OPENSHELL_OIDC_CA_FILE")] = None
    """PEM file with the authority of the issuer's certificate; unset: the system's authorities."""

    fetch_timeout: Annotated[Seconds, Field(le=60), Env("OPENSHELL_OIDC_FETCH_TIMEOUT")] = 5.0
    """Timeout for fetching the keys, in total."""

    refresh_cooldown: Annotated[Seconds, Field(le=60), Env("OPENSHELL_OIDC_REFRESH_COOLDOWN")] = 1.0
    """Least time between two fetches, even if many tokens name unknown keys."""

    leeway: Annotated[float, Field(ge=0, le=300), Env("OPENSHELL_OIDC_LEEWAY")] = DEFAULT_LEEWAY_SECONDS
    """Tolerated difference between the clocks of issuer and gateway. Upstream's value."""

    roles_claim: Annotated[NonEmpty, Env("OPENSHELL_OIDC_ROLES_CLAIM")] = "realm_access.roles"
    """Claim with the list of roles, as a dotted path."""

    admin_role: Annotated[str, Env("OPENSHELL_OIDC_ADMIN_ROLE")] = DEFAULT_ADMIN_ROLE
    """Role of platform administrators. If it equals `user_role`, or both are empty, every user of the issuer is one; the gateway then
    refuses `workspaces`, and logs it at every start."""

    user_role: Annotated[str, Env("OPENSHELL_OIDC_USER_ROLE")] = DEFAULT_USER_ROLE
    """Role that every user needs. If it and `admin_role` are empty, every user of the issuer is a platform administrator."""

    scopes_claim: Annotated[str, Env("OPENSHELL_OIDC_SCOPES_CLAIM")] = ""
    """Claim with the scopes, as a dotted path. Empty: scopes are not enforced."""


class SandboxTokenSettings(_Table):
    """The tokens that the gateway signs for supervisors."""

    signing_key: Annotated[Path | None, Env("OPENSHELL_SANDBOX_JWT_SIGNING_KEY")] = None
    """PEM file with an Ed25519 key, mode 0600; created if it is missing. Unset: a new key at every start."""

    key_id: Annotated[str | None, Env("OPENSHELL_SANDBOX_JWT_KEY_ID")] = None
    """`kid` of the key; unset: its RFC 7638 thumbprint."""

    ttl: Annotated[float, Field(ge=0, allow_inf_nan=False), Env("OPENSHELL_SANDBOX_JWT_TTL")] = 86_400.0
    """Lifetime of a token. 0, no expiry, requires `allow_no_expiry`."""

    allow_no_expiry: Annotated[bool, Env("OPENSHELL_SANDBOX_JWT_ALLOW_NO_EXPIRY")] = False
    """Issue and accept tokens that never expire, as upstream does by default."""


class LimitSettings(_Table):
    """Limits on transfers, uploads and commands."""

    max_file_bytes: Annotated[Count, Env("OPENSHELL_FILES_MAX_FILE_BYTES")] = 1 << 40
    """Largest file."""

    max_chunk_bytes: Annotated[
        int, Field(ge=MIN_CHUNK_LIMIT_BYTES, le=MAX_CHUNK_BYTES), Env("OPENSHELL_FILES_MAX_CHUNK_BYTES")
    ] = MAX_CHUNK_BYTES
    """Largest chunk (UPL-24)."""

    digests: Annotated[
        tuple[DigestWord, ...],
        AfterValidator(_with_sha256),
        Env("OPENSHELL_FILES_DIGESTS", separator=","),
    ] = ("blake3", "sha256")
    """Digests that sandboxes may compute (DIG-12). `sha256` must be among them."""

    idle_timeout: Annotated[Seconds, Env("OPENSHELL_FILES_IDLE_TIMEOUT")] = 60.0
    """Idle timeout: a transfer without progress for this time ends."""

    max_pause: Annotated[float, Field(ge=0, allow_inf_nan=False), Env("OPENSHELL_FILES_MAX_PAUSE")] = 3600.0
    """Longest pause of an upload whose caller sends `waiting` while its source has nothing to read (WAI-4). 0: no pause beyond
    `idle_timeout`."""

    upload_expiry: Annotated[Seconds, Env("OPENSHELL_FILES_UPLOAD_EXPIRY")] = 86_400.0
    """Time without a byte after which an unfinished upload expires (RSM-8)."""

    max_uploads_per_sandbox: Annotated[Count, Env("OPENSHELL_FILES_MAX_UPLOADS_PER_SANDBOX")] = 256
    """Limit on unfinished uploads in a sandbox (RSM-26)."""

    max_uploads_per_principal: Annotated[Count, Env("OPENSHELL_FILES_MAX_UPLOADS_PER_PRINCIPAL")] = 64
    """Limit on unfinished uploads of one caller in a sandbox (RSM-26)."""

    max_transfers: Annotated[Count, Env("OPENSHELL_FILES_MAX_TRANSFERS")] = 256
    """Limit on concurrent file operations, over all sandboxes."""

    max_transfers_per_sandbox: Annotated[Count, Env("OPENSHELL_FILES_MAX_TRANSFERS_PER_SANDBOX")] = 32
    """Limit on concurrent file operations in one sandbox."""

    principal_share: Annotated[float, Field(gt=0, le=1), Env("OPENSHELL_FILES_PRINCIPAL_SHARE")] = 0.75
    """Part of each limit on concurrent transfers, commands and lanes that one caller may take, per sandbox and in total (RLY-12)."""

    transfer_wait: Annotated[float, Field(ge=0, le=60), Env("OPENSHELL_FILES_TRANSFER_WAIT")] = 5.0
    """Longest wait of a file operation for a slot (RLY-22)."""

    max_upload_lanes: Annotated[int, Field(ge=0), Env("OPENSHELL_FILES_MAX_UPLOAD_LANES")] = 16
    """Limit on lanes, the streams of uploads beyond their first, over all uploads (LAN-9). Each may take 4 MiB of the gateway's
    memory; 0: no lanes."""

    max_commands: Annotated[Count, Env("OPENSHELL_EXEC_MAX_COMMANDS")] = 256
    """Limit on concurrent commands, over all sandboxes."""

    max_commands_per_sandbox: Annotated[Count, Env("OPENSHELL_EXEC_MAX_COMMANDS_PER_SANDBOX")] = 32
    """Limit on concurrent commands in one sandbox."""

    @property
    def digest_numbers(self) -> list[files_pb2.DigestAlgorithm.ValueType]:
        """The allowed digests as numbers of the wire."""
        return [files_pb2.DigestAlgorithm.Value(f"DIGEST_ALGORITHM_{word.upper()}") for word in self.digests]


class ComputeSettings(_Table):
    """Sandboxes that callers create. Each is a directory and a supervisor process on this machine."""

    directory: Annotated[Path | None, Env("OPENSHELL_COMPUTE_DIRECTORY")] = None
    """Directory of the sandboxes. Unset: the gateway creates no sandboxes."""

    max_sandboxes: Annotated[Count, Env("OPENSHELL_COMPUTE_MAX_SANDBOXES")] = 256
    """Limit on sandboxes, those of the configuration included."""

    endpoint: Annotated[str | None, Env("OPENSHELL_COMPUTE_ENDPOINT")] = None
    """HOST:PORT at which supervisors reach the gateway; unset: the address that it listens on. With TLS, HOST must be a name of the
    certificate."""

    tls_ca: Annotated[Path | None, Env("OPENSHELL_COMPUTE_TLS_CA")] = None
    """PEM file with the authority by which supervisors verify the gateway's certificate; unset: the certificate itself."""

    user: Annotated[NonEmpty | None, Env("OPENSHELL_COMPUTE_USER")] = None
    """User that owns the sandboxes and runs their supervisors, if the gateway runs as root; unset: root."""

    supervisor_arguments: Annotated[
        tuple[str, ...], Env("OPENSHELL_COMPUTE_SUPERVISOR_ARGUMENTS", separator=" ")
    ] = ()
    """Additional command line options of every supervisor."""

    stop_with_gateway: Annotated[bool, Env("OPENSHELL_COMPUTE_STOP_WITH_GATEWAY")] = False
    """Stop the supervisors when the gateway stops in order. Otherwise they run on, and the next gateway takes them over."""


class RelaySettings(_Table):
    """Sessions of supervisors, and their relays. Defaults are upstream's."""

    session_wait_timeout: Annotated[Seconds, Env("OPENSHELL_RELAY_SESSION_WAIT_TIMEOUT")] = 15.0
    """Longest wait of a call for the sandbox's supervisor to connect."""

    claim_timeout: Annotated[Seconds, Env("OPENSHELL_RELAY_CLAIM_TIMEOUT")] = 10.0
    """Timeout for a supervisor to claim a relay (RLY-14)."""

    max_pending: Annotated[Count, Env("OPENSHELL_RELAY_MAX_PENDING")] = 256
    """Limit on relays that wait for their claim, over all sandboxes."""

    max_pending_per_sandbox: Annotated[Count, Env("OPENSHELL_RELAY_MAX_PENDING_PER_SANDBOX")] = 32
    """Limit on relays that wait for the claim of one supervisor."""

    heartbeat_interval: Annotated[
        Seconds, Field(le=MOST_HEARTBEAT_SECONDS), Env("OPENSHELL_HEARTBEAT_INTERVAL")
    ] = 15.0
    """Interval of heartbeats in a supervisor's session. The gateway announces it, and supervisors use it for theirs, but at least 5 s."""

    silence_timeout: Annotated[Seconds, Env("OPENSHELL_RELAY_SILENCE_TIMEOUT")] = 45.0
    """Timeout after which a silent session is closed (RLY-7). At least (RLY-18) twice a supervisor's interval of heartbeats, which is
    `heartbeat_interval` or 5 s, whichever is more."""


class LoggingSettings(_Table):
    """Level and format of the log."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Env("OPENSHELL_LOG_LEVEL")] = "info"
    """Least level of logged events."""

    format: Annotated[Literal["console", "json"], Env("OPENSHELL_LOG_FORMAT")] = "json"
    """`console` for a terminal, `json` for one JSON object per line."""


class SandboxSettings(_Table):
    """A sandbox of the configuration."""

    id: Identifier
    """UUID of the sandbox; it binds the supervisor and its tokens."""

    name: Identifier
    """Name of the sandbox, unique in its workspace."""

    workspace: Identifier = DEFAULT_WORKSPACE
    """Workspace whose members may use the sandbox."""

    agent_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port in the sandbox where a file agent listens, if the supervisor itself serves no files."""

    agent_secret: Path | None = None
    """File with the secret that gateway and agent share, mode 0600."""


class WorkspaceMember(_Table):
    """A user in a workspace."""

    subject: NonEmpty
    """The user's `sub`."""

    role: Literal["user", "admin"] = "user"
    """The user's role in the workspace."""


class WorkspaceSettings(_Table):
    """A workspace with its members. Platform administrators may use all workspaces."""

    name: Identifier
    """Name of the workspace."""

    members: tuple[WorkspaceMember, ...] = ()
    """Members of the workspace with their roles."""


class GatewayTables(BaseSettings):
    """The whole configuration, before its settings are checked together."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gateway_id: Annotated[Identifier, Env("OPENSHELL_GATEWAY_ID")] = "openshell"
    """Id of the gateway; issuer and audience of sandbox tokens are `openshell-gateway:<gateway_id>`."""

    allow_unauthenticated_users: Annotated[bool, Env("OPENSHELL_ALLOW_UNAUTHENTICATED_USERS")] = False
    """Treat every call without a token as one of a platform administrator. Loopback only."""

    database_url: Annotated[str | None, Env("OPENSHELL_DB_URL")] = None
    """Database of created sandboxes, `sqlite:` and the path of a file; unset: `gateway.db` in `compute.directory`."""

    server: ServerSettings = ServerSettings()
    tls: TlsSettings = TlsSettings()
    oidc: OidcSettings | None = None
    sandbox_tokens: SandboxTokenSettings = SandboxTokenSettings()
    limits: LimitSettings = LimitSettings()
    relay: RelaySettings = RelaySettings()
    compute: ComputeSettings = ComputeSettings()
    logging: LoggingSettings = LoggingSettings()
    sandboxes: tuple[SandboxSettings, ...] = ()
    workspaces: tuple[WorkspaceSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the signature is pydantic's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use only the constructor's values; `load_settings` reads the environment."""
        return (init_settings,)
