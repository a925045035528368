"""What a worker says of itself: a real one of Celery, with a pool of processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from superset_fleet.guard.worker import NEWEST, Stopwatch
from superset_fleet.state.records import Worker
from superset_fleet.state.registry import Registry

APP = """
import os
import time
from celery import Celery
from superset_fleet.guard.context import Guard
from superset_fleet.guard.worker import beat_from
from superset_fleet.state.registry import Registry

app = Celery(broker=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1
beat_from(Guard(Registry(os.environ["REGISTRY"])))

@app.task(name="sleep")
def sleep(seconds):
    time.sleep(seconds)
"""


@pytest.fixture
def send(registry: Registry, redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Send a task that sleeps to a worker with two slots, on a machine of a group."""
    broker = redis_url.replace("/0", "/1")
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "-m", "celery", "--app", "app", "worker", "--concurrency", "2"]
    command += ["--queues", "sql_lab,charts", "--without-gossip", "--without-mingle"]
    machine = {"FLEET_INSTANCE": "i-1", "FLEET_GROUP": "superset-celery_worker"}
    environment = os.environ | machine | {"BROKER": broker, "REGISTRY": redis_url}
    celery = Celery(broker=broker, set_as_current=False)
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
    ) as worker:
        yield lambda seconds, queue: celery.send_task("sleep", [seconds], queue=queue)
        worker.terminate()


def until(registry: Registry, condition: Callable[[Worker], Any]) -> Worker:
    """Return what the worker says as soon as that is so."""
    deadline = time.monotonic() + 30
    while True:
        said = list(registry.workers().values())
        if said and condition(said[0]):
            return said[0]
        assert time.monotonic() < deadline, f"said: {said}"
        time.sleep(0.05)


def test_a_worker_says_what_it_has_taken_and_how_long_tasks_took(
    registry: Registry, send: Callable[..., Any]
) -> None:
    for _ in range(3):
        send(0.2, "charts")
    worker = until(registry, lambda one: one.finished.get("charts", [0])[0] == 3)
    assert all(0.2 <= seconds < 2 for seconds in worker.finished["charts"][1])
    assert (worker.instance, worker.group) == ("i-1", "superset-celery_worker")
    assert worker.taken == {}
    for _ in range(3):
        send(2, "sql_lab")
    worker = until(registry, lambda one: one.tasks == 2 and one.taken["sql_lab"] > 2)
    assert worker.taken == {"sql_lab": 3}
    assert worker.finished["charts"][0] == 3


class Task:
    """A task, as Celery gives it to who listens."""

    class request:
        delivery_info = {"routing_key": "sql_lab"}  # noqa: RUF012


def test_a_beat_has_the_newest_durations_and_counts_all() -> None:
    stopwatch = Stopwatch()
    for number in range(NEWEST + 5):
        stopwatch.start(task_id=str(number))
        stopwatch.stop(task_id=str(number), task=Task)
    count, seconds = stopwatch.read()["sql_lab"]
    assert (count, len(seconds)) == (NEWEST + 5, NEWEST)


def test_a_pipe_that_nobody_reads_stops_no_task() -> None:
    stopwatch = Stopwatch()
    for number in range(10_000):
        stopwatch.start(task_id=str(number))
        stopwatch.stop(task_id=str(number), task=Task)
    first, _ = stopwatch.read()["sql_lab"]
    assert first < 10_000
    stopwatch.start(task_id="last")
    stopwatch.stop(task_id="last", task=Task)
    assert stopwatch.read()["sql_lab"][0] == first + 1
