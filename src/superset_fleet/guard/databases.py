"""Connections to databases, Superset's own and those that queries are about: each wait finishes.

Drivers wait for an answer for hours, or for ever, where a machine is gone without a word.
"""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psycopg2
import psycopg2.extensions
from celery.exceptions import SoftTimeLimitExceeded
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, STATUS_SETUP
from sqlalchemy.exc import ArgumentError

from ..times import TIMES
from .web.threads import serving

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
    if driver in ("mysqldb", "pymysql"):  # of MySQL, MariaDB and others
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
        except (ArgumentError, AttributeError, ImportError):  # none, or one without a name
            return url, options
        given = options.get("connect_args") or {}
        missing = {name: ours[name] for name in ours if name not in url.query}
        return url, {**options, "connect_args": {**missing, **given}}

    return mutate


# -- psycopg2 -------------------------------------------------------------------------------------
class Silent(psycopg2.OperationalError):  # type: ignore[misc]
    """A database says nothing, though it may take connections."""


class Metadata(psycopg2.extensions.connection):  # type: ignore[misc]
    """A connection to Superset's own database, whose silence nobody sits out.

    An answer may take long, so a silence alone says little. But a database that works gives or
    refuses another connection at once. One that does not hangs, and as long as that is the last
    that was known of it each request has no more than a moment to hear something.
    """

    hangs = False  # as this process knows it
    looked = -math.inf
    looking = threading.Lock()  # one thread of a process does

    def look(self) -> None:
        """Raise Silent where the database hangs."""
        with Metadata.looking:
            if not Metadata.hangs and time.monotonic() - Metadata.looked > TIMES.look_seconds:
                at = {**self.info.dsn_parameters, "password": self.info.password}
                try:
                    seconds = whole(TIMES.look_seconds)
                    psycopg2.connect(**{**at, "connect_timeout": seconds}).close()
                except Silent:
                    Metadata.hangs = True
                except psycopg2.Error:  # it refuses
                    pass
                Metadata.looked = time.monotonic()
        if Metadata.hangs:
            raise Silent("The metadata database does not answer.")


# Of a web process. Its user waits, so less than LIBPQ's.
METADATA = {
    **LIBPQ,
    "connect_timeout": whole(TIMES.web_connect_seconds),
    "connection_factory": Metadata,
}


class Left(psycopg2.extensions.QueryCanceledError):  # type: ignore[misc]
    """Nobody waits for a query's answer any more: the client of the web process has gone."""


def wait(connection: Any) -> None:
    """Wait for PostgreSQL in Python, where the signal of the time limit is heard.

    Within libpq it is not, and the query runs until its process is killed, which leaves its
    row in the state `running` for ever. The database is told to stop, too. Libpq does not see to
    its own connect_timeout here; ours is for each answer, so that it does not matter how busy this
    process is.
    """
    connecting, metadata = connection.status == STATUS_SETUP, isinstance(connection, Metadata)
    seconds = connect_seconds(connection) if connecting else metadata * TIMES.look_seconds
    if metadata and Metadata.hangs:
        seconds = TIMES.moment_seconds
    # What is Superset's own is done to its end, whoever waits.
    client = None if metadata or connecting else serving.client
    try:
        while (state := connection.poll()) != POLL_OK:
            ready = select.poll()
            ready.register(connection.fileno(), EVENTS[state])
            if client:
                ready.register(client, select.POLLRDHUP)
            while not (found := ready.poll(seconds * 1000 or None)):
                if connecting:
                    Metadata.hangs |= metadata
                    raise Silent(timed_out(connection, seconds))
                connection.look()
            if client and client.fileno() in dict(found):
                raise Left("Who asked for this has gone.")
    except (SoftTimeLimitExceeded, Left):
        cancel(connection)
        raise
    Metadata.hangs &= not metadata


def connect_seconds(connection: Any) -> int:
    """Return how long an answer may take while connecting, 0 for as long as it takes."""
    return max(0, int(connection.info.dsn_parameters.get("connect_timeout") or 0))


def timed_out(connection: Any, seconds: float) -> str:
    """Return what libpq would say."""
    at = connection.info.dsn_parameters
    return (
        f'connection to server at "{at.get("hostaddr") or at.get("host")}", port {at.get("port")} '
        f"failed: timeout expired after {seconds:g} s"
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
