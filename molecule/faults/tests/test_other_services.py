"""What queries need besides workers fails for some seconds."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from superset_fleet.control.superset import SupersetError
from tests.support.deployed.fleet import Fleet, wait
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import Query, User
from tests.support.history import History

Both = tuple[Machine, Machine]
Measure = Callable[[str, float], None]
Tell = Callable[[Query], History]


def test_running_queries_outlive_outages_of_the_coordination_redis(
    fleet: Fleet,
    user: User,
    other_user: User,
    dataset: int,
    both: Both,
    history: Tell,
    measure: Measure,
) -> None:
    redis = fleet.one("redis")
    running = [user.send(f"select {fleet.pace('outage', 30)} as seconds") for _ in range(3)]
    fleet.pace("chart", 30)
    chart = user.ask_chart(dataset, "seconds")
    for job in [f"chart:{chart}", *(f"query:{query.id}" for query in running)]:
        fleet.wait_for_run(job)
    began = time.monotonic()
    redis.run("systemctl restart redis-server@coordination")
    after_restart = user.send("select 1 as one")
    with ThreadPoolExecutor(1) as pool:
        # Each longer than a worker may be silent.
        with redis.without("redis-server@coordination"):
            refused = other_user.send("select 1 as one")
            row = fleet.ledger.ends([refused.client_id])[refused.client_id]
            time.sleep(8)
        with redis.unreachable(fleet.facts["redis_coordination_port"]):
            # Its packets come through in the end, or its sender gives up.
            late = pool.submit(other_user.send, "select 1 as one")
            time.sleep(8)
        assert time.monotonic() - began < 30, "the queries ended before the outages did"
        doubtful = [after_restart, late.result()]
    assert refused.status == "refused"
    assert "broker" in refused.error
    assert row["status"] == "failed"
    assert row["error_message"] in refused.error
    user.wait(running)
    for query in running:
        assert query.status == "success", query
        assert user.rows(query) == [{"seconds": 30}]
        assert len(history(query).runs) == 1
    event = user.wait_for_chart(chart)
    assert event["status"] == "done", event
    assert user.events(chart) == [event]
    for query in doubtful:
        user.wait([query])
        assert query.status in ("success", "refused"), query
    (after,) = user.wait([user.send("select 1 as one")])
    assert user.rows(after) == [{"one": 1}]
    measure("coordination Redis down: a query is refused", refused.answered_in)
    measure("coordination Redis unreachable for 8 s: a query is answered", doubtful[1].answered_in)


def test_a_result_that_is_lost_is_said_to_be_gone_and_new_ones_come(
    fleet: Fleet, user: User, both: Both
) -> None:
    (before,) = user.wait([user.send("select 1 as one")])
    assert user.rows(before) == [{"one": 1}]
    fleet.results.flushall()
    with pytest.raises(SupersetError) as gone:
        user.rows(before)
    assert gone.value.status == 410
    (after,) = user.wait([user.send("select 2 as two")])
    assert user.rows(after) == [{"two": 2}]


def test_every_query_succeeds_or_fails_though_the_metadata_database_restarts(
    fleet: Fleet, user: User, both: Both, history: Tell
) -> None:
    # The sample warehouse lives in the same server, so these lose their database, too.
    running = [user.send(f"select {fleet.pace('restart', 60)} as seconds") for _ in range(3)]
    writing = user.send(
        f"insert into scratch.written select 'restart', {fleet.pace('restart', 60)}"
    )
    for query in [*running, writing]:
        fleet.wait_for_run(f"query:{query.id}")
    fleet.pace("restart", 0.1)
    fleet.one("postgres").run("systemctl restart postgresql@15-main")

    def ended() -> bool:
        try:
            user.wait([*running, writing])
        except SupersetError:
            return False  # the web servers have lost their database for a moment
        return True

    wait("every query has ended", ended)
    for query in running:
        if query.status == "success":
            assert user.rows(query) == [{"seconds": 0.1}]
        else:
            assert query.error, query
    assert writing.status == "failed", writing
    assert writing.error
    assert len(history(writing).runs) == 1
    assert "restart" not in fleet.written()
    (after,) = user.wait([user.send("select 1 as one")])
    assert user.rows(after) == [{"one": 1}]
