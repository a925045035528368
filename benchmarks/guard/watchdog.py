#!/usr/bin/env python3
"""What the watchdog costs while many queries are in flight.

    python benchmarks/guard/watchdog.py FACTS.json [queries [seconds]]

FACTS.json names a Redis and a PostgreSQL for tests, as on a scheduler:

    {"redis": {"coordination": {"host": ..., "port": ..., "password": ...}},
     "database": {"host": ..., "port": ..., "name": ..., "user": ..., "password": ...}}

Refuses servers that are in use: the watchdog would end their queries. Of the queries (500) four in
five run, eight on each worker, which beats once a second; the others wait in the broker. Prints the
watchdog's resident memory and its share of one core over so many seconds (60), leaves nothing
behind. Needs Celery, redis, SQLAlchemy and psycopg2: Superset's environment, with PYTHONPATH=src.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import sqlalchemy
from celery import Celery

from superset_fleet.state import facts, rows
from superset_fleet.state.jobs import QUERIES
from superset_fleet.state.records import Job, Run, Worker
from superset_fleet.state.registry import Registry

QUEUE = "sql_lab"
SLOTS = 8
SQL = "select origin, count(*) from flights group by origin " * 20
# The columns that are read and written here, for a database without Superset's own table.
TABLE = """
create table if not exists query (
  id serial primary key, client_id varchar(11) not null unique, database_id int not null,
  status varchar(16), start_running_time numeric(20, 6), end_time numeric(20, 6),
  changed_on timestamp, progress int, select_as_cta boolean, tmp_table_name varchar(256),
  error_message text, extra_json text)
"""


@contextmanager
def database(url: str) -> Iterator[sqlalchemy.engine.Engine]:
    """Give a database in which the rows that were added are deleted at the end."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(TABLE))
        newest = connection.execute(sqlalchemy.text("select coalesce(max(id), 0) from query"))
        last = newest.scalar()
        if rows.unfinished(connection):
            raise SystemExit("That database is in use: it has queries that are not finished.")
    try:
        yield engine
    finally:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("delete from query where id > :id"), {"id": last})


def fill(
    engine: sqlalchemy.engine.Engine, registry: Registry, broker: Celery, queries: int
) -> dict[str, Worker]:
    """Make queries that run and queries that wait; return the workers to beat for."""
    workers: dict[str, Worker] = {}
    insert = sqlalchemy.text(
        "insert into query (client_id, database_id, status) values (:client, 1, 'pending')"
        " returning id"
    )
    running = queries * 4 // 5
    for number in range(queries):
        with engine.begin() as connection:
            client = {"client": uuid.uuid4().hex[:11]}
            query_id = connection.execute(insert, client).scalar()
            assert query_id is not None
            claim = rows.claim(connection, query_id) if number < running else None
        name = f"query:{query_id}"
        host = f"ip-10-80-0-{number // SLOTS % 250}"
        worker = f"worker@{host}#{number // SLOTS:08x}"
        workers.setdefault(worker, Worker(host, 1, [QUEUE], SLOTS))
        registry.beat(worker, workers[worker])
        job = Job(QUERIES[0], str(uuid.uuid4()), QUEUE)
        arguments = [query_id, SQL]
        registry.admit(QUEUE, name, job, json.dumps({"args": arguments, "kwargs": {}}))
        if claim:
            workers[worker].active.append(name)
            registry.take(name, Run(worker, str(claim.token), read_only=True))
        else:
            broker.send_task(QUERIES[0], arguments, {}, task_id=job.task_id, queue=QUEUE)
    return workers


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def beat(registry: Registry, workers: dict[str, Worker], seconds: float) -> None:
    """Beat for the workers so long, each once a second and one after the other."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, worker in workers.items():
            registry.beat(name, worker)
            time.sleep(1 / len(workers))


def main() -> None:
    """Measure, and print a line."""
    os.environ["SUPERSET_FACTS"] = sys.argv[1]
    queries, seconds = (int(x) for x in (sys.argv[2:] + ["500", "60"][len(sys.argv) - 2 :]))
    known = facts.load()
    coordination = known["redis"]["coordination"]
    registry = Registry(facts.redis_url(coordination, facts.GUARD), timeout_seconds=5)
    broker_url = facts.redis_url(coordination, facts.BROKER)
    if registry.workers() or registry.jobs():
        raise SystemExit("That Redis is in use: it knows of workers or jobs.")
    with database(facts.database_url(known["database"])) as engine:
        try:
            workers = fill(engine, registry, Celery(broker=broker_url), queries)
            with subprocess.Popen([sys.executable, "-m", "superset_fleet.watchdog"]) as watchdog:
                try:
                    beat(registry, workers, 10)
                    before = cpu_seconds(watchdog.pid)
                    beat(registry, workers, seconds)
                    share = (cpu_seconds(watchdog.pid) - before) / seconds
                    memory = memory_mib(watchdog.pid)
                finally:
                    watchdog.terminate()
            print(
                f"{queries} queries in flight, {len(workers)} workers: {memory:.0f} MiB, "
                f"{share:.2%} of a core; decisions: {registry.decisions() or 'none'}"
            )
        finally:
            registry.redis.flushdb()
            redis.Redis.from_url(broker_url).delete(QUEUE, f"_kombu.binding.{QUEUE}")


if __name__ == "__main__":
    main()
