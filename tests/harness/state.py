"""The servers that keep a fleet's state: PostgreSQL and Redis, of Debian's packages."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import redis

from tests.support.history import CREATE
from tests.support.servers import free_port, start_redis
from tests.support.waiting import until

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

# What queries of the tests are about. A run of `held` keeps the number that it finds, and waits
# for as long as somebody has the lock of its name: so a test tells which run made a row, and ends
# runs when it wants.
WAREHOUSE = """
create table gate (name text primary key, number integer not null);
create table written (name text, number integer);
create function held(job text) returns integer language plpgsql as $$
declare
  found integer := (select number from gate where name = job);
begin
  perform pg_advisory_xact_lock_shared(hashtext(job));
  return found;
end $$;
"""


class Postgres:
    """A cluster of databases, with `superset` and `warehouse` in it."""

    def __init__(self, directory: Path) -> None:
        assert PROGRAMS, "install the package postgresql"
        self.port, self._directory, self._programs = free_port(), directory, PROGRAMS[-1]
        if os.geteuid() == 0:  # as which PostgreSQL does not run
            subprocess.run(["chown", "postgres:", directory], check=True)
        options = ["--auth=trust", "--username=superset", "--no-sync", "--encoding=UTF8"]
        assert self._popen("initdb", *options).wait() == 0
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # What a machine that loses its power would lose is no matter here.
        settings = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"]
        settings += [f"port={self.port}", "max_connections=200"]
        options = (option for setting in settings for option in ("-c", setting))
        self._server = self._popen("postgres", *options)
        until(self._answers, "PostgreSQL answers")

    def _answers(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it as systemd does, by SIGINT, or by SIGQUIT, which is a crash."""
        self._server.send_signal(number)
        self._server.wait()

    def _popen(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a program of PostgreSQL's that does not outlive this process."""
        command = ["setpriv", "--pdeathsig", "KILL"]
        if os.geteuid() == 0:
            command += ["--reuid", "postgres", "--regid", "postgres", "--init-groups"]
        command += [str(self._programs / program), "-D", str(self._directory / "data"), *options]
        with (self._directory / "log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd="/",
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            )

    def connect(self, database: str) -> Any:
        """Return a connection that commits each statement."""
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="superset", dbname=database
        )
        connection.autocommit = True
        return connection

    def sql(self, database: str, text: str, *values: Any) -> list[Any]:
        """Run a statement and return its rows."""
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(text, values or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def create(self) -> None:
        """Make the databases, without Superset's tables."""
        for name in ("superset", "warehouse"):
            self.sql("postgres", f"create database {name}")
        self.sql("warehouse", WAREHOUSE)

    def observe(self) -> None:
        """Let the metadata database write down every change of a query."""
        self.sql("superset", CREATE)

    def empty(self) -> None:
        """Forget all queries, and what runs of them have written."""
        self.sql("superset", "truncate query, ledger.changes")
        self.sql("warehouse", "truncate gate, written")

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Terminate what runs in the warehouse, and let nobody connect to it for a while."""
        self.sql("postgres", "alter database warehouse allow_connections false")
        try:
            self.terminate_queries()
            yield
        finally:
            self.sql("postgres", "alter database warehouse allow_connections true")

    def terminate_queries(self) -> None:
        """Terminate what runs in the warehouse: runs that were given up."""
        self.sql(
            "postgres",
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'warehouse'"
            " and state = 'active'",
        )


class Redis:
    """A Redis that keeps what it knows over restarts, as the one named `coordination`."""

    def __init__(self, directory: Path) -> None:
        self.port, self._directory = free_port(), directory
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy"]
        self.process = start_redis(self._directory, self.port, *options, "noeviction")

        def loaded() -> bool:
            try:
                return bool(self.client(0).ping())
            except redis.RedisError:
                return False

        until(loaded, "Redis has read its file")

    def stop(self, kill: bool = False) -> None:
        """Stop it, in order or at once."""
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.process.wait()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let it answer nobody for a while."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def client(self, database: int) -> Any:
        """Return a client of a numbered database."""
        return redis.Redis(port=self.port, db=database, decode_responses=True)
