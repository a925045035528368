"""What the watchdog decides: a table."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from superset_fleet.state.records import Queue, Wake, Worker
from superset_fleet.watchdog.judge import FORGET, judge, judge_unknown
from superset_fleet.watchdog.sight import Case, Limits
from tests.unit.watchdog.examples import CANNOT, JOB, READS, READY, STARTING, WRITES

LIMITS = Limits(time_limit_seconds=3660, reruns=1)
WAITS = Case("query:17", JOB, "pending")
RUNS = Case("query:17", JOB, "running", Decimal(7), READS, "worker@vm#1", 1784800000.0)
CHART = replace(RUNS, name="chart:x", token=None)


def gone(case: Case, orphan_seconds: float = 6.0, **values: Any) -> Case:
    """The same, but for so long nobody has had it."""
    return replace(case, orphan_seconds=orphan_seconds, **values)


def dropped(case: Case, **values: Any) -> Case:
    """The same, but its database has dropped it."""
    case = replace(case, **values)
    assert case.run
    return replace(case, run=replace(case.run, dropped="server closed the connection"))


@pytest.mark.parametrize(
    ("case", "event"),
    [
        # Finished, or its row was deleted.
        (replace(RUNS, status="success"), FORGET),
        (gone(RUNS, status="failed"), FORGET),
        (replace(WAITS, status="stopped", queue_silent=True), FORGET),
        (replace(WAITS, status="timed_out"), FORGET),
        (replace(WAITS, status=""), FORGET),
        # It waits.
        (WAITS, None),
        (replace(WAITS, held=True), None),
        (replace(WAITS, held=True, queue_silent=True), None),
        (gone(WAITS, orphan_seconds=5.9), None),
        (replace(WAITS, queue_silent=True), "failed_no_worker"),
        (gone(WAITS, queue_silent=True), "failed_no_worker"),
        (gone(WAITS), "resent"),
        (gone(WAITS, job=replace(JOB, attempt=2)), "resent"),
        (gone(WAITS, job=replace(JOB, attempt=3)), "failed_lost"),
        # It runs.
        (replace(RUNS, held=True), None),
        (replace(RUNS, held=True, queue_silent=True, ran_seconds=9999.0), None),
        (gone(RUNS, orphan_seconds=5.9), None),
        (replace(RUNS, queue_silent=True), None),
        # Nobody runs it any more.
        (gone(RUNS), "rerun"),
        (gone(RUNS, process_only=True), "rerun"),
        (gone(RUNS, run=WRITES), "failed_worker_died"),
        (gone(RUNS, run=WRITES, process_only=True), "failed_worker_died"),
        (gone(RUNS, run=None, worker=""), "failed_worker_died"),
        (gone(RUNS, queue_silent=True), "failed_worker_died"),
        (gone(RUNS, job=replace(JOB, attempt=2)), "failed_worker_died"),
        # Its database dropped it.
        (dropped(RUNS), "rerun"),
        (dropped(RUNS, held=True), None),
        (dropped(RUNS, run=WRITES), "failed_dropped"),
        (dropped(RUNS, queue_silent=True), "failed_dropped"),
        (dropped(RUNS, job=replace(JOB, attempt=2)), "failed_dropped"),
        (dropped(RUNS, status="stopped"), FORGET),
        # Its worker killed it at the time limit.
        (gone(RUNS, process_only=True, ran_seconds=3660.0), "failed_time_limit"),
        (gone(RUNS, process_only=True, ran_seconds=3659.0), "rerun"),
        (gone(RUNS, ran_seconds=3660.0), "rerun"),
        (
            gone(RUNS, run=WRITES, process_only=True, ran_seconds=4e3),
            "failed_time_limit",
        ),
        # Charts change nothing.
        (replace(CHART, held=True), None),
        (gone(CHART), "rerun"),
        (gone(CHART, queue_silent=True), "failed_worker_died"),
        (replace(CHART, status="pending", run=None, queue_silent=True), "failed_no_worker"),
        (gone(CHART, status="pending", run=None), "resent"),
    ],
)
def test_each_case_has_its_decision(case: Case, event: str | None) -> None:
    decision = judge(case, LIMITS)
    assert (decision.event if decision else None) == event


@pytest.mark.parametrize(
    ("reruns", "attempt", "event"),
    [
        (0, 1, "failed_worker_died"),
        (1, 1, "rerun"),
        (3, 3, "rerun"),
        (3, 4, "failed_worker_died"),
    ],
)
def test_a_query_is_run_again_as_often_as_allowed(reruns: int, attempt: int, event: str) -> None:
    case = gone(RUNS, job=replace(JOB, attempt=attempt))
    decision = judge(case, Limits(3660, reruns))
    assert decision and decision.event == event


WAKES = replace(LIMITS, wake_timeout_seconds=300)
SLEEPS = replace(WAITS, queue_silent=True)


def asleep(wake: Wake | None, case: Case = SLEEPS, **values: Any) -> Case:
    """The same, on a queue without a worker, of which the scaler says this."""
    return replace(case, queue_silent=True, queue=Queue(0, None, wake), **values)


@pytest.mark.parametrize(
    ("case", "event"),
    [
        # While a worker is started, what waits for it waits, and it is said.
        (asleep(READY), None),
        (asleep(STARTING), "waits"),
        (asleep(STARTING, CHART, status="pending", run=None), "waits"),
        (asleep(STARTING, waited_seconds=299.0), "waits"),
        (asleep(STARTING, waited_seconds=300.0), "failed_not_woken"),
        (asleep(READY, waited_seconds=300.0), "failed_not_woken"),
        (asleep(CANNOT, waited_seconds=300.0, unstarted_seconds=1.0), "failed_not_woken"),
        # What is busy is not asleep, however long something waits.
        (replace(WAITS, waited_seconds=9999.0), None),
        (replace(WAITS, unstarted_seconds=9999.0), None),
        (replace(WAITS, queue=Queue(1, 0.4, STARTING), waited_seconds=9999.0), None),
        # It is said at once, and not when the queue has been silent for long.
        (replace(asleep(STARTING), queue_silent=False), "waits"),
        # Nobody says any more that he starts one.
        (asleep(None, unstarted_seconds=14.0), None),
        (asleep(None, unstarted_seconds=15.0), "failed_no_worker"),
        (asleep(CANNOT, unstarted_seconds=14.0), None),
        (asleep(CANNOT, unstarted_seconds=15.0), "failed_no_worker"),
        (asleep(None, CHART, status="pending", unstarted_seconds=15.0), "failed_no_worker"),
        # Its message was lost: nothing in a queue wakes nobody.
        (asleep(READY, orphan_seconds=6.0), "resent"),
        (asleep(STARTING, orphan_seconds=6.0, job=replace(JOB, attempt=3)), "failed_lost"),
        # The worker died: what may run twice waits for the next one.
        (asleep(READY, gone(RUNS)), "rerun"),
        (asleep(STARTING, gone(RUNS), waited_seconds=9999.0), "rerun"),
        (asleep(STARTING, gone(CHART)), "rerun"),
        (asleep(None, gone(RUNS), unstarted_seconds=14.0), "rerun"),
        (asleep(None, gone(RUNS), unstarted_seconds=15.0), "failed_worker_died"),
        (asleep(STARTING, gone(RUNS, job=replace(JOB, attempt=2))), "failed_worker_died"),
        (asleep(STARTING, gone(RUNS, run=WRITES)), "failed_worker_died"),
        # A run that goes on, and a query that was stopped.
        (asleep(STARTING, replace(RUNS, held=True)), None),
        (asleep(STARTING, replace(WAITS, status="stopped")), FORGET),
    ],
)
def test_a_query_waits_for_a_worker_as_long_as_one_is_started(
    case: Case, event: str | None
) -> None:
    decision = judge(case, WAKES)
    assert (decision.event if decision else None) == event


@pytest.mark.parametrize("wake", [STARTING, READY, CANNOT, None])
def test_who_is_not_to_wait_for_workers_fails_whatever_the_scaler_says(wake: Wake | None) -> None:
    assert judge(replace(asleep(wake), queue_silent=False), LIMITS) is None
    for case, event in ((SLEEPS, "failed_no_worker"), (gone(RUNS), "failed_worker_died")):
        silent = replace(case, queue_silent=True)
        decision = judge(asleep(wake, case), LIMITS)
        assert decision == judge(silent, LIMITS)
        assert decision and decision.event == event


def reason(case: Case, limits: Limits = LIMITS) -> str:
    """What a user is told."""
    decision = judge(case, limits)
    assert decision
    return decision.reason


def test_a_user_is_told_which_worker_stopped_when_and_what_to_do() -> None:
    told = reason(gone(RUNS, queue_silent=True))
    assert "The worker vm that ran this query stopped" in told
    assert "2026-07-23 09:46:40 UTC" in told
    assert "no other worker takes from the queue 'sql_lab'" in told
    assert "Nothing was changed by it; run it again when a worker is back" in told


def test_a_user_whose_query_may_have_changed_data_is_told_to_look_first() -> None:
    for case in (
        gone(RUNS, run=WRITES),
        gone(RUNS, run=None, worker=""),
        gone(RUNS, run=WRITES, process_only=True, ran_seconds=3660.0),
        dropped(RUNS, run=WRITES),
    ):
        assert "its outcome is unknown" in reason(case)
        assert "Check the data before you run it again." in reason(case)


def test_a_user_is_told_of_a_killed_process_and_not_of_a_stopped_worker() -> None:
    told = reason(gone(RUNS, run=WRITES, process_only=True))
    assert "The process that ran this query on the worker vm was killed" in told


def test_a_user_is_told_what_the_database_said_that_dropped_a_query() -> None:
    told = reason(dropped(RUNS, job=replace(JOB, attempt=2)))
    assert "The database dropped the connection" in told
    assert "(server closed the connection). This was attempt 2" in told
    assert told.endswith("Nothing was changed by it; run it again.")


def test_a_user_is_told_since_when_a_queue_has_no_worker() -> None:
    empty = replace(WAITS, queue_silent=True)
    assert "queue 'sql_lab' (none was ever seen)" in reason(empty)
    assert "seen at 2026-07-23 09:46:40 UTC" in reason(replace(empty, queue_seen=1784800000.0))


def test_a_user_is_told_since_when_a_worker_is_started_and_how_long_a_query_waits() -> None:
    told = reason(asleep(STARTING), WAKES)
    assert "one was asked for at 2026-07-23 09:46:40 UTC" in told
    assert "fails if none has come within 300 seconds" in told


@pytest.mark.parametrize(
    ("wake", "words"),
    [
        (STARTING, "one was asked for at 2026-07-23 09:46:40 UTC: 1 waits"),
        (READY, "none was asked for: 1 waits"),
        (CANNOT, "none is started by now: its largest size is 0"),
        (None, "none is started by now: the scaler, which would start one, is silent"),
    ],
)
def test_a_user_whose_query_waited_in_vain_is_told_what_the_scaler_says(
    wake: Wake | None, words: str
) -> None:
    told = reason(asleep(wake, waited_seconds=301.2), WAKES)
    assert "No worker has taken queries from the queue 'sql_lab' within 301 seconds" in told
    assert words in told
    assert "was not started and has not touched the database" in told


@pytest.mark.parametrize("case", [SLEEPS, gone(RUNS)])
@pytest.mark.parametrize(
    ("wake", "words"),
    [(CANNOT, "(its largest size is 0)"), (None, "(the scaler, which would start one, is silent)")],
)
def test_a_user_is_told_why_no_worker_is_started(case: Case, wake: Wake | None, words: str) -> None:
    assert f"none is started {words}" in reason(asleep(wake, case, unstarted_seconds=15.0), WAKES)


def test_a_user_whose_query_stops_its_workers_is_told_so_though_one_is_started() -> None:
    told = reason(asleep(STARTING, gone(RUNS, job=replace(JOB, attempt=2))), WAKES)
    assert "This was attempt 2, and no other one is made by itself" in told


def test_a_query_that_an_earlier_attempt_began_is_not_said_to_be_untouched() -> None:
    empty = replace(WAITS, queue_silent=True)
    assert "was not started and has not touched the database" in reason(empty)
    began = replace(empty, job=replace(JOB, attempt=2))
    assert "was not run again; nothing was changed by it" in reason(began)


@pytest.mark.parametrize(
    ("status", "seconds", "worker", "event"),
    [
        ("pending", 29.0, None, None),
        ("pending", 30.0, None, "failed_unknown"),
        ("running", 30.0, None, None),
        ("running", 3719.0, None, None),
        ("running", 3720.0, None, "failed_unknown"),
        ("running", 0.0, Worker("vm", 1, ["sql_lab"], 2), "failed_worker_died"),
    ],
)
def test_a_row_that_nobody_knows_fails_in_time(
    status: str, seconds: float, worker: Worker | None, event: str | None
) -> None:
    decision = judge_unknown(status, seconds, worker, 1784800000.0, LIMITS)
    assert (decision.event if decision else None) == event
