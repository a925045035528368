"""What a real HAProxy with the role's configuration takes from one address."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.haproxy_server import Balancer, Web, balancer
from tests.support.waiting import DEADLINE_SECONDS, until

GREEDY, OTHER = "127.0.0.1", "127.0.0.2"


def connect(haproxy: Balancer, address: str = GREEDY) -> socket.socket:
    to = ("127.0.0.1", haproxy.port)
    return socket.create_connection(to, timeout=DEADLINE_SECONDS, source_address=(address, 0))


def ask(haproxy: Balancer, path: str, address: str = GREEDY) -> int:
    return told(haproxy, path, address)[0].status


def told(
    haproxy: Balancer, path: str, address: str = GREEDY
) -> tuple[http.client.HTTPResponse, bytes]:
    with connect(haproxy, address) as made:
        made.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        reply = http.client.HTTPResponse(made)
        reply.begin()
        return reply, reply.read()


def counted(haproxy: Balancer, table: str) -> int:
    """Return how many connections, or unfinished requests, of the greedy address HAProxy has."""
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.connect(haproxy.socket)
        runtime.sendall(f"show table {table}\n".encode())
        lines = runtime.makefile().read().splitlines()
    (line,) = [line for line in lines if f"key=::ffff:{GREEDY} " in line] or [""]
    return int(line.rpartition("conn_cur=")[2] or 0)


@pytest.fixture
def limited(tmp_path: Path, web: Web) -> Iterator[Balancer]:
    limits = {"haproxy_source_connections": 8, "haproxy_source_requests": 4}
    with balancer(tmp_path, {"web-1": web.endpoint}, **limits) as running:
        yield running


def test_who_has_too_many_connections_is_told_so_and_others_are_served(limited: Balancer) -> None:
    idle = [connect(limited) for _ in range(8)]
    until(lambda: counted(limited, "users") == 8, "they are connected")
    reply, body = told(limited, "/page")
    assert (reply.status, reply.getheader("Retry-After")) == (429, "10")
    assert "Your address" in json.loads(body)["errors"][0]["message"]
    assert ask(limited, "/health") == 200
    assert ask(limited, "/page", OTHER) == 200
    # Far beyond the limit nothing is said any more.
    idle += [connect(limited) for _ in range(2)]
    until(lambda: counted(limited, "users") == 10, "they are connected")
    with pytest.raises(ConnectionError):
        ask(limited, "/page")
    assert ask(limited, "/page", OTHER) == 200
    for one in idle:
        one.close()
    until(lambda: not counted(limited, "users"), "they are closed")
    assert ask(limited, "/page") == 200


def test_who_has_too_many_requests_is_told_so_and_others_are_served(
    limited: Balancer, web: Web
) -> None:
    slow = [connect(limited) for _ in range(4)]
    for one in slow:
        one.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    until(lambda: web.paths["/slow"] == 4, "they are served")
    assert ask(limited, "/page") == 429
    assert ask(limited, "/fleet/health") == 200
    assert ask(limited, "/page", OTHER) == 200
    web.hold.set()
    for one in slow:
        assert one.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    until(lambda: ask(limited, "/page") == 200, "the next one is served")
    for one in slow:
        one.close()


def test_a_web_machine_gets_no_body_before_it_is_whole(limited: Balancer, web: Web) -> None:
    drips = [connect(limited) for _ in range(4)]
    for drip in drips:
        drip.sendall(b"POST /login/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
    until(lambda: counted(limited, "requests") == 4, "they count as requests")
    assert ask(limited, "/page") == 429
    assert ask(limited, "/page", OTHER) == 200
    assert "/login/" not in web.paths
    for drip in drips:
        with drip:
            drip.sendall(b"bc")
            assert drip.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
    assert web.paths["/login/"] == 4
