"""The module, run as Ansible runs it, against a real HAProxy."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from superset_fleet.control.ask import ROOT
from tests.support.haproxy_server import BACKEND, OPTIONS, Balancer, Load, Web, balancer
from tests.support.waiting import until

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Balancer]:
    with balancer(tmp_path) as running:
        yield running


@pytest.fixture
def webs() -> Iterator[dict[str, Web]]:
    """Two web servers, by name."""
    made = {f"web-{number}": Web() for number in (1, 2)}
    yield made
    for web in made.values():
        web.stop()


@pytest.fixture
def run(haproxy: Balancer) -> Run:
    def run(servers: dict[str, str], check: bool = False, **options: Any) -> dict[str, Any]:
        arguments = {
            "backend": BACKEND,
            "servers": servers,
            "options": OPTIONS,
            "probe_path": "/health",
            "servers_file": str(haproxy.servers_file),
            "socket": haproxy.socket,
            "timeout": 20,
            "_ansible_check_mode": check,
        }
        code = (
            "import ansible.module_utils;"
            f"ansible.module_utils.__path__.append({str(ROOT / 'src')!r});"
            "import haproxy_servers; haproxy_servers.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT / "library",
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments | options}),
            capture_output=True,
            text=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


def endpoints(webs: dict[str, Web]) -> dict[str, str]:
    return {name: web.endpoint for name, web in webs.items()}


def verbs(answer: dict[str, Any]) -> list[str]:
    return [f"{step['verb']} {step['server']}" for step in answer["steps"]]


def test_servers_are_added_removed_and_left_alone(
    run: Run, haproxy: Balancer, webs: dict[str, Web]
) -> None:
    both = endpoints(webs)
    one = {"web-1": both["web-1"]}

    foretold = run(both, check=True)
    assert foretold["changed"]
    assert foretold["diff"] == {"before": {}, "after": both}
    assert haproxy.api.servers() == {}

    added = run(both)
    assert added["changed"]
    assert verbs(added) == verbs(foretold) == ["add web-1", "add web-2"]
    assert added["servers"] == haproxy.in_use() == both

    assert not run(both)["changed"]
    assert not run(both, check=True)["changed"]

    removed = run(one)
    assert verbs(removed) == ["drain web-2", "delete web-2"]
    assert removed["diff"] == {"before": both, "after": one}
    assert haproxy.in_use() == one


def test_haproxy_starts_with_the_servers_of_the_last_run(
    run: Run, haproxy: Balancer, webs: dict[str, Web]
) -> None:
    run(endpoints(webs))
    haproxy.reload()
    assert haproxy.in_use() == endpoints(webs)
    haproxy.stop()
    haproxy.start()
    assert haproxy.in_use() == endpoints(webs)


def test_a_lost_file_of_servers_is_a_change(
    run: Run, haproxy: Balancer, webs: dict[str, Web]
) -> None:
    run(endpoints(webs))
    haproxy.servers_file.unlink()
    assert run(endpoints(webs), check=True)["changed"]
    assert not haproxy.servers_file.exists()
    assert run(endpoints(webs))["changed"]
    assert haproxy.servers_file.exists()


def test_a_server_that_moved_is_replaced(run: Run, haproxy: Balancer, webs: dict[str, Web]) -> None:
    run(endpoints(webs))
    moved = Web()
    answer = run(endpoints(webs) | {"web-2": moved.endpoint})
    assert verbs(answer) == ["drain web-2", "delete web-2", "add web-2"]
    assert haproxy.in_use()["web-2"] == moved.endpoint
    moved.stop()


def test_it_waits_for_the_last_request_of_a_server(
    run: Run, haproxy: Balancer, webs: dict[str, Web]
) -> None:
    run(endpoints(webs))
    leaver = webs["web-2"]
    with Load(haproxy.port) as load:
        leaver.holding = ("GET", "POST")
        until(lambda: leaver.paths["/page"] > load.served[f"served by {leaver.endpoint}"], "asked")
        answers: list[dict[str, Any]] = []
        one = {"web-1": webs["web-1"].endpoint}
        module = threading.Thread(target=lambda: answers.append(run(one)))
        module.start()
        until(lambda: haproxy.api.servers()["web-2"].state == "drain", "it drains")
        leaver.hold.set()
        module.join()
    assert verbs(answers[0]) == ["drain web-2", "delete web-2"]
    assert load.failed == {}


def test_a_server_that_does_not_answer_is_not_let_in_and_is_named(
    run: Run, haproxy: Balancer, webs: dict[str, Web]
) -> None:
    answer = run(endpoints(webs) | {"web-3": "127.0.0.1:1"}, timeout=0)
    assert answer["failed"]
    assert answer["msg"] == "backend superset_web is not as wanted: web-3 does not answer yet"
    assert haproxy.in_use() == endpoints(webs)


def test_a_much_shorter_inventory_is_doubted_and_can_be_insisted_on(
    run: Run, haproxy: Balancer, webs: dict[str, Web]
) -> None:
    run(endpoints(webs))
    answer = run({})
    assert answer["failed"]
    assert "web-1 without those that are missing, 0 of 2 servers would be left" in answer["msg"]
    assert run({}, check=True)["diff"] == {"before": endpoints(webs), "after": endpoints(webs)}
    assert haproxy.in_use() == endpoints(webs)
    assert run({}, removable_share=1)["servers"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "nope"}, "read the servers of nope: HAProxy says: Can't find backend."),
        ({"socket": "/nonexistent"}, "nothing answers at /nonexistent"),
        ({"options": "cookie x", "timeout": 0}, "add superset_web/web-1: HAProxy says: 'cookie'"),
    ],
)
def test_errors_are_those_of_haproxy(
    run: Run, webs: dict[str, Web], options: dict[str, Any], message: str
) -> None:
    answer = run(endpoints(webs), **options)
    assert answer["failed"]
    assert message in answer["msg"]
