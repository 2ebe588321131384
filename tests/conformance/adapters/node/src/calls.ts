// Calls of the gateway with promises: unary, an upload's stream and a download's stream.
import { Client, credentials, Metadata, status } from '@grpc/grpc-js';
import { readFileSync } from 'node:fs';
import { TransferError, transferError } from './errors.ts';
import { methodCodecs, type Fields } from './wire.ts';

export interface Connection {
  /** `host:port`, or a URL with the scheme http. */
  endpoint: string;
  token?: string | undefined;
  /** File with the token, which is read for each call. */
  tokenFile?: string | undefined;
  /** Metadata of every call. */
  metadata?: Record<string, string>;
  /** Time for the whole transfer. */
  deadlineMs?: number | undefined;
  signal?: AbortSignal;
}

/** A query or another short call may take this long. */
const shortCall = 30_000;

export class Calls {
  readonly connection: Connection;
  #client: Client;
  #deadline: number;

  constructor(connection: Connection) {
    this.connection = connection;
    this.#deadline = Date.now() + (connection.deadlineMs ?? Infinity);
    this.#client = new Client(connection.endpoint.replace(/^http:\/\//, ''), credentials.createInsecure(), {
      'grpc.max_receive_message_length': 2 * 1024 * 1024,
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.min_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 1000,
      'grpc.enable_retries': 0,
      'grpc.use_local_subchannel_pool': 1,
    });
  }

  close(): void {
    this.#client.close();
  }

  get remainingMs(): number {
    return this.#deadline - Date.now();
  }

  /** Throws once the caller has cancelled, or the time is over. */
  check(): void {
    if (this.connection.signal?.aborted) throw cancelled();
    if (this.remainingMs <= 0) throw new TransferError(status.DEADLINE_EXCEEDED, 'the time for the transfer is over', { retry: 'never' });
  }

  unary(method: string, request: Fields): Promise<Fields> {
    this.check();
    return this.#unary(method, request, Math.min(this.#deadline, Date.now() + shortCall), true);
  }

  /** A last call, also for a caller that has cancelled or is out of time. */
  detached(method: string, request: Fields): Promise<Fields> {
    return this.#unary(method, request, Date.now() + 2000, false);
  }

  #unary(method: string, request: Fields, deadline: number, cancellable: boolean): Promise<Fields> {
    const { request: outgoing, response } = methodCodecs(method);
    return new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(path(method), outgoing.encode, response.decode, request, this.#metadata(), { deadline },
        (error, answer) => (error === null ? resolve(answer!) : reject(this.#explain(error))));
      if (cancellable) this.#cancelWith(call);
    });
  }

  upload(): UploadCall {
    this.check();
    const { request, response } = methodCodecs('UploadFile');
    const answer = Promise.withResolvers<Fields>();
    answer.promise.catch(() => {});
    let failed: TransferError | undefined;
    let over = false;
    const call = this.#client.makeClientStreamRequest(path('UploadFile'), request.encode, response.decode, this.#metadata(), this.#options(),
      (error, fields) => {
        over = true;
        if (error === null) answer.resolve(fields!);
        else answer.reject((failed = this.#explain(error)));
      });
    call.on('error', () => {});
    this.#cancelWith(call);
    return {
      answer: answer.promise,
      send: async (message) => {
        if (failed !== undefined) throw failed;
        if (over || call.write(message)) return;
        // An early answer or refusal ends the wait as well (UPL-13).
        await Promise.race([new Promise((resolve) => call.once('drain', resolve)), answer.promise]);
      },
      end: () => void call.end(),
      cancel: () => call.cancel(),
    };
  }

  async *download(request: Fields): AsyncGenerator<Fields> {
    this.check();
    const { request: outgoing, response } = methodCodecs('DownloadFile');
    const call = this.#client.makeServerStreamRequest(path('DownloadFile'), outgoing.encode, response.decode, request, this.#metadata(), this.#options());
    this.#cancelWith(call);
    const ended = new Promise<void>((resolve) => call.once('status', () => resolve()));
    let failure: unknown;
    call.on('error', (error) => (failure ??= error));
    try {
      yield* call;
      await ended;
      if (failure !== undefined) throw failure;
    } catch (error) {
      throw this.#explain(error);
    } finally {
      call.cancel();
    }
  }

  #options(): { deadline?: number } {
    return Number.isFinite(this.#deadline) ? { deadline: this.#deadline } : {};
  }

  #metadata(): Metadata {
    const metadata = new Metadata();
    for (const [name, value] of Object.entries(this.connection.metadata ?? {})) metadata.set(name, value);
    const { token, tokenFile } = this.connection;
    const current = tokenFile === undefined ? token : readFileSync(tokenFile, 'utf8').trim();
    if (current !== undefined) metadata.set('authorization', `Bearer ${current}`);
    return metadata;
  }

  #cancelWith(call: { cancel(): void; once(event: 'status', listener: () => void): unknown }): void {
    const { signal } = this.connection;
    const cancel = (): void => call.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    call.once('status', () => signal?.removeEventListener('abort', cancel));
  }

  #explain(error: unknown): TransferError {
    return this.connection.signal?.aborted ? cancelled() : transferError(error);
  }
}

export interface UploadCall {
  answer: Promise<Fields>;
  /** Waits while the server does not read. Throws what the server answered if it refused already. */
  send(message: Fields): Promise<void>;
  end(): void;
  cancel(): void;
}

const path = (method: string): string => `/openshell.v1.OpenShell/${method}`;
const cancelled = (): TransferError => new TransferError(status.CANCELLED, 'the caller cancelled', { retry: 'never' });
