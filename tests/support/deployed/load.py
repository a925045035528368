"""A constant load of users with keep-alive connections, and what goes wrong for them.

    with Load(url, ca_certificate, pages(url, ca_certificate), clients=8) as load:
        ...  # whatever must not be noticed
        load.more(100)
    assert not load.failed, load.report()

Each request is made once, on the connection that is there: whatever comes of it but the right
answer is a failure, also where a browser would try again.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from urllib.parse import urlsplit

# A second. Superset lets one address make 50 (superset_rate_limit), also where some came late.
RATE = 30.0
TIMEOUT_SECONDS = 30.0
DETAILS = 20  # failures that are kept word for word


@dataclass(frozen=True)
class Request:
    """A request, and its right answer: the status, and a part of the body."""

    path: str
    says: bytes
    method: str = "GET"
    body: bytes = b""
    status: int = 200


# No JSON, so Superset refuses it. Unlike a GET nobody repeats it.
POST = Request("/api/v1/security/login", b"message", "POST", b"-", 400)


class Failure(Exception):
    """A request went wrong; the message is of which kind."""


class Client:
    """One user's connection, made anew where it was closed."""

    def __init__(self, url: str, ca_certificate: str, timeout: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            trust = ssl.create_default_context(cadata=ca_certificate or None)
            self._connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=timeout, context=trust
            )
        else:
            self._connection = http.client.HTTPConnection(
                parts.hostname, parts.port, timeout=timeout
            )

    def ask(self, request: Request) -> bytes:
        """Make a request and return the body of the right answer. Raises Failure."""
        try:
            if self._connection.sock is None:
                self._connect()
            self._connection.request(request.method, request.path, request.body or None)
            reply = self._connection.getresponse()
            body = reply.read()
        except TimeoutError as error:
            self.close()
            raise Failure("time-out") from error
        except http.client.IncompleteRead as error:
            self.close()
            raise Failure("cut short") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Failure(f"reset: {type(error).__name__}") from error
        if reply.status != request.status:
            raise Failure(f"status {reply.status}")
        if request.says not in body:
            raise Failure("wrong body")
        return body

    def _connect(self) -> None:
        try:
            self._connection.connect()
        except OSError as error:
            self.close()
            raise Failure(f"connect: {type(error).__name__}") from error

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


def pages(url: str, ca_certificate: str) -> list[Request]:
    """Return requests for what a user's browser asks first, and one that nobody repeats.

    Raises Failure where Superset does not show its first page.
    """
    client = Client(url, ca_certificate)
    login = Request("/login/", b"data-bootstrap=")
    text = client.ask(login).decode()
    paths = re.findall(r'"(/static/assets/[^"]+\.(?:css|js))"', text)
    scripts = [Request(path, client.ask(Request(path, b""))) for path in paths]
    client.close()
    # The smallest: it is not the network that is tried.
    script = min(scripts, key=lambda each: len(each.says))
    return [login, POST, Request("/health", b"OK"), script]


class Load:
    """Users who ask at a constant rate while the block runs.

    Each of the clients goes round the requests; together they make `rate` requests a second, or
    fewer where answers take longer. `served` counts the right answers by method and path,
    `failed` the others by kind: "connect: …", "reset: …", "time-out", "cut short", "status …",
    "wrong body".
    """

    def __init__(
        self,
        url: str,
        ca_certificate: str,
        requests: Sequence[Request],
        clients: int = 8,
        rate: float = RATE,
    ) -> None:
        self._url, self._ca_certificate, self._requests = url, ca_certificate, requests
        self._pause = clients / rate
        self.served: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.details: list[str] = []  # of the first failures: when, what, of which kind
        self._counting = threading.Lock()
        self._asking: dict[int, float] = {}  # since when clients wait for an answer
        self._over = threading.Event()
        self._clients = [
            threading.Thread(target=self._use, args=(number,), daemon=True)
            for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        self.more(len(self._clients))
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()

    @property
    def requests(self) -> int:
        """How many requests were made and are over."""
        return self.served.total() + self.failed.total()

    def longest_wait(self) -> float:
        """Return for how many seconds the oldest request is under way."""
        now = time.monotonic()
        return max((now - since for since in list(self._asking.values())), default=0.0)

    def more(self, requests: int, timeout: float = 120) -> None:
        """Wait until so many more requests are over. Raises TimeoutError."""
        enough, deadline = self.requests + requests, time.monotonic() + timeout
        while self.requests < enough:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{requests} more requests in {timeout} s: {self.report()}")
            time.sleep(0.05)

    def report(self) -> str:
        """Return what was served and what failed, in words."""
        lines = [f"{self.requests} requests, {self.failed.total()} failed: {dict(self.failed)}"]
        return "\n".join([*lines, *self.details])

    def _use(self, number: int) -> None:
        client = Client(self._url, self._ca_certificate)
        # Not all at the same time, nor the same.
        due = time.monotonic() + self._pause * number / len(self._clients)
        for request in islice(cycle(self._requests), number, None):
            if self._over.wait(max(0.0, due - time.monotonic())):
                break
            due = max(due + self._pause, time.monotonic())
            self._asking[number] = time.monotonic()
            failure = ""
            try:
                client.ask(request)
            except Failure as error:
                failure = str(error)
            finally:
                self._asking.pop(number)
            self._count(request, failure)
        client.close()

    def _count(self, request: Request, failure: str) -> None:
        what = f"{request.method} {request.path}"
        with self._counting:
            if not failure:
                self.served[what] += 1
                return
            self.failed[failure] += 1
            if len(self.details) < DETAILS:
                self.details.append(f"{time.strftime('%H:%M:%S')} {what}: {failure}")
