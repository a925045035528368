"""Connections to databases, Superset's own and those that queries are about: each wait finishes.

Drivers wait for an answer for hours, or for ever, where a machine is gone without a word.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
from celery.exceptions import SoftTimeLimitExceeded
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, STATUS_SETUP
from sqlalchemy.exc import ArgumentError

from ..times import TIMES

# Superset's DB_CONNECTION_MUTATOR: (URL, options, user, security manager, source) -> both.
Mutator = Callable[..., tuple[Any, dict[str, Any]]]

EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}


# -- Options of drivers ---------------------------------------------------------------------------
def whole(seconds: float) -> int:
    """Return seconds for those who take whole ones, and 0 for no limit."""
    return max(1, round(seconds))


# Where an answer is awaited nothing is under way that TCP would miss, so the kernel asks whether
# the other side is there. It stops at tcp_user_timeout, however often it has asked.
LIBPQ = {
    "connect_timeout": whole(TIMES.connect_seconds),
    "keepalives_idle": whole(TIMES.cut_seconds / 3),
    "keepalives_interval": whole(TIMES.cut_seconds / 6),
    "tcp_user_timeout": int(TIMES.cut_seconds * 1000),
}


def options_of(driver: str, query_seconds: int) -> Mapping[str, int]:
    """Return what a driver is to be given, by its name of SQLAlchemy's."""
    connect = LIBPQ["connect_timeout"]
    if driver in ("psycopg2", "psycopg"):  # of PostgreSQL, Redshift, CockroachDB and others
        return LIBPQ
    if driver in ("mysqldb", "pymysql"):  # of MySQL, MariaDB, StarRocks, Doris and others
        return {"connect_timeout": connect, "read_timeout": query_seconds}
    if driver == "mysqlconnector":
        return {"connection_timeout": connect}
    return {}


def patient(query_seconds: int, overrides: Mutator | None) -> Mutator:
    """Return DB_CONNECTION_MUTATOR, which gives options to connections that lack them.

    What the database's own settings in Superset say is kept, and what a mutator of the overrides
    makes of them. `query_seconds` is how long a query may take.
    """

    def mutate(url: Any, options: dict[str, Any], *others: Any) -> tuple[Any, dict[str, Any]]:
        if overrides:
            url, options = overrides(url, options, *others)
        try:
            ours = options_of(url.get_driver_name(), query_seconds)
        except (ArgumentError, ImportError):  # there is no such driver, which Superset tells
            return url, options
        given = options.get("connect_args") or {}
        missing = {name: ours[name] for name in ours if name not in url.query}
        return url, {**options, "connect_args": {**missing, **given}}

    return mutate


# -- psycopg2 -------------------------------------------------------------------------------------
def wait(connection: Any) -> None:
    """Wait for PostgreSQL in Python, where the signal of the time limit is heard.

    Within libpq it is not, and the query runs until its process is killed, which leaves its
    row in the state `running` for ever. The database is told to stop, too. Libpq does not see to
    its own connect_timeout here.
    """
    seconds = connect_seconds(connection) if connection.status == STATUS_SETUP else 0
    until = time.monotonic() + seconds
    try:
        while (state := connection.poll()) != POLL_OK:
            ready = select.poll()
            ready.register(connection.fileno(), EVENTS[state])
            left = max(0.0, until - time.monotonic()) * 1000 if seconds else None
            if not ready.poll(left):
                raise psycopg2.OperationalError(timed_out(connection, seconds))
    except SoftTimeLimitExceeded:
        cancel(connection)
        raise


def connect_seconds(connection: Any) -> int:
    """Return how long connecting may take, 0 for as long as it takes."""
    return max(0, int(connection.info.dsn_parameters.get("connect_timeout") or 0))


def timed_out(connection: Any, seconds: int) -> str:
    """Return what libpq would say, and that it was told to."""
    at = connection.info.dsn_parameters
    return (
        f'connection to server at "{at.get("hostaddr") or at.get("host")}", port {at.get("port")} '
        f"failed: timeout expired (connect_timeout: {seconds} s)"
    )


def cancel(connection: Any) -> None:
    """Tell the database to stop what it does for a connection.

    By a process, which is killed when the database takes no notice: libpq connects once more, waits
    for as long as that takes, and no other thread runs meanwhile.
    """
    process = os.fork()
    if process == 0:
        try:
            connection.cancel()
        finally:
            os._exit(0)
    exited = os.pidfd_open(process)
    try:
        select.select([exited], [], [], TIMES.cancel_seconds)
    finally:
        os.close(exited)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
