// A download: every chunk, the trailer and the digest are compared before the file gets its name (DWN-10).
import { status } from '@grpc/grpc-js';
import { createHash, randomUUID } from 'node:crypto';
import { open, rename, rm, utimes, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { sha256, type SandboxFiles } from './client.ts';
import { brokenProtocol, TransferError } from './errors.ts';
import { crc32c, mutant, type Fields } from './wire.ts';

export interface DownloadOptions {
  offset?: number | undefined;
  length?: number | undefined;
  tailBytes?: number | undefined;
  ifVersion?: string | undefined;
}

export interface DownloadResult {
  bytes: number;
  digest: string | undefined;
  mode: number;
  version: string | undefined;
}

/** Downloads beside `local`, and renames the file once it is whole. */
export async function downloadTo(files: SandboxFiles, remote: string, local: string, options: DownloadOptions): Promise<DownloadResult> {
  const capabilities = await files.capabilities();
  const part = join(dirname(local), `.${basename(local)}.${randomUUID()}.part`);
  const file = await open(part, 'wx', 0o600);
  try {
    const result = capabilities === undefined ? await rfcDownload(files, remote, file) : await new Download(files, remote, file, options).run();
    await file.chmod(result.mode & 0o777 || 0o600);
    await file.sync();
    await file.close();
    const { seconds = 0, nanos = 0 } = result.modified ?? {};
    if (result.modified !== undefined) await utimes(part, Number(seconds) + nanos / 1e9, Number(seconds) + nanos / 1e9);
    await rename(part, local);
    return result;
  } catch (error) {
    await file.close().catch(() => {});
    await rm(part, { force: true });
    throw error;
  }
}

type Received = DownloadResult & { modified: Fields | undefined };

class Download {
  #files: SandboxFiles;
  #remote: string;
  #file: FileHandle;
  #options: DownloadOptions;
  #hash = newHash();
  /** Offset in the remote file of the first byte, and of the one after the last byte that was verified. */
  #start: number | undefined;
  #position = 0;
  #version: string | undefined;

  constructor(files: SandboxFiles, remote: string, file: FileHandle, options: DownloadOptions) {
    this.#files = files;
    this.#remote = remote;
    this.#file = file;
    this.#options = options;
  }

  run(): Promise<Received> {
    return this.#files.retrying(() => this.#attempt(), { restart: this.#options.ifVersion === undefined, progress: () => this.#position });
  }

  async #attempt(): Promise<Received> {
    try {
      return await this.#receive();
    } catch (error) {
      if (error instanceof TransferError && error.retry === 'restart') await this.#restart();
      throw error;
    }
  }

  async #restart(): Promise<void> {
    [this.#start, this.#position, this.#version, this.#hash] = [undefined, 0, undefined, newHash()];
    await this.#file.truncate(0);
  }

  async #receive(): Promise<Received> {
    const { header, messages } = await this.#open();
    const attempt = newHash();
    const first = this.#position;
    let trailer: Fields | undefined;
    for await (const message of messages) {
      if (trailer !== undefined) throw brokenProtocol('a message after the trailer', 'again');
      if (message['data'] !== undefined) await this.#take(message['data'], attempt);
      else if (message['trailer'] !== undefined) trailer = message['trailer'] as Fields;
      else if (message['header'] !== undefined || message['chunk'] !== undefined) throw brokenProtocol('an unchecked message');
    }
    if (trailer === undefined && mutant === 'no-trailer') trailer = { endOffset: this.#position, digest: { algorithm: sha256, value: attempt.copy().digest() } };
    if (trailer === undefined) throw brokenProtocol('the download ended without its trailer', 'again');
    const size = Number(header['sizeBytes'] ?? 0);
    if (Number(trailer['endOffset'] ?? 0) !== this.#position) throw brokenProtocol('the trailer names another end', 'restart');
    const value: Buffer = trailer['digest']?.value ?? Buffer.alloc(0);
    if (trailer['digest']?.algorithm !== sha256 || !attempt.digest().equals(value)) {
      throw new TransferError(status.DATA_LOSS, 'the digest of the content differs from that of the trailer', { reason: 'DIGEST_MISMATCH' });
    }
    this.#checkRange(size, trailer['changed'] === true);
    if (this.#start === first && trailer['wholeFile'] === true && size !== this.#position - first && trailer['changed'] !== true) {
      throw brokenProtocol('the file has another size than its header says', 'restart');
    }
    await this.#file.truncate(this.#position - this.#start!);
    return {
      bytes: this.#position - this.#start!,
      digest: this.#hash.digest('hex'),
      mode: header['mode'] ?? 0,
      version: this.#version,
      modified: header['file']?.modifiedTime,
    };
  }

  async #open(): Promise<{ header: Fields; messages: AsyncGenerator<Fields> }> {
    const { offset, length, tailBytes, ifVersion } = this.#options;
    const done = this.#start === undefined ? 0 : this.#position - this.#start;
    const resumed = this.#start !== undefined && done > 0;
    const messages = this.#files.calls.download({
      sandboxId: this.#files.sandboxId,
      remotePath: this.#remote,
      checked: true,
      acceptedDigests: [sha256],
      ifVersion: ifVersion ?? (resumed ? this.#version : '') ?? '',
      ...(resumed ? { offset: this.#position } : tailBytes === undefined ? { offset: offset ?? 0 } : { tailBytes }),
      ...(length === undefined ? {} : { length: length - done }),
    });
    const first = await messages.next();
    const header: Fields | undefined = first.done === true ? undefined : first.value['header'];
    if (header === undefined) throw brokenProtocol('a download begins with its header', first.done === true ? 'again' : 'never');
    const at = Number(header['startOffset'] ?? 0);
    if (resumed ? at !== this.#position : tailBytes === undefined && at !== (offset ?? 0)) throw brokenProtocol('the range begins elsewhere');
    if (header['digestAlgorithm'] !== sha256) throw brokenProtocol('the header names no algorithm, or another one');
    if (resumed && header['file']?.version !== this.#version) throw new TransferError(status.FAILED_PRECONDITION, 'the file is another version', { reason: 'VERSION_MISMATCH' });
    if (!resumed) [this.#start, this.#position, this.#version] = [at, at, header['file']?.version];
    return { header, messages };
  }

  async #take(chunk: Fields, attempt: ReturnType<typeof newHash>): Promise<void> {
    const data: Buffer = chunk['data'] ?? Buffer.alloc(0);
    const hole = Number(chunk['holeBytes'] ?? 0);
    if (Number(chunk['offset'] ?? 0) !== this.#position) throw brokenProtocol('a chunk at another offset', 'again');
    if ((data.length > 0) === hole > 0) throw brokenProtocol('a chunk with both content and a hole, or neither');
    if (data.length > 0 && crc32c(data) !== (chunk['crc32c'] ?? 0)) {
      throw new TransferError(status.DATA_LOSS, 'the CRC-32C of a chunk differs', { reason: 'CHUNK_CHECKSUM' });
    }
    const place = this.#position - this.#start!;
    if (hole > 0) await this.#file.truncate(place + hole);
    else await this.#file.write(data, 0, data.length, place);
    for (const hash of [attempt, this.#hash]) {
      hash.update(data);
      for (let left = hole; left > 0; left -= zeros.length) hash.update(zeros.subarray(0, Math.min(left, zeros.length)));
    }
    this.#position += data.length + hole;
    this.#files.calls.check();
  }

  /** The range that was asked for has arrived, up to the end of the file. */
  #checkRange(size: number, changed: boolean): void {
    const { length, tailBytes } = this.#options;
    const end = Math.min(size, length === undefined ? size : this.#start! + length);
    const start = tailBytes === undefined ? this.#start! : Math.max(0, size - tailBytes);
    if (!changed && (this.#position !== end || this.#start !== start)) throw brokenProtocol('another range than was asked for', 'restart');
  }
}

const newHash = () => createHash('sha256');
const zeros = Buffer.alloc(1024 * 1024);

/** From a server of the RFC alone: the size in the header is all there is to compare. */
async function rfcDownload(files: SandboxFiles, remote: string, file: FileHandle): Promise<Received> {
  const receive = async (): Promise<Received> => {
    let header: Fields | undefined;
    let bytes = 0;
    await file.truncate(0);
    for await (const message of files.calls.download({ sandboxId: files.sandboxId, remotePath: remote })) {
      if (header === undefined && message['header'] === undefined) throw brokenProtocol('a download begins with its header');
      header ??= message['header'] as Fields;
      const chunk: Buffer = message['chunk'] ?? Buffer.alloc(0);
      await file.write(chunk, 0, chunk.length, bytes);
      bytes += chunk.length;
      files.calls.check();
    }
    if (bytes !== Number(header?.['sizeBytes'] ?? -1)) throw brokenProtocol(`${bytes} bytes came of ${header?.['sizeBytes'] ?? 0}`, 'again');
    return { bytes, digest: undefined, mode: header?.['mode'] ?? 0, version: undefined, modified: undefined };
  };
  return files.retrying(receive, { restart: true });
}
