"""What the publish guard says, and by which names it knows jobs."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery

from superset_fleet.guard import publish, refusals, setup
from superset_fleet.guard.context import Guard
from superset_fleet.state.jobs import job_name, query_id_of
from superset_fleet.state.records import Queue, Wake, Worker
from superset_fleet.state.registry import Registry
from superset_fleet.times import TIMES
from tests.support.servers import Mute

METADATA = {"job_id": "1f0c", "channel_id": "c"}
AT_ONCE = replace(TIMES, redis_start_seconds=-1)  # Redis may have just started


@pytest.mark.parametrize(
    ("task", "args", "kwargs", "name"),
    [
        ("sql_lab.get_sql_results", [17, "select 1"], {}, "query:17"),
        ("sql_lab.get_sql_results", [], {"query_id": 17}, "query:17"),
        ("query_execution.execute_sql", (17, "select 1"), None, "query:17"),
        ("load_chart_data_into_cache", [METADATA, {}], {}, "chart:1f0c"),
        ("load_explore_json_into_cache", None, {"job_metadata": METADATA}, "chart:1f0c"),
        ("load_chart_data_into_cache", [], {}, ""),
        ("reports.scheduler", [17], {}, ""),
    ],
)
def test_a_job_is_named_after_the_query_or_the_chart_s_request(
    task: str, args: list[object] | None, kwargs: dict[str, object] | None, name: str
) -> None:
    assert job_name(task, args, kwargs) == name


def test_only_a_query_s_job_is_about_a_row() -> None:
    assert query_id_of("query:17") == 17
    assert query_id_of("chart:1f0c") is None
    assert query_id_of("") is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "none was ever seen"), (42.4, "seen 42 s ago"), (7200.0, "seen 120 min ago")],
)
def test_a_refusal_names_the_queue_and_since_when_it_has_no_worker(
    seconds: float | None, words: str
) -> None:
    message = refusals.no_worker("sql_lab", Queue(0, seconds), wake=False)
    assert "'sql_lab'" in message
    assert words in message
    assert "Run it again" in message
    assert "started (" not in message


@pytest.mark.parametrize(
    ("wake", "words"),
    [
        (None, "none is started (the scaler, which would start one, is silent)"),
        (Wake("g", "cannot", why="its largest size is 0"), "started (its largest size is 0)"),
    ],
)
def test_a_refusal_says_why_no_worker_is_started(wake: Wake | None, words: str) -> None:
    assert words in refusals.no_worker("sql_lab", Queue(0, 42.4, wake), wake=True)


def nothing(*_: object) -> None:
    """A task that does nothing."""


@pytest.fixture
def app() -> Celery:
    """Celery with two tasks, one of them routed."""
    app = Celery(broker="memory://")
    app.conf.update(
        task_default_queue="default",
        task_routes={"sql_lab.*": {"queue": "sql_lab"}},
    )
    return app


def test_the_queue_asked_for_is_the_one_that_celery_routes_to(app: Celery) -> None:
    routed = app.task(nothing, name="sql_lab.get_sql_results")
    other = app.task(nothing, name="other")
    assert publish.queue_name(routed, None, None, {}) == "sql_lab"
    assert publish.queue_name(routed, None, None, {"queue": "reports"}) == "reports"
    assert publish.queue_name(other, None, None, {}) == "default"


NOWHERE = "redis://127.0.0.1:1/0"


def guarded(guard: Guard, broker: str) -> Any:
    """Return a guarded task of Celery's."""
    app = Celery(broker=broker)
    app.conf.update(
        task_annotations=setup.task_annotations("superset_web", {"rate_limit": "7/m"}, guard),
        task_default_queue="sql_lab",
        task_ignore_result=True,
        task_publish_retry=False,
    )
    return app.task(nothing, name="sql_lab.get_sql_results")


def test_a_broker_that_does_not_answer_is_told_and_nothing_is_left_in_the_register(
    redis_url: str,
) -> None:
    guard = Guard(Registry(redis_url))
    guard.registry.beat("worker@vm#1", Worker("vm", 1, ["sql_lab"], 1))
    with pytest.raises(refusals.Refused, match="does not answer") as refused:
        guarded(guard, NOWHERE).delay(17, "select 1")
    assert (refused.value.reason, refused.value.job) == ("broker", "query:17")
    assert guard.registry.jobs() == {}


def test_a_broker_that_hung_a_moment_ago_is_not_waited_for_again(
    redis_url: str, mute: Mute
) -> None:
    guard = Guard(Registry(redis_url))
    guard.registry.beat("worker@vm#1", Worker("vm", 1, ["sql_lab"], 1))
    task = guarded(guard, mute.url)
    task.app.conf.update(
        broker_transport_options={"socket_timeout": 0.1},
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0},
    )
    connections = []
    for query in (17, 18):
        with pytest.raises(refusals.Refused, match=r"does not answer \(TimeoutError\)") as refused:
            task.delay(query, "select 1")
        assert (refused.value.reason, refused.value.job) == ("broker", f"query:{query}")
        connections.append(mute.connections)
    assert 0 < connections[0] == connections[1]
    assert guard.registry.jobs() == {}


def test_what_no_worker_takes_is_refused_and_does_not_reach_the_broker(redis_url: str) -> None:
    guard = Guard(Registry(redis_url))
    guard.registry.redis.flushall()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("superset_fleet.state.registry.TIMES", AT_ONCE)
        with pytest.raises(refusals.Refused, match="none was ever seen"):
            guarded(guard, redis_url).delay(17, "select 1")
    assert guard.registry.redis.llen("sql_lab") == 0


@pytest.mark.parametrize(("wake", "sent"), [(False, 0), (True, 1)])
def test_what_no_worker_takes_yet_is_sent_where_it_may_wait_for_one(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, wake: bool, sent: int
) -> None:
    monkeypatch.setattr("superset_fleet.state.registry.TIMES", AT_ONCE)
    guard = Guard(Registry(redis_url), wake=wake)
    guard.registry.redis.flushall()
    guard.registry.wakes({"sql_lab": Wake("fleet-celery_worker", "ready")})
    with nullcontext() if wake else pytest.raises(refusals.Refused):
        guarded(guard, redis_url).delay(17, "select 1")
    assert guard.registry.redis.llen("sql_lab") == len(guard.registry.jobs()) == sent


def test_a_task_is_sent_as_ever_where_the_registry_does_not_answer(redis_url: str) -> None:
    registry = Registry(redis_url)
    registry.redis.flushall()
    guarded(Guard(Registry(NOWHERE)), redis_url).delay(17, "select 1")
    assert registry.redis.llen("sql_lab") == 1


def test_other_attributes_of_a_task_are_kept(redis_url: str) -> None:
    assert guarded(Guard(Registry(redis_url)), redis_url).rate_limit == "7/m"
