"""A worker lives and its event loop is stuck: it counts as none, until it turns again."""

from __future__ import annotations

from collections.abc import Callable

from superset_fleet.state.records import Worker as Beat
from tests.harness.jobs import send
from tests.harness.rig import Fleet, Worker
from tests.support.waiting import until


def says_that_it_is_stuck(fleet: Fleet, worker: Worker) -> bool:
    beat: Beat | None = fleet.beating().get(worker.name)
    return beat is not None and beat.stuck_seconds > 0


def test_of_a_stuck_worker_the_running_finish_and_the_others_are_run_by_another_one(
    fleet: Fleet,
) -> None:
    runs = [send(fleet, kind) for kind in ("select", "insert", "chart", "made")]
    first = {job.id: fleet.machine(job.runs()) for job in runs}
    stuck = fleet.workers[first[runs[1].id]]
    (other,) = fleet.workers.keys() - {stuck.name}
    with stuck.stuck():
        # What its connection has received it does not see: these are sent again.
        sent = [fleet.send(f"select {number} as number") for number in range(4)]
        until(lambda: says_that_it_is_stuck(fleet, stuck), "it says so")
        sent += [fleet.send(f"select {number} as number") for number in range(4, 6)]
        for number, query in enumerate(fleet.wait(sent)):
            assert fleet.rows(query) == [[number]]
            assert (query.worker, fleet.runs(query)) == (other, 1)
        fleet.let_go(*(job.name for job in runs))
        for job in runs:
            job.succeeds(number=1, runs=1)
    fleet.wait_for_takers(stuck.name)
    until(fleet.idle, "what it had received is skipped")
    fleet.workers[other].stop()
    assert fleet.workers[other].process.wait() == 0
    (after,) = fleet.wait([fleet.send("select 1 as one")])
    assert (after.status, after.worker) == ("success", stuck.name)


def test_where_the_only_worker_is_stuck_queries_are_refused_and_what_waits_fails(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin()
    fleet.wait_for_redis()
    fleet.start_watchdog()
    only = fleet.start_worker("vm-1")
    with only.stuck():
        waiting = [fleet.send("select 1 as one") for _ in range(2)]
        until(lambda: says_that_it_is_stuck(fleet, only), "it says so")
        refused = fleet.send("select 1 as one")
        assert refused.status == "refused"
        assert "No worker takes queries from the queue 'sql_lab'" in refused.error
        health = until(lambda: (said := fleet.health())["code"] == 503 and said, "it is seen")
        assert health["queues"]["sql_lab"]["slots"] == 0
        for query in fleet.wait(waiting):
            assert query.status == "failed"
            assert "No worker takes queries from the queue 'sql_lab'" in query.error
            assert fleet.runs(query) == 0
    fleet.wait_for_takers("vm-1")
    (after,) = fleet.wait([fleet.send("select 1 as one")])
    assert fleet.rows(after) == [[1]]
