// The answer to GetTransferCapabilities, from the settings and the supervisor's hello (CAP-1 ff.).
import { duration } from './sessions.ts';
import type { Settings } from './settings.ts';
import { mutant, type Fields } from './wire.ts';

const seconds = (value: Fields | undefined): number => Number(value?.['seconds'] ?? 0) + Number(value?.['nanos'] ?? 0) / 1e9;

/** The stricter limit; one that the hello does not announce, or announces below `least`, is ours (CAP-9, CAP-14). */
function stricter(ours: number, announced: number, least: number): number {
  return announced >= least && mutant !== 'own-limits' ? Math.min(ours, announced) : ours;
}

export function capabilities(settings: Settings, hello: Fields, concurrentTransfers: number): Fields {
  const files: Fields = hello['fileTransfer'];
  const limit = (name: string) => Number(files[name] ?? 0);
  return {
    maxChunkBytes: stricter(settings.maxChunkBytes, limit('maxChunkBytes'), 256 * 1024),
    maxFileBytes: stricter(settings.maxFileBytes, limit('maxFileBytes'), 1),
    idleTimeout: duration(stricter(settings.idleTimeout, seconds(files['idleTimeout']), 1)),
    uploadExpiry: duration(stricter(settings.uploadExpiry, seconds(files['uploadExpiry']), 1)),
    maxUploadsPerSandbox: stricter(settings.maxUploadsPerSandbox, limit('maxUploadsPerSandbox'), 1),
    maxUploadsPerPrincipal: stricter(settings.maxUploadsPerPrincipal, limit('maxUploadsPerPrincipal'), 1),
    maxConcurrentTransfers: concurrentTransfers,
    maxWriteBytes: 1024 * 1024 - 16 * 1024,
    digests: digests(settings, files['digests'] ?? []),
  };
}

function digests(settings: Settings, announced: number[]): number[] {
  if (announced.length === 0) return [1];
  return [...new Set(announced.slice(0, 16))].filter((algorithm) => settings.digests.includes(algorithm));
}
