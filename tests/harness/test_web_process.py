"""A real gunicorn with the role's configuration, behind a real HAProxy with its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from superset_fleet.times import FACTOR
from tests.harness.rig import Base
from tests.support import templates
from tests.support.haproxy_server import Balancer, balancer
from tests.support.servers import free_port
from tests.support.waiting import DEADLINE_SECONDS, until

CHART = "/api/v1/chart/data"


class Asking:
    """A request, which may have its answer already."""

    def __init__(self, port: int, path: str, user: str, body: bytes = b"") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)
        headers = {"Cookie": f"session={user}.signed"} if user else {}
        self.connection.request("POST" if body else "GET", path, body or None, headers)

    def answer(self) -> tuple[http.client.HTTPResponse, str]:
        with closing(self.connection):
            reply = self.connection.getresponse()
            return reply, reply.read().decode()


class Web:
    """One web process with eight threads."""

    def __init__(self, directory: Path, factor: str, timeout: int, warehouse: str) -> None:
        self.port, self.release = free_port(), directory / "release"
        text = templates.render(
            "superset_web",
            "gunicorn.conf.py.j2",
            superset_web_port=self.port,
            superset_web_processes=1,
            superset_web_threads=8,
            superset_web_timeout_seconds=timeout,
            superset_web_graceful_timeout_seconds=5,
            superset_web_keepalive_seconds=75,
        )
        # Without Superset.
        text = re.sub(r"(?m)^(from|when_ready|wsgi_app).*$", "", text)
        (directory / "gunicorn.conf.py").write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "tests.harness.web_app:app"],
            cwd=directory,
            env=os.environ
            | {
                "PYTHONPATH": ":".join(sys.path),
                "RELEASE": str(self.release),
                "WAREHOUSE": warehouse,
                FACTOR: factor,
            },
        )

    def answers(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return bool(self.begun())
        return False

    def ask(self, path: str, user: str = "", port: int = 0, body: bytes = b"") -> Asking:
        return Asking(port or self.port, path, user, body)

    def begun(self) -> dict[str, int]:
        """Return how much of whom has begun, as a health check is told."""
        reply, body = self.ask("/ready").answer()
        assert reply.status == 200
        return {"": 0} | {
            re.sub(r"session=(.*)\.signed", r"\1", user): number
            for user, number in json.loads(body).items()
        }

    def has_begun(self, **numbers: int) -> bool:
        return self.begun() == {"": 0} | numbers

    def connections(self) -> int:
        """Return how many connections are established."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        port = f":{self.port:04X}"
        return sum(line[1].endswith(port) and line[3] == "01" for line in lines)

    def close(self) -> None:
        self.release.touch()
        self.process.terminate()
        self.process.wait(DEADLINE_SECONDS)


@contextmanager
def served(
    directory: Path, factor: str = "1", timeout: int = 30, warehouse: str = ""
) -> Iterator[Web]:
    web = Web(directory, factor, timeout, warehouse)
    try:
        until(web.answers, "gunicorn answers")
        yield web
    finally:
        web.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, base: Base) -> Iterator[Web]:
    warehouse = f"host=127.0.0.1 port={base.postgres.port} user=superset dbname=warehouse"
    with served(tmp_path_factory.mktemp("web"), warehouse=warehouse) as web:
        yield web


@pytest.fixture
def web(running: Web) -> Iterator[Web]:
    """A web process in which nothing has begun."""
    running.ask("/forget").answer()
    yield running
    running.release.touch()
    until(lambda: not running.connections(), "all is answered")
    running.release.unlink()


@pytest.fixture
def haproxy(tmp_path: Path, web: Web) -> Iterator[Balancer]:
    with balancer(tmp_path, {"web-1": f"127.0.0.1:{web.port}"}) as running:
        yield running


def test_a_greedy_user_holds_up_nobody_else(web: Web) -> None:
    ann = [web.ask(CHART, "ann", body=b"{}") for _ in range(40)]
    until(lambda: web.has_begun(ann=3), "ann holds three threads")
    bob = web.ask(CHART, "bob", body=b"{}")
    until(lambda: web.has_begun(ann=3, bob=1), "bob's chart is computed, too")
    eve = web.ask(CHART, "eve", body=b"{}")
    assert web.ask("/superset/welcome/", "eve").answer()[0].status == 200
    pages = [web.ask("/hold", f"page{each}") for each in range(4)]
    until(lambda: len(web.begun()) == 7, "pages hold the other threads")
    assert web.ask("/health").answer()[0].status == 200  # while all threads are taken
    assert "eve" not in web.begun()
    web.release.touch()
    assert {one.answer()[0].status for one in (*ann, bob, eve, *pages)} == {200}
    assert web.has_begun(ann=40, bob=1, eve=1, page0=1, page1=1, page2=1, page3=1)


def test_what_was_given_up_before_its_turn_is_never_begun(web: Web, haproxy: Balancer) -> None:
    ann = [web.ask(CHART, "ann", haproxy.port) for _ in range(10)]
    until(lambda: web.connections() >= 10 and web.has_begun(ann=3), "three are computed")
    for one in ann:
        one.connection.close()
    until(lambda: not web.connections(), "HAProxy has given them up, too")
    assert web.ask("/page", "ann", haproxy.port).answer()[0].status == 200
    web.release.touch()
    assert web.ask(CHART, "ann", haproxy.port).answer()[0].status == 200
    assert web.has_begun(ann=4)


def test_the_query_of_who_has_gone_is_cancelled_and_its_thread_is_free(
    web: Web, haproxy: Balancer, base: Base
) -> None:
    def queries() -> int:
        ((number,),) = base.postgres.sql(
            "postgres",
            "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)'"
            " and state = 'active'",
        )
        return int(number)

    ann = [web.ask("/query", "ann", haproxy.port) for _ in range(7)]
    until(lambda: queries() == 7, "all threads that ann may have are taken")
    for one in ann:
        one.connection.close()
    until(lambda: not queries(), "her queries are cancelled")
    assert web.ask("/page", "ann", haproxy.port).answer()[0].status == 200


def test_what_waits_for_too_long_is_told_so_and_when_to_try_again(tmp_path: Path) -> None:
    with served(tmp_path, factor="0.01") as web:
        ann = [web.ask(CHART, "ann", body=b"x" * 100_000) for _ in range(4)]
        until(lambda: web.has_begun(ann=3), "three are computed")
        reply, body = ann.pop().answer()
        assert (reply.status, reply.getheader("Retry-After")) == (429, "60")
        assert "busy with other requests" in json.loads(body)["errors"][0]["message"]
        web.release.touch()
        assert {one.answer()[0].status for one in ann} == {200}
        assert web.has_begun(ann=3)


def test_a_process_whose_threads_are_all_stuck_is_replaced(tmp_path: Path) -> None:
    with served(tmp_path, timeout=1) as web:
        stuck = [web.ask("/hold", f"user{each}") for each in range(8)]
        until(lambda: len(web.begun()) == 9, "all threads are taken")
        until(lambda: web.answers() and web.has_begun(), "another process answers")
        for one in stuck:
            with closing(one.connection), pytest.raises(http.client.RemoteDisconnected):
                one.connection.getresponse()


def test_connections_that_say_nothing_take_no_thread(web: Web) -> None:
    silent = [socket.create_connection(("127.0.0.1", web.port)) for _ in range(20)]
    assert web.ask("/page").answer()[0].status == 200
    for one in silent:
        with one:
            one.sendall(b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert one.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_kept_connection_is_served_again(web: Web) -> None:
    one = http.client.HTTPConnection("127.0.0.1", web.port, timeout=DEADLINE_SECONDS)
    for _ in range(3):
        one.request("GET", "/page")
        reply = one.getresponse()
        assert (reply.status, reply.will_close) == (200, False)
        reply.read()
    one.close()


def test_long_bodies_that_drip_hold_up_only_what_is_slow(web: Web, haproxy: Balancer) -> None:
    """HAProxy waits for short ones itself."""
    long = web.ask("/import", port=haproxy.port, body=b"a" * 1_000_000)
    assert long.answer()[0].status == 200
    drips = []
    for length in [1000] * 20 + [100_000] * 20:
        drip = socket.create_connection(("127.0.0.1", haproxy.port))
        begin = f"POST /login/ HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        drip.sendall(begin.encode() + b"a" * (length // 2))
        drips.append(drip)
    until(lambda: sessions(haproxy) == 20, "the long ones are with the web process")
    for _ in range(8):
        assert web.ask("/login/", port=haproxy.port, body=b"{}").answer()[0].status == 200
    for drip in drips:
        drip.close()


def sessions(haproxy: Balancer) -> int:
    """Return how many requests HAProxy has given to the web process."""
    return haproxy.api._sessions()["web-1"]
