"""What publishers, workers and the watchdog tell each other through Redis."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from superset_fleet.state import registry as guard
from superset_fleet.state.records import (
    GroupReport,
    Job,
    Queue,
    Report,
    Resize,
    Run,
    Wake,
    Worker,
)
from superset_fleet.state.registry import SCALER, Registry
from superset_fleet.times import TIMES
from tests.support.servers import Mute

WORKER = Worker(host="vm", pid=1, queues=["sql_lab", "charts"], slots=2)
JOB = Job(task="sql_lab.get_sql_results", task_id="t", queue="sql_lab")
MESSAGE = json.dumps({"args": [17, "select 1"], "kwargs": {}})
STREAMS = {"async-events-channel": 1000, "async-events-full": 1000}


@pytest.fixture
def registry(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An empty registry on a Redis that is not taken for one that has just started."""
    monkeypatch.setattr(guard, "TIMES", replace(TIMES, redis_start_seconds=-1))
    registry = Registry(redis_url)
    registry.redis.flushall()
    yield registry
    registry.redis.close()


def silence(registry: Registry, seconds: float) -> None:
    """Let the worker's last beat be so long ago."""
    then = registry.now() - seconds
    for key in (guard.WORKERS, "guard:queue:sql_lab", "guard:queue:charts"):
        if registry.redis.exists(key):
            registry.redis.zadd(key, {"worker@vm#1": then})
    for queue in WORKER.queues:
        registry.redis.set(f"guard:seen:{queue}", then)


def test_a_redis_that_hangs_is_asked_once(mute: Mute) -> None:
    with pytest.raises(redis.TimeoutError):
        Registry(mute.url, timeout_seconds=0.1).now()
    assert mute.connections == 1


def test_a_job_is_refused_where_no_worker_was_ever_seen(registry: Registry) -> None:
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE) == Queue(0, None)
    assert registry.jobs() == {}


def test_a_job_is_written_down_where_a_worker_takes_from_its_queue(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE) is None
    job = registry.jobs()["query:17"]
    assert replace(job, at=0.0) == JOB
    assert job.at == pytest.approx(registry.now(), abs=10)
    assert registry.message("query:17") == {"args": [17, "select 1"], "kwargs": {}}


def test_a_worker_of_another_queue_does_not_count(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    assert registry.admit("reports", "query:17", JOB, MESSAGE) == Queue(0, None)


def test_a_job_is_refused_when_the_worker_has_been_silent(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    silence(registry, TIMES.silent_seconds + 1)
    refused = registry.admit("sql_lab", "query:17", JOB, MESSAGE)
    assert refused is not None and refused.silent_seconds is not None
    assert refused.silent_seconds > TIMES.silent_seconds


def test_nothing_is_refused_while_workers_come_back_to_a_redis_that_has_just_started(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "TIMES", replace(TIMES, redis_start_seconds=3600))
    registry.beat("worker@vm#1", WORKER)
    silence(registry, TIMES.silent_seconds + 1)
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE) is None


def test_a_worker_that_withdraws_takes_no_more_work_from_that_moment(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    registry.withdraw("worker@vm#1", WORKER.queues)
    registry.beat("worker@vm#1", replace(WORKER, draining=True, active=["query:3"]))
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE) is not None
    assert registry.workers()["worker@vm#1"].active == ["query:3"]


def test_a_worker_that_stops_leaves_nothing_but_when_it_was_seen(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    registry.leave("worker@vm#1", WORKER.queues)
    assert registry.workers() == {}
    assert registry.queue("sql_lab").workers == 0
    assert registry.queue("sql_lab").silent_seconds is not None
    assert registry.queues() == ["charts", "sql_lab"]


def test_a_dead_worker_is_still_shown(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    silence(registry, 60)
    assert registry.now() - registry.workers()["worker@vm#1"].last_beat > 59


def test_records_of_a_newer_release_are_understood(registry: Registry) -> None:
    registry.redis.hset(guard.RUNS, "query:1", json.dumps({**vars(RUN), "colour": "red"}))
    assert registry.run("query:1") == RUN


RUN = Run(worker="worker@vm#1", token="1", read_only=True)


def test_only_one_run_takes_a_job(registry: Registry) -> None:
    assert registry.take("chart:x", RUN, instead="")
    assert not registry.take("chart:x", replace(RUN, token="2"), instead="")
    taken = registry.run("chart:x")
    assert taken is not None and taken.token == "1"


def test_a_job_that_was_released_is_taken_again(registry: Registry) -> None:
    registry.take("chart:x", RUN, instead="")
    assert registry.release("chart:x", RUN.token)
    assert registry.take("chart:x", replace(RUN, token="2"), instead="")


def test_a_run_that_is_another_s_by_now_is_not_released(registry: Registry) -> None:
    registry.take("chart:x", replace(RUN, token="2"), instead="")
    assert not registry.release("chart:x", RUN.token)
    assert registry.run("chart:x")


def test_it_is_told_for_how_long_a_name_was_noticed_without_a_break(registry: Registry) -> None:
    assert registry.noticed(["query:1", "query:2"]) == {"query:1": 0, "query:2": 0}
    registry.redis.hset(guard.NOTICED, "query:1", registry.now() - 60)
    assert registry.noticed(["query:1"])["query:1"] >= 60
    assert registry.noticed(["query:2"]) == {"query:2": 0}
    assert registry.redis.hkeys(guard.NOTICED) == ["query:2"]


def test_a_chart_has_one_last_event_and_is_forgotten_with_it(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    registry.admit("charts", "chart:x", JOB, MESSAGE)
    registry.take("chart:x", RUN, instead="")
    assert registry.finish("chart:x", "1", {"status": "done"}, STREAMS)
    assert not registry.finish("chart:x", "", {"status": "error"}, STREAMS)
    assert [registry.redis.xlen(stream) for stream in STREAMS] == [1, 1]
    assert registry.jobs() == {} == registry.runs()
    assert registry.finished("chart:x")


def test_a_run_that_lost_its_chart_writes_no_event(registry: Registry) -> None:
    registry.take("chart:x", replace(RUN, token="2"), instead="")
    assert not registry.finish("chart:x", "1", {"status": "done"}, STREAMS)
    assert registry.redis.exists(*STREAMS) == 0


def test_a_finished_job_is_forgotten_altogether(registry: Registry) -> None:
    registry.beat("worker@vm#1", WORKER)
    registry.admit("sql_lab", "query:17", JOB, MESSAGE)
    registry.take("query:17", RUN)
    registry.forget("query:17")
    assert registry.jobs() == {} == registry.runs()
    assert registry.message("query:17") is None


def test_decisions_are_counted(registry: Registry) -> None:
    registry.decided("rerun")
    registry.decided("rerun")
    assert registry.decisions() == {"rerun": 2}


# -- Queues whose workers are started -------------------------------------------------------------
STARTING = Wake("fleet-celery_worker", "starting", since=1784800000.0, desired=1, why="1 waits")
READY = replace(STARTING, state="ready", since=0.0, desired=0, why="nothing waits")
CANNOT = replace(READY, state="cannot", why="the group's largest size is 0")


@pytest.mark.parametrize("wake", [READY, STARTING])
def test_a_job_is_written_down_where_a_worker_is_started_for_it(
    registry: Registry, wake: Wake
) -> None:
    registry.wakes({"sql_lab": wake})
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE, wake=True) is None
    assert list(registry.jobs()) == ["query:17"]
    assert registry.message("query:17") == {"args": [17, "select 1"], "kwargs": {}}


@pytest.mark.parametrize("wake", [READY, STARTING, CANNOT])
def test_who_does_not_wait_for_workers_is_refused_whatever_the_scaler_says(
    registry: Registry, wake: Wake
) -> None:
    registry.wakes({"sql_lab": wake})
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE) == Queue(0, None)
    assert registry.jobs() == {}


def test_a_job_is_refused_with_the_reason_where_no_worker_can_be_started(
    registry: Registry,
) -> None:
    registry.wakes({"sql_lab": CANNOT})
    refused = registry.admit("sql_lab", "query:17", JOB, MESSAGE, wake=True)
    assert refused == Queue(0, None, CANNOT)
    assert refused.not_started == CANNOT.why


def test_a_worker_that_is_started_for_another_queue_does_not_count(registry: Registry) -> None:
    registry.wakes({"reports": STARTING})
    refused = registry.admit("sql_lab", "query:17", JOB, MESSAGE, wake=True)
    assert refused == Queue(0, None, None)
    assert "is silent" in refused.not_started


def test_the_scaler_s_word_does_not_count_for_longer_than_it_is_given_anew(
    registry: Registry,
) -> None:
    registry.wakes({"sql_lab": STARTING})
    assert 0 < registry.redis.pttl("guard:wake:sql_lab") <= TIMES.wake_seconds * 1000
    registry.redis.delete("guard:wake:sql_lab")  # as that time does
    assert registry.admit("sql_lab", "query:17", JOB, MESSAGE, wake=True) is not None


def test_a_queue_has_what_the_scaler_says_of_it(registry: Registry) -> None:
    assert registry.queue("sql_lab") == Queue(0, None, None)
    registry.wakes({"sql_lab": STARTING, "charts": CANNOT})
    assert registry.queue("sql_lab").wake == STARTING
    assert registry.queue("sql_lab").starts
    assert not registry.queue("charts").starts


def test_a_report_of_another_release_is_read_as_far_as_it_is_known(registry: Registry) -> None:
    """An upgrade of the schedulers leaves the report of the release before."""
    group = {"name": "g", "queues": ["sql_lab"], "desired": 2, "novelty": 1}
    changed = {"at": 5.0, "from": 1, "to": 2, "why": "1 → 2"}
    said = {"scaler": "vm-1", "groups": [group | {"changed": changed}], "novelty": 1}
    registry.redis.set(SCALER, json.dumps(said))
    report = registry.reported()
    assert report
    assert (report.scaler, report.groups[0].desired) == ("vm-1", 2)
    assert report.groups[0].changed == Resize(at=5.0, why="1 → 2")


def test_a_report_is_read_as_it_was_written(registry: Registry) -> None:
    written = Report("vm-1", starts=[6.5], groups=[GroupReport("g", [], changed=Resize(1.0, 0, 1))])
    registry.report(written)
    report = registry.reported()
    assert report
    assert report.at > 0
    assert replace(report, at=0.0) == written
