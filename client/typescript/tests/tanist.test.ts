// SPDX-License-Identifier: Apache-2.0
// What needs no cluster: the policy, JSON, the format of events, the cache, and answers that a real machine seldom gives.

import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer as createTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import {
  Cache, Client, type ClientOptions, type ConfigEntry, decodeValue, EventParser, fileStore, Hosts, OutcomeUnknown, parseHosts, parseJson,
  Problem, Real, stringifyJson, Unavailable,
} from "../src/tanist.js";

const DONE = { position: "1.2", results: [{ rows_affected: 1 }] };
const quiet = (): void => undefined;

interface Seen {
  url: string;
  writes: { key: string }[];
  clusters: unknown[];
}

type Respond = (request: IncomingMessage, response: ServerResponse) => void;

async function serve(t: TestContext, respond: Respond): Promise<Seen> {
  const seen: Seen = { url: "", writes: [], clusters: [] };
  const server = createServer((request, response) => {
    const { "idempotency-key": key, "tanist-cluster": cluster } = request.headers;
    seen.clusters.push(cluster);
    if (request.url === "/v1/execute") seen.writes.push({ key: String(key) });
    request.resume().on("end", () => respond(request, response));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  seen.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return seen;
}

function json(response: ServerResponse, status: number, document: object, headers: { [name: string]: string } = {}): void {
  response.writeHead(status, headers).end(JSON.stringify(document));
}

function problem(response: ServerResponse, status: number, code: string, headers: { [name: string]: string } = {}): void {
  json(response, status, { status, code, detail: "because", title: "", type: "" }, headers);
}

const always = (respond: Respond): Respond => (request, response) =>
  request.url === "/v1/execute" || request.url?.startsWith("/v1/query") ? respond(request, response) : problem(response, 404, "not-found");

const clientOf = (seen: Seen[], options: ClientOptions = {}): Client => new Client(seen.map(({ url }) => url), { log: quiet, ...options });

test("a redirect is followed and remembered", async (t) => {
  const master = await serve(t, always((_, response) => json(response, 200, DONE)));
  const backup = await serve(t, always((_, response) => json(response, 307, {}, { Location: `${master.url}/v1/execute` })));
  const client = clientOf([backup]);
  for (let i = 0; i < 3; i++) await client.execute("INSERT");
  assert.deepEqual([master.writes.length, backup.writes.length, client.master()], [3, 1, master.url]);
});

test("a browser that hides redirects asks for the master", async (t) => {
  const master = await serve(t, always((_, response) => json(response, 200, DONE)));
  const view = { members: [], master_urls: [master.url], writable: true, suggested_host: null };
  const backup = await serve(t, (request, response) =>
    request.url === "/v1/cluster" ? json(response, 200, view) : json(response, 307, {}, { Location: "hidden" }));
  const browser: typeof fetch = async (input, init) => {
    const response = await fetch(input, init);
    if (response.status !== 307) return response;
    await response.arrayBuffer();
    const hidden = Response.error();
    return new Proxy(hidden, { get: (target, name) => (name === "type" ? "opaqueredirect" : Reflect.get(target, name, target)) });
  };
  const client = clientOf([backup], { fetch: browser });
  await client.execute("INSERT");
  assert.deepEqual([master.writes.length, client.master()], [1, master.url]);
});

test("one key serves all attempts, and an unknown outcome is said", async (t) => {
  const a = await serve(t, always((request) => request.socket.destroy()));
  const b = await serve(t, always((_, response) => problem(response, 503, "outcome-unknown")));
  const client = clientOf([a, b], { deadline: 500 });
  const error: unknown = await client.execute("INSERT").catch((error: unknown) => error);
  assert.ok(error instanceof OutcomeUnknown, String(error));
  const keys = [...a.writes, ...b.writes].map(({ key }) => key);
  assert.ok(keys.length > 2 && keys.every((key) => key === error.key), keys.join());
  await assert.rejects(client.query("SELECT 1"), Unavailable);
});

/** Why a write wasn't done. When the deadline comes in the middle of an attempt its outcome is unknown, but that isn't always so. */
async function unserved(client: () => Client): Promise<string> {
  let error: unknown;
  for (let i = 0; i < 5 && !(error instanceof Unavailable); i++) error = await client().execute("INSERT").catch((error: unknown) => error);
  assert.ok(error instanceof Unavailable, String(error));
  return error.message;
}

test("a refused write is not unknown, nor is one that nobody took", async (t) => {
  const a = await serve(t, always((_, response) => problem(response, 503, "no-master", { "Retry-After": "1" })));
  assert.match(await unserved(() => clientOf([a], { deadline: 300 })), /because/);
  const gone = createTcp();
  await new Promise<void>((resolve) => gone.listen(0, "127.0.0.1", resolve));
  const { port } = gone.address() as AddressInfo;
  await new Promise((resolve) => gone.close(resolve));
  assert.match(await unserved(() => new Client(`127.0.0.1:${port}`, { deadline: 300 })), /ECONNREFUSED/);
});

test("a final problem is told at once", async (t) => {
  const a = await serve(t, always((_, response) => problem(response, 409, "constraint")));
  await assert.rejects(clientOf([a]).execute("INSERT"), (error: unknown) => error instanceof Problem && error.code === "constraint" && error.status === 409);
  assert.equal(a.writes.length, 1);
});

test("a silent machine is left with the same key when another reigns", async (t) => {
  const view = { members: [], master_urls: [], suggested_host: null, writable: true, master: "b", member: "b" };
  const silent = await serve(t, quiet);
  const other = await serve(t, (request, response) => json(response, 200, request.url === "/v1/cluster" ? view : DONE));
  const begin = performance.now();
  await clientOf([silent, other], { attemptTimeout: 20_000 }).execute("INSERT");
  assert.ok(performance.now() - begin < 10_000);
  assert.equal(new Set([...silent.writes, ...other.writes].map(({ key }) => key)).size, 1);
});

test("an attempt has a total time though bytes keep coming", async (t) => {
  const slow = await serve(t, always((_, response) => {
    response.writeHead(200, { "Content-Length": "1000" });
    const timer = setInterval(() => response.write(" "), 50);
    response.on("close", () => clearInterval(timer));
  }));
  const begin = performance.now();
  await assert.rejects(clientOf([slow], { attemptTimeout: 300, deadline: 600 }).query("SELECT 1"), Unavailable);
  assert.ok(performance.now() - begin < 5000);
});

test("a machine of another cluster is not used", async (t) => {
  const a = await serve(t, always((_, response) => json(response, 200, DONE, { "Tanist-Cluster": "home" })));
  const b = await serve(t, always((_, response) => json(response, 200, DONE, { "Tanist-Cluster": "foreign" })));
  await assert.rejects(clientOf([b], { cluster: "home", deadline: 300 }).query("SELECT 1"), /belongs to the cluster "foreign"/);
  assert.equal(b.clusters[0], "home");
  await clientOf([b, a], { cluster: "home" }).execute("INSERT");
});

test("hosts that cannot be reached are not in the way", async (t) => {
  // Takes connections, says nothing, as a stopped process does.
  const dead = await serve(t, quiet);
  const alive = await serve(t, always((_, response) => json(response, 200, DONE)));
  const client = clientOf([dead, alive], { attemptTimeout: 20_000 });
  const begin = performance.now();
  for (let i = 0; i < 20; i++) await client.query("SELECT 1", [], { consistency: "local" });
  assert.ok(performance.now() - begin < 10_000);
  await client.close();
});

test("hosts are read, and nonsense is named", () => {
  assert.deepEqual(parseHosts("a:1,http://b:2/, [::1]:80"), ["http://a:1", "http://b:2", "http://[::1]:80"]);
  for (const bad of ["", " , ", "a", "a:x", "a:0", ":1", "ftp://a:1", "https://a", "http://a:1/path", "a b:1", "x@a:1", "a:65536"]) {
    assert.throws(() => parseHosts(bad), TypeError, bad);
  }
});

test("the master first, others in turn, dead ones last", () => {
  const hosts = new Hosts(["a", "b", "c"]);
  hosts.onServed("b", true);
  assert.deepEqual([hosts.pick(true, 0), hosts.pick(false, 0)], ["b", "a"]);
  hosts.onTrouble("a", "unreachable", null, 0);
  hosts.onTrouble("b", "unreachable", null, 0);
  // Long after the pauses: as long as there is another nobody waits for them.
  assert.deepEqual([hosts.pick(true, 1e5), hosts.pick(false, 1e5)], ["c", "c"]);
  hosts.onTrouble("c", "unreachable", null, 1e5);
  assert.match(String(hosts.pick(false, 1e5)), /[ab]/);
  hosts.onServed("c", true);
  hosts.onTrouble("c", "busy", 400, 2e5);
  assert.ok(Number(hosts.pick(true, 2e5)) <= 400);
});

test("JSON keeps 64 bits, and refuses what may have been rounded", () => {
  const text = '{"a":[9223372036854775807,-9223372036854775808,9007199254740991,1.0,12345678901234567890.5,1e300],"b\\\\\\"1234567890123456789":{"":[],"x":{}},"__proto__":9007199254740993,"s":"1234567890123456789\\\\"}';
  const read = parseJson(text) as { [name: string]: unknown };
  assert.deepEqual(read.a, [2n ** 63n - 1n, -(2n ** 63n), 9007199254740991, 1, 12345678901234567890.5, 1e300]);
  assert.deepEqual(read['b\\"1234567890123456789'], { "": [], x: {} });
  assert.equal(Object.getOwnPropertyDescriptor(read, "__proto__")?.value, 9007199254740993n);
  assert.equal(read.s, "1234567890123456789\\");
  assert.throws(() => parseJson("{1234567890123456789"), SyntaxError);
  const written = stringifyJson({ big: 2n ** 63n - 1n, one: new Real(1), zero: new Real(-0), far: 1e300, none: undefined, date: new Date(0), nested: [null, true, "ä\n"] });
  assert.equal(written, '{"big":9223372036854775807,"one":1.0,"zero":-0.0,"far":1e+300,"date":"1970-01-01T00:00:00.000Z","nested":[null,true,"ä\\n"]}');
  for (const bad of [2 ** 53, -(2 ** 60), NaN, () => 1]) assert.throws(() => stringifyJson(bad), TypeError);
  assert.deepEqual(decodeValue({ base64: "AP8=" }), new Uint8Array([0, 255]));
  assert.deepEqual([decodeValue({ real: "-Infinity" }), decodeValue({ text_base64: "/w==" })], [-Infinity, { text_base64: "/w==" }]);
});

test("blocks of events are the same however the bytes come", () => {
  const stream = 'retry: 500\nid: 7\n: begins\n\n:\n\nid: 8\nevent: row\ndata: {"a":\ndata:  "\u00e4"}\n\r\nevent: end\r\ndata: x\r\n\r\nid: 9\nda';
  const bytes = new TextEncoder().encode(stream);
  for (const size of [1, 2, 3, 7, 1000]) {
    const parser = new EventParser();
    const found: unknown[] = [];
    for (let start = 0; start < bytes.length; start += size) {
      assert.ok(parser.push(bytes.subarray(start, start + size)));
      for (let block = parser.next(); block; block = parser.next()) found.push(block);
    }
    assert.deepEqual(found, [
      { id: "7", kind: "", data: "" }, { id: "8", kind: "row", data: '{"a":\n "\u00e4"}' }, { id: null, kind: "end", data: "x" },
    ]);
  }
  const parser = new EventParser();
  const line = new TextEncoder().encode(`data: ${"x".repeat(1 << 20)}\n`);
  let pushed = 0;
  while (pushed < 40 && parser.push(line) && parser.next() === null) pushed++;
  assert.ok(pushed < 40, "an event without end is refused");
});

test("the cache never goes back, also not over a restart, and is bounded", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "tanist-"));
  t.after(() => rm(folder, { recursive: true }));
  const file = join(folder, "cache.json");
  const entry = (key: string, value: number, revision: number, position: string): ConfigEntry =>
    ({ key, value, revision, position, changedAt: "now", changedBy: null, cached: false, age: 0 });
  const begin = (): Cache => new Cache(fileStore(file), quiet);
  const cache = begin();
  await cache.put(entry("k", 2, 9, "2.5"), "home");
  const older = await cache.put(entry("k", 1, 8, "1.900"), "home");
  assert.deepEqual([older.value, older.cached], [2, true]);
  assert.equal((await begin().put(entry("k", 1, 8, "2.4"), "home")).value, 2);
  assert.deepEqual([(await begin().last("k"))?.value, await begin().cluster(null)], [2, "home"]);
  const foreign = begin();
  await foreign.cluster("other");
  assert.equal(await foreign.last("k"), null);
  await cache.remove("k");
  await assert.rejects(begin().last("k"), Problem);
  for (const text of ["", "{", "[]", '{"cluster":"home","entries":[{}]}', '{"cluster":"home","entries":7}']) {
    await writeFile(file, text);
    assert.equal(await begin().last("k"), null, text);
  }
  await rm(file);
  const full = Array.from({ length: 1000 }, (_, i) => ({ entry: entry(String(i), i, i, "1.1"), at: 0 }));
  const many = new Cache({ load: async () => stringifyJson({ cluster: "home", entries: full }), save: async () => undefined }, quiet);
  assert.equal((await many.last("0"))?.value, 0);
  await many.put(entry("one more", 7, 7, "1.1"), "home");
  assert.deepEqual([await many.last("0"), (await many.last("one more"))?.value], [null, 7]);
  assert.deepEqual(await readdir(folder), [], "no temporary file is left");
});
