// A client of the file methods: what a program calls. Transfers are checked, and repeated where docs/errors.md allows it.
import { status } from '@grpc/grpc-js';
import { randomUUID } from 'node:crypto';
import { Calls, type Capabilities, type Connection, type Limits } from './calls.ts';
import { downloadTo, type DownloadOptions, type DownloadResult } from './download.ts';
import { TransferError, transferError } from './errors.ts';
import { digestOf, fileSource, type Source } from './sources.ts';
import { isRefusal, Upload, uploadFields, uploadResult, type UploadOptions, type UploadResult } from './upload.ts';
import { crc32c, type Fields } from './wire.ts';

export const sha256 = 1;
export const leastChunk = 256 * 1024;
/** Room for the other fields of a message of at most 1 MiB. */
const largestChunk = 1024 * 1024 - 4096;
const smallFile = 256 * 1024;
const longestPause = 30;

/** The files of one sandbox, for one operation. */
export class SandboxFiles {
  readonly calls: Calls;
  readonly sandboxId: string;

  constructor(connection: Connection, sandboxId: string, limits: Limits = {}) {
    this.calls = new Calls(connection, limits);
    this.sandboxId = sandboxId;
  }

  get ref(): Fields {
    return { id: this.sandboxId };
  }

  /** A server that lacks the method gets nothing but the RFC's messages (RFC-8, CAP-5). */
  capabilities(): Promise<Capabilities | undefined> {
    const { connection } = this.calls;
    connection.capabilities ??= this.retrying(() => this.#ask()).catch((error) => {
      connection.capabilities = undefined;
      throw error;
    });
    return connection.capabilities;
  }

  async #ask(): Promise<Capabilities | undefined> {
    try {
      const answer = await this.calls.unary('GetTransferCapabilities', { sandbox: this.ref });
      const announced: number = answer['maxChunkBytes'] ?? 0;
      if (announced < leastChunk) throw new TransferError(status.INTERNAL, `the server breaks the protocol: it announces chunks of ${announced} bytes`);
      return { maxChunkBytes: Math.min(announced, largestChunk), maxWriteBytes: answer['maxWriteBytes'] ?? 0 };
    } catch (error) {
      if (error instanceof TransferError && error.isMissingMethod) return undefined;
      throw error;
    }
  }

  /** Uploads a file: a small one by one call if the server has it, another by a stream that can be resumed. */
  async upload(local: string, remote: string, options: UploadOptions = {}): Promise<UploadResult> {
    const source = await fileSource(local);
    try {
      const capabilities = await this.capabilities();
      const small = source.size <= Math.min(smallFile, capabilities?.maxWriteBytes ?? 0) && options.uploadId === undefined;
      return (small ? await this.#write(source, remote, options) : undefined) ?? (await new Upload(this, source, remote, options, capabilities).run());
    } finally {
      await source.close();
    }
  }

  /** WriteFile; undefined if the server does not have it, which is remembered (UPL-58). */
  async #write(source: Source, remote: string, options: UploadOptions): Promise<UploadResult | undefined> {
    const { connection } = this.calls;
    if (!connection.hasWriteFile) return undefined;
    const content = await source.read(0, source.size);
    const digest = { algorithm: sha256, value: await digestOf(source) };
    const metadata = { ...uploadFields(options), sandboxId: this.sandboxId, remotePath: remote, sizeBytes: content.length, requestId: randomUUID() };
    let lost = false;
    try {
      // Repeating the request with its request_id gives the same answer (RSM-6).
      const answer = await this.retrying(async () => {
        try {
          return await this.calls.unary('WriteFile', { metadata, content, crc32c: crc32c(content), digest });
        } catch (error) {
          lost ||= !isRefusal(transferError(error));
          throw error;
        }
      });
      return uploadResult({ ...answer, bytesWritten: answer['file']?.sizeBytes ?? 0 }, content.length, digest.value);
    } catch (error) {
      if (!(error instanceof TransferError) || !error.isMissingMethod) throw error instanceof TransferError && lost ? error.withUnknownOutcome() : error;
      connection.hasWriteFile = false;
      return undefined;
    }
  }

  download(remote: string, local: string, options: DownloadOptions = {}): Promise<DownloadResult> {
    return downloadTo(this, remote, local, options);
  }

  async stat(remote: string): Promise<Fields> {
    const request = { sandbox: this.ref, remotePath: remote, includeDigest: true, acceptedDigests: [sha256] };
    return (await this.retrying(() => this.calls.unary('StatFile', request)))['file'] ?? {};
  }

  /** Repeats `attempt` as its errors allow (ERR-1 to ERR-6). `progress` grows while the attempts are of use. */
  async retrying<T>(attempt: () => Promise<T>, { restart = false, progress = (): number => 0 } = {}): Promise<T> {
    const attempts = this.calls.limits.attempts ?? 5;
    let best = progress();
    let failures = 0;
    let tokenReplaced = false;
    for (;;) {
      try {
        this.calls.check();
        return await attempt();
      } catch (thrown) {
        const error = transferError(thrown);
        if (progress() > best) [best, failures, tokenReplaced] = [progress(), 0, false];
        failures += 1;
        const freshToken: boolean = error.code === status.UNAUTHENTICATED && this.calls.connection.access.tokenFile !== undefined && !tokenReplaced;
        const repeat = freshToken || error.retry === 'again' || error.retry === 'later' || (error.retry === 'restart' && restart);
        const pause = error.retryAfter ?? (error.retry === 'later' ? Math.min(2, 0.05 * 2 ** failures) : 0.02 * (failures - 1));
        if (!repeat || failures >= attempts || pause > longestPause || pause * 1000 > this.calls.remainingMs) throw error;
        tokenReplaced ||= freshToken;
        await this.pause(pause);
      }
    }
  }

  pause(seconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.calls.limits.signal?.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}
