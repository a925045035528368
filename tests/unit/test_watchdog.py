"""The watchdog: what it sees, what it decides, who leads. Its judgement is a table."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

import superset_fleet
from superset_fleet.state import facts
from superset_fleet.state.broker import Messages
from superset_fleet.state.registry import Job, Queue, Run, Wake, Worker
from superset_fleet.state.rows import Row
from superset_fleet.watchdog.judge import FORGET, judge, judge_unknown
from superset_fleet.watchdog.sight import (
    Case,
    Limits,
    Observed,
    Sight,
    cases,
    rows_without_job,
    silences,
)

JOB = Job(task="sql_lab.get_sql_results", task_id="t", queue="sql_lab", at=1000.0)
READS, WRITES = (Run("worker@vm#1", "7", read_only=each, at=1000.0) for each in (True, False))
LIMITS = Limits(time_limit_seconds=3660, reruns=1)
WAITS = Case("query:17", JOB, "pending")
RUNS = Case("query:17", JOB, "running", Decimal(7), READS, "worker@vm#1", 1784800000.0)
CHART = replace(RUNS, name="chart:x", token=None)


def gone(case: Case, orphan_seconds: float = 6.0, **values: Any) -> Case:
    """The same, but for so long nobody has had it."""
    return replace(case, orphan_seconds=orphan_seconds, **values)


# -- What is decided ------------------------------------------------------------------------------
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
STARTING = Wake("fleet-celery_worker", "starting", 1784800000.0, desired=1, why="1 waits")
READY = replace(STARTING, state="ready", since=0.0)
CANNOT = replace(READY, state="cannot", why="its largest size is 0")
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
        # A run that goes on, and the end.
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
    ):
        assert "its outcome is unknown" in reason(case)
        assert "Check the data before you run it again." in reason(case)


def test_a_user_is_told_of_a_killed_process_and_not_of_a_stopped_worker() -> None:
    told = reason(gone(RUNS, run=WRITES, process_only=True))
    assert "The process that ran this query on the worker vm was killed" in told


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
def test_a_row_that_nobody_knows_is_ended_in_time(
    status: str, seconds: float, worker: Worker | None, event: str | None
) -> None:
    decision = judge_unknown(status, seconds, worker, 1784800000.0, LIMITS)
    assert (decision.event if decision else None) == event


# -- What is seen ---------------------------------------------------------------------------------
class Scene:
    """A watchdog's view of workers that beat once a second, without any server."""

    def __init__(self, *jobs: str) -> None:
        self.time = 5000.0
        self.observed = Observed(lambda: self.time)
        self.workers: dict[str, Worker] = {}
        self.alive: set[str] = set()
        self.sight = Sight(
            now=2000.0,
            jobs=dict.fromkeys(jobs, JOB),
            queues={"sql_lab": Queue(0, 60.0)},
            rows={17: Row("pending", None)},
        )

    def add(self, name: str, **values: Any) -> None:
        """Let a worker begin to beat."""
        self.workers[name] = Worker("vm", 1, ["sql_lab"], 2, **values)
        self.alive.add(name)

    def look(self, seconds: int, **values: Any) -> dict[str, Case]:
        """Look once a second for so long; what is given is seen from the first look on."""
        self.sight = replace(self.sight, **values)
        for _ in range(seconds):
            self.time += 1
            for name in self.alive:
                self.workers[name] = replace(self.workers[name], last_beat=self.time)
            self.sight = replace(self.sight, workers=dict(self.workers))
            self.observed.begin()
            found = {case.name: case for case in cases(self.sight, self.observed)}
        return found


RUNNING = {"rows": {17: Row("running", Decimal(7))}, "runs": {"query:17": READS}}


def test_a_worker_that_beats_has_what_it_says() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    case = scene.look(60, **RUNNING)["query:17"]
    assert case.held and case.worker == "worker@vm#1" and not case.queue_silent


def test_a_job_has_been_an_orphan_since_the_last_beat_of_its_worker() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.add("worker@vm#2")
    scene.look(10, **RUNNING)
    scene.alive.remove("worker@vm#1")
    assert scene.look(5)["query:17"].held
    case = scene.look(1)["query:17"]
    assert not case.held and case.orphan_seconds == 6
    assert not case.process_only and not case.queue_silent


def test_the_only_worker_of_a_queue_leaves_it_silent() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    assert not scene.look(10)["query:17"].queue_silent
    scene.alive.clear()
    assert not scene.look(5)["query:17"].queue_silent
    case = scene.look(1)["query:17"]
    assert case.queue_silent and case.queue_seen == 1940.0


def queue_of(wake: Wake | None, silent: float | None = 60.0) -> dict[str, Any]:
    """A queue without a worker, of which the scaler says this."""
    return {"queues": {"sql_lab": Queue(0, silent, wake)}}


def test_a_queue_is_unstarted_since_the_scaler_s_word_is_gone() -> None:
    scene = Scene("query:17")
    assert scene.look(60, **queue_of(STARTING))["query:17"].unstarted_seconds == 0
    assert scene.look(10, **queue_of(None))["query:17"].unstarted_seconds == 9
    assert scene.look(10, **queue_of(CANNOT))["query:17"].unstarted_seconds == 19
    # Another scaler leads.
    assert scene.look(1, **queue_of(READY))["query:17"].unstarted_seconds == 0
    assert scene.look(1, **queue_of(None))["query:17"].unstarted_seconds == 0


def test_a_watchdog_that_begins_to_look_gives_the_scaler_time() -> None:
    scene = Scene("query:17")
    scene.look(60, **queue_of(None))
    scene.observed.restart()
    assert scene.look(10)["query:17"].unstarted_seconds == 9


@pytest.mark.parametrize(
    ("sent", "silent", "waited"),
    [(1000.0, None, 1000.0), (1000.0, 60.0, 60.0), (1990.0, 60.0, 10.0)],
)
def test_a_query_waits_since_it_was_sent_and_since_the_last_worker_was_seen(
    sent: float, silent: float | None, waited: float
) -> None:
    scene = Scene()
    jobs = {"query:17": replace(JOB, at=sent)}
    case = scene.look(1, jobs=jobs, **queue_of(STARTING, silent))["query:17"]
    assert case.waited_seconds == waited


def test_a_worker_that_is_on_its_way_back_to_the_broker_may_take_from_each_queue() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    scene.look(10)
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], queues=[])
    assert not scene.look(60)["query:17"].queue_silent


def test_a_worker_of_another_queue_does_not_take_from_this_one() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], queues=["reports"])
    assert scene.look(7)["query:17"].queue_silent


def test_a_worker_that_drains_takes_nothing_and_keeps_what_it_runs() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"], draining=True)
    case = scene.look(10, **RUNNING)["query:17"]
    assert case.held and case.queue_silent


def test_a_job_whose_process_was_killed_is_seen_although_its_worker_beats() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], active=[])
    case = scene.look(7)["query:17"]
    assert case.orphan_seconds == 6 and case.process_only and case.ran_seconds == 1000


def test_a_worker_that_said_good_bye_leaves_an_orphan() -> None:
    scene = Scene("query:17")
    case = scene.look(7, **RUNNING)["query:17"]
    assert case.orphan_seconds == 6 and not case.process_only and case.last_beat is None


def test_a_record_of_an_earlier_run_says_nothing_of_this_one() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    scene.add("worker@vm#2", active=["query:17"])
    earlier = {"query:17": replace(READS, token="6")}
    case = scene.look(10, rows=RUNNING["rows"], runs=earlier)["query:17"]
    assert case.held and case.worker == "worker@vm#2" and not case.read_only


def test_a_job_that_a_worker_has_reserved_is_held() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    assert scene.look(10, absent={"query:17"})["query:17"].held


def test_a_job_that_a_dead_worker_had_reserved_is_an_orphan() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    scene.add("worker@vm#2")
    scene.look(10)
    scene.alive.remove("worker@vm#1")
    case = scene.look(6)["query:17"]
    assert case.orphan_seconds == 6 and case.worker == "worker@vm#1"


def test_what_a_dead_worker_had_before_the_job_was_sent_again_does_not_count() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", reserved=["query:17"])
    scene.look(1)
    scene.alive.clear()
    sent_again = {"query:17": replace(JOB, attempt=2, at=scene.time + 1)}
    assert scene.look(10, jobs=sent_again)["query:17"].orphan_seconds == 0


def test_a_run_that_has_only_just_begun_is_not_taken_for_that_of_a_dead_worker() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.alive.clear()
    sent_again = {"query:17": replace(JOB, attempt=2, at=scene.time + 1)}
    scene.look(60, jobs=sent_again, rows={17: Row("pending", None)}, runs={})
    # The next worker has claimed the row, and has neither written down its run nor beaten since.
    case = scene.look(1, rows={17: Row("running", Decimal(8))})["query:17"]
    assert case.orphan_seconds == 0
    scene.add("worker@vm#2", active=["query:17"])
    case = scene.look(60)["query:17"]
    assert case.held and case.worker == "worker@vm#2"


def test_a_message_that_was_in_no_queue_is_missed_only_when_no_worker_names_its_job() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1")
    assert scene.look(10)["query:17"].orphan_seconds == 0
    assert scene.look(7, absent={"query:17"})["query:17"].orphan_seconds == 6
    scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], active=["query:17"])
    assert scene.look(1)["query:17"].held


def test_a_chart_runs_when_a_run_is_written_down() -> None:
    scene = Scene("chart:x")
    scene.add("worker@vm#1", active=["chart:x"])
    assert scene.look(1)["chart:x"].status == "pending"
    case = scene.look(1, runs={"chart:x": READS})["chart:x"]
    assert case.status == "running" and case.held and case.read_only


def test_a_job_without_a_row_is_finished() -> None:
    assert Scene("query:18").look(1)["query:18"].status == ""


def test_nothing_was_observed_while_nobody_looked() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.alive.clear()
    scene.time += 60
    assert scene.look(6)["query:17"].held
    assert not scene.look(1)["query:17"].held


def test_observing_begins_anew_after_an_outage() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.alive.clear()
    scene.look(5)
    scene.observed.restart()
    assert scene.look(6)["query:17"].held
    assert not scene.look(1)["query:17"].held


def test_a_wrong_clock_of_redis_makes_no_worker_silent() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:17"])
    scene.look(10, **RUNNING)
    scene.sight = replace(scene.sight, now=-3600.0)
    for _ in range(10):
        beat = scene.workers["worker@vm#1"].last_beat
        scene.workers["worker@vm#1"] = replace(scene.workers["worker@vm#1"], last_beat=beat - 3600)
        scene.alive.clear()
        case = scene.look(1)["query:17"]
    assert case.held and not case.queue_silent


def test_rows_without_job_are_those_that_are_in_no_register_and_with_no_worker_that_lives() -> None:
    scene = Scene("query:17")
    scene.add("worker@vm#1", active=["query:1"])
    scene.add("worker@vm#2", active=["query:2"])
    scene.look(1)
    scene.alive.remove("worker@vm#2")
    scene.look(6)
    unfinished = {number: Row("running", None) for number in (1, 2, 3, 17)}
    unknown, died = rows_without_job(scene.sight, silences(scene.sight, scene.observed), unfinished)
    assert list(unknown) == [2, 3]
    assert died == {2: scene.workers["worker@vm#2"]}


# -- The broker -----------------------------------------------------------------------------------
@pytest.fixture
def empty(redis_url: str) -> str:
    """URL of a Redis without anything in it."""
    redis.Redis.from_url(redis_url).flushall()
    return redis_url


def test_messages_are_found_whatever_their_priority_and_number(empty: str) -> None:
    celery = Celery(broker=empty, set_as_current=False)
    for number in range(450):
        celery.send_task("sql_lab.get_sql_results", [number, "select 1"], queue="sql_lab")
    celery.send_task("sql_lab.get_sql_results", [900, "s"], queue="sql_lab", priority=6)
    celery.send_task("load_chart_data_into_cache", [{"job_id": "x"}, {}], queue="charts")
    celery.send_task("reports.scheduler", queue="charts")
    expected = {f"query:{number}" for number in (*range(450), 900)}
    assert Messages(empty).waiting(["sql_lab", "no_such"]) == expected
    assert Messages(empty).waiting(["charts"]) == {"chart:x"}


def test_what_is_no_message_of_celery_is_passed_over(empty: str) -> None:
    redis.Redis.from_url(empty).lpush("sql_lab", "no json", "{}", json.dumps({"body": "="}))
    assert Messages(empty).waiting(["sql_lab"]) == set()


def test_of_another_broker_than_redis_nothing_is_known() -> None:
    assert Messages("amqp://nobody").waiting(["sql_lab"]) is None


def facts_of(server: dict[str, Any]) -> str:
    """The facts where all is on one server."""
    database = {**server, "name": "superset", "user": "superset"}
    return json.dumps({"redis": {"coordination": server}, "database": database})


@contextmanager
def process(named: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A watchdog as the unit starts it."""
    source = Path(superset_fleet.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-m", "superset_fleet.watchdog", "--time-limit", "60"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source), "SUPERSET_FACTS": str(named), **environment},
    ) as dog:
        try:
            yield dog
        finally:
            dog.kill()


def test_without_servers_it_is_ready_says_so_once_and_ends_cleanly(tmp_path: Path) -> None:
    with socket.socket() as closed, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        nowhere = {"host": "127.0.0.1", "port": closed.getsockname()[1], "password": "secret"}
        named = tmp_path / "facts"
        named.write_text(facts_of(nowhere))
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        with process(named, **environment) as dog:
            states = [systemd.recv(100) for _ in range(4)]
            dog.send_signal(signal.SIGTERM)
            _, log = dog.communicate(timeout=30)
    assert [state.partition(b"Error")[0] for state in states] == [
        b"READY=1\nWATCHDOG=1\nSTATUS=Connection",
        *[b"WATCHDOG=1\nSTATUS=Connection"] * 3,
    ]
    assert dog.returncode == 0
    assert log.count("\n") == 1 and log.startswith("event=trouble reason=")
    assert "secret" not in log


def test_a_leader_lets_go_when_it_is_ended(empty: str, tmp_path: Path) -> None:
    location = urlsplit(empty)
    server = {"host": location.hostname, "port": location.port, "password": ""}
    client = redis.Redis(host=str(location.hostname), port=location.port or 0, db=facts.GUARD)
    named = tmp_path / "facts"
    named.write_text(facts_of(server))
    with process(named) as dog:
        deadline = time.monotonic() + 30
        while not client.exists("guard:leader"):
            assert time.monotonic() < deadline, "nobody leads"
            time.sleep(0.05)
        dog.send_signal(signal.SIGTERM)
        assert dog.wait(30) == 0
    assert not client.exists("guard:leader")
