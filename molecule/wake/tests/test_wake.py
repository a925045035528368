"""A query may wait for a worker that is not there yet, and for none that nobody starts."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from superset_fleet.state.jobs import QUERY_QUEUES
from tests.support.deployed.fleet import Fleet, observed, wait
from tests.support.deployed.groups import BOOT_SECONDS, LEAVE_SECONDS, Group, localcloud
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import Query, User
from tests.support.history import History

Health = Callable[[], dict[str, Any]]
WAKE_TIMEOUT_SECONDS = 75  # as this scenario sets it
ASKED = re.compile(r"one was asked for at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """The fleet, whose metadata database writes down every change of a query's state."""
    with observed() as fleet:
        yield fleet


@pytest.fixture(scope="module")
def user(fleet: Fleet) -> User:
    """A user of SQL Lab."""
    return fleet.user()


@pytest.fixture(scope="module")
def workers() -> Iterator[Group]:
    """The group of workers; in the end it is as large as before."""
    group = Group("celery_worker")
    yield group
    group.restore()


@pytest.fixture
def asleep(fleet: Fleet, workers: Group) -> Group:
    """The group of workers, with none in it, and a scaler that would start one."""
    workers.resize(MaxSize=2)
    workers.want(0)
    wait("no worker is left", lambda: not workers.members(), LEAVE_SECONDS)
    wait("nobody takes queries", lambda: not fleet.takers())
    wait(
        "the scaler would start one",
        lambda: all(word(fleet, each) == "ready" for each in QUERY_QUEUES),
    )
    return workers


@pytest.fixture(autouse=True)
def every_query_ends_once(fleet: Fleet, user: User) -> Iterator[None]:
    """Hold what all tests have in common: every query sent has ended once, and nothing is left."""
    before = len(user.sent)
    yield
    sent = user.sent[before:]
    wait("no job is open", lambda: not fleet.registry.jobs(), timeout=WAKE_TIMEOUT_SECONDS + 60)
    histories = fleet.ledger.histories(query.client_id for query in sent)
    wrong = [each for each in sent if not histories[each.client_id].ended_once(each.stopped)]
    assert wrong == []


def word(fleet: Fleet, queue: str = "sql_lab") -> str:
    """Return what the scaler says of a queue, '' for nothing."""
    wake = fleet.registry.queue(queue).wake
    return wake.state if wake else ""


def shown(user: User, query: Query) -> str:
    """Return the text that SQL Lab shows over a query that has not ended."""
    question = f"(last_updated_ms:{(query.sent_at - 5) * 1000:.0f})"
    path = "/api/v1/query/updated_since"
    answer = user.superset.ask("look at queries", "GET", path, query=question)
    (record,) = [each for each in answer["result"] if each["queryId"] == query.id]
    return str(record["extra"].get("progress") or "")


@pytest.fixture
def health(fleet: Fleet, tmp_path: Path) -> Health:
    """Read /fleet/health as anybody may, with the HTTP status as `code`."""
    authority = tmp_path / "ca.pem"
    authority.write_text(fleet.facts["haproxy_ca_certificate"])
    url = f"{fleet.facts['superset_url']}/fleet/health"

    def ask() -> dict[str, Any]:
        answer = requests.get(url, verify=str(authority), timeout=30)
        return {**answer.json(), "code": answer.status_code}

    return ask


def newcomer(fleet: Fleet, workers: Group) -> Machine:
    """Wait for the worker that was woken."""
    (name,) = wait("a machine", lambda: workers.members("InService"), BOOT_SECONDS)
    wait("a worker", fleet.takers, BOOT_SECONDS)
    fleet.look_again()
    return next(machine for machine in fleet.workers if machine.name == name)


def history(fleet: Fleet, query: Query) -> History:
    """Return what became of a query."""
    return fleet.ledger.histories([query.client_id])[query.client_id]


def test_a_query_is_refused_with_the_reason_where_no_worker_can_be_started(
    fleet: Fleet, user: User, asleep: Group, health: Health
) -> None:
    asleep.resize(MinSize=0, MaxSize=0, DesiredCapacity=0)
    wait("the scaler says so", lambda: word(fleet) == "cannot")
    refused = user.send("select 1 as one")
    assert refused.status == "refused"
    assert "No worker takes queries" in refused.error and "none is started" in refused.error
    assert wait("anybody sees it", lambda: health()["lacking"], 5)


def test_a_query_wakes_a_worker_and_runs_when_it_is_there_and_one_that_was_stopped_does_not(
    fleet: Fleet,
    user: User,
    asleep: Group,
    health: Health,
) -> None:
    wait("anybody sees that queries are taken", lambda: health()["code"] == 200, 5)
    query = user.send("select 1 as one")
    assert query.status == "pending", query
    stopped = user.send("select 2 as two")
    user.stop(stopped)
    assert user.look(stopped).status == "stopped"
    wait("the scaler asks for one", lambda: asleep.members())
    told = wait("SQL Lab says so", lambda: shown(user, query), timeout=10)
    assert ASKED.search(told), told

    def notice() -> dict[str, Any] | None:
        state: dict[str, Any] = health()["queues"]["sql_lab"]  # may be a second old
        return None if state["starting_seconds"] is None else state

    state = wait("the notice says so", notice, timeout=5)
    assert state["workers"] == 0 and state["wakes"] and state["starting_seconds"] < 30, state
    newcomer(fleet, asleep)
    user.wait([query], BOOT_SECONDS)
    assert user.rows(query) == [{"one": 1}]
    assert len(history(fleet, query).runs) == 1
    assert shown(user, query) == ""
    # A later one has gone the same way by then, so it would have run.
    (later,) = user.wait([user.send("select 3 as three")])
    assert user.rows(later) == [{"three": 3}]
    assert history(fleet, stopped).runs == []


def test_what_dies_with_the_worker_that_was_woken_waits_for_the_next_one(
    fleet: Fleet, user: User, asleep: Group
) -> None:
    query = user.send(f"select {fleet.pace('woken', 60)} as seconds")
    victim = newcomer(fleet, asleep)
    assert fleet.wait_for_run(f"query:{query.id}") == victim
    fleet.pace("woken", 0.1)
    localcloud("kill", victim.name)
    user.wait([query], BOOT_SECONDS)
    assert user.rows(query) == [{"seconds": 0.1}]
    became = history(fleet, query)
    assert len(became.runs) == 2
    # For a moment only, where the group has replaced the machine by then.
    assert ("running", "pending") in {(each.before, each.after) for each in became}
