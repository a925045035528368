"""What queries need besides workers fails for a while."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from random import Random

from tests.harness.jobs import KINDS, send
from tests.harness.rig import SLOTS, TIMES, Fleet, Query
from tests.support.waiting import until


def restarts(fleet: Fleet, _: float) -> Query:
    fleet.base.coordination.stop()
    fleet.base.coordination.start()
    return fleet.send("select 1")


def refuses(fleet: Fleet, seconds: float) -> Query:
    """Send a query that is refused while the outage lasts, which takes so long."""
    began = time.monotonic()
    refused = fleet.send("select 1")
    assert refused.status == "refused"
    assert "broker" in refused.error
    rows = fleet.base.postgres.sql(
        "superset",
        "select status, error_message from query where client_id = %s",
        refused.client_id,
    )
    assert rows == [("failed", refused.error)]
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    return refused


def is_away(fleet: Fleet, seconds: float) -> Query:
    fleet.base.coordination.stop()
    try:
        return refuses(fleet, seconds)
    finally:
        fleet.base.coordination.start()


def is_silent(fleet: Fleet, seconds: float) -> Query:
    with fleet.base.coordination.silent():
        refused = refuses(fleet, seconds)
    until(lambda: fleet.send("select 1").id, "the broker is asked again")
    return refused


OUTAGES: list[Callable[[Fleet, float], Query]] = [restarts, is_away, is_silent]


def test_running_queries_outlive_outages_of_the_coordination_redis(
    fleet: Fleet, dice: Random
) -> None:
    jobs = [send(fleet, kind) for kind in dice.sample(KINDS, 3)]
    for job in jobs:
        job.runs()
    # Longer than a worker may be silent.
    doubtful = [
        outage(fleet, dice.uniform(1.1, 1.6) * TIMES.silent_seconds)
        for outage in dice.sample(OUTAGES, 2)
    ]
    fleet.wait_for_takers(*fleet.workers)
    fleet.let_go(*(job.name for job in jobs))
    for job in jobs:
        job.succeeds(number=1, runs=1)
    for query in doubtful:
        fleet.wait([query])
        assert query.status in ("success", "refused"), query
    (after,) = fleet.wait([fleet.send("select 1")])
    assert fleet.rows(after) == [[1]]


def test_what_only_reads_succeeds_though_the_databases_restart(fleet: Fleet, dice: Random) -> None:
    """Those that it is about, and the one of Superset."""
    jobs = [send(fleet, kind) for kind in ["select", "insert", *dice.sample(KINDS, 2)]]
    for job in jobs:
        job.runs()
        fleet.number(job.name, 2)
    time.sleep(dice.uniform(0, 0.3))
    fleet.base.postgres.stop(dice.choice([signal.SIGINT, signal.SIGQUIT]))
    fleet.base.postgres.start()
    fleet.connect()
    for job in jobs:
        if job.query is None:
            assert fleet.wait_for_chart(job.chart)["status"] in ("done", "error")
            continue
        fleet.wait([job.query])
        if job.reads:
            assert fleet.rows(job.query) == [[2]]
            continue
        job.is_given_up()
        assert job.name not in fleet.written()
    until(fleet.answers, "the web process has its database again")
    (after,) = fleet.wait([fleet.send("select 1")])
    assert fleet.rows(after) == [[1]]


def test_after_a_restart_of_redis_a_worker_takes_a_query_for_each_slot_that_is_free(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin()
    fleet.start_watchdog()
    worker = fleet.start_worker("vm-1")
    before = [send(fleet, "select") for _ in range(SLOTS)]
    for job in before:
        job.runs()
    query = restarts(fleet, 0)
    until(lambda: worker.process.journal.read_text().count("Connected to") == 2, "it is back")
    other = fleet.start_worker("vm-2")
    fleet.wait([query, *(fleet.send("select 1") for _ in range(SLOTS))])  # by that one, all of them
    other.stop()
    assert other.process.wait() == 0
    fleet.let_go(before[0].name)
    after = send(fleet, "select")
    after.runs()
    fleet.let_go(*(job.name for job in before[1:]))
    for job in before:
        job.succeeds(number=1, runs=1)
    fleet.wait([fleet.send("select 1") for _ in range(SLOTS)])
    fleet.let_go(after.name)
    after.succeeds(number=1, runs=1)
