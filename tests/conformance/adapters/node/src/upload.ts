// An upload: named by StartUpload, sent in checked chunks, resumed after a loss, and published by an explicit finish.
import { status } from '@grpc/grpc-js';
import { randomUUID } from 'node:crypto';
import type { Capabilities } from './calls.ts';
import { leastChunk, sha256, type SandboxFiles } from './client.ts';
import { TransferError, transferError } from './errors.ts';
import { digestOf, type Source } from './sources.ts';
import { crc32c, mutant, type Fields } from './wire.ts';

export interface UploadOptions {
  mode?: number | undefined;
  parents?: boolean | undefined;
  durability?: number | undefined;
  condition?: Fields | undefined;
  modifiedTime?: Fields | undefined;
  /** Of an earlier upload, to go on with. */
  uploadId?: string | undefined;
}

export interface UploadResult {
  bytes: number;
  digest: string | undefined;
  version: string | undefined;
}

/** UploadState. */
const state = { receiving: 1, verifying: 2, published: 3, aborted: 4, expired: 5 };

/** Questions about an upload that is being verified, in about three minutes. */
const verifyingPolls = 100;

export class Upload {
  #files: SandboxFiles;
  #source: Source;
  #remote: string;
  #options: UploadOptions;
  #capabilities: Capabilities | undefined;
  #digest: Buffer = Buffer.alloc(0);
  #requestId: string | undefined;
  #uploadId: string | undefined;
  #staged = 0;
  /** A finish was sent, and its outcome is not known yet. */
  #finishLost = false;

  constructor(files: SandboxFiles, source: Source, remote: string, options: UploadOptions, capabilities: Capabilities | undefined) {
    this.#files = files;
    this.#source = source;
    this.#remote = remote;
    this.#options = options;
    this.#capabilities = capabilities;
    this.#uploadId = options.uploadId;
    if (options.uploadId === undefined) this.#requestId = randomUUID();
  }

  async run(): Promise<UploadResult> {
    if (this.#capabilities === undefined) return this.#rfcUpload();
    this.#digest = await digestOf(this.#source);
    let answer: Fields;
    try {
      answer = await this.#files.retrying(() => this.#attempt(), { progress: () => this.#staged, restart: this.#options.uploadId === undefined });
    } catch (error) {
      answer = await this.#giveUp(error);
    }
    return uploadResult(answer, this.#source.size, this.#digest);
  }

  async #attempt(): Promise<Fields> {
    try {
      const published = this.#finishLost ? await this.#outcome() : undefined;
      if (published !== undefined) return published;
      const upload = await this.#start();
      if (upload['state'] === state.published) return upload['result'] ?? {};
      return await this.#stream(upload);
    } catch (thrown) {
      const error = thrown instanceof Error && !('code' in thrown) ? thrown : transferError(thrown);
      if (!(error instanceof TransferError)) throw error;
      if (error.reason === 'CHUNK_TOO_LARGE') return this.#smallerChunks(error);
      if (error.retry === 'restart' && !this.#finishLost) this.#renew();
      throw error;
    }
  }

  /** The limit may have changed (CAP-6); every server takes the least (UPL-6). */
  async #smallerChunks(error: TransferError): Promise<Fields> {
    if (this.#capabilities!.maxChunkBytes <= leastChunk) throw error;
    this.#capabilities = { ...this.#capabilities!, maxChunkBytes: leastChunk };
    this.#files.calls.connection.capabilities = undefined;
    return this.#attempt();
  }

  /** StartUpload, until the staged bytes are a prefix of the source (RSM-4, RSM-15, RSM-16). */
  async #start(): Promise<Fields> {
    const { upload = {} } = await this.#files.calls.unary('StartUpload', {
      metadata: { ...this.#metadata(), uploadId: this.#uploadId ?? '' },
      digest: { algorithm: sha256, value: this.#digest },
    });
    this.#uploadId = upload['uploadId'];
    if (upload['state'] === state.published) return upload;
    if (upload['state'] !== state.receiving && upload['state'] !== state.verifying) throw endedInSandbox(upload);
    const staged = Number(upload['stagedBytes'] ?? 0);
    if (staged === 0) return upload;
    const prefix = staged <= this.#source.size ? await digestOf(this.#source, staged) : undefined;
    if (mutant === 'unread-prefix' || prefix?.equals(upload['stagedDigest']?.value ?? Buffer.alloc(0))) return upload;
    await this.#abort();
    this.#renew();
    return this.#start();
  }

  async #stream(upload: Fields): Promise<Fields> {
    const size = this.#source.size;
    const staged = Number(upload['stagedBytes'] ?? 0);
    const chunk = this.#capabilities!.maxChunkBytes;
    const call = this.#files.calls.upload();
    try {
      await call.send({ metadata: { ...this.#metadata(), uploadId: this.#uploadId, epoch: upload['epoch'] ?? 0 } });
      this.#staged = Math.max(this.#staged, staged);
      for (let offset = staged; offset < size; offset += chunk) {
        const data = await this.#source.read(offset, Math.min(chunk, size - offset));
        await call.send({ data: { offset, data, crc32c: crc32c(data) } });
        this.#files.calls.check();
      }
      this.#finishLost = true;
      await call.send({ finish: { sizeBytes: size, digest: { algorithm: sha256, value: this.#digest } } });
      call.end();
      const answer = await call.answer;
      this.#finishLost = false;
      return answer;
    } catch (error) {
      call.cancel();
      // A refused finish is no loss: the outcome is known (RSM-25).
      if (error instanceof TransferError && isRefusal(error)) this.#finishLost = false;
      throw error;
    }
  }

  /** The answer to a finish that was lost; undefined if it has not been carried out (RSM-25, RSM-38). */
  async #outcome(): Promise<Fields | undefined> {
    for (let polls = 0; polls < verifyingPolls; polls++) {
      const { upload = {} } = await this.#files.calls.unary('GetUpload', { sandbox: this.#files.ref, uploadId: this.#uploadId });
      if (upload['state'] === state.receiving) return undefined;
      if (upload['state'] !== state.verifying) return this.#final(upload);
      await this.#files.pause(Math.min(2, 0.02 * 1.2 ** polls));
    }
    throw new TransferError(status.UNAVAILABLE, 'the sandbox verifies the upload for too long', { retry: 'never' });
  }

  /** The answer of a published upload. Throws if it was not published, or nobody can tell. */
  #final(upload: Fields): Fields {
    if (upload['state'] === state.published) {
      this.#finishLost = false;
      return upload['result'] ?? {};
    }
    if (upload['state'] === state.aborted || upload['state'] === state.expired) this.#finishLost = false;
    throw endedInSandbox(upload);
  }

  /** The next attempt is a new upload. */
  #renew(): void {
    this.#uploadId = undefined;
    this.#requestId = randomUUID();
  }

  /** After the last try: what a later run can resume is named, and the rest is freed (RSM-37). */
  async #giveUp(error: unknown): Promise<Fields> {
    const failure = error instanceof TransferError ? error : undefined;
    const resumable = failure !== undefined && failure.code !== status.CANCELLED && (failure.retry === 'again' || failure.retry === 'later');
    if (!resumable && this.#uploadId !== undefined && failure?.reason !== 'SUPERSEDED') {
      const upload = await this.#abort();
      if (upload !== undefined && this.#finishLost && upload['state'] === state.published) return this.#final(upload);
      if (upload?.['state'] === state.aborted || upload?.['state'] === state.expired) this.#finishLost = false;
    }
    if (failure === undefined) throw error;
    throw Object.assign(this.#finishLost ? failure.withUnknownOutcome() : failure, resumable ? { uploadId: this.#uploadId } : {});
  }

  /** The upload's state after AbortUpload, which is final; undefined if there was no answer. */
  async #abort(): Promise<Fields | undefined> {
    if (this.#uploadId === undefined) return undefined;
    return this.#files.calls.detached('AbortUpload', { sandbox: this.#files.ref, uploadId: this.#uploadId }).then((answer) => answer['upload'], () => undefined);
  }

  #metadata(): Fields {
    const named = { sandboxId: this.#files.sandboxId, remotePath: this.#remote, sizeBytes: this.#source.size };
    return { ...uploadFields(this.#options), ...named, explicitFinish: true, requestId: this.#requestId ?? '' };
  }

  /** To a server of the RFC alone: fields 1 to 5, and the half-close is the finish (RFC-2). */
  async #rfcUpload(): Promise<UploadResult> {
    const call = this.#files.calls.upload();
    try {
      const size = this.#source.size;
      await call.send({ metadata: { sandboxId: this.#files.sandboxId, remotePath: this.#remote, sizeBytes: size, mode: this.#options.mode ?? 0 } });
      for (let offset = 0; offset < size; offset += leastChunk) {
        await call.send({ chunk: await this.#source.read(offset, Math.min(leastChunk, size - offset)) });
        this.#files.calls.check();
      }
      call.end();
      return uploadResult(await call.answer, size, undefined);
    } catch (error) {
      call.cancel();
      throw error;
    }
  }
}

/** Attributes of an upload in its metadata. */
export function uploadFields({ mode, parents, durability, condition, modifiedTime }: UploadOptions): Fields {
  return {
    mode: mode ?? 0,
    parents: parents === true ? 2 : 0,
    durability: durability ?? 0,
    acceptedDigests: [sha256],
    ...(condition === undefined ? {} : { condition }),
    ...(modifiedTime === undefined ? {} : { modifiedTime }),
  };
}

/** The answer, if it reports the content that was sent (UPL-44, UPL-62). */
export function uploadResult(answer: Fields, size: number, digest: Buffer | undefined): UploadResult {
  const reported: Fields | undefined = answer['file']?.digest;
  const same = digest === undefined || (reported?.['algorithm'] === sha256 && digest.equals(reported['value'] ?? Buffer.alloc(0)));
  if (Number(answer['bytesWritten'] ?? 0) !== size || !same) {
    throw new TransferError(status.DATA_LOSS, 'the answer is about another content than was sent', { retry: 'never' }).withUnknownOutcome();
  }
  return { bytes: size, digest: digest?.toString('hex'), version: answer['file']?.version };
}

/** An answer of the sandbox to the finish itself, and not the loss of one (RSM-25). */
export function isRefusal(error: TransferError): boolean {
  return error.reason !== undefined && (error.retry === 'restart' || error.retry === 'never') && !unclear.has(error.reason);
}

const unclear = new Set(['INTERNAL', 'AGENT_PROTOCOL_ERROR', 'SUPERSEDED', 'UPLOAD_UNKNOWN', 'FINISH_CONFLICT', 'UPLOAD_CONFLICT']);

function endedInSandbox(upload: Fields): TransferError {
  const reason: string = upload['failureReason'] || (upload['state'] === state.expired ? 'UPLOAD_EXPIRED' : 'UPLOAD_ABORTED');
  const known = upload['state'] === state.aborted || upload['state'] === state.expired;
  if (!known) return new TransferError(status.INTERNAL, `the upload is in the state ${upload['state'] ?? 0}, which is not known here`);
  return new TransferError(status.ABORTED, `the upload ended in the sandbox without being published: ${reason}`, { reason, retry: 'never' });
}
