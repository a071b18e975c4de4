# SPDX-License-Identifier: Apache-2.0
"""A copy of the configuration that follows the cluster, through any failure.

    python3 examples/watch.py 127.0.0.1:8080,127.0.0.1:8081 wall/ [LAST_KNOWN_FILE KEY]

Kill the machine that it names: it goes on at another with the event that follows the last one. With a file, it first shows what KEY
was when it was read last, also when no machine answers.
"""

import sys
from typing import Dict

import tanist


def read_anew(client: tanist.Client, prefix: str, values: Dict[str, object]) -> tanist.Watch:
    """First the watch, then the values: what changes in between is told, and telling it twice would do no harm."""
    watch = client.watch(kinds=["config"], subject_prefix=prefix)
    watch.begin()
    values.clear()
    after = None
    while True:
        page = client.config_list(prefix, after=after)
        values.update((entry.key, entry.value) for entry in page.entries)
        after = page.next
        if after is None:
            return watch


def follow(client: tanist.Client, prefix: str) -> None:
    values: Dict[str, object] = {}
    watch = read_anew(client, prefix, values)
    print("on %s: %s" % (watch.host, values), flush=True)
    while True:
        try:
            event = next(watch)
        except tanist.Unavailable as error:
            print("no machine answers, trying on: %s" % error, flush=True)
        except tanist.Problem as problem:
            if problem.code not in ("events-pruned", "events-lost"):
                raise
            watch = read_anew(client, prefix, values)
        else:
            if event.data is not None:
                values[event.subject] = event.data["value"]
            else:
                values.pop(event.subject, None)
            print("on %s: %s" % (watch.host, values), flush=True)


def main() -> None:
    hosts, prefix = sys.argv[1], sys.argv[2]
    if len(sys.argv) > 4:
        with tanist.Client(hosts, cache=sys.argv[3], deadline=2) as client:
            entry = client.config(sys.argv[4])
            known = "as of %.0f s ago" % entry.age if entry.cached else "now"
            print("%s: %r (%s, position %s)" % (entry.key, entry.value, known, entry.position), flush=True)
    with tanist.Client(hosts) as client:
        follow(client, prefix)


if __name__ == "__main__":
    main()
