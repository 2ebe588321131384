// Calls of the gateway with promises: unary, an upload's stream and a download's stream.
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { randomUUID } from 'node:crypto';
import { subscribe } from 'node:diagnostics_channel';
import { readFileSync } from 'node:fs';
import type { ClientHttp2Stream } from 'node:http2';
import { addAbortSignal } from 'node:stream';
import { TransferError, transferError } from './errors.ts';
import { methodCodecs, type Fields } from './wire.ts';

export interface Access {
  /** `host:port`, or a URL with the scheme http. */
  endpoint: string;
  token?: string | undefined;
  /** File with the token, which is read for each call. */
  tokenFile?: string | undefined;
  /** Metadata of every call. */
  metadata?: Record<string, string>;
}

export interface Limits {
  signal?: AbortSignal | undefined;
  /** Time for the whole operation. */
  timeoutMs?: number | undefined;
  /** Tries without progress. */
  attempts?: number | undefined;
}

export interface UploadCall {
  answer: Promise<Fields>;
  /** Waits while the server does not read. Throws what the server answered if it refused already. */
  send(message: Fields): Promise<void>;
  end(): void;
  cancel(): void;
}

/** What the server can do; undefined: a server of the RFC alone. */
export interface Capabilities {
  maxChunkBytes: number;
  maxWriteBytes: number;
}

/** A connection, and what its server is known to have. Several operations may share it. */
export class Connection {
  readonly access: Access;
  readonly client: Client;
  capabilities: Promise<Capabilities | undefined> | undefined;
  hasWriteFile = true;

  constructor(access: Access) {
    this.access = access;
    this.client = new Client(access.endpoint.replace(/^http:\/\//, ''), credentials.createInsecure(), {
      'grpc.max_receive_message_length': 2 * 1024 * 1024,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
    });
  }
}

/** The streams of calls, by their x-request-id. */
const streams = new Map<unknown, ClientHttp2Stream>();

subscribe('http2.client.stream.created', (created) => {
  const { stream, headers } = created as { stream: ClientHttp2Stream; headers: Record<string, unknown> };
  const id = headers['x-request-id'];
  streams.set(id, stream);
  stream.once('close', () => streams.delete(id));
});

/** Resets a call's stream. grpc-js would half-close it first, which finishes an upload to a server of the RFC alone (UPL-61). */
function reset(requestId: string): void {
  const stream = streams.get(requestId);
  if (stream !== undefined) addAbortSignal(AbortSignal.abort(), stream);
}

const shortCall = 30_000;
const lastCall = 2_000;

/** The calls of one operation. */
export class Calls {
  readonly connection: Connection;
  readonly limits: Limits;
  #deadline: number;

  constructor(connection: Connection, limits: Limits) {
    this.connection = connection;
    this.limits = limits;
    this.#deadline = Date.now() + (limits.timeoutMs ?? Infinity);
  }

  get remainingMs(): number {
    return this.#deadline - Date.now();
  }

  /** Throws once the caller has cancelled, or the time is over. */
  check(): void {
    if (this.limits.signal?.aborted) throw cancelled();
    if (this.remainingMs <= 0) throw new TransferError(status.DEADLINE_EXCEEDED, 'the time for the operation is over', { retry: 'never' });
  }

  unary(method: string, request: Fields): Promise<Fields> {
    this.check();
    return this.#unary(method, request, Math.min(this.#deadline, Date.now() + shortCall), this.limits.signal);
  }

  /** A last call, also for a caller that has cancelled or is out of time. */
  detached(method: string, request: Fields): Promise<Fields> {
    return this.#unary(method, request, Date.now() + lastCall, undefined);
  }

  #unary(method: string, request: Fields, deadline: number, signal: AbortSignal | undefined): Promise<Fields> {
    const { request: outgoing, response } = methodCodecs(method);
    return new Promise((resolve, reject) => {
      const call = this.connection.client.makeUnaryRequest(path(method), outgoing.encode, response.decode, request, this.#metadata(), { deadline },
        (error, answer) => (error === null ? resolve(answer!) : reject(explain(error, signal))));
      cancelWith(call, signal);
    });
  }

  upload(): UploadCall {
    this.check();
    const { request, response } = methodCodecs('UploadFile');
    const answer = Promise.withResolvers<Fields>();
    answer.promise.catch(() => {});
    let over = false;
    const metadata = this.#metadata();
    const requestId = randomUUID();
    metadata.set('x-request-id', requestId);
    const call = this.connection.client.makeClientStreamRequest(path('UploadFile'), request.encode, response.decode, metadata, this.#options(),
      (error, fields) => {
        over = true;
        if (error === null) answer.resolve(fields!);
        else answer.reject(explain(error, this.limits.signal));
      });
    call.on('error', () => {});
    const cancel = (): void => {
      reset(requestId);
      call.cancel();
    };
    cancelWith({ cancel, once: (event, listener) => call.once(event, listener) }, this.limits.signal);
    return {
      answer: answer.promise,
      send: async (message) => {
        // An early answer or refusal ends the wait as well (UPL-13).
        if (over) await answer.promise;
        else if (!call.write(message)) await Promise.race([new Promise((resolve) => call.once('drain', resolve)), answer.promise]);
      },
      end: () => void call.end(),
      cancel,
    };
  }

  async *download(request: Fields): AsyncGenerator<Fields> {
    this.check();
    const { request: outgoing, response } = methodCodecs('DownloadFile');
    const call = this.connection.client.makeServerStreamRequest(path('DownloadFile'), outgoing.encode, response.decode, request, this.#metadata(), this.#options());
    cancelWith(call, this.limits.signal);
    const ended = new Promise<void>((resolve) => call.once('status', () => resolve()));
    let failure: unknown;
    call.on('error', (error) => (failure ??= error));
    try {
      yield* call;
      await ended;
      if (failure !== undefined) throw failure;
    } catch (error) {
      throw explain(error, this.limits.signal);
    } finally {
      call.cancel();
    }
  }

  #options(): { deadline?: number } {
    return Number.isFinite(this.#deadline) ? { deadline: this.#deadline } : {};
  }

  #metadata(): Metadata {
    const { token, tokenFile, metadata: own } = this.connection.access;
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(own ?? {})) metadata.set(name, value);
    const current = tokenFile === undefined ? token : readFileSync(tokenFile, 'utf8').trim();
    if (current !== undefined) metadata.set('authorization', `Bearer ${current}`);
    return metadata;
  }
}

function cancelWith(call: { cancel(): void; once(event: 'status', listener: () => void): unknown }, signal: AbortSignal | undefined): void {
  const cancel = (): void => call.cancel();
  signal?.addEventListener('abort', cancel, { once: true });
  call.once('status', () => signal?.removeEventListener('abort', cancel));
}

function explain(error: unknown, signal: AbortSignal | undefined): TransferError {
  return signal?.aborted ? cancelled() : transferError(error);
}

const path = (method: string): string => `/openshell.v1.OpenShell/${method}`;
const cancelled = (): TransferError => new TransferError(status.CANCELLED, 'the caller cancelled', { retry: 'never' });
