# SPDX-License-Identifier: Apache-2.0
"""Calls every kind of route of a real cluster: story.py HOSTS CACHE_FILE [TOKEN CA_FILE]. Then it waits for a line, by when the cluster is
off, reads from the cache, says `cached`, and at the next line, when the cluster is back, goes on."""

import math
import ssl
import sys
import time

import tanist


def equal(found: object, expected: object) -> None:
    if found != expected or type(found) is not type(expected):
        raise AssertionError("found %r, expected %r" % (found, expected))


def refused(code: str, call: "object", *args: object, **named: object) -> None:
    try:
        call(*args, **named)  # type: ignore[operator]
    except tanist.Problem as problem:
        equal(problem.code, code)
    else:
        raise AssertionError("expected %s" % code)


def values(client: tanist.Client) -> str:
    client.execute("CREATE TABLE v(n)")
    given = [2**63 - 1, -(2**63), 2**53 + 1, 0, 1.0, 0.1, 1e300, math.inf, "", "\0 ä \U0001f600 '\"\\", b"", b"\0\xff" * 1000, None]
    done = client.execute([tanist.Statement("INSERT INTO v VALUES (?)", [value]) for value in given])
    equal([result.rows_affected for result in done.results], [1] * len(given))
    for consistency in ("strong", "local"):
        found = client.query("SELECT n FROM v ORDER BY rowid", consistency=consistency, min_position=done.position).rows
        for row, expected in zip(found, given):
            equal(row[0], expected)
        equal(len(found), len(given))
    named = client.query("SELECT :a + 1 AS n, typeof(@b) AS kind", {"a": 2**62, "b": b"x"}, consistency="bounded", max_staleness=60)
    equal(named.dicts(), [{"n": 2**62 + 1, "kind": "blob"}])
    again = client.execute("INSERT INTO v VALUES (1) RETURNING n", idempotency_key="once")
    equal(client.execute("INSERT INTO v VALUES (1) RETURNING n", idempotency_key="once"), again)
    refused("sql-error", client.query, "SELECT nothing FROM nowhere")
    refused("bad-request", client.query, "SELECT ?", [2**63])
    refused("idempotency-mismatch", client.execute, "DELETE FROM v", idempotency_key="once")
    return done.position


def configuration(client: tanist.Client) -> None:
    refused("not-found", client.config, "wall/title")
    first = client.set_config("wall/title", {"text": "Hall 1", "n": 2**60}, if_none=True)
    refused("precondition-failed", client.set_config, "wall/title", 1, if_none=True)
    refused("precondition-failed", client.set_config, "wall/title", 1, if_match=first.revision + 1)
    second = client.set_config("wall/title", "Hall 2", if_match=first.revision)
    equal(client.config("wall/title", consistency="local").value, "Hall 2")
    equal(client.config_unless("wall/title", second.revision), None)
    equal(client.config_unless("wall/title", first.revision), second._replace(position=client.config("wall/title").position))
    client.set_config("wall/ä".replace("ä", "a"), None)
    page = client.config_list("wall/", limit=1)
    rest = client.config_list("wall/", limit=1, after=page.next)
    equal([entry.key for entry in page.entries + rest.entries], ["wall/a", "wall/title"])
    equal(rest.next, None)
    equal(client.remove_config("wall/a", if_match="*") > second.revision, True)
    history = client.config_history("wall/title").entries
    equal([(change.document.get("old"), change.document["new"]) for change in history][0], ({"n": 2**60, "text": "Hall 1"}, "Hall 2"))


def nodes(client: tanist.Client) -> None:
    client.set_node("n1", {"row": 1, "labels": {"side": "left"}})
    desired = client.set_desired("n1", {"channel": 3, "on": True}).value
    desired = client.patch_desired("n1", {"on": None}, if_match=desired["revision"]).value
    equal(client.desired("n1", consistency="local").value["state"], {"channel": 3})
    equal(client.seen("n1")["desired_revision"], desired["revision"])
    equal(client.nodes().entries[0]["in_step"], False)
    client.report("n1", {"channel": 3}, desired_revision=desired["revision"])
    equal(client.reported("n1").value["state"], {"channel": 3})
    equal((client.nodes().entries[0]["in_step"], client.node("n1").value["labels"]), (True, {"side": "left"}))
    client.remove_node("n1")
    refused("not-found", client.node, "n1")


def watching(client: tanist.Client) -> None:
    client.execute("CREATE TABLE w(b)")
    client.watch_table("w")
    with client.watch(tables=["w"]) as watch:
        begin = watch.begin()
        client.execute("INSERT INTO w VALUES (?)", [b"\1"])
        event = next(watch)
        equal((event.kind, event.subject, tanist.decode_value(event.data["new"]["b"]), event.id > begin), ("row", "w", b"\1", True))
    client.unwatch_table("w")
    refused("bad-request", next, client.watch(kinds=["nonsense"]))


def main() -> None:
    hosts, cache = sys.argv[1], sys.argv[2]
    token, tls = (sys.argv[3], ssl.create_default_context(cafile=sys.argv[4])) if len(sys.argv) > 3 else (None, None)
    with tanist.Client(hosts, cluster="other", token=token, tls=tls, deadline=1) as stranger:
        try:
            stranger.cluster()
        except tanist.Unavailable as error:
            equal("belongs to the cluster 'test'" in str(error), True)
        else:
            raise AssertionError("a stranger was answered")
    client = tanist.Client(hosts, cache=cache, token=token, tls=tls)
    values(client)
    configuration(client)
    nodes(client)
    watching(client)
    known = client.config("wall/title")
    client.close()
    print("ready", flush=True)

    sys.stdin.readline()
    off = tanist.Client(hosts, cache=cache, token=token, tls=tls, deadline=0.5)
    cached = off.config("wall/title")
    equal((cached.cached, cached.value, cached.position, 0 < cached.age < 600), (True, known.value, known.position, True))
    try:
        off.execute("INSERT INTO v VALUES (1)")
    except tanist.Unavailable:
        pass  # nobody took a connection: nothing was done
    else:
        raise AssertionError("a write was taken by nobody")
    print("cached", flush=True)

    sys.stdin.readline()
    back = tanist.Client(hosts, cache=cache, token=token, tls=tls)
    fresh = back.config("wall/title", consistency="local")
    equal((fresh.cached, fresh.value), (False, known.value))
    back.set_config("wall/title", "Hall 3")
    equal(off.config("wall/title", deadline=30).value, "Hall 3")
    print("done", flush=True)


main()
