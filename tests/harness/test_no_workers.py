"""There is no worker, or soon none: nothing waits for one."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from tests.harness.jobs import KINDS, NOT_AGAIN, send
from tests.harness.rig import SLOTS, Fleet
from tests.support.waiting import until

NO_WORKER = "No worker takes queries from the queue 'sql_lab'"


def test_a_query_that_waits_can_be_stopped_and_never_runs(
    begin: Callable[..., Fleet], dice: Random
) -> None:
    fleet = begin()
    fleet.start_watchdog()
    fleet.start_worker("vm-1")
    blockers = [send(fleet, dice.choice(["select", "insert"])) for _ in range(SLOTS)]
    for job in blockers:
        job.runs()
    waiting = [fleet.send(f"select {number}") for number in range(dice.randint(1, 3))]
    for query in waiting:
        assert fleet.look(query).status == "pending"
        fleet.stop(query)
    queries = [job.query for job in blockers if job.query]
    for query in queries:
        fleet.stop(query)
    fleet.wait([*waiting, *queries])
    assert {query.status for query in [*waiting, *queries]} == {"stopped"}
    # A later one has gone the same way by then, so they would have run.
    (later,) = fleet.wait([fleet.send("select 2 as two")])
    assert fleet.rows(later) == [[2]]
    assert [fleet.runs(query) for query in waiting] == [0] * len(waiting)


def test_a_stopping_worker_finishes_what_it_runs_and_takes_no_more(
    fleet: Fleet, dice: Random
) -> None:
    fleet.wait_for_redis()
    jobs = [send(fleet, kind) for kind in dice.sample(KINDS, 3)]
    places = {fleet.machine(job.runs()) for job in jobs}
    first = fleet.workers[dice.choice(sorted(places))]
    (second,) = (worker for name, worker in fleet.workers.items() if name != first.name)
    time.sleep(dice.uniform(0, 0.3))
    first.stop()
    until(lambda: fleet.has_left(first), "it has left its queues")
    sent = fleet.wait(fleet.send(f"select {number}") for number in range(3))
    assert {(query.status, query.worker) for query in sent} == {("success", second.name)}
    assert [fleet.rows(query) for query in sent] == [[[number]] for number in range(3)]
    jobs.append(send(fleet, "select"))
    assert fleet.machine(jobs[-1].runs()) == second.name
    second.stop()
    until(lambda: fleet.has_left(second), "it has left its queues")
    refused = fleet.send("select 1 as one")
    assert refused.status == "refused"
    assert NO_WORKER in refused.error
    fleet.let_go(*(job.name for job in jobs))
    for job in jobs:
        job.succeeds(number=1, runs=1)
    assert [worker.process.wait() for worker in (first, second)] == [0, 0]


def test_without_a_worker_queries_and_charts_are_refused_in_the_answer_and_anybody_can_see_that(
    begin: Callable[..., Fleet], dice: Random
) -> None:
    fleet = begin()
    fleet.wait_for_redis()
    sent = [fleet.send(f"select {number}") for number in range(dice.randint(1, 10))]
    for query in sent:
        assert query.status == "refused"
        assert NO_WORKER in query.error
        ((status, error),) = fleet.base.postgres.sql(
            "superset",
            "select status, error_message from query where client_id = %s",
            query.client_id,
        )
        assert (status, error) == ("failed", query.error)
        assert fleet.runs(query) == 0
        fleet.stop(query)  # as a user may who has not seen it
    # Superset's pages show the reason of a job that fails, and none of a request that does.
    (event,) = fleet.events(fleet.ask_chart("1"))
    assert event["status"] == "error"
    assert "No worker takes queries from the queue 'charts'" in event["errors"][0]["message"]
    assert fleet.waiting() == 0
    # The answer may be a second old.
    health = until(lambda: (said := fleet.health())["code"] == 503 and said, "it is seen")
    assert health["lacking"] == ["sql_lab", "charts"]


def test_the_only_worker_s_death_fails_what_it_ran_and_what_waited_for_it(
    begin: Callable[..., Fleet], dice: Random
) -> None:
    fleet = begin()
    fleet.wait_for_redis()
    fleet.start_watchdog()
    only = fleet.start_worker("vm-1")
    jobs = [send(fleet, kind) for kind in dice.sample(KINDS, SLOTS)]
    for job in jobs:
        job.runs()
    waiting = [fleet.send("select 1") for _ in range(dice.randint(1, 3))]
    time.sleep(dice.uniform(0, 0.3))
    dice.choice([only.kill, only.cut_power])()
    for job in jobs:
        if job.query:
            fleet.wait([job.query])
            assert job.query.status == "failed", job.query
            assert (NOT_AGAIN in job.query.error) == (not job.reads), job.query
            assert job.reads == ("no other worker takes from the queue" in job.query.error)
            assert fleet.runs(job.query) == 1
        else:
            assert fleet.wait_for_chart(job.chart)["status"] == "error"
    for query in fleet.wait(waiting):
        assert query.status == "failed"
        assert NO_WORKER in query.error
        assert fleet.runs(query) == 0
