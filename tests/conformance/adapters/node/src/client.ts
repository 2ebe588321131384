// A client of the file methods: what a program calls. Transfers are checked, and repeated where docs/errors.md allows it.
import { status } from '@grpc/grpc-js';
import { createHash, randomUUID } from 'node:crypto';
import { Calls, type Connection } from './calls.ts';
import { downloadTo, type DownloadOptions, type DownloadResult } from './download.ts';
import { TransferError, transferError } from './errors.ts';
import { bytesSource, digestOf, fileSource, type Source } from './sources.ts';
import { Upload, type UploadOptions, type UploadResult } from './upload.ts';
import { crc32c, type Fields } from './wire.ts';

export interface SandboxName {
  id?: string | undefined;
  name?: string | undefined;
  workspace?: string | undefined;
}

/** What the server can do; undefined: a server of the RFC alone. */
export interface Capabilities {
  maxChunkBytes: number;
  maxWriteBytes: number;
}

export const sha256 = 1;
export const leastChunk = 256 * 1024;
/** Room for the other fields of a message of at most 1 MiB. */
const largestChunk = 1024 * 1024 - 4096;

export class SandboxFiles {
  readonly calls: Calls;
  readonly sandbox: SandboxName;
  attempts = 0;
  /** Counts content as it moves. */
  onBytes: (bytes: number) => void = () => {};
  #capabilities: Promise<Capabilities | undefined> | undefined;
  #hasWriteFile = true;

  constructor(connection: Connection, sandbox: SandboxName) {
    this.calls = new Calls(connection);
    this.sandbox = sandbox;
  }

  close(): void {
    this.calls.close();
  }

  get ref(): Fields {
    return this.sandbox.id === undefined ? { name: this.sandbox.name, workspace: this.sandbox.workspace ?? '' } : { id: this.sandbox.id };
  }

  /** The sandbox as the first fields of a transfer name it. */
  get naming(): Fields {
    const { id, name, workspace } = this.sandbox;
    return id === undefined ? { sandbox: name, workspace: workspace ?? '' } : { sandboxId: id };
  }

  /** A server that lacks the method gets nothing but the RFC's messages (RFC-8, CAP-5). */
  capabilities(): Promise<Capabilities | undefined> {
    this.#capabilities ??= this.#ask().catch((error) => {
      this.#capabilities = undefined;
      throw error;
    });
    return this.#capabilities;
  }

  /** Limits may have changed (CAP-6). */
  forgetCapabilities(): void {
    this.#capabilities = undefined;
  }

  async #ask(): Promise<Capabilities | undefined> {
    try {
      const answer = await this.calls.unary('GetTransferCapabilities', { sandbox: this.ref });
      const announced: number = answer['maxChunkBytes'] ?? 0;
      if (announced < leastChunk) throw new TransferError(status.INTERNAL, `the server announces chunks of ${announced} bytes, which breaks the protocol`);
      return { maxChunkBytes: Math.min(announced, largestChunk), maxWriteBytes: answer['maxWriteBytes'] ?? 0 };
    } catch (error) {
      if (error instanceof TransferError && error.isMissingMethod) return undefined;
      throw error;
    }
  }

  async uploadFile(local: string, remote: string, options: UploadOptions = {}): Promise<UploadResult> {
    const source = await fileSource(local);
    try {
      return await this.#upload(source, remote, options);
    } finally {
      await source.close();
    }
  }

  #upload(source: Source, remote: string, options: UploadOptions): Promise<UploadResult> {
    return new Upload(this, source, remote, options).run();
  }

  /** Writes a small file by one call if the server can, else by a stream (UPL-16, UPL-58). */
  async write(remote: string, content: Buffer, options: UploadOptions = {}): Promise<UploadResult> {
    const capabilities = await this.retrying(() => this.capabilities());
    const source = bytesSource(content);
    if (capabilities === undefined || content.length > capabilities.maxWriteBytes || !this.#hasWriteFile) return this.#upload(source, remote, options);
    const digest = { algorithm: sha256, value: await digestOf(source) };
    const metadata = { ...this.naming, ...uploadFields(options), remotePath: remote, sizeBytes: content.length };
    const request = { metadata: { ...metadata, requestId: options.requestId ?? randomUUID() }, content, crc32c: crc32c(content), digest };
    try {
      // Repeating the request with its request_id gives the same answer (RSM-6).
      const answer = await this.retrying(() => this.calls.unary('WriteFile', request));
      return uploadResult({ ...answer, bytesWritten: answer['file']?.sizeBytes ?? 0 }, content.length, digest.value);
    } catch (error) {
      if (!(error instanceof TransferError && error.isMissingMethod)) throw error;
      this.#hasWriteFile = false;
      return this.#upload(source, remote, options);
    }
  }

  async download(remote: string, local: string, options: DownloadOptions = {}): Promise<DownloadResult> {
    return downloadTo(this, remote, local, options);
  }

  async stat(remote: string, options: { digest?: boolean; leafLink?: number } = {}): Promise<Fields> {
    const request = { sandbox: this.ref, remotePath: remote, includeDigest: options.digest ?? false, leafLink: options.leafLink ?? 0, acceptedDigests: [sha256] };
    return (await this.retrying(() => this.calls.unary('StatFile', request)))['file'] ?? {};
  }

  async listUploads(): Promise<Fields[]> {
    return (await this.retrying(() => this.calls.unary('ListUploads', { sandbox: this.ref })))['uploads'] ?? [];
  }

  async getUpload(by: { uploadId?: string; requestId?: string }, digest = false): Promise<Fields> {
    return (await this.retrying(() => this.calls.unary('GetUpload', { sandbox: this.ref, ...by, includeDigest: digest })))['upload'] ?? {};
  }

  async abortUpload(uploadId: string): Promise<Fields> {
    return (await this.retrying(() => this.calls.unary('AbortUpload', { sandbox: this.ref, uploadId })))['upload'] ?? {};
  }

  /** Repeats `attempt` as its errors allow. `progress` returns a number that grows while the attempts are of use. */
  async retrying<T>(attempt: () => Promise<T>, limits: { attempts?: number; restart?: boolean; progress?: () => number } = {}): Promise<T> {
    let left = limits.attempts ?? 5;
    let best = limits.progress?.() ?? 0;
    let tokenReplaced = false;
    for (let failures = 0; ; failures++) {
      try {
        this.calls.check();
        return await attempt();
      } catch (thrown) {
        const error = transferError(thrown);
        const progress = limits.progress?.() ?? 0;
        if (progress > best) [best, left, failures] = [progress, limits.attempts ?? 5, 0];
        left -= 1;
        const freshToken: boolean = error.code === status.UNAUTHENTICATED && this.calls.connection.tokenFile !== undefined && !tokenReplaced;
        const repeat = freshToken || error.retry === 'again' || error.retry === 'later' || (error.retry === 'restart' && limits.restart === true);
        const pause = error.retryAfter ?? (error.retry === 'later' ? Math.min(2, 0.1 * 2 ** failures) : 0.02 * failures);
        if (!repeat || left <= 0 || pause * 1000 > Math.min(this.calls.remainingMs, 30_000)) throw Object.assign(error, { attempts: this.attempts });
        tokenReplaced ||= freshToken;
        await this.#pause(pause);
      }
    }
  }

  async #pause(seconds: number): Promise<void> {
    const { signal } = this.calls.connection;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      signal?.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}

/** Attributes of an upload in its metadata. */
export function uploadFields(options: UploadOptions): Fields {
  const { mode, parents, leafLink, durability, condition, modifiedTime, keepReadOnly } = options;
  return {
    mode: mode ?? 0,
    parents: parents === true ? 2 : 0,
    leafLink: leafLink ?? 0,
    durability: durability ?? 0,
    keepReadOnly: keepReadOnly ?? false,
    acceptedDigests: [sha256],
    ...(condition === undefined ? {} : { condition }),
    ...(modifiedTime === undefined ? {} : { modifiedTime }),
  };
}

/** The answer, if it reports the content that was sent (UPL-12, UPL-44). */
export function uploadResult(answer: Fields, size: number, digest: Buffer | undefined): UploadResult {
  const reported: Fields | undefined = answer['file']?.digest;
  if (Number(answer['bytesWritten'] ?? 0) !== size) throw new TransferError(status.DATA_LOSS, 'the server published another size than was sent', { reason: 'SIZE_MISMATCH', retry: 'never' });
  if (digest !== undefined && !(reported?.['algorithm'] === sha256 && digest.equals(reported['value'] ?? Buffer.alloc(0)))) {
    throw new TransferError(status.DATA_LOSS, 'the published file is not known to have the content that was sent', { reason: 'DIGEST_MISMATCH', retry: 'never' });
  }
  return {
    bytes: size,
    path: answer['file']?.path,
    digest: digest?.toString('hex'),
    durability: answer['durability'],
    replayed: answer['replayed'] ?? false,
    alreadyIdentical: answer['alreadyIdentical'] ?? false,
    resumedFrom: Number(answer['resumedFrom'] ?? 0),
  };
}

export const newHash = () => createHash('sha256');
