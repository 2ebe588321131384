// What an upload reads.
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';

export interface Source {
  size: number;
  read(offset: number, length: number): Promise<Buffer>;
  close(): Promise<void>;
}

export async function fileSource(path: string): Promise<Source> {
  const file = await open(path);
  const { size } = await file.stat();
  const read = async (offset: number, length: number): Promise<Buffer> => {
    const buffer = Buffer.alloc(length);
    let filled = 0;
    while (filled < length) {
      const { bytesRead } = await file.read(buffer, filled, length - filled, offset + filled);
      if (bytesRead === 0) throw new Error(`${path} became shorter`);
      filled += bytesRead;
    }
    return buffer;
  };
  return { size, read, close: () => file.close() };
}

/** SHA-256 of the first bytes of a source. */
export async function digestOf(source: Source, length = source.size): Promise<Buffer> {
  const hash = createHash('sha256');
  for (let offset = 0; offset < length; offset += blockBytes) hash.update(await source.read(offset, Math.min(blockBytes, length - offset)));
  return hash.digest();
}

const blockBytes = 1024 * 1024;
