// SPDX-License-Identifier: Apache-2.0
/**
 * Writes, reads and watches without pause while somebody kills machines: ledger.js HOSTS WORKERS ATTEMPT_SECONDS
 *
 * Commands on standard input: `state` prints `state WRITES LONGEST_PAUSE_MS` and forgets the pause; `told` prints how many writes the
 * watch has told of; `stop` ends it with `done COUNT COUNT ...`, one for each worker, once all have been told. Any error from the client
 * ends it with exit code 1.
 */

import { createInterface } from "node:readline";
import { Client } from "../src/tanist.js";

const [hosts = "", workers = "4", attempt = "5"] = process.argv.slice(2);
const client = new Client(hosts, { attemptTimeout: Number(attempt) * 1000 });
const counts = new Array<number>(Number(workers)).fill(0);
const told = new Array<number>(Number(workers)).fill(0);
const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0);
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
let [stop, last, longest] = [false, performance.now(), 0];

async function write(worker: number): Promise<void> {
  while (!stop) {
    await client.execute("INSERT INTO ledger(entry) VALUES (?)", [`${worker}/${counts[worker]}`]);
    const now = performance.now();
    [longest, last] = [Math.max(longest, now - last), now];
    counts[worker] = (counts[worker] ?? 0) + 1;
  }
}

/** Reads of the nearest replica show at least what was acknowledged to this client before. */
async function read(): Promise<void> {
  while (!stop) {
    const least = sum(counts);
    const found = (await client.query("SELECT count(*) FROM ledger", [], { consistency: "local" })).rows[0]?.[0];
    if (Number(found) < least) throw new Error(`${String(found)} rows, ${least} were acknowledged`);
    await sleep(20);
  }
}

async function watch(): Promise<void> {
  let newest = 0;
  for await (const event of client.watch({ after: 0, tables: ["ledger"] })) {
    const { entry } = (event.data as { new: { entry: string } }).new;
    const [worker = 0, number = 0] = entry.split("/").map(Number);
    if (event.id <= newest || number !== told[worker]) {
      throw new Error(`${entry} told as event ${event.id} after ${newest}, expected number ${told[worker]}`);
    }
    newest = event.id;
    told[worker] = number + 1;
  }
}

function fail(error: unknown): never {
  console.error(error);
  process.exit(1);
}

await client.execute("CREATE TABLE IF NOT EXISTS ledger(entry TEXT NOT NULL)");
await client.watchTable("ledger");
last = performance.now();
const working = [...counts.map((_, worker) => write(worker)), read()].map((work) => work.catch(fail));
watch().catch(fail);
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "stop") break;
  if (line === "told") console.log(`told ${sum(told)}`);
  if (line === "state") {
    console.log(`state ${sum(counts)} ${Math.round(longest)}`);
    longest = 0;
  }
}
stop = true;
await Promise.all(working);
for (const begin = performance.now(); told.join() !== counts.join(); await sleep(10)) {
  if (performance.now() - begin > 60_000) fail(`told ${told.join()} of ${counts.join()}`);
}
console.log(`done ${counts.join(" ")}`);
process.exit(0);
