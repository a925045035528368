"""The watchdog as a process: between no servers, and with a Redis; who leads."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from superset_fleet.control.ask import ROOT
from superset_fleet.state import facts
from tests.support.waiting import until


def facts_of(server: dict[str, Any]) -> str:
    """The facts where all is on one server."""
    database = {**server, "name": "superset", "user": "superset"}
    return json.dumps({"redis": {"coordination": server}, "database": database})


@contextmanager
def process(named: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A watchdog as the unit starts it."""
    with subprocess.Popen(
        [sys.executable, "-m", "superset_fleet.watchdog", "--time-limit", "60"],
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "src"),
            "SUPERSET_FACTS": str(named),
            **environment,
        },
    ) as dog:
        try:
            yield dog
        finally:
            dog.kill()


def test_without_servers_it_is_ready_says_so_once_and_stops_cleanly(tmp_path: Path) -> None:
    with socket.socket() as closed, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        nowhere = {"host": "127.0.0.1", "port": closed.getsockname()[1], "password": "secret"}
        named = tmp_path / "facts"
        named.write_text(facts_of(nowhere))
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        with process(named, **environment) as dog:
            states = [systemd.recv(100) for _ in range(4)]
            dog.send_signal(signal.SIGTERM)
            _, log = dog.communicate(timeout=30)
    assert [state.partition(b"Error")[0] for state in states] == [
        b"READY=1\nWATCHDOG=1\nSTATUS=Connection",
        *[b"WATCHDOG=1\nSTATUS=Connection"] * 3,
    ]
    assert dog.returncode == 0
    assert log.count("\n") == 1 and log.startswith("event=trouble reason=")
    assert "secret" not in log


def test_a_leader_that_is_stopped_lets_go(redis_url: str, tmp_path: Path) -> None:
    location = urlsplit(redis_url)
    server = {"host": location.hostname, "port": location.port, "password": ""}
    client = redis.Redis(host=str(location.hostname), port=location.port or 0, db=facts.GUARD)
    client.flushall()
    named = tmp_path / "facts"
    named.write_text(facts_of(server))
    with process(named) as dog:
        until(lambda: client.exists("guard:leader"), "it leads")
        dog.send_signal(signal.SIGTERM)
        assert dog.wait(30) == 0
    assert not client.exists("guard:leader")
