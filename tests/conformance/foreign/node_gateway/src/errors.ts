// Every error is a gRPC status with ErrorInfo, and with BadRequest or RetryInfo where they help (docs/errors.md).
import { Metadata, status, type StatusObject } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import { codec, mutant } from './wire.ts';

const rpc = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
  message FieldViolation { string field = 1; string description = 2; }
  message BadRequest { repeated FieldViolation field_violations = 1; }
`).root;

const domain = 'openshell.nvidia.com';

const reasonsByCode: Record<string, string> = {
  INVALID_ARGUMENT: `INVALID_REQUEST INVALID_PATH CHUNK_TOO_LARGE FILE_TOO_LARGE ARCHIVE_INVALID ARCHIVE_TOO_LARGE TREE_TOO_LARGE
    REQUEST_ID_PAYLOAD_MISMATCH`,
  UNIMPLEMENTED: 'ARCHIVE_UNSUPPORTED METHOD_UNSUPPORTED',
  FAILED_PRECONDITION: `DIGEST_UNSUPPORTED FILES_UNSUPPORTED EXEC_UNSUPPORTED SANDBOX_NOT_MANAGED COMPUTE_UNAVAILABLE
    AGENT_UNAUTHENTICATED IS_A_DIRECTORY NOT_A_DIRECTORY NOT_A_REGULAR_FILE LEAF_IS_LINK READ_ONLY_FILE_SYSTEM CONDITION_FAILED
    DIRECTORY_NOT_EMPTY OTHER_FILE_SYSTEM MOUNT_POINT UPLOAD_CONFLICT FINISH_CONFLICT TREE_INCOMPLETE SANDBOX_NOT_READY
    VERSION_MISMATCH`,
  UNAUTHENTICATED: `TOKEN_MISSING TOKEN_MALFORMED TOKEN_EXPIRED TOKEN_NOT_YET_VALID TOKEN_WRONG_AUDIENCE TOKEN_WRONG_ISSUER
    TOKEN_UNKNOWN_KEY TOKEN_BAD_ALGORITHM TOKEN_BAD_SIGNATURE TOKEN_CLAIM_INVALID`,
  UNAVAILABLE: `ISSUER_UNAVAILABLE SUPERVISOR_NOT_CONNECTED RELAY_REFUSED GATEWAY_SHUTTING_DOWN COMMAND_NOT_STARTED RELAY_LOST
    LANE_LOST`,
  PERMISSION_DENIED: 'ROLE_REQUIRED SCOPE_REQUIRED PRINCIPAL_NOT_ALLOWED SANDBOX_MISMATCH PATH_FORBIDDEN ACCESS_DENIED',
  NOT_FOUND: `SANDBOX_NOT_FOUND WORKSPACE_NOT_FOUND RELAY_UNKNOWN FILE_NOT_FOUND PARENT_NOT_FOUND UPLOAD_UNKNOWN UPLOAD_EXPIRED`,
  ABORTED: 'SESSION_OUTDATED UPLOAD_INCOMPLETE UPLOAD_ABORTED SUPERSEDED FILE_CHANGED',
  ALREADY_EXISTS: 'SANDBOX_EXISTS FILE_EXISTS',
  RESOURCE_EXHAUSTED: `TOO_MANY_SANDBOXES SUPERVISOR_FLOODS DISK_FULL QUOTA_EXCEEDED TOO_MANY_UPLOADS TOO_MANY_TRANSFERS
    TOO_MANY_CALLS TOO_MANY_COMMANDS TOO_MANY_LANES`,
  DEADLINE_EXCEEDED: 'RELAY_TIMEOUT TRANSFER_IDLE',
  INTERNAL: 'RELAY_REQUESTER_GONE AGENT_PROTOCOL_ERROR INTERNAL IO_ERROR',
  OUT_OF_RANGE: 'OFFSET_MISMATCH RANGE_INVALID',
  DATA_LOSS: 'CHUNK_CHECKSUM SIZE_MISMATCH DIGEST_MISMATCH ARCHIVE_INCOMPLETE',
  UNKNOWN: 'COMMAND_LOST',
};

const codes = new Map<string, status>();
for (const [code, reasons] of Object.entries(reasonsByCode)) {
  for (const reason of reasons.split(/\s+/)) codes.set(reason, status[code as keyof typeof status]);
}

/** Reasons about the token, the sandbox, the supervisor or the relay: an agent cannot know them (FRM-33). */
const gatewayOnly = new Set([
  ...reasonsByCode['UNAUTHENTICATED']!.split(/\s+/),
  ...`ISSUER_UNAVAILABLE ROLE_REQUIRED SCOPE_REQUIRED PRINCIPAL_NOT_ALLOWED SANDBOX_MISMATCH SANDBOX_NOT_FOUND SANDBOX_NOT_READY
    SUPERVISOR_NOT_CONNECTED FILES_UNSUPPORTED EXEC_UNSUPPORTED SESSION_OUTDATED WORKSPACE_NOT_FOUND SANDBOX_EXISTS
    SANDBOX_NOT_MANAGED COMPUTE_UNAVAILABLE TOO_MANY_SANDBOXES RELAY_REFUSED RELAY_TIMEOUT RELAY_LOST RELAY_UNKNOWN
    SUPERVISOR_FLOODS RELAY_REQUESTER_GONE GATEWAY_SHUTTING_DOWN TOO_MANY_CALLS`.split(/\s+/),
]);

export interface FieldViolation {
  field: string;
  description: string;
}

export interface Facts {
  metadata?: Record<string, string>;
  retryAfter?: number;
  fields?: FieldViolation[];
  /** Of a reason that is not in the table. */
  code?: status;
}

/** The call ends with this reason. */
export class Refusal extends Error {
  readonly reason: string;
  readonly facts: Facts;

  constructor(reason: string, text: string, facts: Facts = {}) {
    super(text);
    this.reason = reason;
    this.facts = facts;
  }

  get code(): status {
    return codes.get(this.reason) ?? this.facts.code ?? status.INTERNAL;
  }
}

export function invalid(field: string, description: string): Refusal {
  return new Refusal('INVALID_REQUEST', field === '' ? description : `${field}: ${description}`, { fields: [{ field, description }] });
}

/** The agent's error, or AGENT_PROTOCOL_ERROR if an agent may not give it (FRM-33). */
export function refusalOfAgent(error: Record<string, any>): Refusal {
  const reason = String(error['reason'] ?? '');
  const code = Number(error['code'] ?? 0);
  const known = codes.has(reason) && !gatewayOnly.has(reason);
  const unknownWithCode = !codes.has(reason) && reason !== '' && code >= 1 && code <= 16;
  if (!known && !unknownWithCode) return new Refusal('AGENT_PROTOCOL_ERROR', `the file agent gave the reason ${reason || '(none)'}`);
  const delay = error['retryDelay'];
  return new Refusal(reason, String(error['message'] ?? ''), {
    metadata: error['metadata'] ?? {},
    fields: error['fieldViolations'] ?? [],
    code,
    ...(delay === undefined ? {} : { retryAfter: Number(delay['seconds'] ?? 0) + Number(delay['nanos'] ?? 0) / 1e9 }),
  });
}

const detail = (type: string, fields: Record<string, unknown>): Record<string, unknown> => ({
  typeUrl: `type.googleapis.com/google.rpc.${type}`,
  value: codec(rpc.lookupType(`google.rpc.${type}`)).encode(fields),
});

/** The status of a failed call; any other error is a bug, and only its kind is told. */
export function statusOf(error: unknown, transferId: string): Partial<StatusObject> {
  const refusal = error instanceof Refusal ? error : new Refusal('INTERNAL', 'a bug of the gateway');
  if (refusal !== error) console.error(error);
  const { metadata, fields, retryAfter } = refusal.facts;
  const details = [detail('ErrorInfo', { reason: refusal.reason, domain, metadata: { ...metadata, transfer_id: transferId } })];
  if (refusal.code === status.INVALID_ARGUMENT) {
    details.push(detail('BadRequest', { fieldViolations: fields ?? [{ field: '', description: refusal.message }] }));
  }
  if (retryAfter !== undefined) {
    const seconds = Math.floor(retryAfter);
    details.push(detail('RetryInfo', { retryDelay: { seconds, nanos: Math.round((retryAfter - seconds) * 1e9) } }));
  }
  if (mutant === 'no-details') return { code: refusal.code, details: refusal.message };
  const trailers = new Metadata();
  const rich = codec(rpc.lookupType('google.rpc.Status'));
  trailers.set('grpc-status-details-bin', rich.encode({ code: refusal.code, message: refusal.message, details }));
  return { code: refusal.code, details: refusal.message, metadata: trailers };
}
