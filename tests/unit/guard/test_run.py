"""The keeper of a run, and what a run sees of its database."""

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import psycopg2
import pytest
from sqlalchemy.dialects import mysql, postgresql

from superset_fleet.guard import run
from superset_fleet.times import TIMES


class Interrupted(Exception):
    """What the soft time limit raises in a process of a worker."""


@pytest.fixture(autouse=True)
def soft_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Heed the signal of the soft time limit as a worker's process does."""
    monkeypatch.setattr(run, "TIMES", replace(TIMES, keep_seconds=0.01))

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_run_whose_job_is_another_one_s_is_interrupted() -> None:
    with pytest.raises(Interrupted), run.Keeper(lambda: False) as keeper:
        threading.Event().wait(30)
    assert keeper.interrupted


def test_a_run_that_keeps_its_job_is_left_alone() -> None:
    looks = threading.Semaphore(0)

    def is_ours() -> bool:
        looks.release()
        return True

    with run.Keeper(is_ours) as keeper:
        for _ in range(3):
            assert looks.acquire(timeout=30)
    assert not keeper.interrupted


def test_a_run_that_is_over_is_not_interrupted() -> None:
    looking, over = threading.Event(), threading.Event()

    def is_ours() -> bool:
        looking.set()
        over.wait(30)
        return False

    with run.Keeper(is_ours) as keeper:
        assert looking.wait(30)
    over.set()
    keeper._thread.join(30)
    assert not keeper.interrupted


def test_a_run_outside_of_the_main_thread_is_never_interrupted() -> None:
    kept = []

    def work() -> None:
        with run.Keeper(lambda: False) as keeper:
            kept.append(keeper)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert not kept[0].interrupted


def test_what_a_thread_runs_is_its_own_and_is_over() -> None:
    with run.owning(17, "1"):
        assert run.current.query_id == 17
    assert run.current.query_id is None


POSTGRESQL = SimpleNamespace(get_dialect=postgresql.dialect)
TERMINATED = psycopg2.OperationalError("terminating connection due to administrator command\nmore")
MISSING = psycopg2.ProgrammingError("no such table")


def said(error: Exception, cause: Exception | None, database: object = POSTGRESQL) -> str:
    """What a database said that dropped the connection, while Superset handles an error."""
    try:
        raise error from cause
    except Exception:
        return run.dropped_by(lambda: run.dialect_of(database))


def test_a_lost_connection_is_told_from_other_errors_wherever_superset_has_wrapped_it() -> None:
    assert said(TERMINATED, None) == "terminating connection due to administrator command"
    assert said(ValueError("Superset's"), TERMINATED) == said(TERMINATED, None)
    assert said(TERMINATED, TERMINATED) == said(TERMINATED, None)
    assert said(MISSING, None) == said(MISSING, MISSING) == ""
    assert said(ValueError(TERMINATED), None) == ""
    assert run.dropped_by(lambda: run.dialect_of(POSTGRESQL)) == ""


def test_a_query_of_a_database_that_cannot_tell_a_lost_connection_just_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_driver = SimpleNamespace(get_dialect=mysql.dialect)
    assert said(TERMINATED, None, without_driver) == ""
    assert "event=not_known_whether_dropped" in caplog.text
