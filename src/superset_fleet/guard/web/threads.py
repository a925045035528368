"""Who gets a thread of a web process: not everything to what is slow, nor everything to one user.

What may be slow (charts, exports, imports, whatever asks a database of users) has at most half of
the threads, and of these one user leaves one to the others. The rest waits, each user in turn, and
not for ever. Health and readiness are asked aside: they have threads of their own.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

# Head and body that HAProxy has as a whole before it sends any of it: a little less than its
# tune.bufsize. Of a longer body the rest may come at any pace.
WHOLE_BYTES = 30_000
ASIDE = re.compile(rb"/(?:ready|health|healthcheck|ping|fleet/health|fleet/metrics)")
SLOW = re.compile(
    rb"""
    /api/v1/(?:
        chart/(?:\d+/)?data(?:/.*)?
        |(?:chart|dataset)/warm_up_cache
        |dataset/\d+/refresh
        |datasource/.+/values/
        |database/(?:\d+/.+|test_connection/|validate_parameters/|upload_metadata/)
        |sqllab/(?:estimate/|export/.+|export_streaming/)
        |[a-z_]+/(?:export|import)/
    )
    |/datasource/(?:samples|external_metadata.*)
    |/superset/(?:explore_json|warm_up_cache)/.*
    """,
    re.VERBOSE | re.DOTALL,
)
USER = re.compile(
    rb"\r\n(?:cookie:(?:[^\r\n]*;)?[ ]*session=[.]?(?P<session>[^.;\r\n]+)"
    rb"|(?:authorization|x-guesttoken):(?P<token>[^\r\n]+))",
    re.IGNORECASE,
)
ADDRESS = re.compile(rb"\r\nx-forwarded-for:[ ]*([^\r\n]+)", re.IGNORECASE)
LENGTH = re.compile(rb"\r\ncontent-length:[ ]*(\d{1,15})", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


class Serving(threading.local):
    """What a thread serves at this moment."""

    client: socket.socket | None = None  # that waits for the answer


serving = Serving()


class Asked(NamedTuple):
    """What tells how a request is dealt with."""

    user: bytes  # whoever is logged in, else the address
    slow: bool = False
    aside: bool = False


def asked(head: bytes) -> Asked:
    """Return how a request is dealt with, by its first bytes: mostly all, and at least a line."""
    head, whole, _ = head.partition(b"\r\n\r\n")
    line = head.partition(b"\r\n")[0].split(b" ")
    target = re.sub(rb"\Ahttps?://[^/]*", b"", line[1] if len(line) > 1 else b"")
    path = unquote_to_bytes(target.partition(b"?")[0])
    address = ADDRESS.search(head)
    known = USER.search(head)
    user = next(filter(None, known.groups())) if known else address[1] if address else b""
    if ASIDE.fullmatch(path) and not address:  # HAProxy itself, and others in its network
        return Asked(user, aside=True)
    length = LENGTH.search(head)
    drips = not whole or CHUNKED.search(head)
    long = length and len(head) + int(length[1]) > WHOLE_BYTES
    return Asked(user, slow=bool(drips or long or SLOW.fullmatch(path)))


class Threads:
    """Threads that serve what was submitted, as long as the process runs. `serve` never raises."""

    def __init__(self, number: int, serve: Callable[[Any], object]) -> None:
        self._number, self._serve = number, serve
        self._slow = max(1, number // 2)
        self._changed = threading.Condition()
        self._waiting: OrderedDict[Asked, deque[tuple[float, Any]]] = OrderedDict()
        self._running: Counter[Asked] = Counter()
        self._moved = time.monotonic()  # when a thread was free, or something finished
        for each in range(number):
            threading.Thread(target=self._work, name=f"request {each}", daemon=True).start()

    def submit(self, one: Asked, request: Any) -> None:
        """Serve a request when it is its turn."""
        with self._changed:
            self._waiting.setdefault(one, deque()).append((time.monotonic(), request))
            self._changed.notify()

    def overdue(self, seconds: float) -> list[Any]:
        """Return the requests that have waited for longer; they are served no more."""
        since, found = time.monotonic() - seconds, []
        with self._changed:
            for one, requests in list(self._waiting.items()):
                while requests and requests[0][0] <= since:
                    found.append(requests.popleft()[1])
                if not requests:
                    del self._waiting[one]
        return found

    def stuck(self, seconds: float) -> bool:
        """Tell whether for so long all threads were taken, and none has finished anything."""
        with self._changed:
            if self._running.total() < self._number:
                self._moved = time.monotonic()
            return time.monotonic() > self._moved + seconds

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (taken := self._take()):
                    self._changed.wait()
            one, request = taken
            self._serve(request)
            with self._changed:
                self._running -= Counter([one])
                self._moved = time.monotonic()
                # Two may have waited for that, this user's next one and a slow one of another's:
                # this thread takes one of them.
                self._changed.notify()

    def _take(self) -> tuple[Asked, Any] | None:
        """Take the first request that may be served now, and let its user be the last then."""
        one = next(filter(self._may, self._waiting), None)
        if one is None:
            return None
        requests = self._waiting.pop(one)
        _, request = requests.popleft()
        if requests:
            self._waiting[one] = requests
        self._running[one] += 1
        return one, request

    def _may(self, one: Asked) -> bool:
        """Tell whether a request may be served beside those that are."""
        slow = self._running[one._replace(slow=True)]
        if slow + self._running[one._replace(slow=False)] >= max(1, self._number - 1):
            return False
        every = sum(number for each, number in self._running.items() if each.slow)
        return not one.slow or (every < self._slow and slow < max(1, self._slow - 1))
