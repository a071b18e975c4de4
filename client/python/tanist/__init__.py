# SPDX-License-Identifier: Apache-2.0
"""Client for a Tanist cluster: give it some hosts, and it finds the master, follows it when it changes, and repeats what may be
repeated, within a total deadline.

    client = tanist.Client("pc-1:8080,pc-2:8080,pc-3:8080")
    client.execute("INSERT INTO note(text) VALUES (?)", ["hello"])
    for row in client.query("SELECT text FROM note", consistency="local").rows: ...

Make one client and keep it; it may be used from any thread. An error that reaches the program means either that its request is
wrong (`Problem`) or that no machine has served it for the whole deadline. A failover is neither.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import logging
import math
import os
import random
import re
import selectors
import socket
import ssl
import tempfile
import threading
import time
import urllib.parse
import uuid
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

__version__ = "0.1.0"
__all__ = [
    "Client", "Watch", "Answer", "Result", "Statement", "ConfigEntry", "ConfigChange", "Page", "At", "Event",
    "Error", "Problem", "Unavailable", "OutcomeUnknown", "Unconfirmed", "Unexpected", "decode_value",
]  # fmt: skip

Json = Any
Params = Union[Sequence[Any], Mapping[str, Any]]

_log = logging.getLogger("tanist")

# The same policy and times as in the Rust client (client/src/hosts.rs, call.rs).
_PAUSE_MIN, _PAUSE_MAX, _PAUSE_PART, _FORGET = 0.010, 0.500, 4, 1.0
_CONNECT_MIN = 0.050
_PROBE_MIN, _PROBE_MAX = 0.025, 5.0  # between two looks at a host that can't be reached
_LEARNED_MAX = 64
_REDIRECTS_AT_ONCE = 3
_LOOK_AROUND = 0.5  # silence after which somebody looks whether the machine still serves
_LEARN_EVERY, _LEARN_AGAIN = 10.0, 1.0
_ANSWER_LIMIT, _EVENT_LIMIT, _HEAD_LIMIT = 64 << 20, 16 << 20, 1 << 16
_IDLE_MAX, _IDLE_FOR = 8, 20.0  # connections kept for later, per host, and for how long
_QUIET, _QUIET_PROBE = 1.5, 1.0  # of a watch: then the machine is asked whether it lives, and has so long to say so
_WATCH_ATTEMPT = 8.0  # a machine may wait 5 s for the watcher's place before it answers
_ODD_MAX = 256
_CACHE_ENTRIES, _CACHE_BYTES, _CACHE_EVERY = 1000, 16 << 20, 5.0

_BUSY = {"overloaded", "rate-limited", "not-enough-backups", "database-locked", "outside-write"}


# --- errors


class Error(Exception):
    """Why a call has no answer."""


class Problem(Error):
    """A machine refused the request for good; repeating it would not help."""

    def __init__(self, document: Dict[str, Any]) -> None:
        super().__init__("%s (%s)" % (document.get("detail"), document.get("code")))
        #: The problem as it came (RFC 9457).
        self.document = document
        #: Stable, such as `constraint`, `precondition-failed`, `not-found`.
        self.code: str = str(document.get("code"))
        self.status: int = int(document.get("status", 0))
        self.detail: str = str(document.get("detail"))


class Unavailable(Error):
    """No machine could serve the request within the deadline; nothing was done."""

    def __init__(self, deadline: float, tried: Sequence[str], last: str) -> None:
        super().__init__("no machine served the request within %.3g s; tried %s; last: %s" % (deadline, ", ".join(tried), last))
        self.tried, self.last = list(tried), last


class OutcomeUnknown(Error):
    """The deadline passed, and the write may or may not have been done. Repeating it with the same key is safe."""

    def __init__(self, key: str, deadline: float, last: str) -> None:
        super().__init__("outcome unknown after %.3g s (idempotency key %s); last: %s" % (deadline, key, last))
        self.key, self.last = key, last


class Unconfirmed(Error):
    """The deadline passed, and a change of the cluster may have been made, or may still be: look before asking again."""

    def __init__(self, deadline: float, last: str) -> None:
        super().__init__("not confirmed within %.3g s, it may have been done or still happen; last: %s" % (deadline, last))
        self.last = last


class Unexpected(Error):
    """An answer that isn't of the contract's shape."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__("unexpected answer from %s: %s" % (host, why))
        self.host, self.why = host, why


# --- what callers get


class Statement(NamedTuple):
    """One SQL statement; `params` is a sequence for `?`, a mapping for `:name`. `bytes` are blobs, integers are exact."""

    sql: str
    params: Params = ()


class Result(NamedTuple):
    """What one statement gave. Values are None, int, float, str, bytes; `{"text_base64": ...}` is text that isn't UTF-8."""

    columns: List[str]
    rows: List[List[Any]]
    rows_affected: Optional[int]
    last_insert_id: Optional[int]

    def dicts(self) -> List[Dict[str, Any]]:
        """The rows by the names of their columns."""
        return [dict(zip(self.columns, row)) for row in self.rows]


class Answer(NamedTuple):
    """What a request gave, and the position `term.txid` at which it is so: a `min_position` for later reads."""

    position: str
    results: List[Result]

    @property
    def rows(self) -> List[List[Any]]:
        """Those of the first statement."""
        return self.results[0].rows if self.results else []

    def dicts(self) -> List[Dict[str, Any]]:
        """The rows of the first statement by the names of their columns."""
        return self.results[0].dicts() if self.results else []


class ConfigEntry(NamedTuple):
    """The value of a key. `revision` is its ETag. `cached`: no machine has answered, and this was true `age` seconds ago."""

    key: str
    value: Json
    revision: int
    changed_at: str
    changed_by: Optional[str]
    position: str
    cached: bool = False
    age: float = 0.0


class ConfigChange(NamedTuple):
    """One change of a key. `document` has no `old` when it was added, no `new` when it was removed."""

    revision: int
    changed_at: str
    changed_by: Optional[str]
    document: Dict[str, Any]


class Page(NamedTuple):
    """A part of a list; `next` asks for the one behind it, None at the end."""

    entries: List[Any]
    next: Optional[str]
    position: str


class At(NamedTuple):
    """A document (of a node, a state, a command) with the position at which it is so."""

    value: Dict[str, Any]
    position: str


class Event(NamedTuple):
    """Something that has changed. Values in `data` of a `row` look as the API writes them: see `decode_value`."""

    id: int
    kind: str
    at: str
    subject: str
    actor: Optional[str]
    data: Json


def decode_value(value: Json) -> Any:
    """One SQL value of an answer or of a row's event: `{"base64": ...}` becomes bytes, `{"real": ...}` a float."""
    if isinstance(value, dict) and len(value) == 1:
        if "base64" in value:
            return base64.b64decode(value["base64"])
        if "real" in value:
            return float(value["real"])
    return value


def _encode_value(value: Any) -> Json:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else {"real": "Infinity" if value > 0 else "-Infinity"}
    return value


def _statement(statement: Union[str, Statement, Tuple[str, Params]]) -> Dict[str, Any]:
    sql, params = (statement, ()) if isinstance(statement, str) else (statement[0], statement[1])
    if isinstance(params, (str, bytes)):
        raise TypeError("params: found %s, expected a sequence or a mapping of values" % type(params).__name__)
    if isinstance(params, Mapping):
        return {"sql": sql, "params": {name: _encode_value(value) for name, value in params.items()}}
    return {"sql": sql, "params": [_encode_value(value) for value in params]}


def _position(text: Optional[str]) -> Optional[Tuple[int, int]]:
    match = re.match(r"^(\d{1,20})\.(\d{1,20})$", text or "", re.ASCII)
    return (int(match.group(1)), int(match.group(2))) if match else None


def _at_least(a: Optional[str], b: Optional[str]) -> bool:
    """Whether position a isn't before b; one that can't be read is before all."""
    first, second = _position(a), _position(b)
    return second is None or (first is not None and first >= second)


# --- which machine to ask next: a policy without I/O; time is an argument


def _parse_host(host: str) -> Optional[str]:
    url = (host if "://" in host else "http://" + host).rstrip("/")
    match = re.match(r"^https?://([^\s/?#@\\]+):(\d{1,5})$", url, re.ASCII)
    return url if match and 0 < int(match.group(2)) < 65536 and url.isascii() else None


def _parse_hosts(hosts: Union[str, Iterable[str]]) -> List[str]:
    parts = hosts.split(",") if isinstance(hosts, str) else list(hosts)
    urls: List[str] = []
    for part in (part.strip() for part in parts):
        url = _parse_host(part) if part else None
        if part and url is None:
            raise ValueError('hosts: found %r, expected "host:port", "http://host:port" or "https://host:port"' % part)
        if url and url not in urls:
            urls.append(url)
    if not urls:
        raise ValueError('hosts: found none, expected at least one "host:port"')
    return urls


class _Entry:
    def __init__(self, url: str, given: bool) -> None:
        self.url, self.given = url, given
        self.failed = False
        self.until = self.since = 0.0  # end of the pause; failing since
        self.why = ""
        self.down = False  # can't be reached: looked at in the background until it answers

    def paused(self, now: float) -> bool:
        return self.failed and self.until > now

    def failed_lately(self, now: float) -> bool:
        return self.failed and now < self.until + _FORGET


class _Hosts:
    """The host list and what is known of each. Guarded by the client's lock."""

    def __init__(self, given: Sequence[str]) -> None:
        self.entries = [_Entry(url, True) for url in given]
        self.master: Optional[str] = None
        self.next = self.redirects = 0

    def find(self, url: str) -> Optional[_Entry]:
        return next((entry for entry in self.entries if entry.url == url), None)

    def pick(self, master: bool, now: float) -> Union[str, float]:
        """The host to ask now; or how long to wait, when all have just failed or the master is busy."""
        # One that can't be reached costs time: it comes when there is no other.
        entries = [entry for entry in self.entries if not entry.down] or self.entries
        if not master:
            due = next((entry for entry in entries if not entry.paused(now)), None)
            return due.url if due else self._wait(entries, now)
        believed = self.find(self.master) if self.master else None
        if believed and believed in entries:
            if not believed.paused(now):
                return believed.url
            if believed.why == "busy":
                return believed.until - now
        count = len(self.entries)
        for index in ((self.next + i) % count for i in range(count)):
            entry = self.entries[index]
            if entry in entries and not entry.paused(now):
                self.next = index + 1
                return entry.url
        self.redirects = 0
        return self._wait(entries, now)

    @staticmethod
    def _wait(entries: Sequence[_Entry], now: float) -> float:
        return max(min(entry.until for entry in entries) - now, 0.001)

    def connect_patience(self, url: str, longest: float, now: float) -> float:
        if len(self.entries) < 2:
            return longest
        entry = self.find(url)
        if entry and entry.failed_lately(now) and entry.why == "unreachable":
            return min(max(now - entry.since, _CONNECT_MIN), longest)
        return longest / 4

    def on_served(self, url: str, master: bool) -> None:
        entry = self.find(url)
        if entry:
            entry.failed = entry.down = False
        if master:
            self.redirects, self.master = 0, url

    def on_trouble(self, url: str, why: str, retry_after: Optional[float], now: float) -> None:
        if why != "busy" and self.master == url:
            self.master = None
        entry = self.find(url)
        if not entry:
            return
        since = entry.since if entry.failed_lately(now) else now
        pause = min(max((now - since) / _PAUSE_PART, _PAUSE_MIN), _PAUSE_MAX) * random.uniform(0.75, 1.25)
        pause = max(min(pause, _PAUSE_MAX, _PAUSE_MAX if retry_after is None else retry_after), _PAUSE_MIN / 2)
        entry.failed, entry.until, entry.why, entry.since = True, now + pause, why, since
        entry.down = why == "unreachable"

    def on_redirect(self, source: str, to: str, now: float) -> None:
        """`source` says that `to` is the master; it may lag behind a failover, and pauses."""
        self.on_trouble(source, "refusing", None, now)
        self.redirects += 1
        self._learn(to)
        entry = self.find(to)
        if entry and self.redirects <= _REDIRECTS_AT_ONCE and entry.failed and entry.why != "unreachable":
            entry.failed = False
        self.master = to

    def on_members(self, urls: Sequence[str]) -> None:
        self.entries = [entry for entry in self.entries if entry.given or entry.url in urls]
        for url in urls:
            self._learn(url)

    def _learn(self, url: str) -> None:
        if not self.find(url) and sum(not entry.given for entry in self.entries) < _LEARNED_MAX:
            self.entries.append(_Entry(url, False))


# --- one exchange with one machine


class _Request(NamedTuple):
    method: str
    path: str
    body: Optional[bytes] = None
    headers: Mapping[str, str] = {}
    media: str = "application/json"


class _Raw(NamedTuple):
    host: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Json:
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Unexpected(self.host, str(error)) from None


class _NotSent(Exception):
    """Nothing has reached the machine; with what kind of trouble."""

    def __init__(self, why: str, trouble: str = "unreachable") -> None:
        super().__init__(why)
        self.trouble = trouble


class _Superseded(Exception):
    """No answer, and this is the master by now; None: the machine doesn't live."""

    def __init__(self, master: Optional[str]) -> None:
        super().__init__("no answer, and %s" % ("%s is the master by now" % master if master else "it shows no life"))
        self.master = master


class _Silence:
    """The time of an exchange: how long it may take, and who is asked meanwhile."""

    def __init__(self, until: float, slice: float = 1.0) -> None:
        self.until, self.slice = until, slice

    def left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise socket.timeout("no whole answer in time")
        return left

    def on_slice(self) -> None:
        """Nothing has moved for a slice; may raise."""


class _Socket(io.RawIOBase):
    """A socket whose every operation heeds a deadline for the whole, which plain timeouts don't."""

    def __init__(self, sock: socket.socket, silence: _Silence) -> None:
        self.sock, self.silence = sock, silence
        self.readers, self.done = 0, False

    def _patiently(self, operation: Callable[[], int]) -> int:
        while True:
            self.sock.settimeout(min(self.silence.left(), self.silence.slice))
            try:
                return operation()
            except socket.timeout:
                pass
            except ssl.SSLError as error:
                # Python before 3.10 has no class of its own for it.
                if "timed out" not in str(error):
                    raise
            self.silence.on_slice()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._patiently(lambda: self.sock.recv_into(buffer))

    def sendall(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            part = view[: 1 << 16]
            view = view[self._patiently(lambda: self.sock.send(part)) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        self.readers += 1
        return io.BufferedReader(_Keep(self), 1 << 16)

    def is_quiet(self) -> bool:
        """Whether an idle connection is still open: nothing, not even its end, has come."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.sock, selectors.EVENT_READ)
                return not selector.select(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """As with any socket, the last reader's end is the end."""
        self.done = True
        if not self.readers:
            self.abort()

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()
        super().close()


class _Keep(io.RawIOBase):
    """What one answer is read by: closed with it, while the connection stays."""

    def __init__(self, inner: _Socket) -> None:
        self.inner = inner

    def close(self) -> None:
        if not self.closed:
            super().close()
            self.inner.readers -= 1
            if self.inner.done:
                self.inner.close()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.inner.readinto(buffer)


class _Connection(http.client.HTTPConnection):
    socket: _Socket
    idle_since = 0.0

    def __init__(self, url: str, tls: Optional[ssl.SSLContext]) -> None:
        parts = urllib.parse.urlsplit(url)
        super().__init__(parts.hostname or "", parts.port)
        self.tls = tls if parts.scheme == "https" else None

    def open(self, patience: float, silence: _Silence) -> None:
        sock = socket.create_connection((self.host, self.port), timeout=min(patience, silence.left()))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                sock.settimeout(silence.left())
                sock = self.tls.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise
        self.socket = _Socket(sock, silence)
        self.sock: Any = self.socket

    def abort(self) -> None:
        self.socket.abort()
        self.close()


class _Http:
    """The connections: kept alive, names resolved anew at each connect. Makes one attempt, never two, and decides nothing."""

    def __init__(self, token: Optional[str], cluster: Optional[str], tls: Optional[ssl.SSLContext], secure: bool) -> None:
        self.token, self.cluster, self.tls, self.secure = token, cluster, tls, secure
        self.lock = threading.Lock()
        self.idle: Dict[str, List[_Connection]] = {}
        self.odd: Set[str] = set()
        self.closed = False

    def open(
        self, host: str, request: _Request, patience: float, silence: _Silence
    ) -> Tuple[_Connection, http.client.HTTPResponse]:
        """The head of an answer, its body still to come."""
        if self.secure and not host.startswith("https://"):
            raise _NotSent("the hosts of this client are https://, nothing is sent without TLS", "refusing")
        connection = self._take(host)
        if connection is None:
            connection = _Connection(host, self.tls)
            try:
                connection.open(patience, silence)
            except (OSError, UnicodeError) as error:
                raise _NotSent("can't connect: %s" % error) from None
        connection.socket.silence = silence
        try:
            # Redirected rather than forwarded: the master is asked directly from then on.
            headers = {"Accept": "application/json", "Tanist-Redirect": "1", **request.headers}
            if request.body is not None or request.method == "POST":
                headers.setdefault("Content-Type", request.media)
            if self.token:
                headers["Authorization"] = "Bearer " + self.token
            if self.cluster:
                headers["Tanist-Cluster"] = self.cluster
            connection.request(request.method, request.path, body=request.body, headers=headers)
            response = connection.getresponse()
            self._compare(host, response.getheader("Tanist-Cluster"))
        except BaseException:
            connection.abort()
            raise
        return connection, response

    def send(self, host: str, request: _Request, patience: float, silence: _Silence) -> _Raw:
        """A whole answer."""
        connection, response = self.open(host, request, patience, silence)
        try:
            parts: List[bytes] = []
            size = 0
            while True:
                part = response.read(1 << 16)
                if not part:
                    break
                parts.append(part)
                size += len(part)
                if size > _ANSWER_LIMIT:
                    raise Unexpected(host, "the answer is larger than %d bytes" % _ANSWER_LIMIT)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        except BaseException:
            connection.abort()
            raise
        if response.will_close:
            connection.abort()
        else:
            self._keep(host, connection)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return _Raw(host, response.status, headers, b"".join(parts))

    def _take(self, host: str) -> Optional[_Connection]:
        while True:
            with self.lock:
                kept = self.idle.get(host)
                if not kept:
                    return None
                connection = kept.pop()
            if time.monotonic() < connection.idle_since + _IDLE_FOR and connection.socket.is_quiet():
                return connection
            connection.abort()

    def _keep(self, host: str, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self.lock:
            kept = self.idle.setdefault(host, [])
            if len(kept) < _IDLE_MAX and not self.closed:
                kept.append(connection)
                return
        connection.abort()

    def forget(self, host: str) -> None:
        """A machine that failed: its idle connections are of no use."""
        with self.lock:
            kept = self.idle.pop(host, [])
        for connection in kept:
            connection.abort()

    def close(self) -> None:
        self.closed = True
        for host in list(self.idle):
            self.forget(host)

    def _compare(self, host: str, found: Optional[str]) -> None:
        """The cluster of the machine that answers first counts; an answer of another cluster's is none."""
        if not found:
            return
        with self.lock:
            if self.cluster is None:
                self.cluster = found
            if self.cluster == found:
                return
            if host not in self.odd and len(self.odd) < _ODD_MAX:
                self.odd.add(host)
                _log.error("%s belongs to another cluster (%r, not %r): it is not used", host, found, self.cluster)
        raise _NotSent("it belongs to the cluster %r, the others to %r" % (found, self.cluster), "refusing")


class _Refused(Exception):
    """Not served; nothing was done."""

    def __init__(self, why: str, trouble: str, retry_after: Optional[float] = None) -> None:
        super().__init__(why)
        self.trouble, self.retry_after = trouble, retry_after


class _Unknown(Exception):
    """Not answered; something may have been done."""


class _Redirect(Exception):
    def __init__(self, to: str) -> None:
        super().__init__("the master is %s" % to)
        self.to = to


def _judge(request: _Request, answer: _Raw, secure: bool) -> _Raw:
    if answer.status in (307, 308):
        location = answer.headers.get("location", "")
        to = _parse_host(location[: -len(request.path)]) if location.endswith(request.path) else None
        if to is None:
            raise _Refused("a redirect to %r, which is no machine's %s" % (location, request.path), "refusing")
        if secure and not to.startswith("https://"):
            raise _Refused("a redirect to %r, which has no TLS" % location, "refusing")
        raise _Redirect(to)
    if answer.status == 304 or 200 <= answer.status < 300:
        return answer
    seconds = answer.headers.get("retry-after", "")
    retry_after = float(seconds) if seconds.isdigit() and len(seconds) < 10 else None
    try:
        problem = json.loads(answer.body)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        # Whoever says 429 hasn't done it. Other errors that aren't Tanist's own (something in between) leave it open.
        if answer.status == 429:
            raise _Refused("status 429", "busy", retry_after) from None
        if answer.status >= 500:
            raise _Unknown("status %d" % answer.status) from None
        raise Unexpected(answer.host, "status %d without a problem document" % answer.status) from None
    if code in ("outcome-unknown", "internal"):
        raise _Unknown(detail)
    if code in _BUSY:
        raise _Refused(detail, "busy", retry_after)
    if answer.status == 503:
        raise _Refused(detail, "refusing", retry_after)
    raise Problem(problem)


# --- the client


class Client:
    """A client of a cluster. Close it, or use it in a `with`, to end its connections and background looks."""

    def __init__(
        self,
        hosts: Union[str, Iterable[str]],
        *,
        deadline: float = 30.0,
        attempt_timeout: float = 5.0,
        connect_timeout: float = 1.0,
        token: Optional[str] = None,
        cluster: Optional[str] = None,
        tls: Optional[ssl.SSLContext] = None,
        monotonic: bool = True,
        cache: Union[None, str, "os.PathLike[str]"] = None,
    ) -> None:
        """`hosts`: "a:8080,b:8080" or URLs, the nearest first: local reads go there. `deadline`: total time of a call in seconds,
        all attempts together; `attempt_timeout` of one. `cluster`: its name; otherwise the machine that answers first says it.
        `tls`: such as `ssl.create_default_context(cafile="ca.crt")`. `monotonic`: local and bounded reads are never from before
        the newest answer that this client has had. `cache`: a file for the last known configuration."""
        for name, value in (("deadline", deadline), ("attempt_timeout", attempt_timeout), ("connect_timeout", connect_timeout)):
            if not value > 0:
                raise ValueError("%s: found %r, expected more than 0 seconds" % (name, value))
        if token is not None and not re.match(r"^[\x21-\x7e]{1,500}$", token):
            raise ValueError("token: found %d characters, expected 1 to 500 visible ASCII characters" % len(token))
        given = _parse_hosts(hosts)
        self._hosts = _Hosts(given)
        self._secure = all(url.startswith("https://") for url in given)
        if tls is None and any(url.startswith("https://") for url in given):
            tls = ssl.create_default_context()
        self._cache = _Cache(os.fspath(cache), cluster) if cache is not None else None
        # What is known is of the cluster that it came from.
        self._http = _Http(token, self._cache.cluster if self._cache else cluster, tls, self._secure)
        self._deadline, self._attempt_timeout, self._connect_timeout = deadline, attempt_timeout, connect_timeout
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._probed: Set[str] = set()
        self._learned: Optional[float] = None
        self._blind = False
        self._monotonic, self._newest = monotonic, ""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends idle connections and what runs in the background; calls under way end by themselves."""
        self._closed.set()
        self._http.close()
        if self._cache:
            self._cache.save(force=True)

    def known_hosts(self) -> List[str]:
        """All hosts known now: those given and those learned."""
        with self._lock:
            return [entry.url for entry in self._hosts.entries]

    def master(self) -> Optional[str]:
        """The machine that is believed to be the master; asks nobody."""
        with self._lock:
            return self._hosts.master

    # SQL

    def execute(
        self,
        sql: Union[str, Sequence[Union[str, Statement, Tuple[str, Params]]]],
        params: Params = (),
        *,
        idempotency_key: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> Answer:
        """Runs one statement, or several as one transaction; answered when the cluster has stored it. On `OutcomeUnknown`, the
        same call with its key settles it: it is done if it wasn't, and gives its first answer if it was."""
        request = _Request("POST", "/v1/execute", _statements(sql, params))
        return _answer(self._change(request, idempotency_key, deadline))

    def query(
        self,
        sql: Union[str, Sequence[Union[str, Statement, Tuple[str, Params]]]],
        params: Params = (),
        *,
        consistency: str = "strong",
        max_staleness: Optional[float] = None,
        min_position: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> Answer:
        """Runs read-only statements on one snapshot. `consistency`: "strong" (everything acknowledged before), "local" (what the
        nearest replica has), or "bounded" by `max_staleness` seconds."""
        request = _Request("POST", "/v1/query", _statements(sql, params))
        return _answer(self._read(request, {}, consistency, max_staleness, min_position, deadline))

    # Configuration

    def config(
        self,
        key: str,
        *,
        consistency: str = "strong",
        max_staleness: Optional[float] = None,
        min_position: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> ConfigEntry:
        """The value of a key; `Problem` with `not-found` when it has none. With a cache, the last known one (`cached`, with its
        `age`) when no machine answers within the deadline, and never an older one than before."""
        known = self._cache.get(key) if self._cache else None
        if known and known.position and consistency != "strong" and not _at_least(min_position, known.position):
            min_position = known.position
        request = _Request("GET", "/v1/config/" + _quote(key))
        try:
            entry = _entry(self._read(request, {}, consistency, max_staleness, min_position, deadline))
        except Problem as problem:
            if self._cache and problem.code == "not-found":
                self._cache.remove(key)
            raise
        except Unavailable:
            cached = self._cache.entry(key) if self._cache else None
            if cached is None:
                raise
            return cached
        return self._cache.put(entry, self._http.cluster) if self._cache else entry

    def config_unless(self, key: str, revision: int, **read: Any) -> Optional[ConfigEntry]:
        """The value of a key, unless it still has this revision: None then, and next to nothing travels."""
        headers = {"If-None-Match": '"%d"' % revision}
        answer = self._read(_Request("GET", "/v1/config/" + _quote(key), None, headers), {}, **read)
        return None if answer.status == 304 else _entry(answer)

    def config_list(self, prefix: str = "", *, after: Optional[str] = None, limit: Optional[int] = None, **read: Any) -> Page:
        """The keys that begin with `prefix`, in order, a page of `ConfigEntry` at a time."""
        return self._page("/v1/config", {"prefix": prefix or None, "after": after, "limit": limit}, _config_entry, read)

    def config_history(self, key: str, *, before: Optional[str] = None, limit: Optional[int] = None, **read: Any) -> Page:
        """The changes of a key as `ConfigChange`, the newest first, removals too."""

        def change(document: Json, _: str) -> ConfigChange:
            return ConfigChange(document["revision"], document["changed_at"], document["changed_by"], document)

        return self._page("/v1/config/%s/history" % _quote(key), {"before": before, "limit": limit}, change, read)

    def set_config(self, key: str, value: Json, **change: Any) -> ConfigEntry:
        """Gives a key a value. `if_match=revision` (or "*": it is there) and `if_none=True` (it isn't): otherwise nothing is changed
        and the error is `precondition-failed`. Also: `idempotency_key`, `deadline`."""
        return _entry(self._put("PUT", "/v1/config/" + _quote(key), {"value": value}, **change))

    def remove_config(self, key: str, **change: Any) -> int:
        """Removes a key; the revision of the removal."""
        return int(self._put("DELETE", "/v1/config/" + _quote(key), None, **change).json()["revision"])

    # Nodes: what each shall have, and what it says it has

    def nodes(self, *, after: Optional[str] = None, limit: Optional[int] = None, **read: Any) -> Page:
        """Nodes by name as documents, each with whether it is in step and present."""
        return self._page("/v1/nodes", {"after": after, "limit": limit}, lambda document, _: document, read)

    def node(self, name: str, **read: Any) -> At:
        """One node."""
        return _at(self._read(_Request("GET", "/v1/nodes/" + _quote(name)), {}, **read))

    def set_node(self, name: str, spec: Mapping[str, Json], **change: Any) -> At:
        """Makes or changes a node: `address`, `row`, `column`, `labels`, all optional."""
        return _at(self._put("PUT", "/v1/nodes/" + _quote(name), dict(spec), **change))

    def remove_node(self, name: str, **change: Any) -> int:
        """Removes a node with its states; the revision of the removal."""
        return int(self._put("DELETE", "/v1/nodes/" + _quote(name), None, **change).json()["revision"])

    def desired(self, node: str, **read: Any) -> At:
        """What a node shall have."""
        return _at(self._read(_Request("GET", "/v1/nodes/%s/desired" % _quote(node)), {}, **read))

    def set_desired(self, node: str, state: Mapping[str, Json], **change: Any) -> At:
        """Says what a node shall have."""
        return _at(self._put("PUT", "/v1/nodes/%s/desired" % _quote(node), {"state": dict(state)}, **change))

    def patch_desired(self, node: str, patch: Mapping[str, Json], **change: Any) -> At:
        """Changes fields of what a node shall have; None removes one."""
        media = "application/merge-patch+json"
        path = "/v1/nodes/%s/desired" % _quote(node)
        return _at(self._put("PATCH", path, {"state": dict(patch)}, media=media, **change))

    def reported(self, node: str, **read: Any) -> At:
        """What a node has said it has."""
        return _at(self._read(_Request("GET", "/v1/nodes/%s/reported" % _quote(node)), {}, **read))

    def report(
        self,
        node: str,
        state: Mapping[str, Json],
        *,
        desired_revision: Optional[int] = None,
        error: Optional[str] = None,
        **change: Any,
    ) -> At:
        """For a node: what it has, in answer to which desired state, and why not that."""
        given = {"state": dict(state), "desired_revision": desired_revision, "error": error}
        body = {name: value for name, value in given.items() if value is not None}
        return _at(self._put("PUT", "/v1/nodes/%s/reported" % _quote(node), body, **change))

    def seen(self, node: str) -> Dict[str, Any]:
        """For a node: a sign of life; tells whether there is something to do for it."""
        answer: Dict[str, Any] = self._operate(_Request("POST", "/v1/nodes/%s/seen" % _quote(node))).json()
        return answer

    # Watching

    def watch(
        self,
        *,
        after: Optional[int] = None,
        kinds: Sequence[str] = (),
        subject_prefix: str = "",
        tables: Sequence[str] = (),
    ) -> "Watch":
        """Watches what changes, from now on or after an event: each once, in order, at another machine when one fails."""
        return Watch(self, after, kinds, subject_prefix, tables)

    def watch_table(self, table: str) -> None:
        """From now on each change of the table's rows is an event."""
        self._operate(_Request("PUT", "/v1/watched-tables/" + _quote(table)))

    def unwatch_table(self, table: str) -> None:
        """Changes of the table's rows are no events any more."""
        self._operate(_Request("DELETE", "/v1/watched-tables/" + _quote(table)))

    def cluster(self) -> Dict[str, Any]:
        """How the first machine that answers sees the cluster."""
        view: Dict[str, Any] = self._call(_Request("GET", "/v1/cluster"), master=False).json()
        self._learn(view)
        return view

    # The course of a call

    def _operate(self, request: _Request) -> _Raw:
        return self._call(request, master=True, changes=True)

    def _change(self, request: _Request, key: Optional[str], deadline: Optional[float]) -> _Raw:
        if key is None:
            key = str(uuid.uuid4())
        elif not re.match(r"^[\x21-\x7e]{1,200}$", key):
            raise ValueError("idempotency key: found %r, expected 1 to 200 visible ASCII characters" % key)
        request = request._replace(headers={**request.headers, "Idempotency-Key": key})
        return self._call(request, master=True, key=key, deadline=deadline)

    def _put(
        self,
        method: str,
        path: str,
        body: Json,
        *,
        media: str = "application/json",
        if_match: Union[None, int, str] = None,
        if_none: bool = False,
        idempotency_key: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> _Raw:
        headers: Dict[str, str] = {}
        if if_none:
            headers["If-None-Match"] = "*"
        if if_match is not None:
            headers["If-Match"] = "*" if if_match == "*" else '"%d"' % int(if_match)
        data = None if body is None else _dump(body)
        return self._change(_Request(method, path, data, headers, media), idempotency_key, deadline)

    def _read(
        self,
        request: _Request,
        parameters: Mapping[str, Any],
        consistency: str = "strong",
        max_staleness: Optional[float] = None,
        min_position: Optional[str] = None,
        deadline: Optional[float] = None,
    ) -> _Raw:
        query = {name: str(value) for name, value in parameters.items() if value is not None}
        headers = dict(request.headers)
        if consistency not in ("strong", "local", "bounded"):
            raise ValueError('consistency: found %r, expected "strong", "local" or "bounded"' % consistency)
        if (consistency == "bounded") != (max_staleness is not None):
            raise ValueError('max_staleness: expected with the consistency "bounded", and only with it')
        if consistency != "strong":
            query["consistency"] = consistency
            with self._lock:
                newest = self._newest
            if self._monotonic and newest and not _at_least(min_position, newest):
                min_position = newest
        if max_staleness is not None:
            query["max_staleness"] = "%dms" % round(max_staleness * 1000)
        if min_position is not None:
            headers["Tanist-Min-Position"] = min_position
        path = request.path + ("?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote) if query else "")
        return self._call(request._replace(path=path, headers=headers), master=consistency == "strong", deadline=deadline)

    def _page(
        self, path: str, parameters: Mapping[str, Any], item: Callable[[Json, str], Any], read: Mapping[str, Any]
    ) -> Page:
        answer = self._read(_Request("GET", path), parameters, **read)
        document, position = answer.json(), _position_of(answer)
        return Page([item(entry, position) for entry in document["entries"]], document.get("next"), position)

    def _call(
        self,
        request: _Request,
        master: bool,
        key: Optional[str] = None,
        changes: bool = False,
        deadline: Optional[float] = None,
    ) -> _Raw:
        deadline = self._deadline if deadline is None else deadline
        until = time.monotonic() + deadline
        tried: List[str] = []
        last = "there was no time for an attempt"
        unknown, attempts = False, 0
        while True:
            host = self._next_host(master, until)
            if host is None:
                break
            if host not in tried:
                tried.append(host)
            attempts += 1
            limit = min(until, time.monotonic() + self._attempt_timeout)
            try:
                answer = self._attempt(host, request, master, limit)
            except _Redirect as redirect:
                with self._lock:
                    self._hosts.on_redirect(host, redirect.to, time.monotonic())
                why = str(redirect)
            except _Refused as refused:
                self._on_trouble(host, refused.trouble, refused.retry_after)
                why = str(refused)
            except _Superseded as superseded:
                unknown, why = True, str(superseded)
                self._on_trouble(host, "unreachable")
                if superseded.master:
                    with self._lock:
                        self._hosts.master = superseded.master
            except _Unknown as lost:
                unknown, why = True, str(lost)
                self._on_trouble(host, "unreachable")
            except Problem:
                self._on_served(host, master, attempts > 1)
                raise
            else:
                self._on_served(host, master, attempts > 1)
                self._on_position(answer.headers.get("tanist-position"))
                return answer
            _log.debug("attempt failed: %s: %s", host, why)
            # What was before the one that the deadline has cut off says more.
            if attempts == 1 or time.monotonic() < until:
                last = "%s: %s" % (host, why)
        if key and unknown:
            raise OutcomeUnknown(key, deadline, last)
        if changes and unknown:
            raise Unconfirmed(deadline, last)
        raise Unavailable(deadline, tried, last)

    def _attempt(self, host: str, request: _Request, master: bool, until: float) -> _Raw:
        """One request to one host. While it is silent somebody looks around: a machine without power doesn't even break its
        connections."""
        look = _Look(self, host, master, until)
        try:
            return _judge(request, self._exchange(host, request, look), self._secure)
        finally:
            look.ended.set()

    def _exchange(self, host: str, request: _Request, silence: _Silence) -> _Raw:
        try:
            return self._http.send(host, request, self._patience(host), silence)
        except _NotSent as error:
            raise _Refused(str(error), error.trouble) from None
        except (OSError, http.client.HTTPException) as error:
            raise _Unknown("%s: %s" % (type(error).__name__, error)) from None

    def _patience(self, host: str) -> float:
        with self._lock:
            return self._hosts.connect_patience(host, self._connect_timeout, time.monotonic())

    def _next_host(self, master: bool, until: float) -> Optional[str]:
        while True:
            now = time.monotonic()
            if now >= until:
                return None
            with self._lock:
                picked = self._hosts.pick(master, now)
            if isinstance(picked, str):
                return picked
            time.sleep(min(picked, until - now))

    def _ask(self, host: str, path: str, limit: float) -> _Raw:
        """One GET on one machine, whoever it is."""
        request = _Request("GET", path)
        return _judge(request, self._exchange(host, request, _Silence(time.monotonic() + limit)), self._secure)

    def _lives(self, host: str, limit: float) -> bool:
        try:
            self._ask(host, "/healthz", limit)
        except Problem:
            return True
        except (Error, _Refused, _Unknown, _Redirect):
            return False
        return True

    def _reigns(self, host: str) -> bool:
        try:
            if self._blind:
                return bool(self._ask(host, "/readyz", _LOOK_AROUND).json().get("role") == "master")
            view = self._view(host, _LOOK_AROUND)
            serves = bool(view["writable"] and view["master"] == view["member"])
            if serves:
                self._learn(view)
            return serves
        except (Error, _Refused, _Unknown, _Redirect, KeyError, AttributeError):
            return False

    def _view(self, host: str, limit: float) -> Dict[str, Any]:
        try:
            view: Dict[str, Any] = self._ask(host, "/v1/cluster", limit).json()
            return view
        except Problem as problem:
            # An agent isn't shown the cluster: it asks no more.
            self._blind = self._blind or problem.code == "forbidden"
            raise

    def _learn(self, view: Dict[str, Any]) -> None:
        def usable(urls: Iterable[str]) -> List[str]:
            parsed = (_parse_host(url) for url in urls)
            # Without certificates to know them by, https:// hosts are of no use.
            return [url for url in parsed if url and (self._http.tls if url.startswith("https://") else not self._secure)]

        urls = [url for member in view["members"] for url in usable(member["urls"])]
        told = usable([view["suggested_host"]] if view.get("suggested_host") else []) + usable(view["master_urls"])
        with self._lock:
            if urls:
                self._hosts.on_members(urls)
            # Who served a request of the master's is known better than what somebody tells.
            if told and view["writable"] and self._hosts.master is None:
                self._hosts.master = told[0]

    def _on_served(self, host: str, master: bool, trouble: bool) -> None:
        now = time.monotonic()
        with self._lock:
            if master and self._hosts.master != host:
                _log.info("the master is %s", host)
            self._hosts.on_served(host, master)
            if self._blind or self._learned is not None and now - self._learned < (_LEARN_AGAIN if trouble else _LEARN_EVERY):
                return
            self._learned = now
        self._in_background(self._refresh, host)

    def _refresh(self, host: str) -> None:
        with contextlib.suppress(Error, _Refused, _Unknown, _Redirect, KeyError, TypeError):
            self._learn(self._view(host, self._attempt_timeout))

    def _on_position(self, position: Optional[str]) -> None:
        with self._lock:
            if position and _position(position) and not _at_least(self._newest, position):
                self._newest = position

    def _on_trouble(self, host: str, why: str, retry_after: Optional[float] = None) -> None:
        with self._lock:
            self._hosts.on_trouble(host, why, retry_after, time.monotonic())
            probe = why == "unreachable" and len(self._hosts.entries) > 1 and host not in self._probed
            if probe:
                self._probed.add(host)
        if why == "unreachable":
            self._http.forget(host)
        if probe:
            self._in_background(self._probe, host)

    def _probe(self, host: str) -> None:
        """Looks at a host that can't be reached until it answers, so that no caller has to."""
        since = time.monotonic()
        try:
            while not self._closed.wait(min(max((time.monotonic() - since) / _PAUSE_PART, _PROBE_MIN), _PROBE_MAX)):
                with self._lock:
                    entry = self._hosts.find(host)
                    if not entry or not entry.down:
                        return
                if self._lives(host, self._connect_timeout):
                    with self._lock:
                        entry.failed = entry.down = False
                    return
        finally:
            with self._lock:
                self._probed.discard(host)

    def _in_background(self, work: Callable[[str], None], host: str) -> None:
        if self._closed.is_set():
            return
        with contextlib.suppress(RuntimeError):  # the interpreter ends, or there are too many threads
            threading.Thread(target=work, args=(host,), name="tanist", daemon=True).start()


class _Look(_Silence):
    """The time of an attempt. Looks around while the machine is silent, on a thread of its own."""

    def __init__(self, client: Client, host: str, master: bool, until: float) -> None:
        super().__init__(until, _LOOK_AROUND)
        self.client, self.host, self.master = client, host, master
        self.begun = False
        self.ended = threading.Event()
        self.found: Optional[_Superseded] = None

    def on_slice(self) -> None:
        if not self.begun:
            self.begun, self.slice = True, 0.05
            self.client._in_background(self._run, self.host)
        if self.found:
            raise self.found

    def _run(self, host: str) -> None:
        client = self.client
        if not self.master:
            while client._lives(host, _LOOK_AROUND):
                if self.ended.wait(_LOOK_AROUND):
                    return
            if len(client.known_hosts()) > 1:
                self.found = _Superseded(None)
            return
        while client._reigns(host):
            if self.ended.wait(_LOOK_AROUND):
                return
        while not self.ended.is_set():
            for other in client.known_hosts():
                if other != host and client._reigns(other):
                    self.found = _Superseded(other)
                    return
            self.ended.wait(_LOOK_AROUND)


def _dump(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


def _statements(sql: Union[str, Sequence[Any]], params: Params) -> bytes:
    if isinstance(sql, Statement):
        sql = [sql]
    statements = [_statement((sql, params))] if isinstance(sql, str) else [_statement(statement) for statement in sql]
    if not isinstance(sql, str) and params:
        raise TypeError("params: each of several statements has its own")
    return _dump({"statements": statements})


def _answer(raw: _Raw) -> Answer:
    document = raw.json()
    results = [
        Result(
            result.get("columns", []),
            [[decode_value(value) for value in row] for row in result.get("rows", [])],
            result.get("rows_affected"),
            result.get("last_insert_id"),
        )
        for result in document["results"]
    ]
    return Answer(document["position"], results)


def _position_of(raw: _Raw) -> str:
    position = raw.headers.get("tanist-position")
    if position is None:
        raise Unexpected(raw.host, "no header Tanist-Position")
    return position


def _config_entry(document: Json, position: str) -> ConfigEntry:
    changed = document["changed_at"], document["changed_by"]
    return ConfigEntry(document["key"], document["value"], document["revision"], changed[0], changed[1], position)


def _entry(raw: _Raw) -> ConfigEntry:
    return _config_entry(raw.json(), _position_of(raw))


def _at(raw: _Raw) -> At:
    return At(raw.json(), _position_of(raw))


# --- watching


class Watch:
    """Events that go on at another machine when one fails: in order, none twice, none missed. Iterate over it, from one thread."""

    def __init__(
        self, client: Client, after: Optional[int], kinds: Sequence[str], subject_prefix: str, tables: Sequence[str]
    ) -> None:
        given = {"kinds": ",".join(kinds), "subject_prefix": subject_prefix, "tables": ",".join(tables)}
        query = urllib.parse.urlencode({name: value for name, value in given.items() if value}, quote_via=urllib.parse.quote)
        self._client, self._path = client, "/v1/events" + ("?" + query if query else "")
        #: The newest event that was seen (or passed by, unwanted): a later watch goes on after it.
        self.position = after
        #: The machine that tells now.
        self.host: Optional[str] = None
        self._stream: Optional[Tuple[_Connection, http.client.HTTPResponse]] = None
        self._parser = _Parser()
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the iteration, also from another thread, within about a second."""
        self._closed.set()

    def begin(self) -> int:
        """Connects, and gives the event after which the watch begins: what is read from now on is at least as new."""
        while self.position is None or self._stream is None:
            if self._closed.is_set():
                raise ValueError("the watch is closed")
            self._step()  # a machine says where it begins before it tells anything
        return self.position

    def __next__(self) -> Event:
        """The next event. `Unavailable`: no machine has let the watch go on within the client's deadline; called again it goes
        on trying. `Problem` with `events-pruned` or `events-lost`: what follows can't be told any more, read anew."""
        while not self._closed.is_set():
            event = self._step()
            if event:
                return event
        self._drop()
        raise StopIteration

    def _step(self) -> Optional[Event]:
        """One thing at a time."""
        if self._stream is None:
            self._connect()
            return None
        host = self.host or ""
        block = self._parser.next(host)
        if block is not None:
            return self._told(host, block)
        try:
            part = self._stream[1].read1(1 << 16)
        except _WatchClosed:
            return None
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._leave("unreachable", str(error))
            return None
        if not part:
            self._leave("unreachable", "the stream ended")
            return None
        self._quiet.heard()
        self._parser.push(host, part)
        return None

    def _drop(self) -> None:
        if self._stream:
            self._stream[0].abort()
        self._stream, self.host, self._parser = None, None, _Parser()

    def _leave(self, trouble: str, why: str) -> None:
        host = self.host or ""
        _log.debug("the watch leaves %s: %s", host, why)
        self._drop()
        self._client._on_trouble(host, trouble)

    def _connect(self) -> None:
        client = self._client
        until = time.monotonic() + client._deadline
        tried: List[str] = []
        last = "there was no time for an attempt"
        while not self._closed.is_set():
            host = client._next_host(False, until)
            if host is None:
                raise Unavailable(client._deadline, tried, last)
            if host not in tried:
                tried.append(host)
            try:
                self._open(host, min(until, time.monotonic() + max(client._attempt_timeout, _WATCH_ATTEMPT)))
            except _WatchClosed:
                return
            except _Refused as refused:
                client._on_trouble(host, refused.trouble, refused.retry_after)
                last = "%s: %s" % (host, refused)
            except (_Unknown, _Redirect, OSError, http.client.HTTPException) as error:
                client._on_trouble(host, "unreachable")
                last = "%s: %s" % (host, error)
            else:
                client._on_served(host, False, len(tried) > 1)
                return

    def _open(self, host: str, until: float) -> None:
        client = self._client
        headers = {"Accept": "text/event-stream"}
        if self.position is not None:
            headers["Last-Event-ID"] = str(self.position)
        request = _Request("GET", self._path, None, headers)
        silence = _Quiet(self, host, until)
        try:
            connection, response = client._http.open(host, request, client._patience(host), silence)
        except _NotSent as error:
            raise _Refused(str(error), error.trouble) from None
        try:
            if response.status != 200:
                body = response.read(1 << 20)
                head = {name.lower(): value for name, value in response.getheaders()}
                _judge(request, _Raw(host, response.status, head, body), client._secure)
                raise _Refused("status %d, expected a stream of events" % response.status, "refusing")
        except BaseException:
            connection.abort()
            raise
        silence.until = math.inf
        silence.heard()
        self._quiet = silence
        self._stream, self.host, self._parser = (connection, response), host, _Parser()

    def _told(self, host: str, block: Tuple[Optional[str], str, str]) -> Optional[Event]:
        id_text, kind, data = block
        try:
            if kind == "end":
                end = json.loads(data)
                if end["code"] in ("events-pruned", "events-lost"):
                    self._drop()
                    raise Problem({"status": 410, **end})
                self._leave("refusing", str(end.get("detail")))
                return None
            if id_text is None:
                if not data:
                    return None
                raise ValueError("an event without an id")
            if not id_text.isdigit():
                raise ValueError("id: found %r, expected a number" % id_text)
            number = int(id_text)
            if not data:
                # No event, only a place: all before it that was wanted has been told.
                self.position = number if self.position is None else max(self.position, number)
                return None
            if self.position is not None and number <= self.position:
                raise ValueError("event %d after event %d" % (number, self.position))
            document = json.loads(data)
            event = Event(number, kind, document["at"], document["subject"], document.get("actor"), document["data"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._drop()
            raise Unexpected(host, str(error)) from None
        self.position = number
        return event


class _WatchClosed(Exception):
    pass


class _Quiet(_Silence):
    """Of a watch: while nothing comes the machine is asked whether it lives, so that a stall shows within 3 s."""

    def __init__(self, watch: Watch, host: str, until: float) -> None:
        super().__init__(until, 0.25)
        self.watch, self.host = watch, host
        self.heard()

    def heard(self) -> None:
        self.quiet_until = time.monotonic() + _QUIET

    def left(self) -> float:
        return super().left() if self.until != math.inf else 3600.0

    def on_slice(self) -> None:
        if self.watch._closed.is_set():
            raise _WatchClosed
        if time.monotonic() >= self.quiet_until:
            if not self.watch._client._lives(self.host, _QUIET_PROBE):
                raise OSError("nothing came for %.3g s, and it shows no life" % _QUIET)
            self.heard()


class _Parser:
    """Server-sent events, however the bytes come."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.searched = self.size = 0
        self.id: Optional[str] = None
        self.kind = ""
        self.data: List[str] = []

    def push(self, host: str, part: bytes) -> None:
        if len(self.bytes) + self.size + len(part) > _EVENT_LIMIT:
            raise Unexpected(host, "an event of more than %d bytes" % _EVENT_LIMIT)
        self.bytes += part

    def next(self, host: str) -> Optional[Tuple[Optional[str], str, str]]:
        """The next block that is whole and says anything: id, kind, data."""
        start = 0
        try:
            while True:
                end = self.bytes.find(b"\n", max(start, self.searched))
                if end < 0:
                    self.searched = len(self.bytes)
                    return None
                line = self.bytes[start:end].decode("utf-8", "replace").rstrip("\r")
                start = end + 1
                if not line:
                    block = (self.id, self.kind, "\n".join(self.data))
                    self.id, self.kind, self.data, self.size = None, "", [], 0
                    if block != (None, "", ""):
                        return block
                    continue
                name, _, value = line.partition(":")
                value = value[1:] if value.startswith(" ") else value
                if name == "id":
                    self.id = value
                elif name == "event":
                    self.kind = value
                elif name == "data":
                    self.data.append(value)
                    self.size += len(value)
        finally:
            del self.bytes[:start]
            self.searched = max(self.searched - start, 0)


# --- the last known configuration


class _Cache:
    """The last known value of each key that was read, in a file: whole or not at all, and never an older one than before."""

    def __init__(self, path: str, cluster: Optional[str]) -> None:
        self.path, self.cluster = path, cluster
        self.lock = threading.Lock()
        self.entries: Dict[str, Dict[str, Any]] = {}
        self.saved = -math.inf
        try:
            with open(path, "rb") as file:
                text = file.read(_CACHE_BYTES + 1)
            document = json.loads(text)
            found = document["cluster"]
            if cluster is not None and found is not None and found != cluster:
                raise ValueError("it is of the cluster %r, expected %r" % (found, cluster))
            self.cluster = cluster or found
            for key, known in document["entries"].items():
                _config_entry({**known, "key": key}, known["position"])
                if isinstance(known["at"], (int, float)) and _position(known["position"]):
                    self.entries[key] = known
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("cache: %s can't be read (%s): it begins empty", path, error)
            self.entries = {}

    def _of(self, key: str, known: Dict[str, Any], cached: bool) -> ConfigEntry:
        entry = _config_entry({**known, "key": key}, known["position"])
        return entry._replace(cached=cached, age=max(time.time() - known["at"], 0.0) if cached else 0.0)

    def get(self, key: str) -> Optional[ConfigEntry]:
        with self.lock:
            known = self.entries.get(key)
            return self._of(key, known, False) if known else None

    def entry(self, key: str) -> Optional[ConfigEntry]:
        """The last known value, with its age."""
        with self.lock:
            known = self.entries.get(key)
            if known and known.get("removed"):
                raise Problem({"code": "not-found", "status": 404, "detail": "%s: no such key, as last known" % key})
            return self._of(key, known, True) if known else None

    def put(self, entry: ConfigEntry, cluster: Optional[str]) -> ConfigEntry:
        """Takes a new value; gives the known one if that is newer."""
        with self.lock:
            known = self.entries.get(entry.key)
            if known and not _at_least(entry.position, known["position"]):
                _log.warning("cache: %s is older than what %s knows: not taken", entry.position, self.path)
                return self._of(entry.key, known, True)
            self.cluster = self.cluster or cluster
            document = entry._asdict()
            del document["key"], document["cached"], document["age"]
            changed = known is None or known["revision"] != entry.revision or bool(known.get("removed"))
            # The one that was read longest ago makes room.
            self.entries.pop(entry.key, None)
            self.entries[entry.key] = {**document, "at": time.time()}
            while len(self.entries) > _CACHE_ENTRIES:
                del self.entries[next(iter(self.entries))]
        self.save(changed)
        return entry

    def remove(self, key: str) -> None:
        with self.lock:
            known = self.entries.get(key)
            if known is None or known.get("removed"):
                return
            self.entries[key] = {**known, "value": None, "removed": True, "at": time.time()}
        self.save(True)

    def save(self, force: bool) -> None:
        """At once when a value has changed; what only became older on disk, now and then."""
        with self.lock:
            if not self.entries or not force and time.monotonic() < self.saved + _CACHE_EVERY:
                return
            self.saved = time.monotonic()
            temporary = None
            try:
                data = _dump({"cluster": self.cluster, "entries": self.entries})
                if len(data) > _CACHE_BYTES:
                    raise ValueError("%d bytes, expected at most %d" % (len(data), _CACHE_BYTES))
                folder = os.path.dirname(os.path.abspath(self.path))
                handle, temporary = tempfile.mkstemp(prefix=".tanist-cache-", dir=folder)
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
            except (OSError, ValueError) as error:
                _log.warning("cache: %s can't be written: %s", self.path, error)
                if temporary:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary)
