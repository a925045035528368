"""A query's way: HAProxy, queue, worker, results, and back."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from support import Query

from superset_fleet.control.ask import ROOT, AnsibleFailed, run_module


@pytest.fixture(scope="module")
def workers() -> set[str]:
    """The workers' host names."""
    answers = run_module("celery_worker", "ansible.builtin.command", {"cmd": "hostname"})
    return {answer["stdout"] for answer in answers.values()}


def test_rows_come_back_from_a_worker(query: Query, workers: set[str]) -> None:
    result = query("select count(*) as flights from flights")
    assert result["rows"] == [{"flights": 336776}]
    assert result["worker"] in workers


def test_long_queries_run_on_all_workers_at_the_same_time(
    query: Query,
    together: Callable[[Query, list[str]], list[dict[str, Any]]],
    workers: set[str],
) -> None:
    inputs = yaml.safe_load((ROOT / "inventory/group_vars/all/celery_worker.yml").read_text())
    slots = len(workers) * inputs["celery_worker_concurrency"]
    results = together(query, ["select warehouse.slow(8)"] * slots)
    assert {result["worker"] for result in results} == workers


def test_a_mistake_in_the_sql_is_told_by_the_database(query: Query) -> None:
    with pytest.raises(AnsibleFailed, match="no_such_table"):
        query("select * from no_such_table")
