"""A worker of Celery's that drains, or is stuck: a real one, with Redis as broker and registry."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from superset_fleet.state.records import Worker
from superset_fleet.state.registry import Registry
from superset_fleet.times import FACTOR
from tests.support.servers import redis_server
from tests.support.waiting import until

WATCHDOG = "WATCHDOG=1"
# Tasks run until they are told to finish, and with options as in superset_config.py.
APP = """
import os
import time
from pathlib import Path
import redis
from celery import Celery
from celery.worker.control import control_command
from superset_fleet.guard.context import Guard
from superset_fleet.guard.worker import beat_from
from superset_fleet.state.registry import Registry

guard = Guard(Registry(os.environ["REGISTRY"], 10))
beat_from(guard)
app = Celery(broker=os.environ["BROKER"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_default_queue="sql_lab",
)

@app.task(name="work")
def work(name):
    orders = redis.Redis.from_url(os.environ["REGISTRY"])
    orders.blpop(f"finish {name}", 60)
    orders.rpush("finished", name)

@control_command()
def stand_still(state, until):
    while not Path(until).exists():
        time.sleep(0.01)
"""


class Machine:
    """A machine with a worker, which has two slots."""

    def __init__(self, directory: Path, broker_url: str, registry_url: str) -> None:
        self.draining, self._turns = directory / "draining", directory / "turns"
        self.journal = directory / "journal"
        self.broker: Any = redis.Redis.from_url(broker_url)
        self.registry = Registry(registry_url, 10)
        self.registry.redis.flushdb()
        self._app = Celery(broker=broker_url)
        self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._systemd.bind(str(directory / "notify"))
        (directory / "app.py").write_text(APP)
        command = [sys.executable, "-m", "celery", "--app", "app", "worker", "--queues", "sql_lab"]
        command += ["--concurrency", "2", "-O", "fair", "--without-gossip", "--without-mingle"]
        self.service = subprocess.Popen(
            [*command, "--without-heartbeat", "--hostname", "worker@vm"],
            cwd=directory,
            env=os.environ
            | {
                "BROKER": broker_url,
                "REGISTRY": registry_url,
                "RUNTIME_DIRECTORY": str(directory),
                FACTOR: "0.25",
                "NOTIFY_SOCKET": str(directory / "notify"),
            },
            stdout=self.journal.open("w"),
            stderr=subprocess.STDOUT,
        )

    @property
    def worker(self) -> Worker | None:
        """What it says of itself."""
        return next(iter(self.registry.workers().values()), None)

    @property
    def takers(self) -> int:
        """How many workers take tasks, as those know who send them."""
        return self.registry.queue("sql_lab").workers

    def send(self, *names: str, **options: Any) -> None:
        for name in names:
            self._app.send_task("work", [name], queue="sql_lab", **options)

    def finish(self, *names: str) -> None:
        for name in names:
            self.registry.redis.rpush(f"finish {name}", 1)

    def runs(self, number: int) -> Callable[[], bool]:
        return lambda: self.worker is not None and self.worker.tasks == number

    def has(self, *, waiting: int, taken: int) -> Callable[[], bool]:
        """Whether the broker has so many messages that wait, and that a worker has."""
        return lambda: (
            (self.broker.llen("sql_lab"), self.broker.hlen("unacked"))
            == (
                waiting,
                taken,
            )
        )

    @property
    def early(self) -> list[Any]:
        """What it holds whose time has not come."""
        asked: Any = self._app.control.inspect(timeout=5, limit=1).scheduled()
        return next(iter(asked.values())) if asked else [None]

    @property
    def finished(self) -> list[str]:
        found: list[str] = self.registry.redis.lrange("finished", 0, -1)
        return found

    def tell_to_stop(self) -> None:
        self.service.send_signal(signal.SIGTERM)

    def stand_still(self) -> None:
        """Let its event loop turn no more: remote control is a part of that."""
        self._app.control.broadcast("stand_still", {"until": str(self._turns)})

    def fail_a_command(self) -> None:
        """Send what its remote control cannot read: Celery then opens that channel anew."""
        mailbox = self._app.control.mailbox
        with self._app.producer_pool.acquire() as producer:
            producer.publish([], exchange=mailbox.exchange, declare=[mailbox.exchange])

    def turn(self) -> None:
        self._turns.touch()

    def beats(self, times: int) -> None:
        """Wait until it has beaten so often."""
        for _ in range(times):
            assert self.worker
            last = self.worker.last_beat
            until(lambda last=last: self.worker.last_beat > last, "it beats")  # type: ignore[misc]

    def told(self) -> list[str]:
        """What systemd was told since the last look."""
        found = []
        while True:
            try:
                found.append(self._systemd.recv(100).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self.service.kill()
        self.service.wait()
        self._systemd.close()


@contextmanager
def running(directory: Path, broker_url: str, registry_url: str) -> Iterator[Machine]:
    made = Machine(directory, broker_url, registry_url)
    try:
        until(lambda: made.takers, "the worker takes tasks")
        yield made
    finally:
        made.close()
        print(made.journal.read_text())


@pytest.fixture
def machine(tmp_path: Path, redis_url: str) -> Iterator[Machine]:
    with running(tmp_path, redis_url, redis_url) as made:
        yield made


def test_a_worker_that_is_told_to_stop_finishes_what_runs_and_gives_back_the_rest(
    machine: Machine,
) -> None:
    machine.send("later", countdown=300)
    machine.send("first", "second", "third", "fourth")
    until(machine.runs(2), "two run")
    until(machine.has(waiting=2, taken=3), "it holds one whose time has not come")
    machine.tell_to_stop()
    until(machine.has(waiting=3, taken=2), "it has given back what does not run")
    assert machine.takers == 0
    machine.finish("first")
    until(machine.has(waiting=3, taken=1), "what has finished is confirmed at once")
    assert machine.worker
    assert machine.worker.draining
    assert machine.service.poll() is None
    machine.finish("second")
    assert machine.service.wait(30) == 0
    assert machine.finished == ["first", "second"]
    assert machine.has(waiting=3, taken=0)()
    assert machine.worker is None


def test_tasks_that_wait_for_a_slot_of_this_worker_are_given_back(machine: Machine) -> None:
    machine.send("third", "fourth", countdown=3)
    until(machine.has(waiting=0, taken=2), "it holds two whose time has not come")
    machine.send("first", "second")
    until(machine.runs(2), "two run")
    until(lambda: not machine.early, "the time of the others has come")
    assert machine.has(waiting=0, taken=4)()
    machine.tell_to_stop()
    until(machine.has(waiting=2, taken=2), "it has given back what does not run")
    machine.finish("first", "second")
    assert machine.service.wait(30) == 0
    assert machine.has(waiting=2, taken=0)()


def test_an_idle_worker_stops_at_once(machine: Machine) -> None:
    machine.tell_to_stop()
    assert machine.service.wait(30) == 0
    assert machine.worker is None


def test_a_worker_drains_as_long_as_there_is_the_file(machine: Machine) -> None:
    machine.send("first")
    until(machine.runs(1), "it runs")
    machine.draining.touch()
    until(lambda: not machine.takers, "it says that it takes no more")
    # Besides the task, which waits for its order.
    until(lambda: machine.broker.info("clients")["blocked_clients"] == 1, "it has left its queue")
    machine.send("second")
    machine.finish("first")
    until(machine.runs(0), "the running one finishes")
    assert machine.has(waiting=1, taken=0)()
    machine.draining.unlink()
    until(machine.runs(1), "it takes tasks again")
    assert machine.takers == 1
    machine.finish("second")
    until(lambda: machine.finished == ["first", "second"], "each is run once")


def test_a_worker_whose_event_loop_is_stuck_says_so_and_takes_nothing_until_it_turns(
    machine: Machine,
) -> None:
    machine.send("first")
    until(machine.runs(1), "it runs")
    until(lambda: WATCHDOG in machine.told(), "systemd hears of its progress")
    machine.stand_still()
    until(lambda: machine.worker and machine.worker.stuck_seconds, "it says so")
    assert machine.takers == 0
    machine.told()
    machine.finish("first")
    until(lambda: machine.finished == ["first"], "what runs goes on")
    machine.beats(3)
    assert machine.told() == []
    machine.turn()
    until(lambda: machine.takers, "it takes tasks again")
    assert WATCHDOG in machine.told()
    machine.send("second")
    machine.finish("second")
    until(lambda: machine.finished == ["first", "second"], "it works")


def test_a_worker_takes_tasks_after_a_channel_of_its_connection_was_closed(
    machine: Machine,
) -> None:
    machine.fail_a_command()
    until(lambda: "Control command error" in machine.journal.read_text(), "the command fails")
    machine.send("first", "second", "third")
    machine.finish("first", "second", "third")
    until(lambda: len(machine.finished) == 3, "all have run")


def test_a_worker_that_has_lost_the_broker_stops_all_the_same_and_makes_progress_meanwhile(
    tmp_path: Path, redis_url: str
) -> None:
    with (
        redis_server(tmp_path) as (broker_url, broker),
        running(tmp_path, broker_url, redis_url) as machine,
    ):
        machine.send("first")
        until(machine.runs(1), "it runs")
        broker.kill()
        until(lambda: "Cannot connect" in machine.journal.read_text(), "it tries again")
        machine.told()
        until(lambda: WATCHDOG in machine.told(), "systemd hears that it waits for Redis")
        machine.tell_to_stop()
        until(lambda: machine.worker and machine.worker.draining, "it stops")
        machine.told()
        until(lambda: WATCHDOG in machine.told(), "systemd hears that a task runs")
        assert machine.worker
        assert not machine.worker.stuck_seconds
        machine.finish("first")
        machine.service.wait(60)
        assert machine.finished == ["first"]
