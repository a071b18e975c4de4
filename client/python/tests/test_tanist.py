# SPDX-License-Identifier: Apache-2.0
"""What needs no cluster: the policy, the format of events, the cache, and answers that a real machine seldom gives."""

import json
import os
import socket
import tempfile
import threading
import time
import unittest
from typing import Callable, Dict, List, Tuple

import tanist
from tanist import _at_least, _Cache, _Hosts, _Parser, _parse_hosts


class Server:
    """Answers each request by a function: (request text) -> bytes, or None to close without a word."""

    def __init__(self, answer: "Callable[[str], object]") -> None:
        self.answer, self.requests = answer, []  # type: Callable[[str], object], List[str]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while True:
                while b"\r\n\r\n" not in data:
                    part = connection.recv(65536)
                    if not part:
                        return
                    data += part
                head, data = data.split(b"\r\n\r\n", 1)
                length = next((int(l.split(b":")[1]) for l in head.split(b"\r\n") if l.lower().startswith(b"content-length:")), 0)
                while len(data) < length:
                    data += connection.recv(65536)
                text, data = (head + b"\n\n" + data[:length]).decode(), data[length:]
                self.requests.append(text)
                answer = self.answer(text)
                if answer is None:
                    return
                connection.sendall(answer)  # type: ignore[arg-type]

    def close(self) -> None:
        self.listener.close()


def answer(status: int, document: object, *headers: str) -> bytes:
    body = json.dumps(document).encode()
    lines = ["HTTP/1.1 %d X" % status, "Content-Length: %d" % len(body), *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


DONE = {"position": "1.2", "results": [{"rows_affected": 1}]}


def problem(status: int, code: str, *headers: str) -> bytes:
    return answer(status, {"type": "", "title": "", "status": status, "code": code, "detail": "because"}, *headers)


class Calls(unittest.TestCase):
    def start(self, respond: "Callable[[str], object]") -> Server:
        def routed(text: str) -> object:
            return problem(404, "not-found") if "/v1/cluster " in text or "/healthz" in text else respond(text)

        server = Server(routed)
        self.addCleanup(server.close)
        return server

    def client(self, *servers: Server, **options: object) -> tanist.Client:
        client = tanist.Client([server.url for server in servers], **options)  # type: ignore[arg-type]
        self.addCleanup(client.close)
        return client

    @staticmethod
    def writes(*servers: Server) -> List[str]:
        return [text for server in servers for text in server.requests if text.startswith("POST /v1/execute")]

    def test_redirect_is_followed_and_remembered(self) -> None:
        master = self.start(lambda _: answer(200, DONE))
        backup = self.start(lambda _: answer(307, {}, "Location: %s/v1/execute" % master.url))
        client = self.client(backup)
        for _ in range(3):
            client.execute("INSERT")
        self.assertEqual((len(self.writes(master)), len(self.writes(backup))), (3, 1))
        self.assertEqual(client.master(), master.url)

    def test_one_key_for_all_attempts_and_unknown_is_said(self) -> None:
        a, b = self.start(lambda _: None), self.start(lambda _: problem(503, "outcome-unknown"))
        client = self.client(a, b, deadline=0.5)
        with self.assertRaises(tanist.OutcomeUnknown) as unknown:
            client.execute("INSERT")
        texts = self.writes(a, b)
        self.assertGreater(len(texts), 2)
        self.assertTrue(all("Idempotency-Key: %s\r\n" % unknown.exception.key in text + "\r\n" for text in texts))
        with self.assertRaises(tanist.Unavailable):
            client.query("SELECT 1")

    def test_refused_write_is_not_unknown(self) -> None:
        a = self.start(lambda _: problem(503, "no-master", "Retry-After: 1"))
        for _ in range(5):
            with self.assertRaises(tanist.Error) as error:
                self.client(a, deadline=0.3).execute("INSERT")
            if isinstance(error.exception, tanist.Unavailable):
                break  # otherwise the deadline may have come in the middle of an attempt
        self.assertIsInstance(error.exception, tanist.Unavailable)
        self.assertIn("because", str(error.exception))

    def test_final_problem_is_told_at_once(self) -> None:
        a = self.start(lambda _: problem(409, "constraint"))
        with self.assertRaises(tanist.Problem) as error:
            self.client(a).execute("INSERT")
        self.assertEqual((error.exception.code, error.exception.status, len(self.writes(a))), ("constraint", 409, 1))

    def test_silent_machine_is_left_with_the_same_key_when_another_reigns(self) -> None:
        ended = threading.Event()
        self.addCleanup(ended.set)
        view: Dict[str, object] = {"members": [], "master_urls": [], "suggested_host": None, "writable": True, "master": "b", "member": "b"}
        silent = Server(lambda _: ended.wait(30) and None)
        other = Server(lambda text: answer(200, view if "/v1/cluster " in text else DONE))
        self.addCleanup(silent.close)
        self.addCleanup(other.close)
        begin = time.monotonic()
        self.client(silent, other, attempt_timeout=20).execute("INSERT")
        self.assertLess(time.monotonic() - begin, 10)
        keys = {line for text in self.writes(silent, other) for line in text.split("\n") if line.startswith("Idempotency-Key")}
        self.assertEqual((len(self.writes(silent, other)), len(keys)), (2, 1))

    def test_attempt_has_a_total_time_though_bytes_keep_coming(self) -> None:
        class Dribble(Server):
            def serve(self, connection: socket.socket) -> None:
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 1000\r\n\r\n")
                    try:
                        while True:
                            connection.sendall(b" ")
                            time.sleep(0.05)
                    except OSError:
                        pass

        slow = Dribble(lambda _: None)
        self.addCleanup(slow.close)
        begin = time.monotonic()
        with self.assertRaises(tanist.Unavailable):
            self.client(slow, attempt_timeout=0.3, deadline=0.6).query("SELECT 1")
        self.assertLess(time.monotonic() - begin, 5)

    def test_machine_of_another_cluster_is_not_used(self) -> None:
        a = self.start(lambda _: answer(200, DONE, "Tanist-Cluster: home"))
        b = self.start(lambda _: answer(200, DONE, "Tanist-Cluster: foreign"))
        client = self.client(b, cluster="home", deadline=0.3)
        with self.assertRaisesRegex(tanist.Unavailable, "belongs to the cluster 'foreign'"):
            client.query("SELECT 1")
        self.assertIn("Tanist-Cluster: home", b.requests[0])
        self.client(b, a, cluster="home").execute("INSERT")

    def test_hosts_that_cannot_be_reached_are_not_in_the_way(self) -> None:
        dead = socket.create_server(("127.0.0.1", 0))  # takes connections, says nothing, as a stopped process does
        self.addCleanup(dead.close)
        alive = self.start(lambda _: answer(200, DONE))
        urls = ["127.0.0.1:%d" % dead.getsockname()[1], alive.url]
        client = tanist.Client(urls, attempt_timeout=20)
        self.addCleanup(client.close)
        begin = time.monotonic()
        for _ in range(20):
            client.query("SELECT 1", consistency="local")
        self.assertLess(time.monotonic() - begin, 10)

    def test_connection_that_ends_with_its_answer_is_read_whole(self) -> None:
        a = self.start(lambda _: answer(200, {**DONE, "results": [{"columns": ["a"], "rows": [["x" * 500000]]}]}, "Connection: close"))
        client = self.client(a)
        for _ in range(2):
            self.assertEqual(len(client.query("SELECT 1").rows[0][0]), 500000)


class Policy(unittest.TestCase):
    def test_list_is_read_and_nonsense_is_named(self) -> None:
        self.assertEqual(_parse_hosts("a:1,http://b:2/, [::1]:80"), ["http://a:1", "http://b:2", "http://[::1]:80"])
        for bad in ("", " , ", "a", "a:x", "a:0", ":1", "ftp://a:1", "https://a", "http://a:1/path", "a b:1", "x@a:1", "a:65536"):
            with self.assertRaises(ValueError, msg=bad):
                _parse_hosts(bad)

    def test_master_first_others_in_turn_dead_ones_last(self) -> None:
        hosts = _Hosts(["a", "b", "c"])
        hosts.on_served("b", True)
        self.assertEqual([hosts.pick(True, 0), hosts.pick(False, 0)], ["b", "a"])
        hosts.on_trouble("a", "unreachable", None, 0)
        hosts.on_trouble("b", "unreachable", None, 0)
        # Long after the pauses: as long as there is another nobody waits for them.
        self.assertEqual([hosts.pick(True, 100), hosts.pick(False, 100)], ["c", "c"])
        hosts.on_trouble("c", "unreachable", None, 100)
        self.assertIn(hosts.pick(False, 100), ("a", "b"))
        hosts.on_served("c", True)
        hosts.on_trouble("c", "busy", 0.4, 200)
        wait = hosts.pick(True, 200)
        assert isinstance(wait, float) and wait <= 0.4, wait

    def test_positions(self) -> None:
        self.assertTrue(_at_least("2.1", "1.9") and _at_least("1.10", "1.9") and _at_least("1.9", "1.9") and _at_least("1.1", None))
        self.assertFalse(_at_least("1.9", "1.10") or _at_least("x", "1.1") or _at_least(None, "1.1"))


class Events(unittest.TestCase):
    STREAM = 'retry: 500\nid: 7\n: begins\n\n:\n\nid: 8\nevent: row\ndata: {"a":\ndata:  "\u00e4"}\n\r\nevent: end\r\ndata: x\r\n\r\nid: 9\nda'

    def test_blocks_are_the_same_however_the_bytes_come(self) -> None:
        data = self.STREAM.encode()
        for size in (1, 2, 3, 7, 1000):
            parser, found = _Parser(), []  # type: _Parser, List[Tuple[object, str, str]]
            for start in range(0, len(data), size):
                parser.push("h", data[start : start + size])
                while True:
                    block = parser.next("h")
                    if block is None:
                        break
                    found.append(block)
            self.assertEqual(found, [("7", "", ""), ("8", "row", '{"a":\n "\u00e4"}'), (None, "end", "x")], size)

    def test_event_without_end_is_refused(self) -> None:
        parser = _Parser()
        with self.assertRaises(tanist.Unexpected):
            for _ in range(40):
                parser.push("h", b"data: " + b"x" * (1 << 20) + b"\n")
                self.assertIsNone(parser.next("h"))


class Cached(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "cache.json")

    @staticmethod
    def entry(value: object, revision: int, position: str) -> tanist.ConfigEntry:
        return tanist.ConfigEntry("k", value, revision, "now", None, position)

    def test_it_never_goes_back_also_not_over_a_restart(self) -> None:
        cache = _Cache(self.path, None)
        cache.put(self.entry("new", 9, "2.5"), "home")
        older = cache.put(self.entry("old", 8, "1.900"), "home")
        self.assertEqual((older.value, older.cached), ("new", True))
        again = _Cache(self.path, None)
        self.assertEqual(again.cluster, "home")
        self.assertEqual(again.put(self.entry("old", 8, "2.4"), "home").value, "new")
        self.assertEqual(again.entry("k").value, "new")  # type: ignore[union-attr]
        again.remove("k")
        with self.assertRaises(tanist.Problem):
            _Cache(self.path, None).entry("k")

    def test_file_that_is_damaged_or_foreign_is_not_used(self) -> None:
        for text in ("", "{", "[]", '{"cluster":"home","entries":{"k":{}}}', '{"cluster":"home","entries":7}'):
            with open(self.path, "w") as file:
                file.write(text)
            self.assertIsNone(_Cache(self.path, None).entry("k"), text)
        _Cache(self.path, None).put(self.entry(1, 1, "1.1"), "home")
        self.assertIsNone(_Cache(self.path, "other").entry("k"))

    def test_it_is_bounded(self) -> None:
        cache = _Cache(self.path, None)
        cache.saved = time.monotonic() + 1000
        cache.save = lambda force: None  # type: ignore[method-assign]
        for number in range(1100):
            cache.put(self.entry(number, number, "1.1")._replace(key=str(number)), "home")
        self.assertEqual((len(cache.entries), cache.get("0") is None, cache.get("1099") is None), (1000, True, False))


if __name__ == "__main__":
    unittest.main()
