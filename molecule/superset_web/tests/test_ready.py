"""What a web machine says of itself to load balancers, and of what it depends on to operators."""

import json

import pytest

from tests.support.deployed import machines
from tests.support.deployed.fleet import wait

testinfra_hosts = ["ansible://haproxy"]  # one machine is looked at, from there

UNIT, DRAINING = "superset-web", "/run/superset-web/draining"


@pytest.fixture
def web(fact):
    """A web machine whose service is as it was, in the end."""
    (machine,) = machines.find("superset_web[0]")
    yield machine
    machine.run(f"rm -f {DRAINING}")


@pytest.fixture
def ask(web, fact):
    """Ask the machine itself, from within."""

    def ask(path):
        program = (
            "import http.client as c;"
            f"k = c.HTTPConnection('127.0.0.1', {fact('superset_web_port')}, timeout=30);"
            f"k.request('GET', '{path}'); r = k.getresponse(); print(r.status); "
            "print(r.read().decode())"
        )
        status, body = web.run(f'python3 -c "{program}"').split("\n", 1)
        return int(status), body

    return ask


@pytest.fixture
def ready(ask):
    """Ask whether the machine is ready."""

    def ready():
        status, body = ask("/ready")
        document = json.loads(body)
        assert set(document) == {"status", "reason"}
        return status, document["status"]

    return ready


@pytest.fixture
def up(ask):
    """Ask which dependencies answer the machine."""

    def up():
        lines = ask("/fleet/metrics")[1].splitlines()
        prefix = 'superset_fleet_dependency_up{dependency="'
        found = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
        return {line.split('"')[0]: line.endswith(" 1") for line in found}

    return up


ALL = {"database": True, "coordination": True, "results": True, "cache": True}


def test_a_machine_that_serves_is_ready_and_all_that_it_depends_on_answers(ready, up):
    assert ready() == (200, "ready")
    assert up() == ALL


def test_a_machine_that_drains_says_so_and_serves_on(web, ready, ask):
    web.run(f"touch {DRAINING}")
    assert ready() == (503, "draining")
    assert ask("/health") == (200, "OK")
    web.run(f"rm {DRAINING}")
    assert ready() == (200, "ready")


def test_a_machine_whose_threads_are_all_taken_is_ready(web, ready, fact):
    """By bodies that do not come, each of another user's."""
    begin = "POST /login/ HTTP/1.1\\r\\nHost: x\\r\\nX-Forwarded-For: 192.0.2.%d\\r\\n"
    program = (
        "import socket as s, urllib.request as u;"
        f"web = ('127.0.0.1', {fact('superset_web_port')});"
        "held = [s.create_connection(web) for _ in range(60)];"
        f"[one.sendall(('{begin}Content-Length: 9\\r\\n\\r\\n' % n).encode())"
        " for n, one in enumerate(held)];"
        "print(u.urlopen('http://%s:%d/ready' % web, timeout=5).status)"
    )
    assert web.run(f'python3 -c "{program}"').strip() == "200"
    assert ready() == (200, "ready")


@pytest.mark.parametrize(
    ("facts", "dependency"),
    [(("database",), "database"), (("redis", "coordination"), "coordination")],
)
def test_an_outage_is_told_and_takes_no_machine_out(web, ready, up, fact, facts, dependency):
    service = fact("superset_facts")
    for key in facts:
        service = service[key]
    assert ready() == (200, "ready")
    with web.cut_off(service["host"], service["port"]):
        assert up() == ALL | {dependency: False}
        assert ready() == (200, "ready")
    assert up() == ALL


def test_a_machine_is_not_ready_before_it_has_reached_redis_once(web, ready, fact):
    redis = fact("superset_facts")["redis"]["coordination"]
    with web.cut_off(redis["host"], redis["port"]):
        web.run(f"systemctl restart {UNIT}")
        assert ready() == (503, "starting")
    wait("it is ready", lambda: ready() == (200, "ready"))


def test_a_web_server_that_died_starts_again_and_does_not_drain(web, ready):
    """Nothing is left that could drain, so nothing is waited for."""
    before = web.run(f"systemctl show -P MainPID {UNIT}")
    web.signal(UNIT, "KILL")

    def again():
        state = web.run(f"systemctl show -P MainPID -P ActiveState {UNIT}").split()
        assert not web.run(f"ls {DRAINING} 2>/dev/null", check=False)
        return state[0] not in (before, "0") and state[1] == "active"

    wait("it runs again", again, 120)
    wait("it is ready", lambda: ready() == (200, "ready"))
