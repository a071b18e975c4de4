// SPDX-License-Identifier: Apache-2.0
/**
 * A copy of the configuration that follows the cluster, through any failure.
 *
 *     npm install && npm run build && node dist/examples/watch.js 127.0.0.1:8080,127.0.0.1:8081 wall/ [LAST_KNOWN_FILE KEY]
 *
 * Kill the machine that it names: it goes on at another with the event that follows the last one. With a file, it first shows what KEY
 * was when it was read last, also when no machine answers.
 */

import { Client, fileStore, type Json, Problem, Unavailable, type Watch } from "../src/tanist.js";

const [hosts = "127.0.0.1:8080", prefix = "", file, key] = process.argv.slice(2);
const values = new Map<string, Json>();

/** First the watch, then the values: what changes in between is told, and telling it twice would do no harm. */
async function readAnew(client: Client): Promise<Watch> {
  const watch = client.watch({ kinds: ["config"], subjectPrefix: prefix });
  await watch.begin();
  values.clear();
  let after: string | null = null;
  do {
    const page = await client.configList(prefix, { after });
    for (const entry of page.entries) values.set(entry.key, entry.value);
    after = page.next;
  } while (after !== null);
  return watch;
}

async function follow(client: Client): Promise<void> {
  let watch = await readAnew(client);
  console.log(`on ${watch.host}:`, values);
  for (;;) {
    try {
      const { value: event } = await watch.next();
      const data = event.data as { value: Json } | null;
      if (data) values.set(event.subject, data.value);
      else values.delete(event.subject);
      console.log(`on ${watch.host}:`, values);
    } catch (error) {
      if (error instanceof Unavailable) console.log(`no machine answers, trying on: ${error.message}`);
      else if (error instanceof Problem && /^events-(pruned|lost)$/.test(error.code)) watch = await readAnew(client);
      else throw error;
    }
  }
}

if (file !== undefined && key !== undefined) {
  const client = new Client(hosts, { cache: fileStore(file), deadline: 2000 });
  const entry = await client.config(key);
  const known = entry.cached ? `as of ${Math.round(entry.age / 1000)} s ago` : "now";
  console.log(`${entry.key}:`, entry.value, `(${known}, position ${entry.position})`);
  await client.close();
}
await follow(new Client(hosts));
