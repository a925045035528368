"""Connections to databases, of which each wait finishes."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest
from celery.exceptions import SoftTimeLimitExceeded
from psycopg2.extensions import POLL_OK, POLL_READ, STATUS_READY
from sqlalchemy.engine import make_url

from superset_fleet.guard import databases
from superset_fleet.times import TIMES
from tests.support.servers import Mute


# -- Options of drivers ---------------------------------------------------------------------------
def connect_args(url: str, given: dict[str, Any], overrides: Any = None) -> dict[str, Any]:
    """Return with which arguments a connection would be made."""
    mutate = databases.patient(3600, overrides)
    _, options = mutate(make_url(url), {"connect_args": given}, "user", None, None)
    found: dict[str, Any] = options["connect_args"]
    return found


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("postgresql://db/w", {*databases.LIBPQ}),
        ("postgresql+psycopg2://db/w", {*databases.LIBPQ}),
        ("redshift+psycopg2://db/w", {*databases.LIBPQ}),
        ("cockroachdb+psycopg2://db/w", {*databases.LIBPQ}),
        ("mysql://db/w", {"connect_timeout", "read_timeout"}),
        ("mysql+pymysql://db/w", {"connect_timeout", "read_timeout"}),
        ("mysql+mysqlconnector://db/w", {"connection_timeout"}),
        ("postgresql+pg8000://db/w", set()),
        ("sqlite://", set()),
        ("nothing://that/there/is", set()),
    ],
)
def test_a_connection_is_given_what_its_driver_knows(url: str, names: set[str]) -> None:
    assert connect_args(url, {}).keys() == names


def test_an_answer_of_mysql_may_take_as_long_as_a_query() -> None:
    assert connect_args("mysql://db/w", {})["read_timeout"] == 3600


def test_slot_and_thread_are_free_within_a_minute_after_a_cut() -> None:
    """Linux looks at tcp_user_timeout each time when it is about to ask once more."""
    asked = databases.LIBPQ["keepalives_idle"]
    while asked * 1000 < databases.LIBPQ["tcp_user_timeout"]:
        asked += databases.LIBPQ["keepalives_interval"]
    assert asked + databases.LIBPQ["keepalives_interval"] + databases.LIBPQ["connect_timeout"] < 60


def test_what_the_connection_s_own_settings_say_is_kept() -> None:
    url = "postgresql://db/w?connect_timeout=60&sslmode=require"
    found = connect_args(url, {"tcp_user_timeout": 0, "options": "-c search_path=s"})
    assert "connect_timeout" not in found  # which would win over the URL's
    assert (found["tcp_user_timeout"], found["options"]) == (0, "-c search_path=s")
    assert found["keepalives_idle"] == databases.LIBPQ["keepalives_idle"]


def test_a_mutator_of_the_overrides_comes_first_and_is_kept() -> None:
    def theirs(url: Any, options: dict[str, Any], user: str, *_: Any) -> Any:
        return url.set(username=user), {**options, "connect_args": {"connect_timeout": 9}}

    url, options = databases.patient(3600, theirs)(make_url("postgresql://db/w"), {}, "me", 1, 2)
    assert url.username == "me"
    assert options["connect_args"] == {**databases.LIBPQ, "connect_timeout": 9}


def test_what_superset_keeps_of_a_connection_is_not_changed() -> None:
    given: dict[str, Any] = {"connect_args": {}, "pool_size": 1}
    _, options = databases.patient(3600, None)(make_url("postgresql://db/w"), given, "", 1, 2)
    assert given == {"connect_args": {}, "pool_size": 1}
    assert options["pool_size"] == 1


# -- psycopg2 -------------------------------------------------------------------------------------
@pytest.fixture
def waits() -> Iterator[None]:
    """This process waits for PostgreSQL as a worker does."""
    psycopg2.extensions.set_wait_callback(databases.wait)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(None)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let the time limit's signal come."""

    def exceeded(*_: object) -> None:
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGALRM, exceeded)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("waits")
def test_connecting_to_a_host_that_says_nothing_fails_in_words(mute: Mute) -> None:
    words = rf'"127\.0\.0\.1", port {mute.port} failed: timeout expired after 1 s'
    with pytest.raises(psycopg2.OperationalError, match=words):
        psycopg2.connect(host="127.0.0.1", port=mute.port, user="u", dbname="d", connect_timeout=1)


@pytest.mark.parametrize("limit", [{}, {"connect_timeout": 0}, {"connect_timeout": -1}])
@pytest.mark.usefixtures("waits")
def test_connecting_without_a_limit_is_stopped_by_the_time_limit(
    mute: Mute, limit: dict[str, int]
) -> None:
    with time_limit(0.1), pytest.raises(SoftTimeLimitExceeded):
        psycopg2.connect(host="127.0.0.1", port=mute.port, user="u", dbname="d", **limit)


class Connection:
    """A connection of psycopg2 with a query for which nothing is heard."""

    status = STATUS_READY

    def __init__(self, mute: Mute, told: Path) -> None:
        self.socket = socket.create_connection(("127.0.0.1", mute.port))
        self._told = told

    def poll(self) -> Any:
        return POLL_READ

    def fileno(self) -> int:
        return self.socket.fileno()

    def cancel(self) -> None:
        self._told.touch()


class Deaf(Connection):
    """One whose database does not hear, either, that it is to stop."""

    def cancel(self) -> None:
        super().cancel()
        threading.Event().wait()


@pytest.mark.parametrize("kind", [Connection, Deaf])
def test_the_database_is_told_to_stop_at_the_time_limit(
    kind: type[Connection], mute: Mute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "TIMES", TIMES.scaled(0.1))
    connection = kind(mute, tmp_path / "told")
    with time_limit(0.1), pytest.raises(SoftTimeLimitExceeded):
        databases.wait(connection)
    assert (tmp_path / "told").exists()


def test_a_query_that_finishes_is_not_cancelled(mute: Mute, tmp_path: Path) -> None:
    connection = Connection(mute, tmp_path / "told")
    connection.poll = lambda: POLL_OK  # type: ignore[method-assign]
    databases.wait(connection)
    assert not (tmp_path / "told").exists()
