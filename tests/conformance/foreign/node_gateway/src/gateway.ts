// The gateway: methods of openshell.v1.OpenShell for callers and supervisors, and the standard health service.
import {
  Metadata, Server, ServerCredentials, status, type ServerDuplexStream, type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import protobuf from 'protobufjs';
import { randomUUID } from 'node:crypto';
import { capabilities } from './capabilities.ts';
import { invalid, Refusal, statusOf } from './errors.ts';
import { RunningOperation, type Operation } from './operation.ts';
import { duration, filesUnsupported, notConnected, Sandbox, serveRelay, type RawDuplex } from './sessions.ts';
import type { Settings } from './settings.ts';
import { Slots } from './slots.ts';
import { cancellation, Deferred, delay, readAll, within, write } from './streams.ts';
import { Tokens, type User } from './tokens.ts';
import { codec, message, methods, rawFields, varint, view, type Fields } from './wire.ts';

/** Methods with one request and one answer: their fields in FileRelayOpen and FileRelayResponse, and where they name the sandbox. */
const relayed: Record<string, { request: number; result: number; named: 'ByMetadata' | 'BySandbox' }> = {
  StartUpload: { request: 12, result: 5, named: 'ByMetadata' },
  GetUpload: { request: 13, result: 6, named: 'BySandbox' },
  ListUploads: { request: 14, result: 7, named: 'BySandbox' },
  AbortUpload: { request: 15, result: 8, named: 'BySandbox' },
  StatFile: { request: 16, result: 9, named: 'BySandbox' },
  WriteFile: { request: 17, result: 12, named: 'ByMetadata' },
};
const uploadFields = { request: 10, result: 4 };
const downloadFields = { request: 11, result: 3 };

const maxMessage = 1024 * 1024;
const maxWatchers = 64;
/** HealthCheckResponse.SERVICE_UNKNOWN. */
const unknownService = 3;
const maxWrite = maxMessage - 16 * 1024;
const messageSlack = 64 * 1024;
/** Between a half-close and a reset, for a caller that cancels without explicit_finish (UPL-33). */
const resetAfterEnd = 0.025;

interface Context {
  transferId: string;
  metadata: Metadata;
  callerLeft: Promise<void>;
}

type Serve = (call: RawDuplex, context: Context) => Promise<Buffer | void>;

export class Gateway {
  readonly settings: Settings;
  readonly tokens: Tokens;
  readonly sandboxes: Map<string, Sandbox>;
  #server = new Server({ 'grpc.max_receive_message_length': maxMessage + messageSlack, 'grpc.max_metadata_size': 24 * 1024 });
  #slots: Slots;
  #withoutFirstMessage = 0;
  #stopping = false;
  #calls = 0;
  #relays = 0;
  #watchers = new Set<() => void>();

  constructor(settings: Settings) {
    this.settings = settings;
    this.tokens = new Tokens(settings.oidc);
    this.sandboxes = new Map(settings.sandboxes.map((sandbox) => [sandbox.id, new Sandbox(sandbox, settings)]));
    this.#slots = new Slots(settings);
  }

  /** Listens, and returns the port. */
  async start(): Promise<number> {
    this.#addOpenShell();
    this.#addHealth();
    const port = new Deferred<number>();
    this.#server.bindAsync(`${this.settings.host}:${this.settings.port}`, ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? port.resolve(bound) : port.reject(error));
    return port.promise;
  }

  /** Refuses new calls, ends sessions, and lets transfers run on for a while (RLY-8, RLY-19 ff.). */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const changed of this.#watchers) changed();
    for (const sandbox of this.sandboxes.values()) sandbox.session?.over.reject(shuttingDown());
    const deadline = performance.now() + this.settings.stopTimeout * 1000;
    while ((this.#calls > 0 || this.#relays > 0) && performance.now() < deadline) await delay(0.02);
    await Promise.race([new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve())), delay(0.2)]);
    this.#server.forceShutdown();
  }

  /** On the wire every method is a stream in both directions, so one kind of handler serves them all. */
  #addOpenShell(): void {
    const raw = (bytes: Buffer): Buffer => bytes;
    const stream = { requestStream: true, responseStream: true, requestSerialize: raw, requestDeserialize: raw, responseSerialize: raw, responseDeserialize: raw };
    const definition = Object.fromEntries(methods.map(({ name }) => [name, { path: `/openshell.v1.OpenShell/${name}`, ...stream }]));
    const implementation: UntypedServiceImplementation = {};
    for (const method of methods) implementation[method.name] = (call: RawDuplex) => void this.#run(call, this.#serving(method));
    this.#server.addService(definition, implementation);
  }

  #serving(method: protobuf.Method): Serve {
    if (relayed[method.name] !== undefined) return (call, context) => this.#unary(method, call, context);
    const special: Record<string, Serve> = {
      Health: async () => message('HealthResponse').encode({ status: this.#stopping ? 3 : 1, version: 'node' }),
      GetTransferCapabilities: (call, context) => this.#capabilities(call, context),
      RefreshSandboxToken: (_call, context) => this.#refresh(context),
      UploadFile: (call, context) => this.#upload(call, context),
      DownloadFile: (call, context) => this.#download(call, context),
      ConnectSupervisor: async (call, context) => (await this.#supervised(context)).serve(call),
      RelayStream: (call, context) => this.#relay(call, context),
    };
    return special[method.name] ?? (async (_call, context) => {
      await this.#user(context);
      throw new Refusal('METHOD_UNSUPPORTED', 'this gateway does not have the method');
    });
  }

  /** Runs a call to its answer or its error. */
  async #run(call: RawDuplex, serve: Serve): Promise<void> {
    const given = String(call.metadata.get('x-request-id')[0] ?? '');
    const transferId = /^[\x21-\x7e]{1,128}$/.test(given) ? given : randomUUID();
    try {
      const answer = await serve(call, { transferId, metadata: call.metadata, callerLeft: cancellation(call) });
      if (answer !== undefined) call.write(answer);
      call.end();
    } catch (error) {
      if (!call.cancelled) call.emit('error', statusOf(error, transferId));
    }
  }

  /** The one message of a call that has no stream of them. */
  async #request(call: RawDuplex): Promise<Buffer> {
    const request = new Deferred<Buffer>();
    call.once('data', request.resolve);
    call.once('end', () => request.reject(invalid('', 'the call has no message')));
    void cancellation(call).then(() => request.reject(new Refusal('RELAY_REQUESTER_GONE', 'the caller left')));
    return within(this.settings.firstMessageTimeout, request.promise, () => new Refusal('TRANSFER_IDLE', 'no message came'));
  }

  async #user(context: Context): Promise<User> {
    if (this.#stopping) throw shuttingDown();
    const caller = await this.tokens.identify(context.metadata);
    if (caller.kind !== 'user') throw new Refusal('PRINCIPAL_NOT_ALLOWED', 'this method is for users');
    this.tokens.authorize(caller);
    return caller;
  }

  async #supervised(context: Context): Promise<Sandbox> {
    if (this.#stopping) throw shuttingDown();
    const caller = await this.tokens.identify(context.metadata);
    if (caller.kind !== 'sandbox') throw new Refusal('PRINCIPAL_NOT_ALLOWED', 'this method is for supervisors');
    const sandbox = this.sandboxes.get(caller.sandboxId);
    if (sandbox === undefined) throw new Refusal('SANDBOX_NOT_FOUND', 'the sandbox of the token does not exist');
    return sandbox;
  }

  /** The sandbox that the caller named, if the caller may use it (AUT-5). */
  #sandbox(user: User, id: string, name: string, workspace: string, field: string): Sandbox {
    if ((id === '') === (name === '')) throw invalid(field, 'name the sandbox by its id or by its name');
    const inWorkspace = workspace || 'default';
    for (const sandbox of this.sandboxes.values()) {
      const { settings } = sandbox;
      const members = this.settings.members.get(settings.workspace);
      const named = id === '' ? settings.name === name && settings.workspace === inWorkspace : settings.id === id;
      const allowed = members?.has(user.subject) ?? true;
      if (named && (allowed || user.roles.includes(this.settings.oidc.adminRole))) return sandbox;
    }
    throw new Refusal('SANDBOX_NOT_FOUND', 'the sandbox does not exist, or you may not use it');
  }

  #sandboxOf(user: User, request: Fields): Sandbox {
    return this.#sandbox(user, request['sandboxId'] ?? '', request['sandbox'] ?? '', request['workspace'] ?? '', 'sandbox_id');
  }

  #sandboxByRef(user: User, ref: Fields | undefined): Sandbox {
    return this.#sandbox(user, ref?.['id'] ?? '', ref?.['name'] ?? '', ref?.['workspace'] ?? '', 'sandbox');
  }

  async #capabilities(call: RawDuplex, context: Context): Promise<Buffer> {
    const user = await this.#user(context);
    const request = viewed('BySandbox', await this.#request(call));
    const { session } = this.#sandboxByRef(user, request['sandbox']);
    if (session === undefined) throw notConnected();
    if (session.hello['fileTransfer'] === undefined) throw filesUnsupported();
    return message('GetTransferCapabilitiesResponse').encode(capabilities(this.settings, session.hello, this.#slots.perCaller));
  }

  async #refresh(context: Context): Promise<Buffer> {
    const sandbox = await this.#supervised(context);
    const { token, expires } = await this.tokens.mint(sandbox.settings.id);
    return message('RefreshSandboxTokenResponse').encode({ token, expirationTime: { seconds: expires } });
  }

  async #relay(call: RawDuplex, context: Context): Promise<void> {
    const sandbox = await this.#supervised(context);
    this.#relays += 1;
    try {
      await serveRelay(call, sandbox, this.sandboxes.values(), this.settings.firstMessageTimeout, () => call.sendMetadata(new Metadata()));
    } finally {
      this.#relays -= 1;
    }
  }

  async #unary(method: protobuf.Method, call: RawDuplex, context: Context): Promise<Buffer> {
    const user = await this.#user(context);
    const bytes = await this.#request(call);
    const { request: requestField, result: resultField, named } = relayed[method.name]!;
    const request = viewed(named, bytes);
    if (named === 'ByMetadata' && request['metadata'] === undefined) throw invalid('metadata', 'is missing');
    const sandbox = named === 'ByMetadata' ? this.#sandboxOf(user, request['metadata']) : this.#sandboxByRef(user, request['sandbox']);
    if (method.name === 'WriteFile' && (request['content']?.length ?? 0) > maxWrite) throw invalid('content', `has more than ${maxWrite} bytes`);
    return this.#operate(user, sandbox, context, { requestField, request: bytes, resultField }, async (operation) => {
      operation.inputEnd();
      return operation.result();
    });
  }

  async #download(call: RawDuplex, context: Context): Promise<void> {
    const user = await this.#user(context);
    const bytes = await this.#request(call);
    const request = viewed('Download', bytes);
    const sandbox = this.#sandboxOf(user, request);
    if (request['asArchive'] === true) throw archiveUnsupported();
    const least = 16 * 1024;
    const wanted: number = request['maxChunkBytes'] ?? 0;
    // The last value of a field counts, so an appended one replaces that of the caller (DWN-8).
    const raised = wanted > 0 && wanted < least ? Buffer.concat([varint(19 * 8), varint(least)]) : Buffer.alloc(0);
    const forward = (answer: Buffer) => write(call, answer);
    const parts = { requestField: downloadFields.request, request: Buffer.concat([bytes, raised]), resultField: downloadFields.result, forward };
    await this.#operate(user, sandbox, context, parts, async (operation) => {
      operation.inputEnd();
      return operation.result();
    });
  }

  async #upload(call: RawDuplex, context: Context): Promise<Buffer> {
    const user = await this.#user(context);
    const upload = new UploadStream(call);
    const first = await this.#firstMessage(upload);
    const fields = parsed(first);
    const payload = fields.at(-1);
    if (payload?.number !== 1) throw invalid('metadata', 'the first message must be metadata');
    const metadata = viewed('Upload', payload.value);
    const sandbox = this.#sandboxOf(user, metadata);
    if (metadata['isArchive'] === true) throw archiveUnsupported();
    if ((metadata['lanes'] ?? 0) > 1) {
      throw new Refusal('TOO_MANY_LANES', 'this gateway has no lanes', { metadata: { lanes: '1' }, retryAfter: 0 });
    }
    const explicit = metadata['explicitFinish'] === true || (metadata['uploadId'] ?? '') !== '';
    const parts = { requestField: uploadFields.request, request: payload.value, resultField: uploadFields.result };
    return this.#operate(user, sandbox, context, parts, async (operation) => {
      upload.deliver((bytes) => operation.pass(checked(bytes))).then(
        async () => {
          if (!explicit) await delay(resetAfterEnd);
          if (!call.cancelled) operation.inputEnd();
        },
        (error) => operation.fail(error));
      return operation.result();
    });
  }

  /** The first message of an upload; those that wait for theirs are bounded (RLY-13, RLY-33). */
  async #firstMessage(upload: UploadStream): Promise<Buffer> {
    if (this.#withoutFirstMessage >= this.settings.maxTransfers) throw new Refusal('TOO_MANY_TRANSFERS', 'too many uploads without a message', { retryAfter: 1 });
    this.#withoutFirstMessage += 1;
    try {
      const longest = Math.min(this.settings.firstMessageTimeout, this.settings.idleTimeout);
      return checked(await within(longest, upload.first.promise, () => new Refusal('TRANSFER_IDLE', 'no first message came')));
    } finally {
      this.#withoutFirstMessage -= 1;
    }
  }

  async #operate(
    user: User, sandbox: Sandbox, context: Context,
    parts: Pick<Operation, 'requestField' | 'request' | 'resultField' | 'forward'>,
    run: (operation: RunningOperation) => Promise<Buffer>,
  ): Promise<Buffer> {
    const { settings } = this;
    const { transferId, callerLeft } = context;
    this.#calls += 1;
    let free: (() => void) | undefined;
    try {
      free = await this.#slots.take(sandbox.settings.id, user.principal, callerLeft);
      const relay = await sandbox.openRelay(transferId, callerLeft);
      const open = {
        protocolVersion: 1,
        transferId,
        principal: user.principal,
        maxChunkBytes: settings.maxChunkBytes,
        digests: settings.digests,
        limits: {
          maxFileBytes: settings.maxFileBytes,
          idleTimeout: duration(settings.idleTimeout),
          uploadExpiry: duration(settings.uploadExpiry),
          maxUploadsPerSandbox: settings.maxUploadsPerSandbox,
          maxUploadsPerPrincipal: settings.maxUploadsPerPrincipal,
        },
      };
      return await run(new RunningOperation({ ...parts, open, callerLeft, idleTimeout: settings.idleTimeout }, relay));
    } finally {
      free?.();
      this.#calls -= 1;
    }
  }

  #addHealth(): void {
    const health = protobuf.parse(`
      syntax = "proto3";
      package grpc.health.v1;
      message HealthCheckRequest { string service = 1; }
      message HealthCheckResponse { int32 status = 1; }
    `).root;
    const request = codec(health.lookupType('grpc.health.v1.HealthCheckRequest'));
    const response = codec(health.lookupType('grpc.health.v1.HealthCheckResponse'));
    // As a stream in both directions, a call is answered without its half-close.
    const method = (name: string) => ({
      path: `/grpc.health.v1.Health/${name}`, requestStream: true, responseStream: true,
      requestSerialize: request.encode, requestDeserialize: request.decode, responseSerialize: response.encode, responseDeserialize: response.decode,
    });
    const known = (service: string | undefined) => ['', 'openshell.v1.OpenShell'].includes(service ?? '');
    const state = () => ({ status: this.#stopping ? 2 : 1 });
    this.#server.addService({ Check: method('Check'), Watch: method('Watch') }, {
      Check: (call: ServerDuplexStream<Fields, Fields>) =>
        void call.once('data', ({ service }: Fields) => {
          if (!known(service)) return void call.emit('error', { code: status.NOT_FOUND, details: 'unknown service' });
          call.write(state());
          call.end();
        }),
      Watch: (call: ServerDuplexStream<Fields, Fields>) => {
        if (this.#watchers.size >= maxWatchers) {
          call.emit('error', statusOf(new Refusal('TOO_MANY_CALLS', 'too many streams of Watch', { retryAfter: 1 }), randomUUID()));
          return;
        }
        let tell = (): void => {};
        const watcher = (): void => tell();
        this.#watchers.add(watcher);
        call.on('cancelled', () => this.#watchers.delete(watcher));
        call.once('data', ({ service }: Fields) => {
          tell = () => void call.write(known(service) ? state() : { status: unknownService });
          tell();
        });
      },
    });
  }
}

/** An upload's messages: the first one by itself, the others once there is room for them (RLY-34). */
class UploadStream {
  readonly first = new Deferred<Buffer>();
  #taker = new Deferred<(bytes: Buffer) => Promise<void>>();
  #ended: Promise<void>;

  constructor(call: RawDuplex) {
    let number = 0;
    this.#ended = readAll(call, (bytes) => {
      number += 1;
      if (number === 1) return this.first.resolve(bytes);
      return this.#taker.promise.then((take) => take(bytes));
    });
    this.#ended.then(() => this.first.reject(invalid('metadata', 'the stream has no message')), this.first.reject);
    void cancellation(call).then(() => this.first.reject(new Refusal('UPLOAD_INCOMPLETE', 'the caller left')));
  }

  deliver(take: (bytes: Buffer) => Promise<void>): Promise<void> {
    this.#taker.resolve(take);
    return this.#ended;
  }
}

function checked(bytes: Buffer): Buffer {
  if (bytes.length > maxMessage) throw invalid('', `a message has ${bytes.length} bytes, and the limit is ${maxMessage}`);
  return bytes;
}

function parsed(bytes: Buffer): ReturnType<typeof rawFields> {
  try {
    return rawFields(bytes);
  } catch {
    throw invalid('', 'the message is no message of this method');
  }
}

function viewed(name: Parameters<typeof view>[0], bytes: Buffer): Fields {
  checked(bytes);
  try {
    return view(name).decode(bytes);
  } catch {
    throw invalid('', 'the message is no message of this method');
  }
}

const archiveUnsupported = (): Refusal => new Refusal('ARCHIVE_UNSUPPORTED', 'archives are not transferred');
const shuttingDown = (): Refusal => new Refusal('GATEWAY_SHUTTING_DOWN', 'the gateway is shutting down', { retryAfter: 1 });
