"""celery_workers: who takes tasks, and what is said where there are too few."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import celery_workers
import pytest
import redis

from superset_fleet.state.records import Report, Run, Worker
from superset_fleet.state.registry import WORKERS, Registry
from superset_fleet.times import TIMES

WORKER = Worker(host="vm-1", pid=1, queues=["sql_lab", "charts"], slots=2, since=1.0)
OTHER = replace(WORKER, host="vm-2")


@pytest.fixture
def broker(redis_url: str) -> Iterator[Any]:
    """The broker's database; Redis is the same."""
    with redis.Redis.from_url(redis_url.replace("/0", "/1")) as client:
        yield client


def silence(registry: Registry, name: str, seconds: float) -> None:
    """Let a worker's last beat be so long ago."""
    for key in (WORKERS, "guard:queue:sql_lab", "guard:queue:charts"):
        registry.redis.zadd(key, {name: registry.now() - seconds})


def test_workers_say_what_they_take_and_run(registry: Registry, broker: Any) -> None:
    registry.beat("worker@vm-1#1", replace(WORKER, active=["query:17", "query:18"], tasks=3))
    registry.take("query:17", Run("worker@vm-1#1", "t", read_only=True))
    (worker,) = celery_workers.look(registry, broker, [])["workers"]
    jobs = worker.pop("jobs")
    assert [job["job"] for job in jobs] == ["query:17", "query:18"]
    assert jobs[0]["seconds"] < 60
    assert jobs[1]["seconds"] is None
    assert worker.pop("silent_seconds") < TIMES.silent_seconds
    assert worker == {
        "name": "worker@vm-1#1",
        "host": "vm-1",
        "queues": ["sql_lab", "charts"],
        "slots": 2,
        "tasks": 3,
        "taken": {},
        "draining": False,
        "stuck_seconds": 0.0,
        "since": "1970-01-01T00:00:01Z",
        "silent": False,
    }


def test_queues_count_what_waits_in_every_priority(registry: Registry, broker: Any) -> None:
    registry.beat("worker@vm-1#1", WORKER)
    registry.beat("worker@vm-2#1", OTHER)
    broker.rpush("sql_lab", "a", "b")
    broker.rpush("sql_lab\x06\x169", "c")
    registry.beat("worker@vm-2#1", replace(OTHER, taken={"sql_lab": 2}))
    charts, sql_lab = celery_workers.look(registry, broker, [])["queues"]
    assert [charts["name"], charts["workers"], charts["slots"], charts["waiting"]] == [
        *("charts", 2, 4, 0)
    ]
    assert [sql_lab[key] for key in ("name", "waiting", "taken")] == ["sql_lab", 3, 2]


def test_what_the_scaler_said_last_is_told_with_who_holds_it(
    registry: Registry, broker: Any
) -> None:
    none = celery_workers.look(registry, broker, [])["scaling"]
    assert (none["scaler"], none["silent_seconds"], none["hold"]) == ("", None, None)
    registry.report(Report("vm-3"))
    registry.hold("upgrade")
    said = celery_workers.look(registry, broker, [])["scaling"]
    assert (said["scaler"], said["hold"]["reason"]) == ("vm-3", "upgrade")
    assert said["silent_seconds"] < 5


def test_draining_silent_and_stuck_workers_are_shown_and_do_not_count(
    registry: Registry, broker: Any
) -> None:
    registry.beat("worker@vm-1#1", replace(WORKER, draining=True))
    registry.beat("worker@vm-2#1", OTHER)
    registry.beat("worker@vm-3#1", replace(WORKER, stuck_seconds=8.8))
    silence(registry, "worker@vm-2#1", TIMES.silent_seconds + 1)
    state = celery_workers.look(registry, broker, ["sql_lab"])
    assert [worker["draining"] for worker in state["workers"]] == [True, False, False]
    assert [worker["silent"] for worker in state["workers"]] == [False, True, False]
    assert [worker["stuck_seconds"] for worker in state["workers"]] == [0, 0, 8.8]
    assert [(queue["workers"], queue["slots"]) for queue in state["queues"]] == [(0, 0)]


def test_enough_workers_are_found_at_once(registry: Registry, broker: Any) -> None:
    registry.beat("worker@vm-1#1", WORKER)
    state, problem = celery_workers.wait(registry, broker, ["sql_lab", "charts"], 1, 0)
    assert problem == ""
    assert [queue["workers"] for queue in state["queues"]] == [1, 1]


def test_a_worker_that_comes_is_waited_for(registry: Registry, broker: Any) -> None:
    comes = threading.Timer(0.2, registry.beat, ("worker@vm-1#1", WORKER))
    comes.start()
    assert celery_workers.wait(registry, broker, ["sql_lab"], 1, 30)[1] == ""
    comes.join()


def test_every_queue_that_lacks_workers_is_named_with_what_to_do(
    registry: Registry, broker: Any
) -> None:
    registry.beat("worker@vm-1#1", WORKER)
    registry.beat("worker@vm-2#1", replace(OTHER, queues=["sql_lab"], draining=True))
    _, problem = celery_workers.wait(registry, broker, ["sql_lab", "charts", "reports"], 2, 0)
    assert "queue sql_lab has 1 of 2 workers;" in problem
    assert "queue charts has 1 of 2 workers;" in problem
    assert "queue reports has 0 of 2 workers (none was ever seen)" in problem
    assert "worker@vm-1#1, worker@vm-2#1 (draining)." in problem
    assert "systemctl status celery-worker" in problem


def test_since_when_a_queue_has_no_worker_is_said(registry: Registry, broker: Any) -> None:
    registry.beat("worker@vm-1#1", WORKER)
    silence(registry, "worker@vm-1#1", 70)
    registry.redis.set("guard:seen:sql_lab", registry.now() - 70)
    _, problem = celery_workers.wait(registry, broker, ["sql_lab"], 1, 0)
    assert "queue sql_lab has 0 of 1 workers (the last one was seen 70 s ago)" in problem
    assert "worker@vm-1#1 (silent for 70 s)" in problem


def test_a_host_without_a_worker_that_takes_tasks_is_named(registry: Registry, broker: Any) -> None:
    registry.beat("worker@vm-1#1", WORKER)
    registry.beat("worker@vm-2#1", replace(OTHER, stuck_seconds=8.8))
    _, problem = celery_workers.wait(registry, broker, [], 0, 0, ["vm-1", "vm-2"])
    assert "vm-2 has no worker that takes tasks" in problem
    assert "worker@vm-2#1 (stuck for 9 s)" in problem
    assert "vm-1 has no" not in problem
