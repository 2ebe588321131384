// Protobuf messages from the proto files, and CRC-32C.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import protobuf from 'protobufjs';

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
const service = root.lookupService('openshell.v1.OpenShell');

/** A plain object with the fields that were set; 64-bit numbers are decimal text, enumerations numbers. */
export type Fields = Record<string, any>;

export interface Codec {
  encode(fields: Fields): Buffer;
  decode(bytes: Buffer): Fields;
}

export function codec(type: protobuf.Type): Codec {
  return {
    encode: (fields) => Buffer.from(type.encode(type.fromObject(fields)).finish()),
    decode: (bytes) => type.toObject(type.decode(bytes), { longs: String, bytes: Buffer }),
  };
}

/** The codecs of a method's request and answer. */
export function methodCodecs(name: string): { request: Codec; response: Codec } {
  const method = service.methods[name]!.resolve() as protobuf.Method;
  return { request: codec(method.resolvedRequestType!), response: codec(method.resolvedResponseType!) };
}

/** Breaks the client on purpose, for the suite's kill matrix (README.md). */
export const mutant = process.env['NODE_MUTANT'];

const table = new Uint32Array(256).map((_zero, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

/** CRC-32C (Castagnoli). */
export function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (let index = 0; index < bytes.length; index++) crc = table[(crc ^ bytes[index]!) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
