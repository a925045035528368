"""What a query's row says is what became of it, and what its user was told."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.harness.jobs import WRITING, send
from tests.harness.rig import Fleet


def test_sql_that_superset_refuses_is_failed_at_once_with_what_its_user_was_told(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin()
    query = fleet.send("select (1 as one")
    assert query.status == "refused"
    assert "Expecting )" in query.error
    ((status, error, extra),) = fleet.base.postgres.sql(
        "superset",
        "select status, error_message, extra_json from query where client_id = %s",
        query.client_id,
    )
    assert (status, error) == ("failed", query.error)
    assert json.loads(extra)["errors"][0]["error_type"] == "INVALID_SQL_ERROR"
    assert fleet.registry.jobs() == {}


def test_a_client_id_that_names_another_query_is_refused_in_words(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin()
    query = fleet.send("select (1 as one")
    again = {"sql": "select 2 as two", "client_id": query.client_id}
    answer = fleet.ask("sqllab/execute/", again)
    assert answer.status_code == 409
    assert f"The client_id '{query.client_id}' was used" in answer.json()["errors"][0]["message"]
    assert fleet.history(query).status == "failed"
    assert fleet.registry.jobs() == {}


def test_of_what_a_database_drops_that_was_away_only_what_reads_is_run_again_once_it_is_back(
    fleet: Fleet,
) -> None:
    reading, *writing = jobs = [send(fleet, kind) for kind in ("select", *WRITING)]
    for job in jobs:
        job.runs()
        fleet.number(job.name, 2)
    with fleet.base.postgres.closed():
        for job in writing:
            job.is_given_up()
            assert job.query and "terminating connection" in job.query.error
        assert reading.query and fleet.look(reading.query).status == "running"
    fleet.let_go(*(job.name for job in jobs))
    reading.succeeds(number=2, runs=2)
    assert fleet.written() == {}


def test_what_fails_has_the_words_of_its_database(begin: Callable[..., Fleet]) -> None:
    fleet = begin()
    fleet.start_worker("vm-1")
    (query,) = fleet.wait([fleet.send("select 1 / 0")])
    assert (query.status, query.error) == ("failed", "division by zero\n")


def test_what_somebody_terminates_while_its_database_is_there_is_not_run_again(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin()
    fleet.start_worker("vm-1")
    reading = send(fleet, "select")
    reading.runs()
    fleet.base.postgres.terminate_queries()
    reading.is_given_up()
