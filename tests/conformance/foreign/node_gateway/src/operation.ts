// One file operation over a relay: the caller's messages in, the agent's frames out (FRM-1 ff.).
import { filesUnsupported, type Relay } from './sessions.ts';
import { invalid, Refusal, refusalOfAgent } from './errors.ts';
import { cancellation, Deferred, delay, readAll, write } from './streams.ts';
import { FrameReader, lengthDelimited, message, mutant, rawFields, SshServer, varint, type Fields } from './wire.ts';

const RelayFrame = message('RelayFrame');
const FileRelayOpen = message('FileRelayOpen');
const FileRelayInputEnd = message('FileRelayInputEnd');
const FileRelayError = message('FileRelayError');

/** Fields of FileRelayRequest and FileRelayResponse. */
const toAgent = { open: 1, upload: 2, inputEnd: 3 };
const fromAgent = { accepted: 1, download: 2, downloadEnd: 3, working: 10, error: 15 };

/** Content is cut into pieces that any peer takes, however long a frame is. */
const maxPiece = 256 * 1024;
const maxFrame = 1024 * 1024 + 64;

/** An agent that reads nothing may take this long to read that the operation is over. */
const lastWords = 2;

export interface Operation {
  /** Fields 1 to 7 of FileRelayOpen. */
  open: Fields;
  /** The field of the operation in FileRelayOpen, and the caller's first message as it came. */
  requestField: number;
  request: Buffer;
  /** The field of the result in FileRelayResponse. */
  resultField: number;
  idleTimeout: number;
  callerLeft: Promise<void>;
  /** Takes a message of a download, and waits while the caller does not read. */
  forward?: (message: Buffer) => Promise<void>;
}

export class RunningOperation {
  #operation: Operation;
  #relay: Relay;
  #outcome = new Deferred<Buffer>();
  #frames = new FrameReader();
  #over = false;
  #moved = performance.now();
  #writes: Promise<void> = Promise.resolve();

  constructor(operation: Operation, relay: Relay) {
    this.#operation = operation;
    this.#relay = relay;
    const { requestField, request, open } = operation;
    const first = Buffer.concat([FileRelayOpen.encode(open), lengthDelimited(requestField, request)]);
    if (first.length + 8 > maxFrame) this.#end(invalid('', 'the first message is too large'));
    void this.#send(toAgent.open, first);
    const input = readAll(relay.stream, (bytes) => this.#take(bytes));
    input.then(() => this.#end(new Refusal('RELAY_LOST', 'the relay ended before the operation')), (error) => this.#end(error));
    void cancellation(relay.stream).then(() => this.#end(new Refusal('RELAY_LOST', 'the relay broke')));
    void operation.callerLeft.then(() => (mutant === 'reset-is-end' ? this.inputEnd() : this.#end(new Refusal('UPLOAD_INCOMPLETE', 'the caller left'))));
    relay.stream.resume();
  }

  /** The caller's next message, as it came (FRM-4). Waits while the agent does not read. */
  async pass(bytes: Buffer): Promise<void> {
    this.#moved = performance.now();
    await this.#send(toAgent.upload, bytes);
    this.#moved = performance.now();
  }

  /** The caller's stream is over (FRM-6). */
  inputEnd(): void {
    this.#moved = performance.now();
    void this.#send(toAgent.inputEnd, FileRelayInputEnd.encode({}));
  }

  fail(error: unknown): void {
    this.#end(error);
  }

  /** The result's message. Throws a Refusal if the operation fails; the relay is over then. */
  async result(): Promise<Buffer> {
    const watch = setInterval(() => {
      if (performance.now() - this.#moved > this.#operation.idleTimeout * 1000) this.#end(new Refusal('TRANSFER_IDLE', 'nothing moved'));
    }, Math.max(10, this.#operation.idleTimeout * 50));
    try {
      return await this.#outcome.promise;
    } finally {
      clearInterval(watch);
      void Promise.race([this.#writes, delay(lastWords)]).finally(() => this.#relay.over.resolve());
    }
  }

  async #send(field: number, payload: Buffer): Promise<void> {
    if (this.#over) return;
    const frame = lengthDelimited(field, payload);
    const bytes = Buffer.concat([varint(frame.length), frame]);
    for (let start = 0; start < bytes.length; start += maxPiece) {
      const piece = RelayFrame.encode({ data: bytes.subarray(start, start + maxPiece) });
      this.#writes = this.#writes.then(() => write(this.#relay.stream, piece));
    }
    await this.#writes;
  }

  /** Ends the operation; without an answer of the agent, it is told first (FRM-31). */
  #end(outcome: unknown): void {
    if (this.#over) return;
    const answered = Buffer.isBuffer(outcome);
    if (!answered && !this.#relay.stream.cancelled) void this.#send(toAgent.inputEnd, FileRelayInputEnd.encode({ cancelled: true }));
    this.#over = true;
    if (answered) this.#outcome.resolve(outcome);
    else this.#outcome.reject(outcome);
  }

  #take(bytes: Buffer): Promise<void> | void {
    if (this.#over) return;
    try {
      const payload = rawFields(bytes).findLast(({ number }) => number <= 2);
      const frames = payload?.number === 2 ? this.#frames.push(payload.value) : [];
      return this.#handle(frames.map((frame) => rawFields(frame).at(-1)));
    } catch (error) {
      this.#end(error instanceof SshServer ? filesUnsupported() : brokenBy('its bytes are no frames'));
    }
  }

  async #handle(frames: ({ number: number; value: Buffer } | undefined)[]): Promise<void> {
    for (const frame of frames) {
      if (this.#over) return;
      this.#moved = performance.now();
      const { forward, resultField } = this.#operation;
      if (frame?.number === fromAgent.error) this.#answer(() => refusalOfAgent(FileRelayError.decode(frame.value)));
      else if (frame?.number === fromAgent.working || frame?.number === fromAgent.accepted) continue;
      else if (frame?.number === fromAgent.download && forward !== undefined) {
        await forward(frame.value);
        this.#moved = performance.now();
      } else if (frame?.number === resultField) this.#end(frame.value);
      else this.#end(brokenBy(`an unexpected frame ${frame?.number ?? 'without content'}`));
    }
  }

  /** The agent's error is its last frame: it needs no cancellation. */
  #answer(refusal: () => Refusal): void {
    let outcome: Refusal;
    try {
      outcome = refusal();
    } catch {
      outcome = brokenBy('its error is no message');
    }
    this.#over = true;
    this.#outcome.reject(outcome);
  }
}

function brokenBy(what: string): Refusal {
  return new Refusal('AGENT_PROTOCOL_ERROR', `the file agent broke the protocol: ${what}`);
}
