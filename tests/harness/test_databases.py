"""A database is silent while somebody waits for it, as workers and web processes do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from celery.exceptions import SoftTimeLimitExceeded

from superset_fleet.guard import databases
from superset_fleet.guard.databases import LIBPQ, METADATA, Metadata, Silent
from tests.harness.proxies import Proxy
from tests.harness.rig import TIMES, Base
from tests.support.waiting import until

SLEEP = "select pg_sleep(600)"


@pytest.fixture
def way(base: Base, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A way to PostgreSQL."""
    monkeypatch.setattr(databases, "TIMES", TIMES)
    monkeypatch.setattr(Metadata, "hangs", False)
    psycopg2.extensions.set_wait_callback(databases.wait)
    try:
        yield base.network.proxy(base.postgres.port)
    finally:
        psycopg2.extensions.set_wait_callback(None)
        base.network.forget()
        base.postgres.terminate_queries()


def connect(way: Proxy, arguments: Mapping[str, Any]) -> Any:
    """Return a connection to the warehouse."""
    at = {"host": "127.0.0.1", "port": way.port, "user": "superset", "dbname": "warehouse"}
    return psycopg2.connect(**at, **arguments)


@pytest.fixture
def time_limit() -> Iterator[Callable[[], None]]:
    """Let the time limit's signal come, as it comes to a worker's process."""

    def exceeded(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, exceeded)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Do something beside what is tested."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        yield
        done.result()


def sleeps(base: Base) -> bool:
    """Tell whether the query of a test runs in the database."""
    text = "select 1 from pg_stat_activity where state = 'active' and query = %s"
    return bool(base.postgres.sql("postgres", text, SLEEP))


def test_a_query_is_stopped_in_the_database_at_the_time_limit(
    base: Base, way: Proxy, time_limit: Callable[[], None]
) -> None:
    def work() -> None:
        until(lambda: sleeps(base), "the query runs")
        time_limit()

    cursor = connect(way, LIBPQ).cursor()
    with meanwhile(work), pytest.raises(SoftTimeLimitExceeded):
        cursor.execute(SLEEP)
    until(lambda: not sleeps(base), "the database has stopped the query")


def test_the_time_limit_holds_though_the_database_does_not_hear_that_it_is_to_stop(
    base: Base, way: Proxy, time_limit: Callable[[], None]
) -> None:
    failed = threading.Event()

    def work() -> None:
        until(lambda: sleeps(base), "the query runs")
        with way.silent():
            time_limit()
            assert failed.wait(30)

    cursor = connect(way, LIBPQ).cursor()
    with meanwhile(work):
        with pytest.raises(SoftTimeLimitExceeded):
            cursor.execute(SLEEP)
        failed.set()


def test_a_metadata_database_that_hangs_is_told_from_one_that_works_for_long(way: Proxy) -> None:
    long = f"select pg_sleep({3 * TIMES.look_seconds})"
    cursor = connect(way, METADATA).cursor()
    cursor.execute(long)
    with way.silent():
        with pytest.raises(Silent, match="does not answer"):
            cursor.execute("select 1")
        with pytest.raises(Silent, match=f"after {TIMES.moment_seconds:g} s"):
            connect(way, METADATA)
    connect(way, METADATA).cursor().execute(long)
