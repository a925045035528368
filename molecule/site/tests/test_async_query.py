"""A query's way: HAProxy, queue, worker, results, and back."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Query

from superset_fleet.ansible import template

WORKER = "select host(inet_client_addr()) as worker, count(*) as flights from flights"


@pytest.fixture(scope="module")
def workers() -> list[str]:
    """The workers' addresses."""
    return list(template("celery_worker", "private_address").values())


def test_rows_come_back_from_a_worker(query: Query, workers: list[str]) -> None:
    result = query(WORKER)
    assert result["rows"][0]["flights"] == 336776
    assert result["rows"][0]["worker"] in workers


def test_long_queries_run_on_all_workers_at_the_same_time(
    query: Query,
    together: Callable[[Query, list[str]], list[dict[str, Any]]],
    workers: list[str],
    facts: dict[str, Any],
) -> None:
    slots = len(workers) * facts["celery_worker_concurrency"]
    slow = "select host(inet_client_addr()) as worker, warehouse.slow(8)"
    results = together(query, [slow] * slots)
    assert {result["rows"][0]["worker"] for result in results} == set(workers)


def test_a_mistake_in_the_sql_is_told_by_the_database(query: Query) -> None:
    with pytest.raises(Exception, match="no_such_table"):
        query("select * from no_such_table")
