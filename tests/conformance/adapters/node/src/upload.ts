// An upload: named by StartUpload, sent in checked chunks, resumed after a loss, and published by an explicit finish.
import { randomUUID } from 'node:crypto';
import { leastChunk, sha256, uploadFields, uploadResult, type Capabilities, type SandboxFiles } from './client.ts';
import { TransferError, transferError } from './errors.ts';
import { digestOf, type Source } from './sources.ts';
import { crc32c, type Fields } from './wire.ts';

export interface UploadOptions {
  mode?: number | undefined;
  parents?: boolean | undefined;
  leafLink?: number | undefined;
  durability?: number | undefined;
  condition?: Fields | undefined;
  modifiedTime?: Fields | undefined;
  keepReadOnly?: boolean | undefined;
  /** Names the upload, so that another run can resume it. Without one, an upload that is given up is aborted. */
  requestId?: string | undefined;
  chunkBytes?: number | undefined;
}

export interface UploadResult {
  bytes: number;
  path: string | undefined;
  digest: string | undefined;
  durability: number | undefined;
  replayed: boolean;
  alreadyIdentical: boolean;
  resumedFrom: number;
}

/** UploadState. */
const state = { published: 3, aborted: 4, expired: 5 };

export class Upload {
  #files: SandboxFiles;
  #source: Source;
  #remote: string;
  #options: UploadOptions;
  #digest: Buffer = Buffer.alloc(0);
  #requestId: string;
  #uploadId: string | undefined;
  #staged = 0;
  #finishSent = false;

  constructor(files: SandboxFiles, source: Source, remote: string, options: UploadOptions) {
    this.#files = files;
    this.#source = source;
    this.#remote = remote;
    this.#options = options;
    this.#requestId = options.requestId ?? randomUUID();
  }

  async run(): Promise<UploadResult> {
    const capabilities = await this.#files.retrying(() => this.#files.capabilities());
    if (capabilities === undefined) return this.#rfcUpload();
    this.#digest = await digestOf(this.#source);
    try {
      const answer = await this.#files.retrying(() => this.#attempt(capabilities), { progress: () => this.#staged, restart: true });
      return uploadResult(answer, this.#source.size, this.#digest);
    } catch (error) {
      await this.#giveUp();
      throw error;
    }
  }

  async #attempt(capabilities: Capabilities): Promise<Fields> {
    this.#files.attempts += 1;
    try {
      if (this.#finishSent) {
        const published = await this.#outcome();
        if (published !== undefined) return published;
      }
      const upload = await this.#start();
      if (upload['state'] === state.published) return upload['result'] ?? {};
      return await this.#stream(upload, capabilities);
    } catch (thrown) {
      const error = transferError(thrown);
      if (error.reason === 'CHUNK_TOO_LARGE') this.#files.forgetCapabilities();
      const fresh = error.retry === 'restart' && (!this.#finishSent || isRefusal(error));
      if (fresh) this.#renew();
      throw error;
    }
  }

  /** StartUpload, until the staged bytes are a prefix of the source (RSM-4, RSM-15, RSM-16). */
  async #start(): Promise<Fields> {
    const { upload = {} } = await this.#files.calls.unary('StartUpload', {
      metadata: { ...this.#metadata(), ...(this.#uploadId === undefined ? {} : { uploadId: this.#uploadId }) },
      digest: { algorithm: sha256, value: this.#digest },
    });
    this.#uploadId = upload['uploadId'];
    if (upload['state'] === state.aborted || upload['state'] === state.expired) {
      this.#renew();
      throw new TransferError(10, `the upload ended in the sandbox: ${upload['failureReason'] ?? ''}`, { reason: upload['failureReason'] || 'UPLOAD_ABORTED' });
    }
    const staged = Number(upload['stagedBytes'] ?? 0);
    if (upload['state'] === state.published || staged === 0) return upload;
    const prefix = staged <= this.#source.size ? await digestOf(this.#source, staged) : undefined;
    if (prefix?.equals(upload['stagedDigest']?.value ?? Buffer.alloc(0))) return upload;
    await this.#abort();
    this.#renew();
    return this.#start();
  }

  async #stream(upload: Fields, capabilities: Capabilities): Promise<Fields> {
    const size = this.#source.size;
    const staged = Number(upload['stagedBytes'] ?? 0);
    const chunk = Math.min(capabilities.maxChunkBytes, this.#options.chunkBytes ?? Infinity);
    const call = this.#files.calls.upload();
    try {
      await call.send({ metadata: { ...this.#metadata(), uploadId: this.#uploadId, epoch: upload['epoch'] } });
      this.#staged = Math.max(this.#staged, staged);
      for (let offset = staged; offset < size; offset += chunk) {
        const data = await this.#source.read(offset, Math.min(chunk, size - offset));
        await call.send({ data: { offset, data, crc32c: crc32c(data) } });
        this.#files.onBytes(data.length);
        this.#files.calls.check();
      }
      this.#finishSent = true;
      await call.send({ finish: { sizeBytes: size, digest: { algorithm: sha256, value: this.#digest } } });
      call.end();
      return await call.answer;
    } catch (error) {
      call.cancel();
      // A refused finish is no loss: the outcome is known (RSM-25).
      if (error instanceof TransferError && isRefusal(error)) this.#finishSent = false;
      throw error;
    }
  }

  /** The answer to a finish that was lost; undefined if it did not arrive (RSM-25, RSM-38). */
  async #outcome(): Promise<Fields | undefined> {
    const { upload = {} } = await this.#files.calls.unary('GetUpload', { sandbox: this.#files.ref, uploadId: this.#uploadId }).catch((thrown) => {
      const error = transferError(thrown);
      if (error.reason !== 'UPLOAD_UNKNOWN') throw error;
      throw new TransferError(error.code, 'the outcome of the upload is unknown: the sandbox does not know it', { reason: error.reason, retry: 'never' });
    });
    if (upload['state'] === state.published) return { ...upload['result'], replayed: true };
    if (upload['state'] !== state.aborted && upload['state'] !== state.expired) return undefined;
    const reason = upload['failureReason'] || 'UPLOAD_ABORTED';
    throw new TransferError(10, `not published: ${reason}`, { reason, retry: 'never' });
  }

  /** The next attempt is a new upload. */
  #renew(): void {
    this.#uploadId = undefined;
    this.#finishSent = false;
    this.#requestId = randomUUID();
  }

  /** Frees what is staged, unless another run may resume it (RSM-37). */
  async #giveUp(): Promise<void> {
    if (this.#options.requestId === undefined) await this.#abort();
  }

  async #abort(): Promise<void> {
    if (this.#uploadId === undefined) return;
    await this.#files.calls.detached('AbortUpload', { sandbox: this.#files.ref, uploadId: this.#uploadId }).catch(() => {});
  }

  #metadata(): Fields {
    const { size } = this.#source;
    return { ...this.#files.naming, ...uploadFields(this.#options), remotePath: this.#remote, sizeBytes: size, explicitFinish: true, requestId: this.#requestId };
  }

  /** To a server of the RFC alone: fields 1 to 5, and the half-close is the finish (RFC-2). */
  async #rfcUpload(): Promise<UploadResult> {
    const { id, name } = this.#files.sandbox;
    this.#files.attempts += 1;
    const call = this.#files.calls.upload();
    try {
      const size = this.#source.size;
      await call.send({ metadata: { sandboxId: id ?? name, remotePath: this.#remote, sizeBytes: size, mode: this.#options.mode ?? 0 } });
      const length = Math.min(leastChunk, this.#options.chunkBytes ?? leastChunk);
      for (let offset = 0; offset < size; offset += length) {
        const chunk = await this.#source.read(offset, Math.min(length, size - offset));
        await call.send({ chunk });
        this.#files.onBytes(chunk.length);
        this.#files.calls.check();
      }
      call.end();
      return uploadResult(await call.answer, size, undefined);
    } catch (error) {
      call.cancel();
      throw Object.assign(transferError(error), { attempts: this.#files.attempts });
    }
  }
}

/** An answer of the sandbox to the finish itself, and not the loss of one. */
function isRefusal(error: TransferError): boolean {
  return error.reason !== undefined && (error.retry === 'restart' || error.retry === 'never') && !unclear.has(error.reason);
}

const unclear = new Set(['INTERNAL', 'AGENT_PROTOCOL_ERROR', 'SUPERSEDED', 'UPLOAD_UNKNOWN', 'FINISH_CONFLICT', 'UPLOAD_CONFLICT']);
