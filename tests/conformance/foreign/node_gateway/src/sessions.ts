// Sessions of supervisors, and the relays that they open (RLY-1 ff.).
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { randomUUID } from 'node:crypto';
import { Refusal } from './errors.ts';
import type { SandboxSettings, Settings } from './settings.ts';
import { cancellation, Deferred, readAll, within, write } from './streams.ts';
import { message, type Fields } from './wire.ts';

export type RawDuplex = ServerDuplexStream<Buffer, Buffer>;

const SupervisorMessage = message('SupervisorMessage');
const GatewayMessage = message('GatewayMessage');
const RelayFrame = message('RelayFrame');

/** A relay that a supervisor has not claimed yet. */
interface Channel {
  id: string;
  transferId: string;
  claimed: Deferred<Relay>;
  sentTo: Session | undefined;
}

/** A claimed relay: the supervisor's RelayStream. */
export interface Relay {
  stream: RawDuplex;
  /** Is fulfilled when the operation needs the relay no more. */
  over: Deferred<void>;
}

export class Session {
  readonly stream: RawDuplex;
  readonly hello: Fields;
  readonly over = new Deferred<void>();

  constructor(stream: RawDuplex, hello: Fields) {
    this.stream = stream;
    this.hello = hello;
  }

  get epoch(): bigint {
    return BigInt(this.hello['connectionEpoch'] ?? 0);
  }

  send(fields: Fields): void {
    void write(this.stream, GatewayMessage.encode(fields));
  }
}

export class Sandbox {
  readonly settings: SandboxSettings;
  session: Session | undefined;
  #limits: Settings;
  #channels = new Map<string, Channel>();
  #arrivals = new Set<Deferred<Session>>();

  constructor(settings: SandboxSettings, limits: Settings) {
    this.settings = settings;
    this.#limits = limits;
  }

  /** The current session; waits a while for one. */
  async connected(): Promise<Session> {
    if (this.session !== undefined) return this.session;
    const arrival = new Deferred<Session>();
    this.#arrivals.add(arrival);
    try {
      return await within(this.#limits.sessionWait, arrival.promise, notConnected);
    } finally {
      this.#arrivals.delete(arrival);
    }
  }

  /** Serves ConnectSupervisor until the session ends (RLY-4, RLY-6, RLY-7). */
  async serve(stream: RawDuplex): Promise<void> {
    const first = new Deferred<Fields>();
    let onMessage: (fields: Fields) => void = first.resolve;
    let heard = performance.now();
    const ended = readAll(stream, (bytes) => {
      heard = performance.now();
      onMessage(SupervisorMessage.decode(bytes));
    });
    ended.then(() => first.reject(new Refusal('INVALID_REQUEST', 'the stream ended without a hello')), first.reject);
    const { hello } = await within(this.#limits.firstMessageTimeout, first.promise, () => new Refusal('TRANSFER_IDLE', 'no hello came'));
    if (hello === undefined) throw new Refusal('INVALID_REQUEST', 'the first message must be hello');
    if (hello['sandboxId'] !== this.settings.id) throw new Refusal('SANDBOX_MISMATCH', 'the hello names another sandbox than the token');

    const session = new Session(stream, hello);
    const older = this.session;
    if (older !== undefined && older.hello['instanceId'] === hello['instanceId'] && session.epoch < older.epoch) throw outdated();
    onMessage = (fields) => this.#take(fields);
    this.session = session;
    session.send({ sessionAccepted: { sessionId: randomUUID(), heartbeatInterval: duration(this.#limits.heartbeatInterval) } });
    older?.over.reject(outdated());
    for (const arrival of this.#arrivals) arrival.resolve(session);
    for (const channel of this.#channels.values()) this.#open(channel, session);

    const beat = setInterval(() => session.send({ heartbeat: {} }), this.#limits.heartbeatInterval * 1000);
    const watch = setInterval(() => {
      if (performance.now() - heard > this.#limits.silenceTimeout * 1000) session.over.reject(new Refusal('TRANSFER_IDLE', 'the supervisor is silent'));
    }, Math.max(20, this.#limits.silenceTimeout * 50));
    try {
      await Promise.race([session.over.promise, ended, cancellation(stream)]);
    } finally {
      clearInterval(beat);
      clearInterval(watch);
      if (this.session === session) this.session = undefined;
    }
  }

  #take(fields: Fields): void {
    const refused = fields['relayOpenResult'];
    if (refused !== undefined && refused['success'] !== true) this.#refuse(refused['channelId'], refused['error']);
    const closed = fields['relayClose'];
    if (closed !== undefined) this.#refuse(closed['channelId'], closed['reason']);
  }

  #refuse(channelId: string | undefined, words: string | undefined): void {
    const channel = this.#channels.get(channelId ?? '');
    channel?.claimed.reject(new Refusal('RELAY_REFUSED', `the supervisor refused the relay: ${words ?? ''}`, { retryAfter: 1 }));
  }

  #open(channel: Channel, session: Session): void {
    if (session.hello['fileTransfer'] === undefined) return channel.claimed.reject(filesUnsupported());
    channel.sentTo = session;
    session.send({ relayOpen: { channelId: channel.id, file: { transferId: channel.transferId } } });
  }

  /** A relay to the sandbox's file agent (RLY-1, RLY-14, RLY-17). */
  async openRelay(transferId: string, callerLeft: Promise<void>): Promise<Relay> {
    const session = await this.connected();
    if (session.hello['fileTransfer'] === undefined) throw filesUnsupported();
    const channel: Channel = { id: randomUUID(), transferId, claimed: new Deferred(), sentTo: undefined };
    this.#channels.set(channel.id, channel);
    void callerLeft.then(() => channel.claimed.reject(new Refusal('RELAY_REQUESTER_GONE', 'the caller left')));
    try {
      this.#open(channel, session);
      return await within(this.#limits.claimTimeout, channel.claimed.promise, () =>
        new Refusal('RELAY_TIMEOUT', 'the supervisor did not claim the relay', { retryAfter: 1 }));
    } finally {
      this.#channels.delete(channel.id);
    }
  }

  /** Gives the relay to the call that waits for it; a channel is claimed once (RLY-3). */
  claim(channelId: string, stream: RawDuplex): Relay | undefined {
    const channel = this.#channels.get(channelId);
    if (channel === undefined) return undefined;
    this.#channels.delete(channelId);
    const relay = { stream, over: new Deferred<void>() };
    channel.claimed.resolve(relay);
    return relay;
  }

  waitsFor(channelId: string): boolean {
    return this.#channels.has(channelId);
  }
}

/** Serves RelayStream until its operation is over (RLY-2, RLY-3, RLY-15). */
export async function serveRelay(stream: RawDuplex, sandbox: Sandbox, sandboxes: Iterable<Sandbox>, timeout: number, accept: () => void): Promise<void> {
  const first = new Deferred<Fields>();
  stream.once('data', (bytes: Buffer) => {
    stream.pause();
    try {
      first.resolve(RelayFrame.decode(bytes));
    } catch {
      first.reject(new Refusal('INVALID_REQUEST', 'the first message is no RelayFrame'));
    }
  });
  const gone = () => first.reject(new Refusal('INVALID_REQUEST', 'the first message must be init'));
  stream.once('end', gone);
  void cancellation(stream).then(gone);
  const { init } = await within(timeout, first.promise, () => new Refusal('TRANSFER_IDLE', 'no init came'));
  stream.off('end', gone);
  if (init === undefined) throw new Refusal('INVALID_REQUEST', 'the first message must be init');
  const channelId = String(init['channelId'] ?? '');
  for (const other of sandboxes) {
    if (other !== sandbox && other.waitsFor(channelId)) throw new Refusal('SANDBOX_MISMATCH', 'the channel was opened for another sandbox');
  }
  const relay = sandbox.claim(channelId, stream);
  if (relay === undefined) throw new Refusal('RELAY_UNKNOWN', 'no relay waits under this channel id');
  accept();
  await relay.over.promise;
}

export const notConnected = (): Refusal => new Refusal('SUPERVISOR_NOT_CONNECTED', "the sandbox's supervisor is not connected", { retryAfter: 1 });
export const filesUnsupported = (): Refusal => new Refusal('FILES_UNSUPPORTED', "the sandbox's supervisor does not serve files");
const outdated = (): Refusal => new Refusal('SESSION_OUTDATED', 'a later connection is registered', { retryAfter: 1 });

export function duration(seconds: number): Fields {
  const whole = Math.floor(seconds);
  return { seconds: whole, nanos: Math.round((seconds - whole) * 1e9) };
}
