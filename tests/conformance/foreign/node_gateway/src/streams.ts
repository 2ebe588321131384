// Streams of grpc-js with the two things that a relay needs: waiting writes, and the true end of a peer's stream.
import type { ServerDuplexStream, ServerReadableStream, ServerWritableStream } from '@grpc/grpc-js';

type Readable = ServerReadableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>;
type Writable = ServerWritableStream<Buffer, Buffer> | ServerDuplexStream<Buffer, Buffer>;
export type Cancellable = { cancelled: boolean; on(event: 'cancelled', listener: () => void): unknown };

/** A promise that others settle. */
export class Deferred<T> {
  readonly promise: Promise<T>;
  resolve!: (value: T) => void;
  reject!: (error: unknown) => void;

  constructor() {
    this.promise = new Promise<T>((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.promise.catch(() => {});
  }
}

/** Is fulfilled when the peer cancels, disconnects or passes its deadline. */
export function cancellation(call: Cancellable): Promise<void> {
  return new Promise((resolve) => {
    if (call.cancelled) resolve();
    call.on('cancelled', () => resolve());
  });
}

/** Calls `onMessage` for each message, one after the other. Is fulfilled at the end of the peer's stream. */
export function readAll(call: Readable, onMessage: (message: Buffer) => Promise<void> | void): Promise<void> {
  return new Promise((resolve, reject) => {
    let chain = Promise.resolve();
    call.on('data', (message: Buffer) => {
      const taken = onMessage(message);
      if (taken === undefined) return;
      call.pause();
      chain = taken.then(() => void call.resume());
      chain.catch(reject);
    });
    call.on('end', () => void chain.then(resolve, reject));
    call.on('error', reject);
  });
}

/** Writes, and waits while the peer does not read. Is fulfilled at once if the stream is over. */
export async function write(call: Writable, message: Buffer): Promise<void> {
  if (call.cancelled || call.destroyed || call.writableEnded || call.write(message)) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      call.off('drain', done);
      call.off('cancelled', done);
      call.off('close', done);
      resolve();
    };
    call.on('drain', done);
    call.on('cancelled', done);
    call.on('close', done);
  });
}

export const delay = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** The result of the promise, or `late()` thrown after the time. */
export async function within<T>(seconds: number, promise: Promise<T>, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(late()), seconds * 1000);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
