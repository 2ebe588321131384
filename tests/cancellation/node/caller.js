// Sends uploads of the RFC with gRPC's own client for JavaScript, and breaks each off; see ../callers.py.
'use strict';

const grpc = require('@grpc/grpc-js');

const order = JSON.parse(require('fs').readFileSync(0));
const client = new grpc.Client(order.endpoint, grpc.credentials.createInsecure());
const asIs = (bytes) => bytes;

function callMetadata() {
  const metadata = new grpc.Metadata();
  metadata.set('authorization', `Bearer ${order.token}`);
  return metadata;
}

function upload({ messages, delay_ms: delayMs }) {
  return new Promise((resolve) => {
    const options = order.way === 'deadline' ? { deadline: Date.now() + 40 + delayMs } : {};
    const call = client.makeClientStreamRequest(
      order.method, asIs, asIs, callMetadata(), options, (error) => resolve(error ? error.code : 0));
    for (const message of messages.slice(0, -1)) call.write(Buffer.from(message, 'base64'));
    call.write(Buffer.from(messages.at(-1), 'base64'), () => {
      if (order.way === 'cancel') setTimeout(() => call.cancel(), delayMs);
      if (order.way === 'kill') setTimeout(() => process.kill(process.pid, 'SIGKILL'), delayMs);
    });
  });
}

async function main() {
  for (const one of order.uploads) {
    const code = await upload(one);
    if (code !== grpc.status.CANCELLED && code !== grpc.status.DEADLINE_EXCEEDED) {
      throw new Error(`an upload ended with code ${code}`);
    }
  }
  client.close();
  console.log('[]');
}

main();
