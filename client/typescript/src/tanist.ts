// SPDX-License-Identifier: Apache-2.0
/**
 * Client for a Tanist cluster, for Node 18 and later and for browsers: give it some hosts, and it finds the master, follows it when it
 * changes, and repeats what may be repeated, within a total deadline.
 *
 *     const client = new Client("pc-1:8080,pc-2:8080,pc-3:8080");
 *     await client.execute("INSERT INTO note(text) VALUES (?)", ["hello"]);
 *     const { rows } = await client.query("SELECT text FROM note", [], { consistency: "local" });
 *
 * Make one client and keep it. An error that reaches the program means either that its request is wrong (`Problem`) or that no
 * machine has served it for the whole deadline. A failover is neither.
 */

// All times are in milliseconds. The same policy as in the Rust client (client/src/hosts.rs, call.rs).
const PAUSE_MIN = 10;
const PAUSE_MAX = 500;
const PAUSE_PART = 4;
const FORGET = 1000;
/** Between two looks at a host that can't be reached. */
const PROBE_MIN = 25;
const PROBE_MAX = 5000;
const LEARNED_MAX = 64;
const REDIRECTS_AT_ONCE = 3;
/** Silence after which it is looked whether the machine still serves. */
const LOOK_AROUND = 500;
const LEARN_EVERY = 10_000;
const LEARN_AGAIN = 1000;
const ANSWER_LIMIT = 64 << 20;
const EVENT_LIMIT = 16 << 20;
/** Of a watch: then the machine is asked whether it lives, and has so long to say so. */
const QUIET = 1500;
const QUIET_PROBE = 1000;
/** A machine may wait 5 s for the watcher's place before it answers. */
const WATCH_ATTEMPT = 8000;
const ODD_MAX = 256;
const CACHE_ENTRIES = 1000;
const CACHE_BYTES = 16 << 20;
const CACHE_EVERY = 5000;
const BUSY = new Set(["overloaded", "rate-limited", "not-enough-backups", "database-locked", "outside-write"]);

// --- errors

/** Why a call has no answer. */
export class TanistError extends Error {
  constructor(message: string) {
    super(message);
    this.name = new.target.name;
  }
}

/** A machine refused the request for good; repeating it would not help. */
export class Problem extends TanistError {
  /** Stable, such as `constraint`, `precondition-failed`, `not-found`. */
  readonly code: string;
  readonly status: number;
  readonly detail: string;
  /** @param document The problem as it came (RFC 9457). */
  constructor(readonly document: { [field: string]: Json }) {
    super(`${String(document.detail)} (${String(document.code)})`);
    this.code = String(document.code);
    this.status = Number(document.status);
    this.detail = String(document.detail);
  }
}

/** No machine could serve the request within the deadline; nothing was done. */
export class Unavailable extends TanistError {
  constructor(deadline: number, readonly tried: readonly string[], readonly last: string) {
    super(`no machine served the request within ${deadline} ms; tried ${tried.join(", ")}; last: ${last}`);
  }
}

/** The deadline passed, and the write may or may not have been done. Repeating it with the same key is safe. */
export class OutcomeUnknown extends TanistError {
  constructor(readonly key: string, deadline: number, readonly last: string) {
    super(`outcome unknown after ${deadline} ms (idempotency key ${key}); last: ${last}`);
  }
}

/** The deadline passed, and a change of the cluster may have been made, or may still be: look before asking again. */
export class Unconfirmed extends TanistError {
  constructor(deadline: number, readonly last: string) {
    super(`not confirmed within ${deadline} ms, it may have been done or still happen; last: ${last}`);
  }
}

/** An answer that isn't of the contract's shape. */
export class Unexpected extends TanistError {
  constructor(readonly host: string, readonly why: string) {
    super(`unexpected answer from ${host}: ${why}`);
  }
}

// --- values

/** JSON whose integers beyond 2^53 are bigints. */
export type Json = null | boolean | number | bigint | string | Json[] | { [name: string]: Json };

/** A number that is stored as a REAL though it has no fraction. */
export class Real {
  constructor(readonly value: number) {}
}

/** What a column gives: an integer beyond 2^53 is a bigint, a blob a Uint8Array; text that isn't UTF-8 stands as base64. */
export type SqlValue = null | number | bigint | string | Uint8Array | { text_base64: string };
/** What a parameter may be; true and false are 1 and 0. */
export type Param = SqlValue | boolean | Real;
/** For `?`, or by name for `:name`. */
export type Params = readonly Param[] | { readonly [name: string]: Param };

const NUMBER = /-?\d+(\.\d+)?([eE][+-]?\d+)?|true|false|null/y;

/** Reads JSON; integers that a number would round become bigints. */
export function parseJson(text: string): Json {
  const plain = JSON.parse(text) as Json;
  if (!/\d{16}/.test(text)) return plain;
  // It is valid JSON: nothing but its numbers is looked at closely.
  let at = 0;
  const skip = (): void => {
    while (text.charCodeAt(at) <= 32) at++;
  };
  const string = (): string => {
    let end = at + 1;
    for (;;) {
      end = text.indexOf('"', end);
      let before = end - 1;
      while (text[before] === "\\") before--;
      end++;
      if ((end - before) % 2 === 0) break;
    }
    const found = JSON.parse(text.slice(at, end)) as string;
    at = end;
    return found;
  };
  const value = (): Json => {
    skip();
    const first = text[at];
    if (first === '"') return string();
    if (first === "[") {
      const found: Json[] = [];
      at++;
      skip();
      if (text[at] === "]") {
        at++;
        return found;
      }
      do {
        found.push(value());
        skip();
      } while (text[at++] === ",");
      return found;
    }
    if (first === "{") {
      const found: { [name: string]: Json } = {};
      at++;
      skip();
      if (text[at] === "}") {
        at++;
        return found;
      }
      do {
        skip();
        const name = string();
        skip();
        at++;
        Object.defineProperty(found, name, { value: value(), writable: true, enumerable: true, configurable: true });
        skip();
      } while (text[at++] === ",");
      return found;
    }
    NUMBER.lastIndex = at;
    const match = NUMBER.exec(text);
    const literal = match?.[0] ?? "null";
    at += literal.length;
    const found = JSON.parse(literal) as Json;
    const isInteger = typeof found === "number" && match?.[1] === undefined && match?.[2] === undefined;
    return isInteger && !Number.isSafeInteger(found) ? BigInt(literal) : found;
  };
  return value();
}

function real(value: number): string {
  const text = Object.is(value, -0) ? "-0" : String(value);
  return /[.e]/.test(text) ? text : `${text}.0`;
}

/** Writes JSON; bigints and `Real` as exact numbers. Numbers that may have been rounded are refused. */
export function stringifyJson(value: unknown): string {
  if (value === null) return "null";
  if (typeof value === "bigint") return value.toString();
  if (value instanceof Real) return real(value.value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new TypeError(`found ${value}, expected a finite number`);
    if (!Number.isInteger(value) || Number.isSafeInteger(value)) return JSON.stringify(value);
    // No integer of 64 bits: it can only be a real.
    if (Math.abs(value) >= 2 ** 63) return real(value);
    throw new TypeError(`found the number ${value}, which may have been rounded, expected a bigint, or a Real`);
  }
  if (typeof value === "string" || typeof value === "boolean") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(stringifyJson).join(",")}]`;
  if (typeof value === "object") {
    const json = value as { toJSON?: () => unknown };
    if (typeof json.toJSON === "function") return stringifyJson(json.toJSON());
    const fields = Object.entries(value).filter(([, field]) => field !== undefined);
    return `{${fields.map(([name, field]) => `${JSON.stringify(name)}:${stringifyJson(field)}`).join(",")}}`;
  }
  throw new TypeError(`found ${typeof value}, expected a value of JSON`);
}

function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x2000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x2000));
  }
  return btoa(text);
}

function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

/** One SQL value of an answer or of a row's event: `{"base64": …}` becomes a Uint8Array, `{"real": …}` a number. */
export function decodeValue(value: Json): SqlValue {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    if (typeof value.base64 === "string") return fromBase64(value.base64);
    if (typeof value.real === "string") return value.real === "Infinity" ? Infinity : -Infinity;
    return value as { text_base64: string };
  }
  return value as SqlValue;
}

function encodeValue(value: Param): unknown {
  if (value === undefined) throw new TypeError("params: found undefined, expected null or a value");
  if (value instanceof Uint8Array) return { base64: toBase64(value) };
  if (typeof value === "number" && !Number.isFinite(value)) {
    return Number.isNaN(value) ? null : { real: value > 0 ? "Infinity" : "-Infinity" };
  }
  return value;
}

// --- what callers get and give

/** One SQL statement. */
export interface Statement {
  sql: string;
  params?: Params;
}

/** What one statement gave. */
export interface Result {
  columns: string[];
  rows: SqlValue[][];
  rowsAffected: number | null;
  lastInsertId: number | bigint | null;
}

/** What a request gave, and the position `term.txid` at which it is so: a `minPosition` for later reads. */
export class Answer {
  constructor(readonly position: string, readonly results: readonly Result[]) {}
  /** The rows of the first statement. */
  get rows(): SqlValue[][] {
    return this.results[0]?.rows ?? [];
  }
  /** The rows of a statement by the names of their columns. */
  objects(statement = 0): { [column: string]: SqlValue }[] {
    const { columns, rows } = this.results[statement] ?? { columns: [], rows: [] };
    return rows.map((row) => Object.fromEntries(row.map((value, i) => [columns[i] ?? String(i), value])));
  }
}

/** Something with the position at which it is so. */
export interface At<T> {
  value: T;
  position: string;
}

/** The value of a key. `revision` is its ETag. `cached`: no machine has answered, and this was true `age` ms ago. */
export interface ConfigEntry {
  key: string;
  value: Json;
  revision: number;
  changedAt: string;
  changedBy: string | null;
  position: string;
  cached: boolean;
  age: number;
}

/** One change of a key; no `old` when it was added, no `new` when it was removed. */
export interface ConfigChange {
  revision: number;
  old?: Json;
  new?: Json;
  changed_at: string;
  changed_by: string | null;
}

/** A part of a list; `next` asks for the one behind it. */
export interface Page<T> {
  entries: T[];
  next: string | null;
  position: string;
}

/** A document of a node or of a state, as `docs/state.md` has it. */
export type Document = { [field: string]: Json };

/** Something that has changed. Values in `data` of a `row` look as the API writes them: see `decodeValue`. */
export interface ChangeEvent {
  id: number;
  kind: string;
  at: string;
  subject: string;
  actor: string | null;
  data: Json;
}

/** How a read is made. */
export interface ReadOptions {
  /** `strong` (default): everything acknowledged before; `local`: what the nearest replica has; `bounded` by `maxStaleness`. */
  consistency?: "strong" | "local" | "bounded";
  maxStaleness?: number;
  /** Of an earlier answer: the read isn't from before it. */
  minPosition?: string;
  /** Total time; the client's own otherwise. */
  deadline?: number;
}

/** How a write is made. */
export interface WriteOptions {
  /** The key of an earlier try of the same write; a new one otherwise. */
  idempotencyKey?: string;
  /** Total time; the client's own otherwise. */
  deadline?: number;
}

/** How a change is made; what isn't so is a `Problem` with `precondition-failed`. */
export interface ChangeOptions extends WriteOptions {
  /** It still has this revision; `*`: it is there. */
  ifMatch?: number | "*";
  /** It isn't there yet. */
  ifNone?: boolean;
}

/** What to watch; by default everything, from now on. */
export interface WatchOptions {
  after?: number;
  kinds?: readonly string[];
  subjectPrefix?: string;
  tables?: readonly string[];
}

/** Where the last known configuration is kept. */
export interface Store {
  load(): Promise<string | null>;
  save(text: string): Promise<void>;
}

/** How a client is made. */
export interface ClientOptions {
  /** Total time of a call, all attempts together; 30 s. */
  deadline?: number;
  /** Time of one attempt; 5 s. */
  attemptTimeout?: number;
  token?: string;
  /** The cluster's name; otherwise the machine that answers first says it. */
  cluster?: string;
  /** Local and bounded reads are never from before the newest answer that this client has had (default). */
  monotonic?: boolean;
  /** Keeps the last known configuration: `fileStore(path)` in Node, `webStore(localStorage)` in a browser. */
  cache?: Store;
  /** Another `fetch`, such as one with authorities of its own. */
  fetch?: typeof fetch;
  /** Is told of what an operator should know; `console.warn` otherwise. */
  log?: (message: string) => void;
}

// --- which machine to ask next: a policy without I/O; time is an argument

/** @internal */
export function parseHost(host: string): string | null {
  const url = (host.includes("://") ? host : `http://${host}`).replace(/\/+$/, "");
  const match = /^https?:\/\/([^\s/?#@\\]+):(\d{1,5})$/.exec(url);
  const good = match !== null && /^[\x21-\x7e]+$/.test(url) && Number(match[2]) > 0 && Number(match[2]) < 65536;
  return good ? url : null;
}

/** @internal */
export function parseHosts(hosts: string | readonly string[]): string[] {
  const parts = (typeof hosts === "string" ? hosts.split(",") : hosts).map((part) => part.trim()).filter((part) => part !== "");
  const urls = parts.map((part) => {
    const url = parseHost(part);
    if (url === null) throw new TypeError(`hosts: found "${part}", expected "host:port", "http://host:port" or "https://host:port"`);
    return url;
  });
  if (urls.length === 0) throw new TypeError('hosts: found none, expected at least one "host:port"');
  return [...new Set(urls)];
}

/** No connection or no answer; it can't, another machine perhaps can; it is the right one, but can't now. */
type Trouble = "unreachable" | "refusing" | "busy";

interface Entry {
  url: string;
  given: boolean;
  failed: boolean;
  until: number;
  since: number;
  why: Trouble | null;
  /** Can't be reached: looked at in the background until it answers. */
  down: boolean;
}

/** @internal The host list and what is known of each. */
export class Hosts {
  entries: Entry[] = [];
  master: string | null = null;
  private next = 0;
  private redirects = 0;

  constructor(given: readonly string[]) {
    for (const url of given) this.add(url, true);
  }

  private add(url: string, given: boolean): void {
    this.entries.push({ url, given, failed: false, until: 0, since: 0, why: null, down: false });
  }

  find(url: string | null): Entry | undefined {
    return this.entries.find((entry) => entry.url === url);
  }

  /** The host to ask now; or how long to wait, when all have just failed or the master is busy. */
  pick(master: boolean, now: number): string | number {
    // One that can't be reached costs time: it comes when there is no other.
    const up = this.entries.filter((entry) => !entry.down);
    const entries = up.length > 0 ? up : this.entries;
    const paused = (entry: Entry): boolean => entry.failed && entry.until > now;
    const wait = (): number => Math.max(Math.min(...entries.map((entry) => entry.until)) - now, 1);
    if (!master) return entries.find((entry) => !paused(entry))?.url ?? wait();
    const believed = entries.find((entry) => entry.url === this.master);
    if (believed) {
      if (!paused(believed)) return believed.url;
      if (believed.why === "busy") return believed.until - now;
    }
    for (let i = 0; i < this.entries.length; i++) {
      const index = (this.next + i) % this.entries.length;
      const entry = this.entries[index];
      if (!entry || !entries.includes(entry) || paused(entry)) continue;
      this.next = index + 1;
      return entry.url;
    }
    this.redirects = 0;
    return wait();
  }

  onServed(url: string, master: boolean): void {
    const entry = this.find(url);
    if (entry) entry.failed = entry.down = false;
    if (!master) return;
    this.redirects = 0;
    this.master = url;
  }

  onTrouble(url: string, why: Trouble, retryAfter: number | null, now: number): void {
    if (why !== "busy" && this.master === url) this.master = null;
    const entry = this.find(url);
    if (!entry) return;
    const since = entry.failed && now < entry.until + FORGET ? entry.since : now;
    const part = Math.min(Math.max((now - since) / PAUSE_PART, PAUSE_MIN), PAUSE_MAX) * (0.75 + Math.random() / 2);
    const pause = Math.max(Math.min(part, PAUSE_MAX, retryAfter ?? PAUSE_MAX), PAUSE_MIN / 2);
    Object.assign(entry, { failed: true, until: now + pause, why, since, down: why === "unreachable" });
  }

  /** `from` says that `to` is the master; it may lag behind a failover, and pauses. */
  onRedirect(from: string, to: string, now: number): void {
    this.onTrouble(from, "refusing", null, now);
    this.redirects++;
    this.learn(to);
    const entry = this.find(to);
    if (entry && this.redirects <= REDIRECTS_AT_ONCE && entry.failed && entry.why !== "unreachable") entry.failed = false;
    this.master = to;
  }

  onMembers(urls: readonly string[]): void {
    this.entries = this.entries.filter((entry) => entry.given || urls.includes(entry.url));
    for (const url of urls) this.learn(url);
  }

  private learn(url: string): void {
    if (!this.find(url) && this.entries.filter((entry) => !entry.given).length < LEARNED_MAX) this.add(url, false);
  }
}

// --- one attempt

interface Request {
  method: string;
  path: string;
  body?: string;
  headers?: { [name: string]: string };
}

interface Raw {
  host: string;
  status: number;
  headers: Headers;
  text: string;
}

/** How an attempt ended that gave no answer. */
type Ending =
  | { kind: "redirect"; to: string }
  /** Nothing was done. */
  | { kind: "refused"; why: string; trouble: Trouble; retryAfter: number | null }
  /** Something may have been done; `master`: and this one reigns by now. */
  | { kind: "unknown"; why: string; master?: string };

class Ended extends Error {
  constructor(readonly ending: Ending) {
    super(ending.kind === "redirect" ? `the master is ${ending.to}` : ending.why);
  }
}

const refused = (why: string, trouble: Trouble, retryAfter: number | null = null): Ended =>
  new Ended({ kind: "refused", why, trouble, retryAfter });
const unknown = (why: string): Ended => new Ended({ kind: "unknown", why });

/** Doesn't jump with the wall clock. */
const clock = (): number => performance.now();

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** In the background: a program isn't kept alive by it, and it never ends once the signal is given. */
function rest(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer: unknown = setTimeout(resolve, ms);
    (timer as { unref?: () => void }).unref?.();
    signal?.addEventListener("abort", () => clearTimeout(timer as number), { once: true });
  });
}

/** An error with its causes: fetch's own text says little. */
function chain(error: unknown): string {
  let text = error instanceof Error ? error.message : String(error);
  for (let cause = (error as { cause?: unknown }).cause; cause instanceof Error; cause = cause.cause) {
    const said = cause.message || String((cause as { code?: unknown }).code);
    if (!text.includes(said)) text += `: ${said}`;
  }
  return text;
}

/** Whether nothing can have been sent; where a browser doesn't say, it may have been. */
function neverSent(error: unknown): boolean {
  const code = String((error as { cause?: { code?: unknown } }).cause?.code ?? "");
  return /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT|ERR_TLS_|ERR_SSL_|CERT_|.*_CERT|.*_CERTIFICATE|.*_SIGNATURE)/.test(code);
}

async function readAll(host: string, response: Response): Promise<string> {
  const tooLarge = (): Unexpected => new Unexpected(host, `the answer is larger than ${ANSWER_LIMIT} bytes`);
  if (!response.body) return "";
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let [text, size] = ["", 0];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return text + decoder.decode();
    size += value.length;
    if (size > ANSWER_LIMIT) {
      await reader.cancel();
      throw tooLarge();
    }
    text += decoder.decode(value, { stream: true });
  }
}

function parse(raw: { host: string; text: string }): Document {
  try {
    return parseJson(raw.text) as Document;
  } catch (error) {
    throw new Unexpected(raw.host, chain(error));
  }
}

/** The verdict on an answer that is neither good nor a redirect. */
function refusal(raw: Raw): Error {
  const seconds = raw.headers.get("retry-after") ?? "";
  const retryAfter = /^\d{1,9}$/.test(seconds) ? Number(seconds) * 1000 : null;
  let problem: Document = {};
  try {
    problem = parseJson(raw.text) as Document;
  } catch {
    // Without a code: judged below.
  }
  const { code, detail } = problem ?? {};
  if (typeof code !== "string" || typeof detail !== "string") {
    // Whoever says 429 hasn't done it. Other errors that aren't Tanist's own (something in between) leave it open.
    if (raw.status === 429) return refused("status 429", "busy", retryAfter);
    if (raw.status >= 500) return unknown(`status ${raw.status}`);
    return new Unexpected(raw.host, `status ${raw.status} without a problem document`);
  }
  if (code === "outcome-unknown" || code === "internal") return unknown(detail);
  if (BUSY.has(code)) return refused(detail, "busy", retryAfter);
  if (raw.status === 503) return refused(detail, "refusing", retryAfter);
  return new Problem(problem);
}

async function newKey(): Promise<string> {
  // Node 18 has it in a module only.
  const name = "node:crypto";
  const source = globalThis.crypto ?? ((await import(name)) as { webcrypto: Crypto }).webcrypto;
  return Array.from(source.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** -1, 0 or 1; a position that can't be read is before all. */
function compare(a: string | null, b: string | null): number {
  const read = (text: string | null): [bigint, bigint] => {
    const match = /^(\d{1,20})\.(\d{1,20})$/.exec(text ?? "");
    return match ? [BigInt(match[1] ?? 0), BigInt(match[2] ?? 0)] : [-1n, -1n];
  };
  const [first, second] = [read(a), read(b)];
  const [x, y] = first[0] === second[0] ? [first[1], second[1]] : [first[0], second[0]];
  return x < y ? -1 : x > y ? 1 : 0;
}

const encoded = (text: string): string => encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16)}`);
const nodePath = (name: string, rest = ""): string => `/v1/nodes/${encoded(name)}${rest}`;

function withQuery(path: string, parameters: { [name: string]: string | number | null | undefined }): string {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const query = given.map(([name, value]) => `${name}=${encoded(String(value))}`).join("&");
  return query === "" ? path : `${path}?${query}`;
}

// --- the client

interface Call {
  master: boolean;
  key?: string;
  /** It changes the cluster, and has no key. */
  changes?: boolean;
  deadline?: number | undefined;
}

/** A client of a cluster; any number of calls at once. */
export class Client {
  private readonly hosts: Hosts;
  private readonly secure: boolean;
  private readonly probed = new Set<string>();
  private readonly odd = new Set<string>();
  private readonly fetch: typeof fetch;
  private readonly log: (message: string) => void;
  private readonly cache: Cache | null;
  private cluster_: string | null;
  private newest: string | null = null;
  private learned: number | null = null;
  private blind = false;
  private closed = false;

  /** @param hosts `a:8080,b:8080` or URLs, the nearest first: local reads go there. */
  constructor(hosts: string | readonly string[], private readonly options: ClientOptions = {}) {
    for (const name of ["deadline", "attemptTimeout"] as const) {
      const value = options[name];
      if (value !== undefined && !(value > 0)) throw new TypeError(`${name}: found ${value}, expected more than 0 ms`);
    }
    if (options.token !== undefined && !/^[\x21-\x7e]{1,500}$/.test(options.token)) {
      throw new TypeError(`token: found ${options.token.length} characters, expected 1 to 500 visible ASCII characters`);
    }
    const given = parseHosts(hosts);
    this.hosts = new Hosts(given);
    this.secure = given.every((url) => url.startsWith("https://"));
    // A browser's own must not be called as a method of something else.
    this.fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.log = options.log ?? ((message) => console.warn(`tanist: ${message}`));
    this.cluster_ = options.cluster ?? null;
    this.cache = options.cache ? new Cache(options.cache, this.log) : null;
  }

  /** Ends what runs in the background, and saves the cache; calls under way end by themselves. */
  async close(): Promise<void> {
    this.closed = true;
    await this.cache?.save(true);
  }

  /** All hosts known now: those given and those learned. */
  knownHosts(): string[] {
    return this.hosts.entries.map((entry) => entry.url);
  }

  /** The machine that is believed to be the master; asks nobody. */
  master(): string | null {
    return this.hosts.master;
  }

  // SQL

  /** Runs one statement; answered when the cluster has stored it. On `OutcomeUnknown`, the same call with its key settles it. */
  execute(sql: string, params?: Params, options?: WriteOptions): Promise<Answer>;
  /** Runs several statements as one transaction. */
  execute(statements: readonly Statement[], options?: WriteOptions): Promise<Answer>;
  async execute(sql: string | readonly Statement[], second?: Params | WriteOptions, third?: WriteOptions): Promise<Answer> {
    const [body, options] = statements<WriteOptions>(sql, second, third);
    return answer(await this.change({ method: "POST", path: "/v1/execute", body }, options));
  }

  /** Runs a read-only statement. */
  query(sql: string, params?: Params, options?: ReadOptions): Promise<Answer>;
  /** Runs read-only statements on one snapshot. */
  query(statements: readonly Statement[], options?: ReadOptions): Promise<Answer>;
  async query(sql: string | readonly Statement[], second?: Params | ReadOptions, third?: ReadOptions): Promise<Answer> {
    const [body, options] = statements<ReadOptions>(sql, second, third);
    return answer(await this.read({ method: "POST", path: "/v1/query", body }, options));
  }

  // Configuration

  /**
   * The value of a key; `Problem` with `not-found` when it has none. With a cache, the last known one (`cached`, with its `age`) when
   * no machine answers within the deadline, and never an older one than before.
   */
  async config(key: string, options: ReadOptions = {}): Promise<ConfigEntry> {
    const cache = this.cache;
    if (!cache) return entry(await this.read({ method: "GET", path: `/v1/config/${encoded(key)}` }, options));
    // What is known is of the cluster that it came from.
    const cluster = await cache.cluster(this.cluster_);
    this.cluster_ ??= cluster;
    const known = await cache.position(key);
    if (known !== null && (options.consistency ?? "strong") !== "strong" && compare(known, options.minPosition ?? null) > 0) {
      options = { ...options, minPosition: known };
    }
    try {
      const found = entry(await this.read({ method: "GET", path: `/v1/config/${encoded(key)}` }, options));
      return await cache.put(found, this.cluster_);
    } catch (error) {
      if (error instanceof Problem && error.code === "not-found") await cache.remove(key);
      const last = error instanceof Unavailable ? await cache.last(key) : null;
      if (last) return last;
      throw error;
    }
  }

  /** The value of a key, unless it still has this revision: null then, and next to nothing travels. */
  async configUnless(key: string, revision: number, options: ReadOptions = {}): Promise<ConfigEntry | null> {
    const headers = { "If-None-Match": `"${revision}"` };
    const raw = await this.read({ method: "GET", path: `/v1/config/${encoded(key)}`, headers }, options);
    return raw.status === 304 ? null : entry(raw);
  }

  /** The keys that begin with `prefix`, in order, a page at a time. */
  async configList(
    prefix = "",
    { after, limit, ...options }: ReadOptions & { after?: string | null; limit?: number } = {},
  ): Promise<Page<ConfigEntry>> {
    return this.page("/v1/config", { prefix, after, limit }, options, configEntry);
  }

  /** The changes of a key, the newest first, removals too. */
  async configHistory(
    key: string,
    { before, limit, ...options }: ReadOptions & { before?: string | null; limit?: number } = {},
  ): Promise<Page<ConfigChange>> {
    const change = (document: Document): ConfigChange => document as unknown as ConfigChange;
    return this.page(`/v1/config/${encoded(key)}/history`, { before, limit }, options, change);
  }

  /** Gives a key a value. The same value again changes nothing. */
  async setConfig(key: string, value: Json | Real, options: ChangeOptions = {}): Promise<ConfigEntry> {
    return entry(await this.put("PUT", `/v1/config/${encoded(key)}`, { value }, options));
  }

  /** Removes a key; the revision of the removal. */
  async removeConfig(key: string, options: ChangeOptions = {}): Promise<number> {
    return Number(parse(await this.put("DELETE", `/v1/config/${encoded(key)}`, undefined, options)).revision);
  }

  // Nodes: what each shall have, and what it says it has

  /** Nodes by name, each with whether it is in step and present. */
  async nodes({ after, limit, ...options }: ReadOptions & { after?: string | null; limit?: number } = {}): Promise<Page<Document>> {
    return this.page("/v1/nodes", { after, limit }, options, (document) => document);
  }

  /** One node. */
  async node(name: string, options: ReadOptions = {}): Promise<At<Document>> {
    return at(await this.read({ method: "GET", path: nodePath(name) }, options));
  }

  /** Makes or changes a node: `address`, `row`, `column`, `labels`, all optional. */
  async setNode(name: string, spec: Document, options: ChangeOptions = {}): Promise<At<Document>> {
    return at(await this.put("PUT", nodePath(name), spec, options));
  }

  /** Removes a node with its states; the revision of the removal. */
  async removeNode(name: string, options: ChangeOptions = {}): Promise<number> {
    return Number(parse(await this.put("DELETE", nodePath(name), undefined, options)).revision);
  }

  /** What a node shall have. */
  async desired(node: string, options: ReadOptions = {}): Promise<At<Document>> {
    return at(await this.read({ method: "GET", path: nodePath(node, "/desired") }, options));
  }

  /** Says what a node shall have. */
  async setDesired(node: string, state: Document, options: ChangeOptions = {}): Promise<At<Document>> {
    return at(await this.put("PUT", nodePath(node, "/desired"), { state }, options));
  }

  /** Changes fields of what a node shall have; null removes one. */
  async patchDesired(node: string, patch: Document, options: ChangeOptions = {}): Promise<At<Document>> {
    return at(await this.put("PATCH", nodePath(node, "/desired"), { state: patch }, options));
  }

  /** What a node has said it has. */
  async reported(node: string, options: ReadOptions = {}): Promise<At<Document>> {
    return at(await this.read({ method: "GET", path: nodePath(node, "/reported") }, options));
  }

  /** For a node: what it has, in answer to which desired state, and why not that. */
  async report(
    node: string,
    state: Document,
    { desiredRevision, error, ...options }: ChangeOptions & { desiredRevision?: number; error?: string } = {},
  ): Promise<At<Document>> {
    const body = { state, desired_revision: desiredRevision, error };
    return at(await this.put("PUT", nodePath(node, "/reported"), body, options));
  }

  /** For a node: a sign of life; tells whether there is something to do for it. */
  async seen(node: string): Promise<Document> {
    return parse(await this.call({ method: "POST", path: nodePath(node, "/seen") }, { master: true, changes: true }));
  }

  // Watching

  /** Watches what changes, from now on or after an event: each once, in order, at another machine when one fails. */
  watch(options: WatchOptions = {}): Watch {
    return new Watch(this, options);
  }

  /** From now on each change of the table's rows is an event. */
  async watchTable(table: string): Promise<void> {
    await this.call({ method: "PUT", path: `/v1/watched-tables/${encoded(table)}` }, { master: true, changes: true });
  }

  /** Changes of the table's rows are no events any more. */
  async unwatchTable(table: string): Promise<void> {
    await this.call({ method: "DELETE", path: `/v1/watched-tables/${encoded(table)}` }, { master: true, changes: true });
  }

  /** How the first machine that answers sees the cluster. */
  async cluster(): Promise<Document> {
    const view = parse(await this.call({ method: "GET", path: "/v1/cluster" }, { master: false }));
    this.learn(view);
    return view;
  }

  // The course of a call

  private async change(request: Request, { idempotencyKey, deadline }: WriteOptions): Promise<Raw> {
    if (idempotencyKey !== undefined && !/^[\x21-\x7e]{1,200}$/.test(idempotencyKey)) {
      throw new TypeError(`idempotency key: found "${idempotencyKey}", expected 1 to 200 visible ASCII characters`);
    }
    const key = idempotencyKey ?? (await newKey());
    return this.call({ ...request, headers: { ...request.headers, "Idempotency-Key": key } }, { master: true, key, deadline });
  }

  private put(method: string, path: string, body: unknown, { ifMatch, ifNone, ...options }: ChangeOptions): Promise<Raw> {
    const headers: { [name: string]: string } = {};
    if (ifNone) headers["If-None-Match"] = "*";
    if (ifMatch !== undefined) headers["If-Match"] = ifMatch === "*" ? "*" : `"${ifMatch}"`;
    if (method === "PATCH") headers["Content-Type"] = "application/merge-patch+json";
    const request: Request = { method, path, headers };
    if (body !== undefined) request.body = stringifyJson(body);
    return this.change(request, options);
  }

  private read(request: Request, options: ReadOptions): Promise<Raw> {
    const { consistency = "strong", maxStaleness, deadline } = options;
    let minPosition = options.minPosition ?? null;
    if ((consistency === "bounded") !== (maxStaleness !== undefined)) {
      throw new TypeError('maxStaleness: expected with the consistency "bounded", and only with it');
    }
    const isStrong = consistency === "strong";
    if (!isStrong && this.options.monotonic !== false && compare(this.newest, minPosition) > 0) minPosition = this.newest;
    const query = {
      consistency: isStrong ? null : consistency,
      max_staleness: maxStaleness === undefined ? null : `${Math.round(maxStaleness)}ms`,
    };
    const separator = request.path.includes("?") ? "&" : "?";
    const path = request.path + withQuery("", query).replace("?", separator);
    const headers = { ...request.headers, ...(minPosition === null ? {} : { "Tanist-Min-Position": minPosition }) };
    return this.call({ ...request, path, headers }, { master: isStrong, deadline });
  }

  private async page<T>(
    path: string,
    parameters: { [name: string]: string | number | null | undefined },
    options: ReadOptions,
    item: (document: Document, position: string) => T,
  ): Promise<Page<T>> {
    const raw = await this.read({ method: "GET", path: withQuery(path, parameters) }, options);
    const [document, position] = [parse(raw), positionOf(raw)];
    const entries = (document.entries as Document[]).map((found) => item(found, position));
    return { entries, next: (document.next as string | undefined) ?? null, position };
  }

  private async call(request: Request, { master, key, changes, deadline }: Call): Promise<Raw> {
    const total = deadline ?? this.deadline;
    const until = clock() + total;
    const tried = new Set<string>();
    let last = "there was no time for an attempt";
    let mayBeDone = false;
    for (let attempts = 1; ; attempts++) {
      const host = await this.nextHost(master, until);
      if (host === null) break;
      tried.add(host);
      try {
        const raw = await this.attempt(host, request, master, Math.min(until - clock(), this.attemptTimeout));
        this.onServed(host, master, attempts > 1);
        const position = raw.headers.get("tanist-position");
        if (compare(position, this.newest) > 0) this.newest = position;
        return raw;
      } catch (error) {
        if (error instanceof Problem) this.onServed(host, master, attempts > 1);
        if (!(error instanceof Ended)) throw error;
        if (error.ending.kind === "unknown") mayBeDone = true;
        this.onEnding(host, error.ending);
        // What was before the one that the deadline has cut off says more.
        if (attempts === 1 || clock() < until) last = `${host}: ${error.message}`;
      }
    }
    if (key !== undefined && mayBeDone) throw new OutcomeUnknown(key, total, last);
    if (changes && mayBeDone) throw new Unconfirmed(total, last);
    throw new Unavailable(total, [...tried], last);
  }

  /** @internal */
  get deadline(): number {
    return this.options.deadline ?? 30_000;
  }

  /** @internal */
  get attemptTimeout(): number {
    return this.options.attemptTimeout ?? 5000;
  }

  /** @internal */
  async nextHost(master: boolean, until: number): Promise<string | null> {
    for (;;) {
      const now = clock();
      if (now >= until) return null;
      const picked = this.hosts.pick(master, now);
      if (typeof picked === "string") return picked;
      await sleep(Math.min(picked, until - now));
    }
  }

  /** One request to one host. While it is silent it is looked around: a machine without power doesn't even break its connections. */
  private async attempt(host: string, request: Request, master: boolean, limit: number): Promise<Raw> {
    const stop = new AbortController();
    const sent = this.send(host, request, limit, stop.signal);
    sent.catch(() => undefined);
    try {
      return await Promise.race([sent, this.lookAround(host, master, stop.signal)]);
    } finally {
      stop.abort();
    }
  }

  /** A whole answer within the limit, judged. */
  private async send(host: string, request: Request, limit: number, signal?: AbortSignal): Promise<Raw> {
    const stop = new AbortController();
    const end = (): void => stop.abort();
    signal?.addEventListener("abort", end);
    const timer = setTimeout(end, Math.max(limit, 1));
    try {
      const response = await this.open(host, request, stop.signal);
      if (response.status === 307 || response.status === 308 || response.type === "opaqueredirect") {
        void response.body?.cancel();
        throw await this.redirect(host, request, response);
      }
      const raw = { host, status: response.status, headers: response.headers, text: await readAll(host, response) };
      if (raw.status === 304 || response.ok) return raw;
      throw refusal(raw);
    } catch (error) {
      if (error instanceof Ended || error instanceof TanistError) throw error;
      throw unknown(stop.signal.aborted ? `no whole answer within ${Math.round(limit)} ms` : chain(error));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
    }
  }

  /** @internal The head of an answer, its body still to come. */
  async open(host: string, request: Request, signal: AbortSignal): Promise<Response> {
    if (this.secure && !host.startsWith("https://")) {
      throw refused("the hosts of this client are https://, nothing is sent without TLS", "refusing");
    }
    // Redirected rather than forwarded: the master is asked directly from then on.
    const headers: { [name: string]: string } = { Accept: "application/json", "Tanist-Redirect": "1", ...request.headers };
    if (request.body !== undefined || request.method === "POST") headers["Content-Type"] ??= "application/json";
    if (this.options.token !== undefined) headers.Authorization = `Bearer ${this.options.token}`;
    if (this.cluster_ !== null) headers["Tanist-Cluster"] = this.cluster_;
    const init: RequestInit = {
      method: request.method, headers, body: request.body ?? null, redirect: "manual", cache: "no-store", credentials: "omit", signal,
    };
    let response: Response;
    try {
      response = await this.fetch(host + request.path, init);
    } catch (error) {
      if (!signal.aborted && neverSent(error)) throw refused(chain(error), "unreachable");
      throw error;
    }
    // The cluster of the machine that answers first counts; an answer of another cluster's is none.
    const found = response.headers.get("tanist-cluster");
    if (found === null || found === (this.cluster_ ??= found)) return response;
    void response.body?.cancel();
    const why = `it belongs to the cluster "${found}", the others to "${this.cluster_}"`;
    if (!this.odd.has(host) && this.odd.size < ODD_MAX) {
      this.odd.add(host);
      this.log(`${host} isn't used: ${why}`);
    }
    throw refused(why, "refusing");
  }

  private async redirect(host: string, request: Request, response: Response): Promise<Ended> {
    let location = response.headers.get("location") ?? "";
    if (response.type === "opaqueredirect") {
      // A browser doesn't show where to, nor would it take the token along.
      const view = await this.view(host, LOOK_AROUND);
      location = this.usable(view.master_urls)[0] ?? "";
    } else {
      if (!location.endsWith(request.path)) return refused(`a redirect to "${location}", which is no machine's ${request.path}`, "refusing");
      location = location.slice(0, location.length - request.path.length);
    }
    const to = parseHost(location);
    if (to === null) return refused(`a redirect to "${location}", which is no machine`, "refusing");
    if (this.secure && !to.startsWith("https://")) return refused(`a redirect to "${to}", which has no TLS`, "refusing");
    return new Ended({ kind: "redirect", to });
  }

  /** Fails when the asked machine no longer serves and another one reigns instead, or, for a local read, when it shows no life. */
  private async lookAround(host: string, master: boolean, ended: AbortSignal): Promise<never> {
    do await rest(LOOK_AROUND, ended);
    while (master ? await this.reigns(host) : (await this.lives(host, LOOK_AROUND)) || this.hosts.entries.length < 2);
    if (!master) throw unknown("no answer, and it shows no life");
    while (!ended.aborted) {
      for (const other of this.knownHosts()) {
        if (other !== host && (await this.reigns(other))) {
          throw new Ended({ kind: "unknown", why: `no answer, and ${other} is the master by now`, master: other });
        }
      }
      await rest(LOOK_AROUND, ended);
    }
    throw unknown("ended");
  }

  /** @internal Whether the machine answers at all. */
  async lives(host: string, limit: number): Promise<boolean> {
    try {
      await this.send(host, { method: "GET", path: "/healthz" }, limit);
      return true;
    } catch (error) {
      return error instanceof Problem;
    }
  }

  private async reigns(host: string): Promise<boolean> {
    try {
      if (this.blind) return parse(await this.send(host, { method: "GET", path: "/readyz" }, LOOK_AROUND)).role === "master";
      const view = await this.view(host, LOOK_AROUND);
      const serves = view.writable === true && view.master === view.member;
      if (serves) this.learn(view);
      return serves;
    } catch {
      return false;
    }
  }

  private async view(host: string, limit: number): Promise<Document> {
    try {
      return parse(await this.send(host, { method: "GET", path: "/v1/cluster" }, limit));
    } catch (error) {
      // An agent isn't shown the cluster: it asks no more.
      if (error instanceof Problem && error.code === "forbidden") this.blind = true;
      throw error;
    }
  }

  private usable(urls: Json | undefined): string[] {
    const parsed = (Array.isArray(urls) ? urls : []).map((url) => parseHost(String(url)));
    return parsed.filter((url): url is string => url !== null && (!this.secure || url.startsWith("https://")));
  }

  private learn(view: Document): void {
    const members = (Array.isArray(view.members) ? view.members : []) as Document[];
    const urls = members.flatMap((member) => this.usable(member.urls));
    if (urls.length > 0) this.hosts.onMembers(urls);
    const told = [...this.usable(typeof view.suggested_host === "string" ? [view.suggested_host] : []), ...this.usable(view.master_urls)];
    // Who served a request of the master's is known better than what somebody tells.
    if (told[0] !== undefined && view.writable === true) this.hosts.master ??= told[0];
  }

  /** @internal */
  onServed(host: string, master: boolean, trouble: boolean): void {
    this.hosts.onServed(host, master);
    const now = clock();
    if (this.blind || this.closed) return;
    if (this.learned !== null && now - this.learned < (trouble ? LEARN_AGAIN : LEARN_EVERY)) return;
    this.learned = now;
    void this.view(host, this.attemptTimeout).then((view) => this.learn(view), () => undefined);
  }

  /** @internal */
  onEnding(host: string, ending: Ending): void {
    const now = clock();
    if (ending.kind === "redirect") {
      this.hosts.onRedirect(host, ending.to, now);
      return;
    }
    const trouble = ending.kind === "refused" ? ending.trouble : "unreachable";
    this.hosts.onTrouble(host, trouble, ending.kind === "refused" ? ending.retryAfter : null, now);
    if (ending.kind === "unknown" && ending.master !== undefined) this.hosts.master = ending.master;
    if (trouble !== "unreachable" || this.hosts.entries.length < 2 || this.probed.has(host)) return;
    this.probed.add(host);
    void this.probe(host).finally(() => this.probed.delete(host));
  }

  /** Looks at a host that can't be reached until it answers, so that no caller has to. */
  private async probe(host: string): Promise<void> {
    const since = clock();
    while (!this.closed) {
      await rest(Math.min(Math.max((clock() - since) / PAUSE_PART, PROBE_MIN), PROBE_MAX));
      const entry = this.hosts.find(host);
      if (!entry?.down) return;
      if (await this.lives(host, 1000)) {
        entry.failed = entry.down = false;
        return;
      }
    }
  }
}

function statements<O extends object>(
  sql: string | readonly Statement[],
  second: Params | O | undefined,
  third: O | undefined,
): [string, O] {
  const given = typeof sql === "string" ? [{ sql, params: (second ?? []) as Params }] : sql;
  const options = (typeof sql === "string" ? third : (second as O | undefined)) ?? ({} as O);
  const list = given.map(({ sql, params = [] }) => {
    if (Array.isArray(params)) return { sql, params: params.map(encodeValue) };
    const named = params as { readonly [name: string]: Param };
    return { sql, params: Object.fromEntries(Object.keys(named).map((name) => [name, encodeValue(named[name] as Param)])) };
  });
  return [stringifyJson({ statements: list }), options];
}

function answer(raw: Raw): Answer {
  const document = parse(raw);
  const results = (document.results as Document[]).map((result) => ({
    columns: (result.columns ?? []) as string[],
    rows: ((result.rows ?? []) as Json[][]).map((row) => row.map(decodeValue)),
    rowsAffected: (result.rows_affected ?? null) as number | null,
    lastInsertId: (result.last_insert_id ?? null) as number | bigint | null,
  }));
  return new Answer(String(document.position), results);
}

function positionOf(raw: Raw): string {
  const position = raw.headers.get("tanist-position");
  if (position === null) throw new Unexpected(raw.host, "no header Tanist-Position");
  return position;
}

function at(raw: Raw): At<Document> {
  return { value: parse(raw), position: positionOf(raw) };
}

function configEntry(document: Document, position: string): ConfigEntry {
  return {
    key: String(document.key),
    value: document.value ?? null,
    revision: Number(document.revision),
    changedAt: String(document.changed_at),
    changedBy: (document.changed_by ?? null) as string | null,
    position,
    cached: false,
    age: 0,
  };
}

function entry(raw: Raw): ConfigEntry {
  return configEntry(parse(raw), positionOf(raw));
}

// --- watching

/** Events that go on at another machine when one fails: in order, none twice, none missed. */
export class Watch implements AsyncIterableIterator<ChangeEvent> {
  /** The newest event that was seen (or passed by, unwanted): a later watch goes on after it. */
  position: number | null;
  /** The machine that tells now. */
  host: string | null = null;
  private readonly path: string;
  private reader: ReadableStreamDefaultReader<Uint8Array> | null = null;
  private pending: Promise<Uint8Array | null> | null = null;
  private stop = new AbortController();
  private parser = new EventParser();
  private closed = false;

  /** @internal */
  constructor(private readonly client: Client, { after, kinds = [], subjectPrefix, tables = [] }: WatchOptions) {
    this.position = after ?? null;
    this.path = withQuery("/v1/events", { kinds: kinds.join(","), subject_prefix: subjectPrefix, tables: tables.join(",") });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Ends the iteration. */
  close(): void {
    this.closed = true;
    this.drop();
  }

  async return(): Promise<IteratorResult<ChangeEvent>> {
    this.close();
    return { done: true, value: undefined };
  }

  /** Connects, and gives the event after which the watch begins: what is read from now on is at least as new. */
  async begin(): Promise<number> {
    while (this.position === null || this.reader === null) {
      if (this.closed) throw new TypeError("the watch is closed");
      await this.step(); // a machine says where it begins before it tells anything
    }
    return this.position;
  }

  /**
   * The next event. `Unavailable`: no machine has let the watch go on within the client's deadline; called again it goes on trying.
   * `Problem` with `events-pruned` or `events-lost`: what follows can't be told any more, read anew.
   */
  async next(): Promise<IteratorResult<ChangeEvent>> {
    while (!this.closed) {
      const event = await this.step();
      if (event && !this.closed) return { done: false, value: event };
    }
    return { done: true, value: undefined };
  }

  /** One thing at a time. */
  private async step(): Promise<ChangeEvent | null> {
    const host = this.host;
    if (this.reader === null || host === null) {
      await this.connect();
      return null;
    }
    const block = this.parser.next();
    if (block) return this.told(host, block);
    const reader = this.reader;
    this.pending ??= reader.read().then(({ value }) => value ?? null);
    try {
      const part = await this.patiently(host, this.pending);
      this.pending = null;
      if (part === null) throw new Error("the stream ended");
      if (!this.parser.push(part)) {
        this.drop();
        throw new Unexpected(host, `an event of more than ${EVENT_LIMIT} bytes`);
      }
    } catch (error) {
      if (error instanceof Unexpected || this.closed) {
        if (error instanceof Unexpected) throw error;
        return null;
      }
      this.leave(host, { kind: "unknown", why: chain(error) });
    }
    return null;
  }

  /** While nothing comes the machine is asked whether it lives, so that a stall shows within 3 s. */
  private async patiently<T>(host: string, coming: Promise<T>): Promise<T> {
    coming.catch(() => undefined);
    for (;;) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const quiet = new Promise<"quiet">((resolve) => (timer = setTimeout(() => resolve("quiet"), QUIET)));
      const found = await Promise.race([coming.then((value) => ({ value })), quiet]).finally(() => clearTimeout(timer));
      if (found !== "quiet") return found.value;
      if (this.closed) throw new Error("closed");
      const late = await Promise.race([coming.then((value) => ({ value })), this.client.lives(host, QUIET_PROBE)]);
      if (typeof late === "object") return late.value;
      if (!late) throw new Error(`nothing came for ${QUIET} ms, and it shows no life`);
    }
  }

  private drop(): void {
    this.stop.abort();
    this.reader = this.pending = this.host = null;
    this.parser = new EventParser();
  }

  private leave(host: string, ending: Ending): void {
    this.drop();
    this.client.onEnding(host, ending);
  }

  private async connect(): Promise<void> {
    const deadline = this.client.deadline;
    const until = clock() + deadline;
    const tried = new Set<string>();
    let last = "there was no time for an attempt";
    while (!this.closed) {
      const host = await this.client.nextHost(false, until);
      if (host === null) throw new Unavailable(deadline, [...tried], last);
      tried.add(host);
      try {
        const limit = Math.min(until - clock(), Math.max(this.client.attemptTimeout, WATCH_ATTEMPT));
        this.reader = await this.open(host, limit);
        this.host = host;
        this.client.onServed(host, false, tried.size > 1);
        return;
      } catch (error) {
        if (error instanceof TanistError || this.closed) {
          if (error instanceof TanistError) throw error;
          return;
        }
        this.client.onEnding(host, error instanceof Ended ? error.ending : { kind: "unknown", why: chain(error) });
        last = `${host}: ${chain(error)}`;
      }
    }
  }

  private async open(host: string, limit: number): Promise<ReadableStreamDefaultReader<Uint8Array>> {
    const stop = (this.stop = new AbortController());
    const timer = setTimeout(() => stop.abort(), Math.max(limit, 1));
    try {
      const headers: { [name: string]: string } = { Accept: "text/event-stream" };
      if (this.position !== null) headers["Last-Event-ID"] = String(this.position);
      const opening = this.client.open(host, { method: "GET", path: this.path, headers }, stop.signal);
      const response = await this.patiently(host, opening);
      if (response.status === 200 && response.body) return response.body.getReader();
      throw refusal({ host, status: response.status, headers: response.headers, text: await readAll(host, response) });
    } catch (error) {
      stop.abort();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  private told(host: string, { id, kind, data }: Block): ChangeEvent | null {
    let document: Document | null = null;
    try {
      document = data === "" ? null : (parseJson(data) as Document);
    } catch (error) {
      this.drop();
      throw new Unexpected(host, chain(error));
    }
    if (kind === "end") {
      const code = String(document?.code);
      if (code === "events-pruned" || code === "events-lost") {
        this.drop();
        throw new Problem({ status: 410, ...document });
      }
      this.leave(host, { kind: "refused", why: String(document?.detail), trouble: "refusing", retryAfter: null });
      return null;
    }
    if (id === null && document === null) return null;
    const number = /^\d{1,16}$/.test(id ?? "") ? Number(id) : NaN;
    if (document === null && number >= 0) {
      // No event, only a place: all before it that was wanted has been told.
      this.position = Math.max(number, this.position ?? 0);
      return null;
    }
    if (!(number > (this.position ?? -1)) || document === null) {
      this.drop();
      throw new Unexpected(host, `event "${id}" after event ${this.position}`);
    }
    this.position = number;
    const { at, subject, actor = null, data: what = null } = document;
    return { id: number, kind, at: String(at), subject: String(subject), actor: actor as string | null, data: what };
  }
}

interface Block {
  id: string | null;
  kind: string;
  data: string;
}

/** @internal Server-sent events, however the bytes come. */
export class EventParser {
  private readonly decoder = new TextDecoder();
  private text = "";
  private at = 0;
  private searched = 0;
  private id: string | null = null;
  private kind = "";
  private data: string[] = [];
  private size = 0;

  /** False: an event is too large. */
  push(part: Uint8Array): boolean {
    this.text = this.text.slice(this.at) + this.decoder.decode(part, { stream: true });
    this.searched -= this.at;
    this.at = 0;
    return this.text.length + this.size <= EVENT_LIMIT;
  }

  /** The next block that is whole and says anything. */
  next(): Block | null {
    for (;;) {
      const end = this.text.indexOf("\n", Math.max(this.at, this.searched));
      if (end < 0) {
        this.searched = this.text.length;
        return null;
      }
      const line = this.text.slice(this.at, end).replace(/\r$/, "");
      this.at = end + 1;
      if (line === "") {
        const block = { id: this.id, kind: this.kind, data: this.data.join("\n") };
        [this.id, this.kind, this.data, this.size] = [null, "", [], 0];
        if (block.id !== null || block.kind !== "" || block.data !== "") return block;
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "id") this.id = value;
      else if (name === "event") this.kind = value;
      else if (name === "data") {
        this.data.push(value);
        this.size += value.length;
      }
    }
  }
}

// --- the last known configuration

interface Known {
  entry: ConfigEntry;
  at: number;
  removed: boolean;
}

/** @internal The last known value of each key that was read: whole or not at all, and never an older one than before. */
export class Cache {
  private entries: Map<string, Known> | null = null;
  private loading: Promise<Map<string, Known>> | null = null;
  private cluster_: string | null = null;
  private saved = -Infinity;
  private saving: Promise<void> = Promise.resolve();

  constructor(
    private readonly store: Store,
    private readonly log: (message: string) => void,
  ) {}

  private async load(): Promise<Map<string, Known>> {
    if (this.entries) return this.entries;
    this.loading ??= (async () => {
      const found = new Map<string, Known>();
      try {
        const text = await this.store.load();
        if (text !== null) {
          if (text.length > CACHE_BYTES) throw new Error(`${text.length} characters, expected at most ${CACHE_BYTES}`);
          const document = parseJson(text) as Document;
          for (const known of document.entries as Document[]) {
            const entry = known.entry as unknown as ConfigEntry;
            const good = typeof entry.key === "string" && typeof entry.revision === "number" && typeof known.at === "number";
            if (!good || compare(entry.position, null) <= 0) throw new Error("an entry that is none");
            found.set(entry.key, { entry, at: known.at as number, removed: known.removed === true });
          }
          this.cluster_ = typeof document.cluster === "string" ? document.cluster : null;
        }
      } catch (error) {
        this.log(`the cache can't be read (${chain(error)}): it begins empty`);
        found.clear();
      }
      return (this.entries = found);
    })();
    return this.loading;
  }

  /** Whose values these are; those of another cluster than the known one are dropped. */
  async cluster(known: string | null): Promise<string | null> {
    const entries = await this.load();
    if (known !== null && this.cluster_ !== null && this.cluster_ !== known) {
      this.log(`the cache is of the cluster "${this.cluster_}", expected "${known}": it begins empty`);
      entries.clear();
    }
    return (this.cluster_ = known ?? this.cluster_);
  }

  async position(key: string): Promise<string | null> {
    return (await this.load()).get(key)?.entry.position ?? null;
  }

  private aged({ entry, at }: Known): ConfigEntry {
    return { ...entry, cached: true, age: Math.max(Date.now() - at, 0) };
  }

  /** The last known value, with its age. */
  async last(key: string): Promise<ConfigEntry | null> {
    const known = (await this.load()).get(key);
    if (known?.removed) throw new Problem({ code: "not-found", status: 404, detail: `${key}: no such key, as last known` });
    return known ? this.aged(known) : null;
  }

  /** Takes a new value; gives the known one if that is newer. */
  async put(entry: ConfigEntry, cluster: string | null): Promise<ConfigEntry> {
    const entries = await this.load();
    const known = entries.get(entry.key);
    if (known && compare(entry.position, known.entry.position) < 0) {
      this.log(`${entry.key} at ${entry.position} is older than what the cache knows: not taken`);
      return this.aged(known);
    }
    this.cluster_ ??= cluster;
    // The one that was read longest ago makes room.
    entries.delete(entry.key);
    entries.set(entry.key, { entry, at: Date.now(), removed: false });
    for (const oldest of entries.keys()) {
      if (entries.size <= CACHE_ENTRIES) break;
      entries.delete(oldest);
    }
    await this.save(!known || known.removed || known.entry.revision !== entry.revision);
    return entry;
  }

  async remove(key: string): Promise<void> {
    const known = (await this.load()).get(key);
    if (!known || known.removed) return;
    Object.assign(known, { entry: { ...known.entry, value: null }, removed: true, at: Date.now() });
    await this.save(true);
  }

  /** At once when a value has changed; what only became older on disk, now and then. */
  async save(force: boolean): Promise<void> {
    const entries = await this.load();
    if (entries.size === 0 || (!force && clock() < this.saved + CACHE_EVERY)) return;
    this.saved = clock();
    // One after the other, each with what is known by then.
    this.saving = this.saving.then(async () => {
      try {
        const text = stringifyJson({ cluster: this.cluster_, entries: [...entries.values()] });
        if (text.length > CACHE_BYTES) throw new Error(`${text.length} characters, expected at most ${CACHE_BYTES}`);
        await this.store.save(text);
      } catch (error) {
        this.log(`the cache can't be written: ${chain(error)}`);
      }
    });
    await this.saving;
  }
}

/** For Node: a file, replaced as a whole. */
export function fileStore(path: string): Store {
  interface Handle {
    writeFile(text: string): Promise<void>;
    sync(): Promise<void>;
    close(): Promise<void>;
  }
  interface Files {
    readFile(path: string, encoding: string): Promise<string>;
    open(path: string, flags: string, mode: number): Promise<Handle>;
    rename(from: string, to: string): Promise<void>;
    rm(path: string, options: { force: boolean }): Promise<void>;
  }
  // By a variable: a browser's bundler looks for no such module then.
  const name = "node:fs/promises";
  const files = async (): Promise<Files> => (await import(name)) as Files;
  return {
    async load() {
      try {
        return await (await files()).readFile(path, "utf8");
      } catch (error) {
        if ((error as { code?: string }).code === "ENOENT") return null;
        throw error;
      }
    },
    async save(text) {
      const { open, rename, rm } = await files();
      const temporary = `${path}.${await newKey()}`;
      try {
        const file = await open(temporary, "wx", 0o600);
        try {
          await file.writeFile(text);
          await file.sync();
        } finally {
          await file.close();
        }
        await rename(temporary, path);
      } finally {
        await rm(temporary, { force: true });
      }
    },
  };
}

/** For a browser: `localStorage` or what looks like it. */
export function webStore(
  storage: { getItem(name: string): string | null; setItem(name: string, value: string): void },
  name = "tanist",
): Store {
  return { load: async () => storage.getItem(name), save: async (text) => storage.setItem(name, text) };
}
