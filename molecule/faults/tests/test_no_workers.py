"""There is no worker, or soon none: nothing waits for one."""

import time
from collections.abc import Callable, Iterable

import requests

from tests.support.deployed.fleet import Fleet, wait
from tests.support.deployed.users import Query, User
from tests.support.history import History

Measure = Callable[[str, float], None]
Tell = Callable[[Query], History]
Release = Callable[[Iterable[Query]], None]

NO_WORKER = "No worker takes queries from the queue 'sql_lab'"


def test_without_a_worker_queries_and_charts_are_refused_in_the_answer(
    fleet: Fleet, user: User, dataset: int, history: Tell, measure: Measure
) -> None:
    fleet.want_workers()
    before = fleet.waiting()
    sent = [user.send(f"select {number} as number") for number in range(10)]
    rows = fleet.ledger.ends(query.client_id for query in sent)
    for query in sent:
        assert query.status == "refused"
        assert query.http_status == 500
        assert NO_WORKER in query.error
        row = rows[query.client_id]
        assert row["status"] == "failed"
        assert row["error_message"] in query.error
        assert history(query).runs == []
        user.stop(query)  # as a user may who has not seen it
    # Superset's pages show the reason of a job that fails, and none of a request that does.
    chart = user.ask_chart(dataset, "seconds")
    (event,) = user.events(chart)
    assert event["status"] == "error"
    assert "No worker takes queries from the queue 'charts'" in event["errors"][0]["message"]
    assert fleet.waiting() == before
    times = sorted(query.answered_in for query in sent)
    measure("no worker: a query is refused, median of ten", times[5])
    measure("no worker: a query is refused, slowest of ten", times[-1])


def test_without_a_worker_anybody_can_see_that(fleet: Fleet, authority: str) -> None:
    fleet.want_workers()
    url = f"{fleet.facts['superset_url']}/fleet/health?queue=sql_lab&queue=charts"

    def lacking() -> list[str]:
        answer = requests.get(url, verify=authority, timeout=30)
        assert answer.status_code == (503 if answer.json()["lacking"] else 200)
        return list(answer.json()["lacking"])

    # The answer may be a second old.
    assert wait("the queues lack workers", lacking) == ["sql_lab", "charts"]


def test_the_only_worker_s_death_fails_what_it_ran_and_what_waited_for_it(
    fleet: Fleet,
    user: User,
    dataset: int,
    kill: Callable[..., float],
    fill: Callable[..., list[Query]],
    release: Release,
    history: Tell,
    measure: Measure,
) -> None:
    only = fleet.workers[1]
    fleet.want_workers(only)
    running = fill(only)
    release(running[:2])
    running = running[2:]
    running.append(
        user.send(f"insert into scratch.written select 'only', {fleet.pace('only', 60)}")
    )
    fleet.pace("chart", 60)
    chart = user.ask_chart(dataset, "seconds")
    assert fleet.wait_for_run(f"query:{running[-1].id}") == only
    assert fleet.wait_for_run(f"chart:{chart}") == only
    waiting = user.send("select 1 as one")

    died = kill(only, for_good=True)
    user.wait([*running, waiting])
    event = user.wait_for_chart(chart)

    for query in [*running, waiting]:
        assert query.status == "failed"
        assert "worker" in query.error
    assert "not run again" in running[-1].error
    assert history(waiting).runs == []
    assert [len(history(query).runs) for query in running] == [1] * len(running)
    assert event["status"] == "error", event
    assert user.events(chart) == [event]
    assert fleet.written().get("only", 0) <= 1
    last = max(history(query).ends[0].at for query in running)
    measure("the only worker killed: what it ran is failed", last - died)
    measure("the only worker killed: what waited is failed", history(waiting).ends[0].at - died)
    measure("… as seen by the test, the chart too", time.time() - died)
