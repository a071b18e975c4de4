# SPDX-License-Identifier: Apache-2.0
"""Writes, reads and watches without pause while somebody kills machines: ledger.py HOSTS WORKERS ATTEMPT_SECONDS

Commands on standard input: `state` prints `state WRITES LONGEST_PAUSE_MS` and forgets the pause; `told` prints how many writes the
watch has told of; `stop` ends it with `done COUNT COUNT ...`, one for each worker, once all have been told. Any exception from the
client ends it with exit code 1.
"""

import os
import sys
import threading
import time
import traceback

import tanist


class Ledger:
    def __init__(self, client: tanist.Client, workers: int) -> None:
        self.client = client
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.counts = [0] * workers
        self.last, self.longest = time.monotonic(), 0.0
        self.told = [0] * workers

    def write(self, worker: int) -> None:
        while not self.stop.is_set():
            entry = "%d/%d" % (worker, self.counts[worker])
            self.client.execute("INSERT INTO ledger(entry) VALUES (?)", [entry])
            with self.lock:
                now = time.monotonic()
                self.longest, self.last = max(self.longest, now - self.last), now
                self.counts[worker] += 1

    def read(self, _: int) -> None:
        """Reads of the nearest replica show at least what was acknowledged to this client before."""
        while not self.stop.is_set():
            with self.lock:
                least = sum(self.counts)
            found = self.client.query("SELECT count(*) FROM ledger", consistency="local").rows[0][0]
            if found < least:
                raise AssertionError("%d rows, %d were acknowledged" % (found, least))
            time.sleep(0.02)

    def watch(self, _: int) -> None:
        last = 0
        for event in self.client.watch(after=0, tables=["ledger"]):
            worker, number = (int(part) for part in event.data["new"]["entry"].split("/"))
            if event.id <= last or number != self.told[worker]:
                raise AssertionError("%s told as event %d after %d, expected number %d" % (event, event.id, last, self.told[worker]))
            last = event.id
            self.told[worker] += 1

    def run(self, work: "object", worker: int) -> threading.Thread:
        def whole() -> None:
            try:
                work(worker)  # type: ignore[operator]
            except BaseException:
                traceback.print_exc()
                os._exit(1)

        thread = threading.Thread(target=whole, daemon=True)
        thread.start()
        return thread


def main() -> None:
    hosts, workers, attempt = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    client = tanist.Client(hosts, attempt_timeout=attempt)
    client.execute("CREATE TABLE IF NOT EXISTS ledger(entry TEXT NOT NULL)")
    client.watch_table("ledger")
    ledger = Ledger(client, workers)
    threads = [ledger.run(ledger.write, worker) for worker in range(workers)] + [ledger.run(ledger.read, 0)]
    ledger.run(ledger.watch, 0)
    for line in sys.stdin:
        command = line.strip()
        with ledger.lock:
            if command == "state":
                print("state %d %d" % (sum(ledger.counts), ledger.longest * 1000), flush=True)
                ledger.longest = 0.0
            elif command == "told":
                print("told %d" % sum(ledger.told), flush=True)
        if command == "stop":
            break
    ledger.stop.set()
    for thread in threads:
        thread.join()
    until = time.monotonic() + 60
    while ledger.told != ledger.counts:
        if time.monotonic() > until:
            raise AssertionError("told %s of %s" % (ledger.told, ledger.counts))
        time.sleep(0.01)
    print("done " + " ".join(map(str, ledger.counts)), flush=True)


main()
