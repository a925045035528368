"""What clients of the web application see of workers, queues and refused tasks."""

import functools
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import celery
import flask
import jinja2
import pytest
import sqlalchemy

from superset_fleet.guard.refusals import Refused
from superset_fleet.guard.web import answers, banner, metrics, pages, queues
from superset_fleet.guard.web.queues import QueueState, QueuesUnknown, State
from superset_fleet.state import registry as guard
from superset_fleet.state.records import Queue, Wake, Worker
from superset_fleet.state.registry import Registry
from superset_fleet.times import TIMES

WORKER = Worker(host="vm-7", pid=1, queues=["sql_lab", "charts"], slots=2, tasks=1)
BUSY = QueueState(workers=2, slots=4, active=3, waiting=5, silent_seconds=0.4)
STATE = State({"sql_lab": BUSY, "charts": QueueState(silent_seconds=9.0)}, {"rerun": 2})


@pytest.fixture
def registry(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An empty registry on a Redis that is not taken for one that has just started."""
    monkeypatch.setattr(queues, "TIMES", replace(TIMES, redis_start_seconds=-1))
    registry = Registry(redis_url)
    registry.redis.flushall()
    yield registry
    registry.redis.close()


@pytest.fixture
def closed_url() -> str:
    """URL of a Redis that nobody runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"redis://:secret@127.0.0.1:{free.getsockname()[1]}/0"


def client(state: Callable[[], State]) -> Any:
    """A client of the pages alone, where charts are not run by workers."""
    app = flask.Flask(__name__)
    app.register_blueprint(pages.routes(state, lambda: ["sql_lab"]))
    return app.test_client()


def uncounted(_: list[str]) -> dict[str, int]:
    """The lengths of a broker's queues that is no Redis."""
    return {}


# -- The state ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("queue", "workers", "state"),
    [
        (Queue(0, None), [], QueueState()),
        (Queue(0, 8.5), [replace(WORKER, queues=["reports"])], QueueState(silent_seconds=8.5)),
        (
            Queue(2, 0.4),
            [WORKER, replace(WORKER, slots=4, tasks=2)],
            QueueState(workers=2, slots=6, active=3, silent_seconds=0.4),
        ),
        # What drains or is stuck still runs something, and offers no slot.
        (
            Queue(1, 0.4),
            [WORKER, replace(WORKER, draining=True), replace(WORKER, stuck_seconds=4.0)],
            QueueState(workers=1, draining=1, slots=2, active=3, silent_seconds=0.4),
        ),
    ],
)
def test_a_queue_s_state_is_that_of_its_workers(
    queue: Queue, workers: list[Worker], state: QueueState
) -> None:
    assert queues.count("sql_lab", queue, workers, None) == state


def test_the_state_names_asked_queues_and_those_that_ever_had_a_worker(registry: Registry) -> None:
    registry.beat("worker@vm-7#1", WORKER)
    registry.decided("rerun")
    state = queues.look_at_queues(registry, ["reports"], lambda names: dict.fromkeys(names, 3))
    assert sorted(state.queues) == ["charts", "reports", "sql_lab"]
    assert state.queues["reports"] == QueueState(waiting=3)
    queue = state.queues["sql_lab"]
    assert (queue.workers, queue.slots, queue.active, queue.waiting) == (1, 2, 1, 3)
    assert state.decisions == {"rerun": 1}


SAYS = Wake("fleet-celery_worker", "starting", why="1 waits")


@pytest.mark.parametrize(
    ("wake", "wakes", "starts"),
    [
        (None, False, False),
        (replace(SAYS, state="cannot", why="its largest size is 0"), False, False),
        (replace(SAYS, state="ready"), True, False),
        (SAYS, True, True),
    ],
)
def test_the_state_says_whether_a_worker_is_started_and_since_when(
    registry: Registry, wake: Wake | None, wakes: bool, starts: bool
) -> None:
    asked = registry.now() - 30
    registry.wakes({"sql_lab": replace(wake, since=asked)} if wake else {})
    queue = queues.look_at_queues(registry, ["sql_lab"], uncounted, wake=True).queues["sql_lab"]
    assert queue.wakes is wakes
    assert queue.starting_seconds == (pytest.approx(30, abs=10) if starts else None)


def test_no_worker_is_being_started_as_soon_as_one_is_there(registry: Registry) -> None:
    registry.beat("worker@vm-7#1", WORKER)
    registry.wakes({"sql_lab": SAYS})
    queue = queues.look_at_queues(registry, ["sql_lab"], uncounted, wake=True).queues["sql_lab"]
    assert (queue.workers, queue.starting_seconds) == (1, None)


def test_where_nobody_waits_for_workers_nothing_is_said_of_their_start(registry: Registry) -> None:
    registry.wakes({"sql_lab": SAYS})
    assert queues.look_at_queues(registry, ["sql_lab"], uncounted).queues["sql_lab"] == QueueState()


def test_a_silent_worker_offers_nothing(registry: Registry) -> None:
    registry.beat("worker@vm-7#1", WORKER)
    then = registry.now() - TIMES.silent_seconds - 1
    for key in (guard.WORKERS, "guard:queue:sql_lab"):
        registry.redis.zadd(key, {"worker@vm-7#1": then})
    queue = queues.look_at_queues(registry, ["sql_lab"], uncounted).queues["sql_lab"]
    assert (queue.workers, queue.slots, queue.active) == (0, 0, 0)


def test_nothing_is_called_empty_while_workers_come_back_to_a_restarted_redis(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = registry.up_seconds() + 60
    monkeypatch.setattr(queues, "TIMES", replace(TIMES, redis_start_seconds=later))
    with pytest.raises(QueuesUnknown, match="just started"):
        queues.look_at_queues(registry, ["sql_lab"], uncounted)


def test_a_redis_that_does_not_answer_is_told_without_its_address(closed_url: str) -> None:
    with pytest.raises(QueuesUnknown) as unknown:
        queues.look_at_queues(Registry(closed_url), ["sql_lab"], uncounted)
    assert str(unknown.value) == "Redis does not answer (ConnectionError)."


def test_tasks_of_all_priorities_wait_in_a_queue(registry: Registry, redis_url: str) -> None:
    registry.redis.rpush("sql_lab", "task", "task")
    registry.redis.rpush("sql_lab\x06\x169", "task")
    broker = queues.Broker(celery.Celery(broker=redis_url))
    assert broker.lengths(["sql_lab", "charts"]) == {"sql_lab": 3, "charts": 0}


def test_tasks_are_not_counted_in_another_broker_than_redis() -> None:
    assert queues.Broker(celery.Celery(broker="memory://")).lengths(["sql_lab"]) == {}


def test_tasks_are_not_counted_in_a_redis_that_does_not_answer(closed_url: str) -> None:
    assert queues.Broker(celery.Celery(broker=closed_url)).lengths(["sql_lab"]) == {}


# -- /fleet ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("question", "status", "lacking"),
    [
        ("", 200, []),
        ("?min=2", 200, []),
        ("?min=3", 503, ["sql_lab"]),
        ("?queue=charts", 503, ["charts"]),
        ("?queue=charts&min=0", 200, []),
        ("?queue=sql_lab&queue=charts&queue=unheard-of", 503, ["charts", "unheard-of"]),
    ],
)
def test_health_says_which_queues_lack_workers(
    question: str, status: int, lacking: list[str]
) -> None:
    answer = client(lambda: STATE).get(f"/fleet/health{question}")
    assert answer.status_code == status
    assert answer.json["status"] == ("lacking" if lacking else "ok")
    assert answer.json["lacking"] == lacking


def test_health_tells_all_that_is_known_of_a_queue() -> None:
    answer = client(lambda: STATE).get("/fleet/health")
    assert answer.json["queues"] == {
        "sql_lab": {
            "workers": 2,
            "draining": 0,
            "slots": 4,
            "active": 3,
            "waiting": 5,
            "silent_seconds": 0.4,
            "wakes": None,
            "starting_seconds": None,
        }
    }


@pytest.mark.parametrize(
    ("question", "lacking"),
    [
        ("?queue=starting&queue=asleep", []),
        ("?queue=starting&queue=cannot", ["cannot"]),
        # Who asks for workers is told of those that there are.
        ("?queue=starting&min=1", ["starting"]),
    ],
)
def test_a_queue_lacks_nothing_while_a_worker_is_started_for_what_waits(
    question: str, lacking: list[str]
) -> None:
    states = {
        "starting": QueueState(wakes=True, starting_seconds=12.3),
        "asleep": QueueState(wakes=True),
        "cannot": QueueState(wakes=False),
    }
    answer = client(lambda: State(states)).get(f"/fleet/health{question}")
    assert answer.json["lacking"] == lacking
    assert answer.status_code == (503 if lacking else 200)
    assert answer.json["queues"]["starting"]["starting_seconds"] == 12.3


@pytest.mark.parametrize("least", ["", "two", "-1", "1.5", "1_0", "9" * 5000])
def test_a_number_of_workers_that_is_none_is_refused(least: str) -> None:
    answer = client(lambda: STATE).get("/fleet/health", query_string={"min": least})
    assert answer.status_code == 400
    assert "min=2" in answer.json["error"]


def test_what_is_unknown_is_said_to_be(closed_url: str) -> None:
    answer = client(lambda: queues.look_at_queues(Registry(closed_url), [], uncounted)).get(
        "/fleet/health"
    )
    assert answer.status_code == 503
    assert answer.json["status"] == "unknown"


def test_metrics_tell_which_dependencies_answer_though_the_queues_are_unknown(
    closed_url: str,
) -> None:
    app = flask.Flask(__name__)
    up = {"database": True, "coordination": False}
    unknown = functools.partial(queues.look_at_queues, Registry(closed_url), [], uncounted)
    app.register_blueprint(pages.routes(unknown, lambda: [], lambda: up))
    answer = app.test_client().get("/fleet/metrics")
    assert answer.status_code == 200
    assert answer.text.split("\n") == [
        "# HELP superset_fleet_dependency_up Whether what a web machine depends on answers it.",
        "# TYPE superset_fleet_dependency_up gauge",
        'superset_fleet_dependency_up{dependency="database"} 1',
        'superset_fleet_dependency_up{dependency="coordination"} 0',
        "",
    ]


@pytest.mark.parametrize("page", ["health", "metrics"])
def test_pages_are_kept_nowhere_and_name_no_machine(page: str, registry: Registry) -> None:
    registry.beat("worker@vm-7#1", WORKER)
    answer = client(lambda: queues.look_at_queues(registry, [], uncounted)).get(f"/fleet/{page}")
    assert answer.headers["Cache-Control"] == "no-store"
    assert "sql_lab" in answer.text
    assert "vm-7" not in answer.text


def test_metrics_are_prometheus_text() -> None:
    answer = client(lambda: STATE).get("/fleet/metrics")
    assert answer.headers["Content-Type"] == metrics.PROMETHEUS
    lines = answer.text.split("\n")
    assert lines[2:6] == [
        "# HELP superset_fleet_workers Workers that take tasks from the queue.",
        "# TYPE superset_fleet_workers gauge",
        'superset_fleet_workers{queue="sql_lab"} 2',
        'superset_fleet_workers{queue="charts"} 0',
    ]
    assert 'superset_fleet_queue_silent_seconds{queue="charts"} 9.0' in lines
    assert 'superset_fleet_decisions_total{decision="rerun"} 2' in lines
    assert lines[-1] == ""


def test_metrics_tell_whether_workers_are_started() -> None:
    states = {"sql_lab": QueueState(wakes=True, starting_seconds=12.3)}
    lines = metrics.metrics(State(states), {}).split("\n")
    assert 'superset_fleet_queue_wakes{queue="sql_lab"} 1' in lines
    assert 'superset_fleet_worker_starting_seconds{queue="sql_lab"} 12.3' in lines


def test_metrics_leave_out_what_is_not_known() -> None:
    text = metrics.metrics(State({"sql_lab": QueueState()}), {})
    assert "superset_fleet_queue_wakes{" not in text
    assert "superset_fleet_queue_length{" not in text
    assert "superset_fleet_queue_silent_seconds{" not in text


def test_metrics_keep_their_form_whatever_a_queue_is_called() -> None:
    text = metrics.metrics(State({'a"b\\c\nd': BUSY}), {})
    assert 'superset_fleet_workers{queue="a\\"b\\\\c\\nd"} 2' in text.split("\n")


def test_many_questions_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    glance = queues.Glance(lambda: looks.append(1) or STATE)  # type: ignore[func-returns-value]
    monkeypatch.setattr(queues, "STATE_SECONDS", 3600)
    assert [glance() for _ in range(100)] == [STATE] * 100
    assert len(looks) == 1


def test_what_was_unknown_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "STATE_SECONDS", 0)
    answers: Iterator[State | QueuesUnknown] = iter(
        [QueuesUnknown("Redis does not answer."), STATE]
    )

    def look() -> State:
        answer = next(answers)
        if isinstance(answer, QueuesUnknown):
            raise answer
        return answer

    glance = queues.Glance(look)
    with pytest.raises(QueuesUnknown, match="does not answer"):
        glance()
    assert glance() is STATE


# -- Answers of Superset --------------------------------------------------------------------------
@pytest.fixture
def superset() -> flask.Flask:
    """An application that answers as Superset does, with a database that lacks its table."""
    app = flask.Flask(__name__)
    engine = sqlalchemy.create_engine("sqlite://")
    db = SimpleNamespace(engine=engine, session=SimpleNamespace(rollback=lambda: None))

    @app.post("/refuse/<job>/<int:status>")
    def refuse(job: str, status: int) -> Any:
        flask.g.guard_refused = Refused("No worker is there.", job, "no_worker")
        response = flask.make_response("Superset's own words", status)
        response.set_cookie("kept", "yes")
        return response

    @app.post("/stop/<int:status>", endpoint="QueryRestApi.stop_query")
    def stop(status: int) -> Any:
        return {"message": "Could not cancel query"}, status

    @app.post("/execute/<int:status>", endpoint="SqlLabRestApi.execute_sql_query")
    def execute(status: int) -> Any:
        if status == 403:
            answers.note_row(None, None, SimpleNamespace(id=17))
        return {"message": "Superset's own words"}, status

    app.after_request(lambda response: answers.keep_error(db, response))
    app.after_request(lambda response: answers.tell_used(db, response))
    app.after_request(lambda response: answers.tell_refusal(db, None, response))
    app.after_request(lambda response: answers.stop_waiting(db, response))
    return app


@pytest.mark.parametrize("job", ["query:17", "chart:5a", "-"])
def test_a_refusal_is_told_even_where_it_cannot_be_written_down(
    superset: flask.Flask, job: str
) -> None:
    answer = superset.test_client().post(f"/refuse/{job}/500")
    assert answer.status_code == 500
    assert answer.json is not None
    (error,) = answer.json["errors"]
    assert error["message"] == "No worker is there."
    assert error["extra"]["engine_name"] == "Query worker"
    assert "kept=yes" in answer.headers["Set-Cookie"]


def test_what_could_not_be_written_down_is_logged(
    superset: flask.Flask, caplog: pytest.LogCaptureFixture
) -> None:
    superset.test_client().post("/refuse/query:17/500")
    assert "event=not_failed job=query:17" in caplog.text


@pytest.mark.parametrize("status", [403, 500])
def test_superset_s_answer_to_a_query_that_was_not_sent_stays_where_nothing_can_be_written(
    superset: flask.Flask, status: int
) -> None:
    answer = superset.test_client().post(f"/execute/{status}", json={"client_id": "abc"})
    assert answer.status_code == status
    assert answer.json == {"message": "Superset's own words"}


def test_an_answer_that_did_without_the_task_stays(superset: flask.Flask) -> None:
    answer = superset.test_client().post("/refuse/-/200")
    assert answer.text == "Superset's own words"


@pytest.mark.parametrize("status", [200, 401, 404, 422])
def test_superset_s_answer_to_a_stop_stays_where_nothing_could_be_stopped(
    superset: flask.Flask, status: int
) -> None:
    answer = superset.test_client().post(f"/stop/{status}", json={"client_id": "abc"})
    assert answer.status_code == status
    assert answer.json == {"message": "Could not cancel query"}


# -- The banner -----------------------------------------------------------------------------------
def page(theirs: dict[str, str], **context: Any) -> str:
    """What Superset includes at the end of its pages."""
    macros = {"superset/macros.html": "{% macro get_nonce() %}n0nce{% endmacro %}"}
    loader = banner.load_banner(jinja2.DictLoader(macros | theirs))
    environment = jinja2.Environment(loader=loader)
    environment.globals["url_for"] = {"fleet.show_health": "/fleet/health"}.__getitem__
    return environment.get_template("tail_js_custom_extra.html").render(context)


def test_pages_have_the_banner_under_their_nonce() -> None:
    text = page({})
    assert '<script nonce="n0nce">' in text
    assert "fetch('/fleet/health'" in text


def test_an_operator_s_own_addition_to_pages_is_kept() -> None:
    text = page({"tail_js_custom_extra.html": "<script>theirs()</script>"})
    assert "<script>theirs()</script>" in text
    assert "fleet-banner" in text


@pytest.mark.parametrize("context", [{"standalone_mode": True}, {"entry": "embedded"}])
def test_pages_within_other_pages_have_no_banner(context: dict[str, Any]) -> None:
    assert "fleet-banner" not in page({}, **context)
