// Protobuf messages, and the two places where raw bytes matter: callers' messages pass through a relay unparsed
// (FRM-4), and a relay is a stream of messages after their length (FRM-10).
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import protobuf from 'protobufjs';

/** Breaks the gateway on purpose, for the suite's kill matrix (README.md). */
export const mutant = process.env['NODE_MUTANT'];

const protobufDirectory = dirname(createRequire(import.meta.url).resolve('protobufjs/package.json'));

function protoDirectory(): string {
  const named = process.env['OPENSHELL_PROTO_DIR'];
  if (named !== undefined) return named;
  let directory = import.meta.dirname;
  while (!existsSync(join(directory, 'proto/openshell/v1/openshell.proto'))) {
    if (directory === dirname(directory)) throw new Error('set OPENSHELL_PROTO_DIR to the directory of the proto files');
    directory = dirname(directory);
  }
  return join(directory, 'proto');
}

function load(): protobuf.Root {
  const root = new protobuf.Root();
  const protos = protoDirectory();
  root.resolvePath = (_origin, target) => {
    if (target === 'google/protobuf/descriptor.proto') return join(protobufDirectory, target);
    return target.startsWith('google/') ? target : resolve(protos, target);
  };
  return root.loadSync('openshell/v1/openshell.proto');
}

const root = load();

/** A plain object with the fields that were set; 64-bit numbers are decimal text. */
export type Fields = Record<string, any>;

export interface Codec {
  encode(fields: Fields): Buffer;
  decode(bytes: Buffer): Fields;
}

/** Encoder and decoder of one message type. */
export function codec(type: protobuf.Type): Codec {
  return {
    encode: (fields) => Buffer.from(type.encode(type.fromObject(fields)).finish()),
    decode: (bytes) => type.toObject(type.decode(bytes), { longs: String, bytes: Buffer }),
  };
}

/** What a gateway has to know of the callers' first messages. Everything else in them is the agent's business, and passes unparsed. */
const views = protobuf.parse(`
  syntax = "proto3";
  message SandboxRef { string id = 1; string name = 2; string workspace = 3; }
  message BySandbox { SandboxRef sandbox = 1; }
  message Upload {
    string sandbox_id = 1; bool is_archive = 5; string sandbox = 10; string workspace = 11;
    bool explicit_finish = 12; string upload_id = 13; uint32 lanes = 22;
  }
  message ByMetadata { Upload metadata = 1; bytes content = 2; }
  message Download { string sandbox_id = 1; bool as_archive = 3; string sandbox = 10; string workspace = 11; uint32 max_chunk_bytes = 19; }
`).root;

export const view = (name: 'BySandbox' | 'Upload' | 'ByMetadata' | 'Download'): Codec => codec(views.lookupType(name));

export const message = (name: string): Codec => codec(root.lookupType(`openshell.v1.${name}`));

export const methods: protobuf.Method[] = root.lookupService('openshell.v1.OpenShell').methodsArray;

export function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (; value > 0x7f; value = Math.floor(value / 128)) bytes.push((value % 128) | 0x80);
  return Buffer.from([...bytes, value]);
}

/** The field `number` that has a message or bytes as its value. */
export function lengthDelimited(number: number, value: Buffer): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(value.length), value]);
}

export interface RawField {
  number: number;
  /** The content of a message or of bytes; empty for the other types. */
  value: Buffer;
}

/** The fields of a message in their order. Throws for bytes that are no message. */
export function rawFields(bytes: Buffer): RawField[] {
  const reader = protobuf.Reader.create(bytes) as protobuf.Reader;
  const found: RawField[] = [];
  while (reader.pos < reader.len) {
    const tag = reader.uint32();
    if (tag >>> 3 === 0) throw new Error('a field has the number 0');
    if ((tag & 7) === 2) found.push({ number: tag >>> 3, value: Buffer.from(reader.bytes()) });
    else {
      reader.skipType(tag & 7);
      found.push({ number: tag >>> 3, value: Buffer.alloc(0) });
    }
  }
  return found;
}

export class NotFrames extends Error {}

/** The peer is an SSH server: it serves no files (FRM-15). */
export class SshServer extends Error {}

const maxFrame = 1024 * 1024 + 64;

/** Cuts a relay's byte stream into frames, however its pieces are cut (FRM-1, FRM-11). */
export class FrameReader {
  #pending: Buffer = Buffer.alloc(0);
  #first = true;

  push(bytes: Buffer): Buffer[] {
    this.#pending = this.#pending.length === 0 ? bytes : Buffer.concat([this.#pending, bytes]);
    const frames: Buffer[] = [];
    if (this.#first && this.#pending.subarray(0, 4).toString('latin1') === 'SSH-') throw new SshServer();
    for (;;) {
      const header = this.#header();
      if (header === undefined || this.#pending.length < header.start + header.length) return frames;
      const end = header.start + header.length;
      this.#first = false;
      frames.push(this.#pending.subarray(header.start, end));
      this.#pending = this.#pending.subarray(end);
    }
  }

  #header(): { start: number; length: number } | undefined {
    let length = 0;
    for (let index = 0; index < this.#pending.length; index++) {
      const byte = this.#pending[index]!;
      length += (byte & 0x7f) * 128 ** index;
      if (length > maxFrame || (index === 9 && byte >= 0x80)) throw new NotFrames(`a frame of ${length} bytes`);
      if (byte < 0x80) return { start: index + 1, length };
    }
    return undefined;
  }
}
