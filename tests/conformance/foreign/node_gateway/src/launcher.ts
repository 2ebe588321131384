// The suite's handshake: one line that says what to launch, one that says where it serves; the end of standard input stops it.
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { Gateway } from './gateway.ts';
import { defaults, oidcDefaults, type Settings } from './settings.ts';

/** Settings of a launch, and the ones of the gateway that they set. */
const numbers: Record<string, keyof Settings> = {
  idle_timeout_s: 'idleTimeout',
  max_file_bytes: 'maxFileBytes',
  max_chunk_bytes: 'maxChunkBytes',
  upload_expiry_s: 'uploadExpiry',
  max_uploads_per_principal: 'maxUploadsPerPrincipal',
  max_uploads_per_sandbox: 'maxUploadsPerSandbox',
  max_transfers: 'maxTransfers',
  max_transfers_per_sandbox: 'maxTransfersPerSandbox',
  transfer_wait_s: 'transferWait',
  session_wait_s: 'sessionWait',
  claim_timeout_s: 'claimTimeout',
  heartbeat_interval_s: 'heartbeatInterval',
  silence_timeout_s: 'silenceTimeout',
  stop_timeout_s: 'stopTimeout',
};

interface Launch {
  type: string;
  protocol: number;
  role: string;
  settings: Record<string, unknown>;
  oidc?: { issuer: string; audience: string; jwks_url?: string };
  workspaces?: { name: string; members: string[] }[];
  sandboxes?: { name: string; workspace?: string }[];
}

const capabilities = ['write-file', 'resume', 'blake3', 'workspaces', 'scopes', 'health'];

const say = (answer: Record<string, unknown>): void => void process.stdout.write(`${JSON.stringify(answer)}\n`);

async function launch(request: Launch): Promise<Gateway | undefined> {
  if (request.protocol !== 1 || request.role !== 'gateway' || request.oidc === undefined) {
    say({ type: 'unsupported', what: `role ${request.role} of protocol ${request.protocol}` });
    return undefined;
  }
  const settings: Settings = {
    ...defaults,
    oidc: { ...oidcDefaults, issuer: request.oidc.issuer, audience: request.oidc.audience, jwksUrl: request.oidc.jwks_url },
    sandboxes: (request.sandboxes ?? []).map(({ name, workspace }) => ({ id: randomUUID(), name, workspace: workspace ?? 'default' })),
    members: new Map((request.workspaces ?? []).map(({ name, members }) => [name, new Set(members)])),
    stopTimeout: 2,
  };
  for (const [name, value] of Object.entries(request.settings)) {
    const known = numbers[name];
    if (known !== undefined && typeof value === 'number') Object.assign(settings, { [known]: value });
    else if (name === 'scopes_claim' && typeof value === 'string') settings.oidc.scopesClaim = value;
    else {
      say({ type: 'unsupported', what: name });
      return undefined;
    }
  }
  const gateway = new Gateway(settings);
  const port = await gateway.start();
  const sandboxes: Record<string, { id: string; supervisor_token: string }> = {};
  for (const { settings: sandbox } of gateway.sandboxes.values()) {
    sandboxes[sandbox.name] = { id: sandbox.id, supervisor_token: (await gateway.tokens.mint(sandbox.id)).token };
  }
  say({ type: 'ready', endpoint: `127.0.0.1:${port}`, pid: process.pid, capabilities, sandboxes });
  return gateway;
}

const lines = createInterface({ input: process.stdin });
let gateway: Promise<Gateway | undefined> = Promise.resolve(undefined);
lines.once('line', (line) => (gateway = launch(JSON.parse(line) as Launch)));

async function stop(): Promise<void> {
  await (await gateway)?.stop();
  process.exit(0);
}
lines.once('close', () => void stop());
process.once('SIGTERM', () => void stop());
process.once('SIGINT', () => void stop());
