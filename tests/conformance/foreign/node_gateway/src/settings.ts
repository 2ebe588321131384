// The gateway's settings. Times are in seconds, sizes in bytes.
import type { OidcSettings } from './tokens.ts';

export interface SandboxSettings {
  id: string;
  name: string;
  workspace: string;
}

export interface Settings {
  host: string;
  port: number;
  oidc: OidcSettings;
  sandboxes: SandboxSettings[];
  /** Subjects that may use a workspace; a workspace that is not named has every user as a member. */
  members: Map<string, Set<string>>;
  maxFileBytes: number;
  maxChunkBytes: number;
  digests: number[];
  idleTimeout: number;
  uploadExpiry: number;
  maxUploadsPerSandbox: number;
  maxUploadsPerPrincipal: number;
  maxTransfers: number;
  maxTransfersPerSandbox: number;
  principalShare: number;
  transferWait: number;
  sessionWait: number;
  claimTimeout: number;
  firstMessageTimeout: number;
  heartbeatInterval: number;
  silenceTimeout: number;
  stopTimeout: number;
}

export const defaults: Omit<Settings, 'oidc' | 'sandboxes'> = {
  host: '127.0.0.1',
  port: 0,
  members: new Map(),
  maxFileBytes: 2 ** 40,
  maxChunkBytes: 1044480,
  digests: [2, 1],
  idleTimeout: 60,
  uploadExpiry: 86400,
  maxUploadsPerSandbox: 256,
  maxUploadsPerPrincipal: 64,
  maxTransfers: 256,
  maxTransfersPerSandbox: 32,
  principalShare: 0.75,
  transferWait: 5,
  sessionWait: 15,
  claimTimeout: 10,
  firstMessageTimeout: 10,
  heartbeatInterval: 15,
  silenceTimeout: 45,
  stopTimeout: 25,
};

export const oidcDefaults: Omit<OidcSettings, 'issuer' | 'audience'> = {
  leeway: 60,
  jwksTtl: 3600,
  refreshCooldown: 1,
  scopesClaim: '',
  userRole: 'openshell-user',
  adminRole: 'openshell-admin',
};
