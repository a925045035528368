"""superset_query: what a user is told when a query does not come back."""

from collections.abc import Iterator
from typing import Any

import pytest
import superset_query
from ansible.module_utils.superset_fleet.control.superset import SupersetError
from superset_query import advice, await_end, fetch, hang

QUERY = {"id": 7, "client_id": "c"}


class Session:
    """Answers with what is given, then again and again with the last of it."""

    def __init__(self, *answers: Any) -> None:
        self.answers: Iterator[Any] = iter(answers)
        self.last: Any = None
        self.asked: list[str] = []

    def ask(self, action: str, method: str, path: str, *_: Any, **__: Any) -> Any:
        self.asked.append(f"{method} {path}")
        self.last = next(self.answers, self.last)
        if isinstance(self.last, Exception):
            raise self.last
        return self.last


def record(status: str, **more: Any) -> dict[str, Any]:
    return {"result": {"id": 7, "status": status, "error_message": None, **more}}


def test_a_query_is_watched_until_it_succeeds() -> None:
    session = Session(record("pending"), record("running"), record("success", rows=1))
    assert await_end(session, QUERY, 5)["rows"] == 1
    assert session.asked == ["GET /api/v1/query/7"] * 3


@pytest.mark.parametrize("status", ["failed", "stopped", "timed_out"])
def test_the_database_s_reason_is_passed_on(status: str) -> None:
    with pytest.raises(SupersetError, match=f"run query 7: {status}: no such table"):
        await_end(Session(record(status, error_message="no such table")), QUERY, 5)


def test_a_query_that_hangs_in_the_queue_is_not_stopped() -> None:
    session = Session(record("pending"))
    with pytest.raises(SupersetError, match="still pending after 0 s: no Celery worker"):
        await_end(session, QUERY, 0)
    assert not any("stop" in asked for asked in session.asked)


def test_a_query_that_runs_for_too_long_is_stopped() -> None:
    session = Session(record("running"), {})
    with pytest.raises(SupersetError, match=r"still running after 0 s: .*It was stopped"):
        await_end(session, QUERY, 0)
    assert session.asked[-1] == "POST /api/v1/query/stop"


def test_that_a_query_could_not_be_stopped_is_said() -> None:
    session = Session(record("running"), SupersetError("stop query 7", "no", 422))
    with pytest.raises(SupersetError, match=r"It could not be stopped: stop query 7: HTTP 422"):
        await_end(session, QUERY, 0)


@pytest.mark.parametrize("key", ["abc", None], ids=["evicted", "never stored"])
def test_a_lost_result_points_to_the_results_redis(key: str | None) -> None:
    session = Session(SupersetError("fetch", "re-run the query", 410))
    with pytest.raises(SupersetError, match="redis-server@results"):
        fetch(session, {"id": 7, "results_key": key})


@pytest.mark.parametrize("state", ["pending", "running", "scheduled"])
def test_a_hanging_query_names_the_worker_s_unit(state: str) -> None:
    assert f"still {state} after 9 s" in hang(state, 9)
    assert "systemctl status celery-worker" in hang(state, 9)


def test_workers_with_another_key_leave_queries_pending() -> None:
    assert "SECRET_KEY (superset_secret_key)" in hang("pending", 9)


# Messages as Superset 6.1, redis-py 5.3 and psycopg2 2.9 write them.
@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("No worker takes queries from the queue 'sql_lab' (…)", "status celery-worker"),
        ("The message broker, by which …, does not answer", "redis-server@coordination"),
        ("HTTP 500: Failed to start remote query on a worker.", "redis-server@coordination"),
        ("Error 111 connecting to 10.0.0.4:6380. Connection refused.", "redis-server@results"),
        ("Timeout connecting to server", "redis-server@results"),
        ("Failed to store query results in the results backend.", "redis_results_memory_mb"),
        ("Invalid decryption key", "SECRET_KEY"),
    ],
)
def test_a_known_cause_is_answered_with_what_to_check(reason: str, word: str) -> None:
    assert advice(reason).startswith(reason.rstrip("."))
    assert word in advice(reason)


def test_what_the_database_says_is_left_as_it_is() -> None:
    reason = 'connection to server at "10.0.0.5", port 5432 failed: Connection refused'
    assert advice(reason) == reason
    assert superset_query.advice('column "nope" does not exist') == 'column "nope" does not exist'
