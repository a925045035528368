"""The command line: what `fleet workers`, `fleet membership` and `fleet drain` show."""

import threading
from pathlib import Path
from typing import Any

import pytest

from superset_fleet.control import cli
from superset_fleet.control.cli import (
    membership_table,
    runs,
    state_in_words,
    tables,
    worker_in_words,
)
from superset_fleet.control.status import Host, Inventory, ask_haproxy
from tests.support.haproxy_server import Balancer, Web, balancer
from tests.support.waiting import until

WORKER: dict[str, Any] = {
    "name": "worker@vm-1#1a2b3c4d",
    "queues": ["sql_lab", "charts"],
    "slots": 2,
    "tasks": 0,
    "jobs": [],
    "draining": False,
    "stuck_seconds": 0.0,
    "since": "2026-11-22T19:38:54Z",
    "silent_seconds": 0.4,
    "silent": False,
}
QUEUE = {"name": "sql_lab", "workers": 1, "slots": 2, "waiting": 3, "silent_seconds": 0.4}
# What a scaler says that would start a worker for reports.
SCALING = {
    "silent_seconds": 1.0,
    "hold": None,
    "groups": [
        {"name": "superset-reports", "queues": ["reports"]},
        {"name": "superset-charts", "queues": ["charts"], "obstacle": "held"},
    ],
}


def known(workers: list[dict[str, Any]], queues: list[dict[str, Any]]) -> dict[str, Any]:
    return {"workers": workers, "queues": queues, "scaling": SCALING}


def test_a_table_of_workers_is_followed_by_one_of_queues() -> None:
    assert tables(known([WORKER], [QUEUE]), {}).splitlines() == [
        "  WORKER                MACHINE  SINCE                 SLOTS  RUNS  QUEUES",
        "  worker@vm-1#1a2b3c4d  -        2026-11-22T19:38:54Z  2      -     sql_lab,charts",
        "",
        "  QUEUE    WORKERS  SLOTS  WAITING",
        "  sql_lab  1        2      3",
    ]


def test_a_worker_is_shown_with_its_machine() -> None:
    worker = WORKER | {"name": "worker@ip-10-0-0-7.internal#1a2b3c4d"}
    shown = tables(known([worker], []), {"10.0.0.7": "celery_worker 2"})
    assert "worker@ip-10-0-0-7.internal#1a2b3c4d  celery_worker 2  2026" in shown


def test_who_takes_no_tasks_and_what_nobody_takes_is_marked() -> None:
    gone = WORKER | {"silent": True, "silent_seconds": 9.0}
    draining, stuck = WORKER | {"draining": True}, WORKER | {"stuck_seconds": 4.0}
    shown = tables(known([gone, draining, stuck], [QUEUE | {"workers": 0}]), {}).splitlines()
    assert [line[0] for line in shown if line] == [" ", "!", "!", "!", " ", "!"]


def test_a_queue_whose_worker_would_be_started_is_not_marked() -> None:
    empty = [QUEUE | {"name": name, "workers": 0} for name in ("charts", "reports")]
    shown = tables(known([], empty), {}).splitlines()
    assert [line[0] for line in shown[-2:]] == ["!", " "]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({}, "-"),
        ({"tasks": 1}, "1 other task"),
        (
            {"tasks": 4, "jobs": [{"job": "query:1", "seconds": 3.6}, {"job": "chart:a"}]},
            "query:1 (4 s), chart:a, 2 other tasks",
        ),
        ({"silent": True, "silent_seconds": 8.8}, "silent for 9 s"),
        (
            {"draining": True, "tasks": 1, "jobs": [{"job": "query:1", "seconds": 60.0}]},
            "draining, query:1 (60 s)",
        ),
        ({"stuck_seconds": 8.8, "tasks": 1}, "stuck for 9 s, 1 other task"),
    ],
)
def test_what_a_worker_does_is_said_in_words(what: dict[str, Any], words: str) -> None:
    for job in what.get("jobs", []):
        job.setdefault("seconds", None)
    assert runs(WORKER | what) == words


def test_a_fleet_without_workers_shows_the_heads_alone() -> None:
    assert len(tables(known([], []), {}).split()) == 10


SERVER = {"name": "i-1", "address": "10.0.0.1:8088", "state": "ready", "up": True, "sessions": 0}


def test_servers_of_haproxy_are_a_table_and_those_not_in_use_are_marked() -> None:
    servers = [
        SERVER,
        SERVER | {"name": "i-2", "up": False},
        SERVER | {"name": "i-3", "state": "drain", "sessions": 4},
    ]
    assert membership_table({"servers": servers}, {"i-2": "superset_web 1"}).splitlines() == [
        "   SERVER  MACHINE         ADDRESS        STATE  REQUESTS",
        "   i-1     -               10.0.0.1:8088  ready",
        "!  i-2     superset_web 1  10.0.0.1:8088  down",
        "!  i-3     -               10.0.0.1:8088  drain  4",
    ]


def test_what_would_be_done_stands_below_with_its_reason() -> None:
    step = {"verb": "drain", "server": "i-1", "reason": "is Terminating:Wait in its group"}
    shown = membership_table({"servers": [SERVER], "steps": [step]}, {})
    assert shown.splitlines()[3:] == [
        "  WOULD  SERVER  WHY",
        "  drain  i-1     is Terminating:Wait in its group",
    ]
    nothing = membership_table({"servers": [SERVER], "steps": []}, {})
    assert nothing.endswith("\n\nAll is as wanted: nothing would be done.")


def seen(haproxy: Balancer, server: str) -> str:
    """What HAProxy tells of a server at this moment, in words."""
    host = Host("haproxy-1", "127.0.0.1", ["haproxy"], [haproxy.private_port, "admin", "secret"])
    return state_in_words(ask_haproxy(host).get(server))


def test_a_server_is_idle_only_after_its_last_request(tmp_path: Path) -> None:
    web = Web()
    with balancer(tmp_path, {"i-1": web.endpoint}) as haproxy:
        assert seen(haproxy, "i-1") == "gets requests"
        user = threading.Thread(target=haproxy.get, args=("/slow",))
        user.start()
        until(lambda: web.paths["/slow"], "the request is served")
        web.healthy = False
        until(lambda: not haproxy.api.servers()["i-1"].up, "HAProxy has noticed")
        assert seen(haproxy, "i-1") == "gets no more requests, 1 not over yet"
        web.hold.set()
        user.join()
        until(lambda: seen(haproxy, "i-1") == "serves nothing", "HAProxy counts no request")
        web.healthy = True
        until(lambda: seen(haproxy, "i-1") == "gets requests", "HAProxy has noticed")
    web.stop()


def test_a_server_that_haproxy_does_not_have_serves_nothing() -> None:
    assert state_in_words(None) == "serves nothing"


# -- What a worker does for who drains it ---------------------------------------------------------
ON_VM_1 = WORKER | {"host": "vm-1"}
DRAINS = ON_VM_1 | {"draining": True}
SILENT = ON_VM_1 | {"silent": True, "tasks": 1}


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ([ON_VM_1], "takes tasks"),
        ([DRAINS | {"tasks": 2}], "takes no more tasks, 2 not over yet"),
        ([DRAINS], "runs nothing"),
        ([SILENT], "runs nothing"),
        ([SILENT, ON_VM_1], "takes tasks"),
        ([], "runs nothing"),
        ([ON_VM_1 | {"host": "vm-2"}], "runs nothing"),
    ],
)
def test_a_worker_is_drained_when_it_takes_nothing_and_what_it_ran_is_over(
    workers: list[dict[str, Any]], words: str
) -> None:
    assert worker_in_words(workers, "vm-1") == words


class Fleet:
    """A fleet with a worker on `vm-1`; what is told to its machine is in `marked`."""

    def __init__(self, guarded: bool = True) -> None:
        self.marked: list[Any] = []
        self.workers = [ON_VM_1]
        self.guarded = guarded

    def inventory(self) -> Inventory:
        roles = {"vm-1": "celery_worker", "vm-2": "scheduler"}
        hosts = [Host(name, "10.0.0.1", [role], []) for name, role in roles.items()]
        return Inventory(hosts, "superset", "", "", "")

    def facts(self, *names: str) -> dict[str, Any]:
        return {"superset_guard_enabled": self.guarded, "celery_worker_stop_timeout_seconds": 60}

    def run_module(self, host: str, module: str, told: dict[str, Any], **_: Any) -> Any:
        if module == "ansible.builtin.command":
            return {host: {"stdout": "vm-1"}}
        self.marked.append(told)
        self.workers = [DRAINS] if told["state"] == "touch" else [ON_VM_1]
        return {}

    def ask_workers(self) -> dict[str, Any]:
        return {"workers": self.workers, "queues": []}


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet = Fleet()
    for name in ("inventory", "facts", "run_module", "ask_workers"):
        monkeypatch.setattr(cli, name, getattr(fleet, name))
    return fleet


def test_a_worker_is_drained_by_a_file_and_takes_tasks_again_without_it(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["drain", "vm-1"])
    cli.main(["drain", "--undo", "vm-1"])
    path = "/run/celery-worker/draining"
    assert fleet.marked == [
        {"path": path, "state": "touch"},
        {"path": path, "state": "absent"},
    ]
    assert capsys.readouterr().out.splitlines() == [
        "vm-1: its worker runs nothing",
        "vm-1: its worker takes tasks",
    ]


def test_a_machine_that_takes_no_work_cannot_be_drained(fleet: Fleet) -> None:
    with pytest.raises(SystemExit, match=r"vm-2 is no machine of .* these are: vm-1"):
        cli.main(["drain", "vm-2"])


def test_without_the_guard_it_is_said_what_to_do_instead(fleet: Fleet) -> None:
    fleet.guarded = False
    with pytest.raises(SystemExit, match="On vm-1, systemctl stop celery-worker lets it finish"):
        cli.main(["drain", "vm-1"])
    assert fleet.marked == []
