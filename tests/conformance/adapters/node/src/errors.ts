// A failed transfer: its gRPC code, its reason of docs/errors.md, and whether to repeat it.
import { status, type ServiceError } from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import { codec, mutant, type Fields } from './wire.ts';

const rpc = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`).root;
const type = (name: string) => codec(rpc.lookupType(`google.rpc.${name}`));

/** When to repeat a call: never, at once, after a delay, or with a new transfer. */
export type Retry = 'never' | 'again' | 'later' | 'restart';

const classes: Record<Exclude<Retry, 'never'>, string> = {
  again: 'RELAY_LOST TRANSFER_IDLE OFFSET_MISMATCH CHUNK_CHECKSUM UPLOAD_INCOMPLETE TOO_MANY_LANES LANE_LOST',
  later: `ISSUER_UNAVAILABLE SANDBOX_NOT_READY SUPERVISOR_NOT_CONNECTED SESSION_OUTDATED RELAY_REFUSED RELAY_TIMEOUT SUPERVISOR_FLOODS
    GATEWAY_SHUTTING_DOWN DISK_FULL QUOTA_EXCEEDED IO_ERROR TOO_MANY_UPLOADS TOO_MANY_TRANSFERS TOO_MANY_CALLS COMMAND_NOT_STARTED
    TOO_MANY_COMMANDS`,
  restart: 'SIZE_MISMATCH DIGEST_MISMATCH UPLOAD_UNKNOWN UPLOAD_EXPIRED FILE_CHANGED VERSION_MISMATCH',
};
const retries = new Map<string, Retry>();
for (const [retry, reasons] of Object.entries(classes)) for (const reason of reasons.split(/\s+/)) retries.set(reason, retry as Retry);

export interface Facts {
  reason?: string | undefined;
  metadata?: Record<string, string>;
  retryAfter?: number | undefined;
  retry?: Retry;
}

export class TransferError extends Error {
  readonly code: status;
  readonly reason: string | undefined;
  readonly metadata: Record<string, string>;
  readonly retryAfter: number | undefined;
  readonly retry: Retry;
  /** The file may have been published all the same. */
  unknownOutcome = false;
  /** Of the upload that another run can resume. */
  uploadId: string | undefined;

  constructor(code: status, text: string, facts: Facts = {}) {
    super(text);
    this.code = code;
    this.reason = facts.reason;
    this.metadata = facts.metadata ?? {};
    this.retryAfter = facts.retryAfter;
    this.retry = facts.retry ?? retries.get(facts.reason ?? '') ?? (facts.reason === undefined ? retryOfCode(code, text) : 'never');
  }

  withUnknownOutcome(): this {
    this.unknownOutcome = true;
    return this;
  }

  /** The server does not have the method: one of the RFC alone, or one without the option. */
  get isMissingMethod(): boolean {
    return this.code === status.UNIMPLEMENTED && this.reason !== 'ARCHIVE_UNSUPPORTED';
  }
}

/** Of a status that gRPC or a proxy made: a lost connection or a reset stream may be tried again. */
function retryOfCode(code: status, text: string): Retry {
  const lost = code === status.UNAVAILABLE || code === status.CANCELLED || (code === status.INTERNAL && text.includes('RST_STREAM'));
  return lost ? 'later' : 'never';
}

/** The server breaks the protocol, or what it sent is damaged. */
export function brokenProtocol(text: string, retry: Retry = 'never'): TransferError {
  return new TransferError(status.DATA_LOSS, `the server broke the protocol: ${text}`, { retry });
}

export function transferError(error: unknown): TransferError {
  if (error instanceof TransferError) return error;
  const { code, details, metadata } = error as ServiceError;
  if (typeof code !== 'number') throw error;
  const facts = factsOf(code, metadata?.get('grpc-status-details-bin')[0]);
  return new TransferError(code, details, facts);
}

/** Details count only if they are a message about the same code. */
function factsOf(code: status, details: string | Buffer | undefined): Facts {
  const facts: Facts = {};
  if (!Buffer.isBuffer(details)) return facts;
  try {
    const rich = type('Status').decode(details);
    if ((rich['code'] ?? 0) !== code) return facts;
    for (const { typeUrl, value } of (rich['details'] ?? []) as Fields[]) {
      if (String(typeUrl).endsWith('google.rpc.ErrorInfo')) {
        const info = type('ErrorInfo').decode(value);
        facts.reason = info['reason'];
        facts.metadata = info['metadata'] ?? {};
      } else if (String(typeUrl).endsWith('google.rpc.RetryInfo')) {
        const { seconds = 0, nanos = 0 } = type('RetryInfo').decode(value)['retryDelay'] ?? {};
        facts.retryAfter = mutant === 'impatient' ? 0 : Number(seconds) + Number(nanos) / 1e9;
      }
    }
    return facts;
  } catch {
    return {};
  }
}
