// The suite's adapter: one JSON object per line asks for an operation, and one says what came of it.
import { status } from '@grpc/grpc-js';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Connection } from './calls.ts';
import { SandboxFiles } from './client.ts';
import { TransferError } from './errors.ts';
import type { Fields } from './wire.ts';

interface Request {
  id: number;
  op: string;
  endpoint: string;
  sandbox_id: string;
  auth?: { token?: string; token_file?: string };
  client?: string;
  metadata?: Record<string, string>;
  local: string;
  remote: string;
  upload_id?: string;
  options?: Record<string, any>;
  cancel?: { when_exists: string };
}

type Answer = { outcome: string } & Record<string, unknown>;

const known = new Set(['attempts', 'timeout_ms', 'mode', 'modified_ns', 'parents', 'condition', 'durability', 'digest', 'offset', 'length', 'tail', 'if_version']);
const capabilities = ['rfc-server', 'resume', 'cancel', 'ranges', 'token-file'];
const unsupported: Answer = { outcome: 'unsupported' };

const operations: Record<string, (files: SandboxFiles, request: Request) => Promise<Record<string, unknown>>> = {
  upload: (files, request) => upload(files, request),
  resume: (files, request) => upload(files, request),
  download: async (files, { local, remote, options = {} }) => {
    const range = { offset: options['offset'], length: options['length'], tailBytes: options['tail'], ifVersion: options['if_version'] };
    const { bytes, digest, mode, version } = await files.download(remote, local, range);
    return { size: bytes, digest: named(digest), version, mode: mode & 0o7777 };
  },
  stat: async (files, { remote }) => {
    const file = await files.stat(remote);
    return { size: Number(file['sizeBytes'] ?? 0), digest: named(file['digest']?.value?.toString('hex')), version: file['version'], mode: file['mode'] ?? 0 };
  },
};

async function upload(files: SandboxFiles, { local, remote, upload_id, options = {} }: Request): Promise<Record<string, unknown>> {
  // Nanoseconds since 1970 are more than a number can hold: text keeps them exact.
  const modified = options['modified_ns'] === undefined ? undefined : BigInt(options['modified_ns']);
  const { bytes, digest, version } = await files.upload(local, remote, {
    mode: options['mode'],
    parents: options['parents'],
    durability: options['durability'] === undefined ? undefined : options['durability'] === 'rename' ? 1 : 2,
    condition: options['condition'] === undefined ? undefined : { [options['condition']]: {} },
    modifiedTime: modified === undefined ? undefined : { seconds: String(modified / 1_000_000_000n), nanos: Number(modified % 1_000_000_000n) },
    uploadId: upload_id,
  });
  return { size: bytes, digest: named(digest), version };
}

const named = (digest: string | undefined): string | undefined => (digest === undefined ? undefined : `sha256:${digest}`);

const shared = new Map<string, Connection>();

/** Requests with the same `client` share a connection; another one is closed by `release`. */
function connect({ endpoint, auth, metadata, client }: Request): { connection: Connection; release: () => void } {
  const access = { endpoint, token: auth?.token, tokenFile: auth?.token_file, metadata: metadata ?? {} };
  if (client === undefined) {
    const connection = new Connection(access);
    return { connection, release: () => connection.client.close() };
  }
  const key = JSON.stringify([client, endpoint, auth]);
  const connection = shared.get(key) ?? new Connection(access);
  shared.set(key, connection);
  return { connection, release: () => {} };
}

async function answer(request: Request): Promise<Answer> {
  if (request.op === 'hello') {
    return { outcome: 'ok', implementation: { name: 'openshell-files-node', version: '0.1.0', language: 'typescript' }, capabilities };
  }
  const operation = Object.hasOwn(operations, request.op) ? operations[request.op] : undefined;
  const { options = {} } = request;
  const strange = Object.keys(options).some((name) => !known.has(name)) || options['digest'] === 'blake3' || 'client_credentials' in (request.auth ?? {});
  if (operation === undefined || strange) return unsupported;

  const cancel = new AbortController();
  const when = request.cancel?.when_exists;
  const watch = when === undefined ? undefined : setInterval(() => existsSync(when) && cancel.abort(), 5);
  const { connection, release } = connect(request);
  try {
    const files = new SandboxFiles(connection, request.sandbox_id, { signal: cancel.signal, timeoutMs: options['timeout_ms'], attempts: options['attempts'] });
    return { outcome: 'ok', ...(await operation(files, request)) };
  } catch (error) {
    return failure(error, cancel.signal.aborted);
  } finally {
    clearInterval(watch);
    release();
  }
}

function failure(error: unknown, cancelled: boolean): Answer {
  if (!(error instanceof TransferError)) return { outcome: 'error', message: String(error) };
  const { code, reason, message, unknownOutcome, uploadId } = error;
  const outcome = cancelled && code === status.CANCELLED ? 'cancelled' : 'error';
  return { outcome, code: status[code], reason, message, upload_id: uploadId, ...(unknownOutcome ? { outcome_unknown: true } : {}) };
}

const input = createInterface({ input: process.stdin });
input.on('line', (line) => {
  // Numbers that a double cannot hold become text.
  const request: Fields = JSON.parse(line.replace(/("modified_ns":\s*)(-?\d+)/, '$1"$2"'));
  void answer(request as Request).then((fields) => process.stdout.write(`${JSON.stringify({ id: request['id'], ...fields })}\n`));
});
input.on('close', () => process.exit(0));
