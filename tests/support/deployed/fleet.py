"""A whole fleet, for those who test it: its users, its machines, what its guard knows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from superset_fleet.control.ask import ROOT
from superset_fleet.roles import ROLES
from superset_fleet.state.facts import BROKER, GUARD, redis_url
from superset_fleet.state.jobs import QUERY_QUEUES
from superset_fleet.state.records import Worker
from superset_fleet.state.registry import Registry
from superset_fleet.times import TIMES

from . import machines
from .ledger import Ledger
from .machines import Machine
from .users import User

# Units.
WORKER, BEAT = (ROLES[role].unit for role in ("celery_worker", "scheduler"))
WATCHDOG, SCALER = "fleet-watchdog", "fleet-scaler"
# What separates a queue's name from the priority of its further lists.
PRIORITY = "\x06\x16"


def wait(what: str, seen: Callable[[], Any], timeout: float = 60) -> Any:
    """Wait until something is seen and return it. Raises TimeoutError saying what was awaited."""
    deadline = time.monotonic() + timeout
    while not (found := seen()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s: {what}")
        time.sleep(0.1)
    return found


def operator(*arguments: str) -> tuple[int, str]:
    """Run a command of the command line `fleet`; return its status, and what it said."""
    command = [str(Path(sys.executable).with_name("fleet")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def play(playbook: str, variables: Mapping[str, Any], *options: str) -> tuple[int, str]:
    """Run a playbook with extra variables; return its status, and what it said."""
    command = [str(Path(sys.executable).with_name("ansible-playbook"))]
    command += [f"playbooks/{playbook}.yml", "--extra-vars", json.dumps(variables), *options]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def deploy(playbook: str, **variables: Any) -> None:
    """Run a playbook with extra variables. Raises RuntimeError with what it said if it fails."""
    status, said = play(playbook, variables)
    if status:
        raise RuntimeError(f"{playbook}.yml failed:\n{said}")


class Fleet:
    """The fleet that the inventory names."""

    def __init__(self) -> None:
        self.facts: Mapping[str, Any] = machines.facts()
        self.look_again()
        coordination = self.facts["superset_facts"]["redis"]["coordination"]
        results = self.facts["superset_facts"]["redis"]["results"]
        # Longer than the guard's own: this process shares two processors with the fleet.
        self.registry = Registry(redis_url(coordination, GUARD), timeout_seconds=10)
        self.broker: Any = redis.Redis.from_url(redis_url(coordination, BROKER))
        self.results: Any = redis.Redis.from_url(redis_url(results, 0))
        self.ledger = Ledger(self.one("postgres"))

    def look_again(self) -> None:
        """Read which machines there are."""
        self.machines = machines.find()

    def of(self, group: str) -> list[Machine]:
        """Return a group's machines."""
        return [machine for machine in self.machines if machine.group == group]

    def one(self, group: str) -> Machine:
        """Return the first machine of a group."""
        return self.of(group)[0]

    @property
    def workers(self) -> list[Machine]:
        """The machines of workers."""
        return self.of("celery_worker")

    def user(self) -> User:
        """Log a user in."""
        url, authority = self.facts["superset_url"], self.facts["haproxy_ca_certificate"]
        return User(url, authority, self.facts["superset_admin_password"])

    # -- What the guard knows ---------------------------------------------------------------------
    def beating(self, machine: Machine | None = None) -> dict[str, Worker]:
        """Return the workers that beat now, of all machines or of one."""
        now = self.registry.now()
        return {
            name: worker
            for name, worker in self.registry.workers().items()
            if now - worker.last_beat < TIMES.silent_seconds / 2
            and (machine is None or worker.host == machine.host)
        }

    def takers(self) -> list[Worker]:
        """Return the workers that take work."""
        return [worker for worker in self.beating().values() if worker.takes]

    def runs_on(self, machine: Machine) -> set[str]:
        """Return the jobs that run on a machine by what the guard has written down."""
        of_host = f"worker@{machine.host}#"
        runs = self.registry.runs().items()
        return {job for job, run in runs if run.worker.startswith(of_host)}

    def wait_for_run(self, job: str, timeout: float = 30) -> Machine:
        """Wait until a job runs, and return its machine."""

        def runner() -> Machine | None:
            return next((each for each in self.workers if job in self.runs_on(each)), None)

        found: Machine = wait(f"{job} runs", runner, timeout)
        return found

    def want_workers(self, *wanted: Machine, timeout: float = 120) -> None:
        """Let these machines have workers that take work, and others none."""
        for machine in set(self.workers) - set(wanted):
            machine.run(f"systemctl stop {WORKER}")
        for machine in wanted:
            machine.run(f"systemctl start --no-block {WORKER}")

        def there() -> bool:
            return {worker.host for worker in self.takers()} == {each.host for each in wanted}

        wait(f"workers on {[each.host for each in wanted]}", there, timeout)

    def publish(self, task: str, queue: str, *arguments: Any, **options: Any) -> str:
        """Send a task to a queue, with options of Celery's, and return its id."""
        coordination = self.facts["superset_facts"]["redis"]["coordination"]
        with Celery(broker=redis_url(coordination, BROKER), set_as_current=False) as app:
            return str(app.send_task(task, arguments, queue=queue, **options))

    def waiting(self) -> int:
        """Return how many messages wait in the queues of queries and charts."""
        lists = [
            name for queue in QUERY_QUEUES for name in self.broker.scan_iter(f"{queue}{PRIORITY}*")
        ]
        return sum(int(self.broker.llen(name)) for name in [*lists, *QUERY_QUEUES])

    def unconfirmed(self) -> str:
        """Return the messages that workers have taken and not confirmed yet, with their ids."""
        return b"".join(self.broker.hvals("unacked")).decode()

    def idle(self) -> bool:
        """Return whether no worker has anything to do, and no job is open."""
        busy = any(worker.tasks or worker.reserved for worker in self.beating().values())
        # What an earlier life of a worker gave back is skipped by the next one.
        waiting = self.takers() and self.waiting()
        return not (busy or waiting or self.registry.jobs())

    # -- How long a query takes -------------------------------------------------------------------
    def pace(self, name: str, seconds: float) -> str:
        """Let queries that begin now and go by this name take so long, and return their SQL.

        So a query that runs once more may be quick, and its rows tell which run they are of.
        """
        self.ledger.sql(
            f"insert into scratch.pace values ('{name}', {seconds}) on conflict (name)"
            f" do update set seconds = {seconds}",
            "warehouse",
        )
        return f"warehouse.slow((select seconds from scratch.pace where name = '{name}'))"

    @contextmanager
    def tables(self) -> Iterator[None]:
        """Make the tables that queries read their pace from and write to; remove them at last."""
        drop = "drop table if exists scratch.pace, scratch.written;"
        self.ledger.sql(
            f"{drop} create table scratch.pace (name text primary key, seconds double precision);"
            " create table scratch.written (id text, seconds double precision);"
            " grant all on scratch.pace, scratch.written to warehouse",
            "warehouse",
        )
        try:
            yield
        finally:
            self.ledger.sql(drop, "warehouse")

    def written(self) -> dict[str, int]:
        """Return how often each id was written."""
        text = "select id, count(*) as times from scratch.written group by id"
        return {row["id"]: row["times"] for row in self.ledger.rows(text, "warehouse")}


@contextmanager
def observed() -> Iterator[Fleet]:
    """A fleet with `tables`, whose database writes down every change of a query's state."""
    fleet = Fleet()
    fleet.ledger.open()
    try:
        with fleet.tables():
            yield fleet
    finally:
        fleet.ledger.close()
