// Who calls: users with tokens of the OIDC issuer, supervisors with tokens that this gateway signed (AUT-1 ff.).
import type { Metadata } from '@grpc/grpc-js';
import { decodeJwt, decodeProtectedHeader, errors, importJWK, jwtVerify, SignJWT, type CryptoKey, type JWK, type JWTPayload } from 'jose';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { Refusal } from './errors.ts';

export interface OidcSettings {
  issuer: string;
  audience: string;
  jwksUrl?: string | undefined;
  leeway: number;
  jwksTtl: number;
  refreshCooldown: number;
  /** Dotted path of the claim with the scopes; empty: scopes are not enforced. */
  scopesClaim: string;
  userRole: string;
  adminRole: string;
}

export interface User {
  kind: 'user';
  /** Issuer and subject: the owner of uploads. */
  principal: string;
  subject: string;
  roles: string[];
  scopes: string[];
}

export interface SandboxIdentity {
  kind: 'sandbox';
  sandboxId: string;
}

const algorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'EdDSA'];
const maxToken = 16 * 1024;

/** The one algorithm of a key: that of its `alg`, else the usual one of its type. */
function algorithmOf(key: JWK): string | undefined {
  if (key.alg !== undefined) return key.alg;
  if (key.kty === 'RSA') return 'RS256';
  if (key.kty === 'EC') return { 'P-256': 'ES256', 'P-384': 'ES384' }[key.crv ?? ''];
  return key.kty === 'OKP' && key.crv === 'Ed25519' ? 'EdDSA' : undefined;
}

/** The issuer's keys, fetched when they are old or a token names an unknown one. */
class IssuerKeys {
  #settings: OidcSettings;
  #keys: JWK[] = [];
  #fetchedAt = -Infinity;
  #triedAt = -Infinity;
  #running: Promise<void> | undefined;

  constructor(settings: OidcSettings) {
    this.#settings = settings;
  }

  async find(kid: string | undefined): Promise<JWK | undefined> {
    const age = () => (performance.now() - this.#fetchedAt) / 1000;
    if (age() > this.#settings.jwksTtl) await this.#refresh();
    if (age() > 3 * this.#settings.jwksTtl) throw new Refusal('ISSUER_UNAVAILABLE', "the issuer's keys cannot be fetched", { retryAfter: 1 });
    let found = this.#match(kid);
    if (found === undefined) {
      await this.#refresh();
      found = this.#match(kid);
    }
    return found;
  }

  #match(kid: string | undefined): JWK | undefined {
    if (kid === undefined) return this.#keys.length === 1 ? this.#keys[0] : undefined;
    return this.#keys.find((key) => key.kid === kid);
  }

  async #refresh(): Promise<void> {
    if (this.#running === undefined) {
      if ((performance.now() - this.#triedAt) / 1000 < this.#settings.refreshCooldown) return;
      this.#triedAt = performance.now();
      this.#running = this.#fetch().finally(() => (this.#running = undefined));
    }
    await this.#running;
  }

  async #fetch(): Promise<void> {
    try {
      const url = this.#settings.jwksUrl ?? (await getJson(`${this.#settings.issuer.replace(/\/$/, '')}/.well-known/openid-configuration`))['jwks_uri'];
      const keys: JWK[] = (await getJson(String(url)))['keys'];
      this.#keys = keys.filter((key) => (key.use ?? 'sig') === 'sig' && (key.key_ops?.includes('verify') ?? true) && key.kty !== 'oct');
      this.#fetchedAt = performance.now();
    } catch (error) {
      console.error(`the issuer's keys were not fetched: ${String(error)}`);
    }
  }
}

async function getJson(url: string): Promise<Record<string, any>> {
  const answer = await fetch(url, { signal: AbortSignal.timeout(5000), redirect: 'error' });
  if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
  return (await answer.json()) as Record<string, any>;
}

export class Tokens {
  #settings: OidcSettings;
  #keys: IssuerKeys;
  #gateway: string;
  #privateKey: KeyObject;
  #publicKey: KeyObject;

  constructor(settings: OidcSettings, gatewayId = 'openshell') {
    this.#settings = settings;
    this.#keys = new IssuerKeys(settings);
    this.#gateway = `openshell-gateway:${gatewayId}`;
    ({ privateKey: this.#privateKey, publicKey: this.#publicKey } = generateKeyPairSync('ed25519'));
  }

  /** A token for one sandbox, and the time at which it expires. */
  async mint(sandboxId: string, seconds = 86400): Promise<{ token: string; expires: number }> {
    const expires = Math.floor(Date.now() / 1000) + seconds;
    const token = await new SignJWT({})
      .setProtectedHeader({ alg: 'EdDSA' })
      .setIssuer(this.#gateway)
      .setAudience(this.#gateway)
      .setSubject(sandboxId)
      .setExpirationTime(expires)
      .sign(this.#privateKey);
    return { token, expires };
  }

  async identify(metadata: Metadata): Promise<User | SandboxIdentity> {
    const token = bearer(metadata);
    const { claims, alg, kid } = parse(token);
    if (claims.iss === this.#gateway) {
      if (alg !== 'EdDSA') throw new Refusal('TOKEN_BAD_ALGORITHM', 'a sandbox token is signed by EdDSA');
      const verified = await this.#verify(token, this.#publicKey, 'EdDSA', this.#gateway, this.#gateway);
      return { kind: 'sandbox', sandboxId: verified.sub! };
    }
    if (!algorithms.includes(alg)) throw new Refusal('TOKEN_BAD_ALGORITHM', "the token's algorithm is not allowed");
    const key = await this.#keys.find(kid);
    if (key === undefined) throw new Refusal('TOKEN_UNKNOWN_KEY', 'the issuer does not publish the key that the token names');
    if (algorithmOf(key) !== alg) throw new Refusal('TOKEN_BAD_ALGORITHM', "the token's algorithm is not that of its key");
    const verified = await this.#verify(token, (await importJWK(key, alg)) as CryptoKey, alg, this.#settings.issuer, this.#settings.audience);
    return {
      kind: 'user',
      principal: `${verified.iss} ${verified.sub}`,
      subject: verified.sub!,
      roles: texts(claim(verified, 'realm_access.roles')),
      scopes: this.#settings.scopesClaim === '' ? [] : scopes(claim(verified, this.#settings.scopesClaim)),
    };
  }

  /** Roles and scopes that the file methods need (AUT-4, AUT-11). */
  authorize(user: User): void {
    const { userRole, adminRole, scopesClaim } = this.#settings;
    if (!user.roles.includes(userRole) && !user.roles.includes(adminRole)) {
      throw new Refusal('ROLE_REQUIRED', `this method needs the role ${userRole}`);
    }
    if (scopesClaim !== '' && !user.scopes.includes('sandbox:write')) {
      throw new Refusal('SCOPE_REQUIRED', 'this method needs the scope sandbox:write');
    }
  }

  async #verify(token: string, key: CryptoKey | KeyObject, alg: string, issuer: string, audience: string): Promise<JWTPayload> {
    try {
      const { payload } = await jwtVerify(token, key, {
        algorithms: [alg],
        issuer,
        audience,
        clockTolerance: this.#settings.leeway,
        requiredClaims: ['exp', 'sub'],
      });
      if (typeof payload.sub !== 'string' || payload.sub === '') throw new Refusal('TOKEN_CLAIM_INVALID', 'the claim sub is not a text');
      return payload;
    } catch (error) {
      throw refusalOf(error);
    }
  }
}

function refusalOf(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof errors.JWSSignatureVerificationFailed) return new Refusal('TOKEN_BAD_SIGNATURE', 'the signature does not match');
  if (error instanceof errors.JWTExpired) return new Refusal('TOKEN_EXPIRED', 'the token has expired');
  if (error instanceof errors.JWTClaimValidationFailed) {
    if (error.reason === 'check_failed') {
      if (error.claim === 'nbf') return new Refusal('TOKEN_NOT_YET_VALID', 'the token is not valid yet');
      if (error.claim === 'aud') return new Refusal('TOKEN_WRONG_AUDIENCE', 'the token is for another audience');
      if (error.claim === 'iss') return new Refusal('TOKEN_WRONG_ISSUER', 'the token is from another issuer');
    }
    return new Refusal('TOKEN_CLAIM_INVALID', `the claim ${error.claim} is missing or invalid`);
  }
  if (error instanceof errors.JOSEError) return new Refusal('TOKEN_MALFORMED', 'the token is not a valid JWT');
  if (error instanceof TypeError) return new Refusal('TOKEN_BAD_SIGNATURE', 'the signature does not match');
  throw error;
}

function bearer(metadata: Metadata): string {
  const values = metadata.get('authorization').map(String);
  const [, token] = /^Bearer +(\S.*)$/i.exec(values[0] ?? '') ?? [];
  if (values.length === 0 || token === undefined) throw new Refusal('TOKEN_MISSING', 'the call has no bearer token');
  if (values.length > 1 || token.length > maxToken) throw new Refusal('TOKEN_MALFORMED', 'the call has not one token of at most 16 KiB');
  return token;
}

function parse(token: string): { claims: JWTPayload; alg: string; kid: string | undefined } {
  try {
    const { alg, kid } = decodeProtectedHeader(token);
    if (typeof alg !== 'string' || (kid !== undefined && typeof kid !== 'string')) throw new TypeError('alg and kid are texts');
    return { claims: decodeJwt(token), alg, kid };
  } catch {
    throw new Refusal('TOKEN_MALFORMED', 'the token is not a JWT');
  }
}

/** The value of a claim by its dotted path. */
function claim(claims: JWTPayload, path: string): unknown {
  let value: unknown = claims;
  for (const part of path.split('.')) value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[part] : undefined;
  return value;
}

/** The texts of a list; anything else has none. */
function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((entry) => typeof entry === 'string') : [];
}

/** Scopes are a text with spaces, or a list. */
function scopes(value: unknown): string[] {
  return typeof value === 'string' ? value.split(' ') : texts(value);
}
