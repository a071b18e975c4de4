// SPDX-License-Identifier: Apache-2.0
/**
 * Calls every kind of route of a real cluster: story.js HOSTS CACHE_FILE [TOKEN]. Then it waits for a line, by when the cluster is off,
 * reads from the cache, says `cached`, and at the next line, when the cluster is back, goes on.
 */

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { Client, type ClientOptions, decodeValue, fileStore, OutcomeUnknown, type Param, Problem, Real, Unavailable } from "../src/tanist.js";

const [hosts = "", cacheFile = "", token] = process.argv.slice(2);
const options = (more: ClientOptions = {}): ClientOptions => ({
  ...(token === undefined ? {} : { token }), cache: fileStore(cacheFile), ...more,
});
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const refused = (code: string, call: () => Promise<unknown>): Promise<void> =>
  assert.rejects(call, (error: unknown) => error instanceof Problem && error.code === code);

async function values(client: Client): Promise<void> {
  await client.execute("CREATE TABLE v(n)");
  const given: Param[] = [
    2n ** 63n - 1n, -(2n ** 63n), 2n ** 53n + 1n, 9007199254740991, 0, 0.1, 1e300, Infinity, "", "\0 ä \u{1f600} '\"\\",
    new Uint8Array(), new Uint8Array(2000).fill(255), null,
  ];
  const done = await client.execute(given.map((value) => ({ sql: "INSERT INTO v VALUES (?)", params: [value] })));
  assert.deepEqual(done.results.map((result) => result.rowsAffected), given.map(() => 1));
  for (const consistency of ["strong", "local"] as const) {
    const found = await client.query("SELECT n FROM v ORDER BY rowid", [], { consistency, minPosition: done.position });
    assert.deepEqual(found.rows, given.map((value) => [value]));
  }
  const sql = "SELECT :a + 1 AS n, typeof(@b) AS kind, typeof($c) AS real";
  const bounded = { consistency: "bounded", maxStaleness: 60_000 } as const;
  const named = await client.query(sql, { a: 2n ** 62n, b: new Uint8Array(1), c: new Real(1) }, bounded);
  assert.deepEqual(named.objects(), [{ n: 2n ** 62n + 1n, kind: "blob", real: "real" }]);
  const once = (sql: string): Promise<unknown> => client.execute(sql, [], { idempotencyKey: "once" });
  assert.deepEqual(await once("INSERT INTO v VALUES (1) RETURNING n"), await once("INSERT INTO v VALUES (1) RETURNING n"));
  await refused("idempotency-mismatch", () => once("DELETE FROM v"));
  await refused("sql-error", () => client.query("SELECT nothing FROM nowhere"));
  await refused("bad-request", () => client.query("SELECT ?", [2n ** 63n]));
  await assert.rejects(client.query("SELECT ?", [2 ** 60]), TypeError);
}

async function configuration(client: Client): Promise<void> {
  await refused("not-found", () => client.config("wall/title"));
  const first = await client.setConfig("wall/title", { text: "Hall 1", n: 2n ** 60n }, { ifNone: true });
  await refused("precondition-failed", () => client.setConfig("wall/title", 1, { ifNone: true }));
  await refused("precondition-failed", () => client.setConfig("wall/title", 1, { ifMatch: first.revision + 1 }));
  const second = await client.setConfig("wall/title", "Hall 2", { ifMatch: first.revision });
  assert.equal((await client.config("wall/title", { consistency: "local" })).value, "Hall 2");
  assert.equal(await client.configUnless("wall/title", second.revision), null);
  assert.equal((await client.configUnless("wall/title", first.revision))?.value, "Hall 2");
  await client.setConfig("wall/a", null);
  const page = await client.configList("wall/", { limit: 1 });
  const rest = await client.configList("wall/", { limit: 1, after: page.next });
  assert.deepEqual([...page.entries, ...rest.entries].map((entry) => entry.key), ["wall/a", "wall/title"]);
  assert.equal(rest.next, null);
  assert.ok((await client.removeConfig("wall/a", { ifMatch: "*" })) > second.revision);
  const [change] = (await client.configHistory("wall/title")).entries;
  assert.deepEqual([change?.old, change?.new], [{ text: "Hall 1", n: 2n ** 60n }, "Hall 2"]);
}

async function nodes(client: Client): Promise<void> {
  await client.setNode("n1", { row: 1, labels: { side: "left" } });
  const before = await client.setDesired("n1", { channel: 3, on: true });
  const desired = (await client.patchDesired("n1", { on: null }, { ifMatch: Number(before.value.revision) })).value;
  assert.deepEqual((await client.desired("n1", { consistency: "local" })).value.state, { channel: 3 });
  assert.equal((await client.seen("n1")).desired_revision, desired.revision);
  assert.equal((await client.nodes()).entries[0]?.in_step, false);
  await client.report("n1", { channel: 3 }, { desiredRevision: Number(desired.revision) });
  assert.deepEqual((await client.reported("n1")).value.state, { channel: 3 });
  assert.equal((await client.nodes()).entries[0]?.in_step, true);
  assert.deepEqual((await client.node("n1")).value.labels, { side: "left" });
  await client.removeNode("n1");
  await refused("not-found", () => client.node("n1"));
}

async function watching(client: Client): Promise<void> {
  await client.execute("CREATE TABLE w(b)");
  await client.watchTable("w");
  const watch = client.watch({ tables: ["w"] });
  const begin = await watch.begin();
  await client.execute("INSERT INTO w VALUES (?)", [new Uint8Array([1])]);
  for await (const { id, kind, subject, data } of watch) {
    assert.ok(id > begin && kind === "row" && subject === "w", `${id} ${kind} ${subject}`);
    assert.deepEqual(decodeValue((data as { new: { b: string } }).new.b), new Uint8Array([1]));
    break;
  }
  await client.unwatchTable("w");
  await refused("bad-request", () => client.watch({ kinds: ["nonsense"] }).next());
}

const stranger = new Client(hosts, options({ cluster: "other", deadline: 1000, log: () => undefined }));
await assert.rejects(stranger.cluster(), (error: unknown) => error instanceof Unavailable && error.message.includes('belongs to the cluster "test"'));
const client = new Client(hosts, options());
await values(client);
await configuration(client);
await nodes(client);
await watching(client);
const known = await client.config("wall/title");
await client.close();
console.log("ready");

await lines.next();
const off = new Client(hosts, options({ deadline: 500 }));
const cached = await off.config("wall/title");
assert.deepEqual([cached.cached, cached.value, cached.position], [true, known.value, known.position]);
assert.ok(cached.age > 0 && cached.age < 600_000, String(cached.age));
// Nobody took a connection: nothing was done, but that the deadline may have come in the middle of connecting.
const nobody: unknown = await off.execute("INSERT INTO v VALUES (1)").catch((error: unknown) => error);
assert.ok(nobody instanceof Unavailable || nobody instanceof OutcomeUnknown, String(nobody));
console.log("cached");

await lines.next();
const back = new Client(hosts, options());
const fresh = await back.config("wall/title", { consistency: "local" });
assert.deepEqual([fresh.cached, fresh.value], [false, known.value]);
await back.setConfig("wall/title", "Hall 3");
assert.equal((await off.config("wall/title", { deadline: 30_000 })).value, "Hall 3");
console.log("done");
process.exit(0);
