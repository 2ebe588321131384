"""Every setting of the gateway, its default, and its limits, one by one.

A table of the TOML file is a model here, a key a field. `Env` names the
environment variable, which wins over the file; the names are upstream's where
upstream has the setting. All times are in seconds, all sizes in bytes.

Whether values fit together is another question (`consistency`, `settings`).
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

#: Difference of clocks that is tolerated everywhere. Upstream's value: with a
#: smaller one, tokens that work there would be refused here.
DEFAULT_LEEWAY_SECONDS: Final = 60.0

DEFAULT_ADMIN_ROLE: Final = "openshell-admin"
DEFAULT_USER_ROLE: Final = "openshell-user"

#: What a sandbox's id and name may consist of: one component of the SPIFFE id
#: in its token, and never anything that a log or path could misread.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
NonEmpty = Annotated[str, StringConstraints(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _address(value: object) -> object:
    # Left to the union, every mistake would be reported for both families.
    return ip_address(value) if isinstance(value, str) else value


DigestWord = Literal["blake3", "sha256"]


def _with_sha256(words: tuple[DigestWord, ...]) -> tuple[DigestWord, ...]:
    if "sha256" not in words:
        raise ValueError("sha256 must be among them: callers rely on it (DIG-3)")
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
    """How long the gateway takes to stop at most: calls that wait for a supervisor get half of it or `relay.claim_timeout`, transfers and
    commands the rest. Kubernetes kills after 30 s."""

    max_connections: Annotated[Count, Env("OPENSHELL_MAX_CONNECTIONS")] = 1000
    """Connections at a time, those of supervisors included; one more is closed at once. Each may cost 1 MiB before it is known whose it is."""

    keepalive_interval: Annotated[Seconds, Env("OPENSHELL_KEEPALIVE_INTERVAL")] = 20.0
    """Between HTTP/2 pings to a peer."""

    keepalive_timeout: Annotated[Seconds, Env("OPENSHELL_KEEPALIVE_TIMEOUT")] = 10.0
    """How long a ping may stay unanswered."""

    min_ping_interval: Annotated[Seconds, Env("OPENSHELL_MIN_PING_INTERVAL")] = 5.0
    """How often a peer may ping an idle connection. Upstream's supervisors and CLI do it every 10 s."""

    max_connection_age: Annotated[Seconds | None, Env("OPENSHELL_MAX_CONNECTION_AGE")] = None
    """A connection as old as this is closed, so that load is spread again; unset, it may be as old as it gets."""

    connection_age_grace: Annotated[Seconds, Env("OPENSHELL_CONNECTION_AGE_GRACE")] = 3600.0
    """How long calls on such a connection may go on; what is cut then can be resumed."""


class TlsSettings(_Table):
    """Transport encryption. It is on unless `disabled`."""

    certificate: Annotated[Path | None, Env("OPENSHELL_TLS_CERT")] = None
    """PEM file with the server's certificate chain."""

    key: Annotated[Path | None, Env("OPENSHELL_TLS_KEY")] = None
    """PEM file with the certificate's private key."""

    client_ca: Annotated[Path | None, Env("OPENSHELL_TLS_CLIENT_CA")] = None
    """PEM file with the authority of client certificates, if they are asked for."""

    disabled: Annotated[bool, Env("OPENSHELL_DISABLE_TLS")] = False
    """Serve without TLS. Loopback only."""


class OidcSettings(_Table):
    """The identity provider of users. Present exactly if users log in."""

    issuer: Annotated[NonEmpty, Env("OPENSHELL_OIDC_ISSUER")]
    """URL of the issuer, exactly as in the tokens' `iss`."""

    audience: Annotated[NonEmpty, Env("OPENSHELL_OIDC_AUDIENCE")] = "openshell-cli"
    """What the tokens' `aud` must contain."""

    jwks_ttl: Annotated[Seconds, Env("OPENSHELL_OIDC_JWKS_TTL")] = 3600.0
    """How long the issuer's keys are fresh. Without an answer they are used three times as long."""

    jwks_allowed_origins: Annotated[
        tuple[NonEmpty, ...], Env("OPENSHELL_OIDC_JWKS_ALLOWED_ORIGINS", separator=",")
    ] = ()
    """Origins beside the issuer's own from which keys may be fetched."""

    dangerously_allow_insecure_http: Annotated[
        bool, Env("OPENSHELL_OIDC_DANGEROUSLY_ALLOW_INSECURE_HTTP")
    ] = False
    """Accept an issuer over http on a loopback address in digits, for development."""

    ca_file: Annotated[Path | None, Env("OPENSHELL_OIDC_CA_FILE")] = None
    """PEM file with the authority of the issuer's certificate, if the system's do not include it."""

    fetch_timeout: Annotated[Seconds, Field(le=60), Env("OPENSHELL_OIDC_FETCH_TIMEOUT")] = 5.0
    """How long fetching the keys may take in all."""

    refresh_cooldown: Annotated[Seconds, Field(le=60), Env("OPENSHELL_OIDC_REFRESH_COOLDOWN")] = 1.0
    """Least time between two fetches, however many tokens name unknown keys."""

    leeway: Annotated[float, Field(ge=0, le=300), Env("OPENSHELL_OIDC_LEEWAY")] = DEFAULT_LEEWAY_SECONDS
    """Difference of the clocks of issuer and gateway that is tolerated. Upstream's value."""

    roles_claim: Annotated[NonEmpty, Env("OPENSHELL_OIDC_ROLES_CLAIM")] = "realm_access.roles"
    """Claim with the list of roles, as a path with dots."""

    admin_role: Annotated[str, Env("OPENSHELL_OIDC_ADMIN_ROLE")] = DEFAULT_ADMIN_ROLE
    """Role of platform administrators. Empty, together with `user_role`, or the same as that, makes every user of the issuer one; that is
    refused beside `workspaces`, and said at the start."""

    user_role: Annotated[str, Env("OPENSHELL_OIDC_USER_ROLE")] = DEFAULT_USER_ROLE
    """Role that every user needs. Empty, together with `admin_role`, makes every user of the issuer a platform administrator."""

    scopes_claim: Annotated[str, Env("OPENSHELL_OIDC_SCOPES_CLAIM")] = ""
    """Claim with the scopes. Scopes are enforced exactly if it is named."""


class SandboxTokenSettings(_Table):
    """The tokens that the gateway signs for supervisors."""

    signing_key: Annotated[Path | None, Env("OPENSHELL_SANDBOX_JWT_SIGNING_KEY")] = None
    """PEM file with an Ed25519 key, mode 0600; made if it is missing. Unset, the key lives as long as the process."""

    key_id: Annotated[str | None, Env("OPENSHELL_SANDBOX_JWT_KEY_ID")] = None
    """`kid` of the key; its RFC 7638 thumbprint if unset."""

    ttl: Annotated[float, Field(ge=0, allow_inf_nan=False), Env("OPENSHELL_SANDBOX_JWT_TTL")] = 86_400.0
    """How long a token is valid. 0, for ever, needs `allow_no_expiry`."""

    allow_no_expiry: Annotated[bool, Env("OPENSHELL_SANDBOX_JWT_ALLOW_NO_EXPIRY")] = False
    """Issue and accept tokens that never expire, as upstream does by default."""


class LimitSettings(_Table):
    """What callers may use up."""

    max_file_bytes: Annotated[Count, Env("OPENSHELL_FILES_MAX_FILE_BYTES")] = 1 << 40
    """Largest file."""

    max_chunk_bytes: Annotated[
        int, Field(ge=MIN_CHUNK_LIMIT_BYTES, le=MAX_CHUNK_BYTES), Env("OPENSHELL_FILES_MAX_CHUNK_BYTES")
    ] = MAX_CHUNK_BYTES
    """Largest chunk (UPL-6)."""

    digests: Annotated[
        tuple[DigestWord, ...],
        AfterValidator(_with_sha256),
        Env("OPENSHELL_FILES_DIGESTS", separator=","),
    ] = ("blake3", "sha256")
    """Digests that sandboxes may compute (DIG-3). `sha256` must be among them."""

    idle_timeout: Annotated[Seconds, Env("OPENSHELL_FILES_IDLE_TIMEOUT")] = 60.0
    """A transfer in which nothing moves for so long is ended."""

    max_pause: Annotated[float, Field(ge=0, allow_inf_nan=False), Env("OPENSHELL_FILES_MAX_PAUSE")] = 3600.0
    """How long an upload may wait for its source while its caller says so (WAI-2). 0: `idle_timeout` is the only bound."""

    upload_expiry: Annotated[Seconds, Env("OPENSHELL_FILES_UPLOAD_EXPIRY")] = 86_400.0
    """An unfinished upload is forgotten after so long without a byte (RSM-8)."""

    max_uploads_per_sandbox: Annotated[Count, Env("OPENSHELL_FILES_MAX_UPLOADS_PER_SANDBOX")] = 256
    """Unfinished uploads that a sandbox keeps, of all callers (RSM-8)."""

    max_uploads_per_principal: Annotated[Count, Env("OPENSHELL_FILES_MAX_UPLOADS_PER_PRINCIPAL")] = 64
    """Unfinished uploads that a sandbox keeps of one caller (RSM-8)."""

    max_transfers: Annotated[Count, Env("OPENSHELL_FILES_MAX_TRANSFERS")] = 256
    """File operations at a time, all sandboxes together."""

    max_transfers_per_sandbox: Annotated[Count, Env("OPENSHELL_FILES_MAX_TRANSFERS_PER_SANDBOX")] = 32
    """File operations at a time in one sandbox."""

    principal_share: Annotated[float, Field(gt=0, le=1), Env("OPENSHELL_FILES_PRINCIPAL_SHARE")] = 0.75
    """Part of each limit of what runs at a time (transfers, commands, further streams of uploads) that one caller may take, in a
    sandbox and in all (RLY-12). The rest is for others."""

    transfer_wait: Annotated[float, Field(ge=0, le=60), Env("OPENSHELL_FILES_TRANSFER_WAIT")] = 5.0
    """How long a file operation waits for its turn if as many run as may (RLY-9)."""

    max_upload_lanes: Annotated[int, Field(ge=0), Env("OPENSHELL_FILES_MAX_UPLOAD_LANES")] = 16
    """Streams beyond the first of all uploads together (LAN-1). Each may hold 4 MiB of the gateway's memory; 0: one
    stream for each upload."""

    max_commands: Annotated[Count, Env("OPENSHELL_EXEC_MAX_COMMANDS")] = 256
    """Commands at a time, all sandboxes together."""

    max_commands_per_sandbox: Annotated[Count, Env("OPENSHELL_EXEC_MAX_COMMANDS_PER_SANDBOX")] = 32
    """Commands at a time in one sandbox."""

    @property
    def digest_numbers(self) -> list[files_pb2.DigestAlgorithm.ValueType]:
        """The digests as messages say them."""
        return [files_pb2.DigestAlgorithm.Value(f"DIGEST_ALGORITHM_{word.upper()}") for word in self.digests]


class ComputeSettings(_Table):
    """Sandboxes that callers make. Each is a directory and a supervisor process of this machine."""

    directory: Annotated[Path | None, Env("OPENSHELL_COMPUTE_DIRECTORY")] = None
    """Where they live. Unset, the gateway makes no sandboxes."""

    max_sandboxes: Annotated[Count, Env("OPENSHELL_COMPUTE_MAX_SANDBOXES")] = 256
    """How many there may be, those of the configuration included."""

    endpoint: Annotated[str | None, Env("OPENSHELL_COMPUTE_ENDPOINT")] = None
    """Where supervisors reach the gateway, HOST:PORT; the address it listens on if unset. With TLS, a name of the certificate."""

    tls_ca: Annotated[Path | None, Env("OPENSHELL_COMPUTE_TLS_CA")] = None
    """PEM file by which supervisors know the gateway's certificate; the certificate itself if unset."""

    user: Annotated[NonEmpty | None, Env("OPENSHELL_COMPUTE_USER")] = None
    """User that owns the sandboxes and that their supervisors run as, if the gateway runs as root; unset, root itself."""

    supervisor_arguments: Annotated[
        tuple[str, ...], Env("OPENSHELL_COMPUTE_SUPERVISOR_ARGUMENTS", separator=" ")
    ] = ()
    """Further options for every supervisor."""

    stop_with_gateway: Annotated[bool, Env("OPENSHELL_COMPUTE_STOP_WITH_GATEWAY")] = False
    """Stop the supervisors when the gateway stops in order. Otherwise the next gateway takes them over."""


class RelaySettings(_Table):
    """Sessions of supervisors and the relays in them. Defaults are upstream's."""

    session_wait_timeout: Annotated[Seconds, Env("OPENSHELL_RELAY_SESSION_WAIT_TIMEOUT")] = 15.0
    """How long a call waits for the sandbox's supervisor to connect."""

    claim_timeout: Annotated[Seconds, Env("OPENSHELL_RELAY_CLAIM_TIMEOUT")] = 10.0
    """How long a supervisor may take to take up a relay (RLY-3)."""

    max_pending: Annotated[Count, Env("OPENSHELL_RELAY_MAX_PENDING")] = 256
    """Relays that wait to be taken up, all sandboxes together."""

    max_pending_per_sandbox: Annotated[Count, Env("OPENSHELL_RELAY_MAX_PENDING_PER_SANDBOX")] = 32
    """Relays that wait to be taken up by one supervisor."""

    heartbeat_interval: Annotated[
        Seconds, Field(le=MOST_HEARTBEAT_SECONDS), Env("OPENSHELL_HEARTBEAT_INTERVAL")
    ] = 15.0
    """Between heartbeats in a supervisor's session. Supervisors are told, and send theirs as often, but not within 5 s."""

    silence_timeout: Annotated[Seconds, Env("OPENSHELL_RELAY_SILENCE_TIMEOUT")] = 45.0
    """A session from which nothing was heard for so long is closed (RLY-7). At least twice the time between two heartbeats of a
    supervisor: `heartbeat_interval`, or 5 s if that is more."""


class LoggingSettings(_Table):
    """What is logged, and how."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Env("OPENSHELL_LOG_LEVEL")] = "info"
    """Least important level that is logged."""

    format: Annotated[Literal["console", "json"], Env("OPENSHELL_LOG_FORMAT")] = "json"
    """`console` for people, `json` for machines: one object per line."""


class SandboxSettings(_Table):
    """A sandbox that the gateway knows."""

    id: Identifier
    """UUID of the sandbox; supervisors and tokens are bound to it."""

    name: Identifier
    """What people call it; unique in its workspace."""

    workspace: Identifier = DEFAULT_WORKSPACE
    """The workspace whose members may use it."""

    agent_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port in the sandbox where a file agent listens, if the supervisor itself serves no files."""

    agent_secret: Path | None = None
    """File with the secret that the gateway and that agent share, mode 0600."""


class WorkspaceMember(_Table):
    """A user in a workspace."""

    subject: NonEmpty
    """The user's `sub`."""

    role: Literal["user", "admin"] = "user"
    """What the user may do in the workspace."""


class WorkspaceSettings(_Table):
    """A workspace and who belongs to it. Platform administrators belong to all."""

    name: Identifier
    """What sandboxes refer to."""

    members: tuple[WorkspaceMember, ...] = ()
    """Who belongs to it, with what role."""


class GatewayTables(BaseSettings):
    """The whole configuration, each value by itself."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    gateway_id: Annotated[Identifier, Env("OPENSHELL_GATEWAY_ID")] = "openshell"
    """Issuer and audience of sandbox tokens are `openshell-gateway:` and this."""

    allow_unauthenticated_users: Annotated[bool, Env("OPENSHELL_ALLOW_UNAUTHENTICATED_USERS")] = False
    """Treat a call without a token as a platform administrator. Loopback only."""

    database_url: Annotated[str | None, Env("OPENSHELL_DB_URL")] = None
    """Where sandboxes that were made are remembered, `sqlite:` and the path of a file; `gateway.db` in
    `compute.directory` if unset."""

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
        """Take values from the constructor only, so that no variable of the process gets in unseen."""
        return (init_settings,)
