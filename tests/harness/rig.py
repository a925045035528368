"""A fleet of processes on this machine, its users, and what can happen to it.

State, web process, workers, watchdogs and scalers are real; Superset is app/superset, with the
configuration of the role `superset`. Each worker reaches Redis and PostgreSQL by proxies of its
own, so that its machine can vanish.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from celery import Celery
from flask_caching.backends.rediscache import RedisCache

from superset_fleet.roles import WEB
from superset_fleet.state.facts import BROKER, GUARD
from superset_fleet.state.jobs import QUERY_QUEUES
from superset_fleet.state.records import Run
from superset_fleet.state.records import Worker as Beat
from superset_fleet.state.registry import Registry
from superset_fleet.times import FACTOR, Times
from tests.harness.proxies import Network, Proxy
from tests.harness.spawner import Process, Spawner
from tests.harness.state import Postgres, Redis
from tests.support import templates
from tests.support.history import ENDED, Change, History
from tests.support.servers import free_port
from tests.support.waiting import until

HERE = Path(__file__).parent
TIME_FACTOR = 0.25
TIMES = Times().scaled(TIME_FACTOR)
SLOTS = 4
LIMITS = {
    "superset_query_timeout_seconds": 3600,
    "superset_query_hard_timeout_seconds": 3660,
    "superset_visibility_timeout_seconds": 4560,
}


@dataclass
class Query:
    """A query that was sent. One that was refused has no id that its user knows."""

    sql: str
    client_id: str
    id: int = 0
    status: str = "pending"
    error: str = ""
    results_key: str = ""
    worker: str = ""  # that ran it last, e.g. vm-1
    stopped: bool = False  # by its user

    @property
    def job(self) -> str:
        """Its name in the registry."""
        return f"query:{self.id}"


class Base:
    """What all tests of a session share: state, spawners, web processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = Network()
        for name in ("postgres", "coordination", "results", "journals", "run"):
            (directory / name).mkdir()
        self.postgres = Postgres(directory / "postgres")
        self.coordination = Redis(directory / "coordination")
        self.results = Redis(directory / "results")
        self._spawners: dict[str, Spawner] = {}
        self._webs: dict[str, str] = {}
        self._journals = itertools.count()
        self.facts = self.write_facts(
            "facts", self.postgres.port, self.coordination.port, self.results.port
        )
        self.config("fail")
        self.postgres.create()
        made = self.start("superset.app:create_tables", [], self.environment("fail", self.facts))
        assert made.wait() == 0, made.journal.read_text()
        self.postgres.observe()

    def write_facts(self, name: str, postgres: int, coordination: int, results: int) -> Path:
        """Write the facts of a machine that reaches these ports."""
        instances = {"coordination": coordination, "results": results, "cache": results}
        facts = {
            "secret_key": "harness",
            "database": {
                "host": "127.0.0.1",
                "port": postgres,
                "name": "superset",
                "user": "superset",
                "password": "",
            },
            "redis": {
                name: {"host": "127.0.0.1", "port": port, "password": ""}
                for name, port in instances.items()
            },
            "urls": {"users": "http://127.0.0.1", "workers": "http://127.0.0.1"},
            "smtp": {},
        }
        path = self.directory / f"{name}.json"
        path.write_text(json.dumps(facts))
        return path

    def config(self, policy: str) -> Path:
        """Return the configuration of a fleet in which queries fail without a worker, or wake."""
        path = self.directory / policy / "superset_config.py"
        if not path.exists():
            path.parent.mkdir()
            shutil.copy(HERE / "overrides.py", path.with_name("superset_config_overrides.py"))
            text = templates.render(
                "superset",
                "superset_config.py.j2",
                superset_tls_enabled=False,
                superset_results_ttl_seconds=86400,
                superset_webserver_timeout_seconds=60,
                superset_browser_enabled=False,
                superset_guard_enabled=True,
                superset_no_worker_policy=policy,
                **LIMITS | {"superset_global_async_queries_enabled": True},
            )
            path.write_text(text)
        return path

    def environment(self, policy: str, facts: Path, postgres: int = 0) -> dict[str, str]:
        """Return the environment of a process of Superset, or of one beside it."""
        port = postgres or self.postgres.port
        return {
            "SUPERSET_CONFIG_PATH": str(self.config(policy)),
            "SUPERSET_FACTS": str(facts),
            "WAREHOUSE": f"postgresql://superset@127.0.0.1:{port}/warehouse",
        }

    def start(
        self,
        target: str,
        arguments: list[str],
        environment: Mapping[str, str],
        clock: str = "",
    ) -> Process:
        """Start a process, by a clock that is off by e.g. `+1h`."""
        if clock not in self._spawners:
            self._spawners[clock] = Spawner(
                {
                    FACTOR: str(TIME_FACTOR),
                    "PYTHONPATH": ":".join([str(HERE / "app"), *sys.path]),
                    "RUNTIME_DIRECTORY": str(self.directory / "run"),
                    **(faketime(clock) if clock else {}),
                }
            )
        name = f"{next(self._journals)}-{target.rpartition('.')[2].replace(':', '-')}"
        journal = self.directory / "journals" / name
        journal.touch()
        return self._spawners[clock].start(target, arguments, environment, journal)

    def web(self, policy: str) -> str:
        """Return the URL of a web process."""
        if policy not in self._webs:
            port = free_port()
            environment = self.environment(policy, self.facts) | {"SUPERSET_SERVICE": WEB}
            self.start("superset.app:serve", [str(port)], environment)
            url = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                try:
                    return requests.get(f"{url}/fleet/metrics", timeout=5).ok
                except requests.ConnectionError:
                    return False

            until(answers, "the web process answers")
            self._webs[policy] = url
        return self._webs[policy]

    def close(self) -> None:
        """Stop everything."""
        for spawner in self._spawners.values():
            spawner.close()
        self.network.close()
        for server in (self.coordination, self.results):
            server.stop(kill=True)
        self.postgres.stop(signal.SIGQUIT)


def faketime(offset: str) -> dict[str, str]:
    """Return the environment of a process with another clock; its stopwatches are right."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "0",
    }


class Worker:
    """A machine with a worker."""

    def __init__(self, base: Base, name: str, policy: str, clock: str, cloud: tuple[str, str]):
        self._base, self.name = base, name
        ports = (base.postgres.port, base.coordination.port, base.results.port)
        self.postgres, self.coordination, self.results = map(base.network.proxy, ports)
        facts = base.write_facts(
            name, self.postgres.port, self.coordination.port, self.results.port
        )
        environment = base.environment(policy, facts, self.postgres.port) | {
            "SUPERSET_SERVICE": "celery_worker",
            "FLEET_INSTANCE": cloud[0],
            "FLEET_GROUP": cloud[1],
        }
        program, arguments = worker_command(name)
        self.process = base.start(program, arguments, environment, clock)

    @property
    def proxies(self) -> list[Proxy]:
        """Its ways to others."""
        return [self.postgres, self.coordination, self.results]

    def kill(self) -> None:
        """Kill all its processes at once."""
        self.process.kill()

    def kill_children(self) -> None:
        """Kill those that run tasks, as the kernel does that runs out of memory."""
        for pid in self.process.children():
            os.kill(pid, signal.SIGKILL)

    def cut_power(self) -> None:
        """Let its machine be gone: nothing is told to anybody, not even by TCP."""
        for proxy in self.proxies:
            proxy.cut()
        self.kill()

    def stop(self) -> None:
        """Tell it to stop."""
        self.process.signal(signal.SIGTERM, whole=False)

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Let its event loop stand still, while its threads and processes go on."""
        stands = self._base.directory / f"{self.name} stands still"
        broker = f"redis://127.0.0.1:{self._base.coordination.port}/{BROKER}"
        with Celery(broker=broker, set_as_current=False) as celery:
            celery.control.broadcast(
                "stand_still", {"file": str(stands)}, destination=[f"worker@{self.name}"]
            )
        until(stands.exists, f"the event loop of {self.name} stands still")
        try:
            yield
        finally:
            stands.unlink()

    @contextmanager
    def paused(self, whole: bool = True) -> Iterator[None]:
        """Let its processes stand still, or its main one."""
        self.process.signal(signal.SIGSTOP, whole)
        try:
            yield
        finally:
            self.process.signal(signal.SIGCONT, whole)


def worker_command(name: str) -> tuple[str, list[str]]:
    """Return what the unit of workers starts, for a machine of this name."""
    unit = templates.render(
        "celery_worker",
        "celery-worker.service.j2",
        celery_worker_concurrency=SLOTS,
        celery_worker_pool_size=1,
        celery_worker_stop_timeout_seconds=60,
        celery_worker_queues=QUERY_QUEUES,
        celery_worker_max_overflow=1,
        superset_guard_enabled=True,
    )
    (start,) = [
        line.removeprefix("ExecStart=")
        for line in unit.replace("\\\n", " ").splitlines()
        if line.startswith("ExecStart=")
    ]
    start = start.replace("%H", name).replace("${CELERY_WORKER_QUEUES}", ",".join(QUERY_QUEUES))
    return "celery.__main__:main", shlex.split(start)[1:]


class Fleet:
    """A fleet that begins empty, and what its users do. `policy` is `fail` or `wake`."""

    def __init__(self, base: Base, policy: str = "fail", wake_timeout: float = 0) -> None:
        self.base, self._policy, self._wake_timeout = base, policy, wake_timeout
        self._url = base.web(policy)
        base.coordination.client(0).flushall()
        base.results.client(0).flushall()
        base.postgres.empty()
        self.registry = Registry(f"redis://127.0.0.1:{base.coordination.port}/{GUARD}", 10)
        self.broker = base.coordination.client(BROKER)
        self.workers: dict[str, Worker] = {}
        self.daemons: list[Process] = []
        self.sent: list[Query] = []
        self.charts: list[str] = []
        self.connect()
        self._channel = secrets.token_hex(4)

    @property
    def processes(self) -> list[Process]:
        """All that was started."""
        return [*self.daemons, *(worker.process for worker in self.workers.values())]

    def close(self) -> None:
        """Let all its processes be gone."""
        for process in self.processes:
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self._gate.close()
        self.base.network.forget()
        self.registry.redis.close()
        self.base.postgres.terminate_queries()

    # -- Its processes ----------------------------------------------------------------------------
    def start_worker(
        self, name: str, clock: str = "", cloud: tuple[str, str] = ("", ""), wait: bool = True
    ) -> Worker:
        """Start a worker on a machine of this name, and wait until it takes tasks."""
        self.workers[name] = worker = Worker(self.base, name, self._policy, clock, cloud)
        if wait:
            self.wait_for_takers(name)
        return worker

    def wait_for_takers(self, *names: str) -> None:
        """Wait until workers on these machines take tasks."""
        until(lambda: set(names) <= self.takers(), f"{names} take tasks")

    def start_watchdog(self, clock: str = "") -> Process:
        """Start a watchdog."""
        arguments = ["--time-limit", "3660", "--reruns", "1"]
        arguments += ["--wake-timeout", str(self._wake_timeout)]
        return self.start_daemon("superset_fleet.watchdog.daemon:main", arguments, {}, clock)

    def start_daemon(
        self, target: str, arguments: list[str], more: Mapping[str, str], clock: str = ""
    ) -> Process:
        """Start a service of a scheduler."""
        environment = self.base.environment(self._policy, self.base.facts) | dict(more)
        process = self.base.start(target, arguments, environment, clock)
        self.daemons.append(process)
        return process

    def leads(self, process: Process) -> bool:
        """Tell whether a watchdog or a scaler leads, or led last."""
        return "event=leads" in process.journal.read_text()

    # -- What the guard knows ---------------------------------------------------------------------
    def beating(self) -> dict[str, Beat]:
        """Return by machine the workers that were heard lately."""
        now = self.registry.now()
        return {
            machine_of(life): beat
            for life, beat in self.registry.workers().items()
            if now - beat.last_beat < TIMES.silent_seconds / 2
        }

    def takers(self) -> set[str]:
        """Return the machines whose workers take tasks."""
        beating = self.beating().items()
        return {name for name, beat in beating if beat.takes and beat.queues}

    def wait_for_redis(self) -> None:
        """Wait until Redis is not taken for one to which workers are still to come back."""
        grown_up = TIMES.redis_start_seconds
        until(lambda: self.registry.up_seconds() > grown_up, "Redis has run for a while")

    def run(self, job: str) -> Run:
        """Wait until a job runs, and return who runs it."""
        run: Run = until(lambda: self.registry.run(job), f"{job} runs")
        return run

    def machine(self, run: Run) -> str:
        """Return the machine of a run."""
        return machine_of(run.worker)

    def has_left(self, worker: Worker) -> bool:
        """Tell whether a worker has said that it takes no more, and has left its queues."""
        return (
            worker.name not in self.takers() and "left_queues" in worker.process.journal.read_text()
        )

    def waiting(self) -> int:
        """Return how many messages wait."""
        return sum(
            int(self.broker.llen(name))
            for queue in QUERY_QUEUES
            for name in self.broker.keys(f"{queue}*")
        )

    def idle(self) -> bool:
        """Tell whether no worker has anything to do, and no job is open."""
        beats = self.beating().values()
        busy = any(beat.tasks or beat.reserved or beat.taken for beat in beats)
        return not (busy or self.registry.jobs() or (self.takers() and self.waiting()))

    # -- How long a query takes -------------------------------------------------------------------
    def held(self, name: str, number: int = 1) -> str:
        """Return SQL whose run gives the number and takes until `let_go`."""
        self.number(name, number)
        self._lock("pg_advisory_lock", name)
        return f"held('{name}')"

    def number(self, name: str, number: int) -> None:
        """Let runs that begin from now on give this number."""
        with self._gate.cursor() as cursor:
            cursor.execute(
                "insert into gate values (%s, %s)"
                " on conflict (name) do update set number = excluded.number",
                [name, number],
            )

    def let_go(self, *names: str) -> None:
        """Let runs of these names finish."""
        for name in names:
            self._lock("pg_advisory_unlock", name)

    def waits(self, name: str) -> bool:
        """Tell whether a run of this name has its number, and waits to be let go."""
        found = self.base.postgres.sql(
            "warehouse",
            "select 1 from pg_locks where locktype = 'advisory' and not granted"
            " and (classid::bigint << 32 | objid::bigint) = hashtext(%s)",
            name,
        )
        return bool(found)

    def _lock(self, function: str, name: str) -> None:
        with self._gate.cursor() as cursor:
            cursor.execute(f"select {function}(hashtext(%s))", [name])

    def connect(self) -> None:
        """Connect to the warehouse; where that has restarted, what was held is held no more."""
        self._gate = self.base.postgres.connect("warehouse")

    def written(self) -> dict[str, int]:
        """Return how often each name was written."""
        rows = self.base.postgres.sql(
            "warehouse", "select name, count(*) from written group by name"
        )
        return dict(rows)

    # -- Its users --------------------------------------------------------------------------------
    def send(self, sql: str, **options: Any) -> Query:
        """Send a query. Where it is refused, the query says so."""
        query = Query(sql, secrets.token_hex(5))
        self.sent.append(query)
        answer = self.ask("sqllab/execute/", {"sql": sql, "client_id": query.client_id, **options})
        if answer.ok:
            query.id = answer.json()["query"]["queryId"]
        else:
            query.status, query.error = "refused", answer.json()["errors"][0]["message"]
        return query

    def stop(self, query: Query) -> None:
        """Stop a query; one that has only just begun cannot be stopped for a moment."""
        query.stopped = True
        until(
            lambda: self.ask("query/stop", {"client_id": query.client_id}).ok,
            "the query can be stopped",
        )

    def ask(self, path: str, request: Mapping[str, Any]) -> requests.Response:
        """Ask the web process, as this fleet's one user, who does not wait for long."""
        headers = {"channel": self._channel}
        return requests.post(
            f"{self._url}/api/v1/{path}", json=request, headers=headers, timeout=20
        )

    def health(self) -> dict[str, Any]:
        """Return what anybody may read of the queues, with the HTTP status as `code`."""
        answer = requests.get(
            f"{self._url}/fleet/health", params={"queue": QUERY_QUEUES}, timeout=30
        )
        return {**answer.json(), "code": answer.status_code}

    def answers(self) -> bool:
        """Tell whether the web process reaches its database."""
        return self.ask("query/stop", {"client_id": self.sent[0].client_id}).ok

    def look(self, query: Query) -> Query:
        """Look how a query is."""
        rows = self.base.postgres.sql(
            "superset",
            "select status, error_message, results_key, executed_sql from query where id = %s",
            query.id,
        )
        query.status, error, key, signed = rows[0]
        query.error, query.results_key = error or "", key or ""
        query.worker = (signed or "").partition("\n")[0].rpartition("@")[2]
        return query

    def wait(self, queries: Iterable[Query], seconds: float = 30) -> list[Query]:
        """Wait until queries have ended, and return them."""
        queries = list(queries)

        def ended() -> bool:
            left = [each for each in queries if each.id and each.status not in ENDED]
            return all(self.look(each).status in ENDED for each in left)

        until(ended, f"all have ended: {queries}", seconds)
        return queries

    def rows(self, query: Query) -> list[Any]:
        """Return the rows of a query that has succeeded."""
        assert query.status == "success", query
        return self.kept(query.results_key)

    def kept(self, key: str) -> list[Any]:
        """Return rows of the results Redis."""
        kept = RedisCache(  # type: ignore[no-untyped-call]
            port=self.base.results.port, key_prefix="superset_results_"
        ).get(key)
        rows: list[Any] = json.loads(kept)
        return rows

    def shown(self, query: Query) -> str:
        """Return the text that SQL Lab shows over a query that has not ended."""
        ((text,),) = self.base.postgres.sql(
            "superset", "select extra_json from query where id = %s", query.id
        )
        return str(json.loads(text or "{}").get("progress") or "")

    def ask_chart(self, name: str) -> str:
        """Ask for a chart's data and return the id of the job."""
        answer = self.ask("chart/data", {"sql": f"select {name}"})
        assert answer.status_code == 202, answer.text
        self.charts.append(answer.json()["job_id"])
        return self.charts[-1]

    def events(self, chart: str) -> list[dict[str, Any]]:
        """Return the events that a chart's job had, first to last."""
        client = self.base.coordination.client(GUARD)
        found = client.xrange(f"async-events-{self._channel}")
        events = [json.loads(event["data"]) for _, event in found]
        return [event for event in events if event["job_id"] == chart]

    def wait_for_chart(self, chart: str) -> dict[str, Any]:
        """Wait until a chart's job has ended and return its event."""
        return dict(until(lambda: self.events(chart), "the chart's job has ended")[-1])

    def chart_rows(self, event: Mapping[str, Any]) -> list[Any]:
        """Return the rows of a chart whose data are there."""
        return self.kept(event["result_url"])

    # -- What became of queries -------------------------------------------------------------------
    def history(self, query: Query) -> History:
        """Return every change of a query's state."""
        columns = ", ".join(Change._fields)
        rows = self.base.postgres.sql(
            "superset",
            f"select {columns} from ledger.changes where client_id = %s order by number",
            query.client_id,
        )
        return History(Change(*row) for row in rows)

    def runs(self, query: Query) -> int:
        """Return how often a query began to run."""
        return len(self.history(query).runs)

    def every_query_ends_once(self) -> None:
        """Hold what all tests have in common. Raises AssertionError."""
        self.base.postgres.terminate_queries()  # of runs that were given up
        until(self.idle, "the fleet is idle")
        histories = {query.client_id: self.history(query) for query in self.sent}
        wrong = [
            f"{query.sql}: {[(each.before, each.after) for each in histories[query.client_id]]}"
            for query in self.sent
            if not histories[query.client_id].ended_once(query.stopped)
        ]
        assert wrong == []
        assert [chart for chart in self.charts if len(self.events(chart)) != 1] == []
        assert [name for name, times in self.written().items() if times > 1] == []
        for daemon in self.daemons:
            assert "Traceback" not in daemon.journal.read_text()


def machine_of(life: str) -> str:
    """Return the machine of a worker's life, e.g. vm-1 of worker@vm-1#1a2b3c4d."""
    return life.partition("@")[2].partition("#")[0]
