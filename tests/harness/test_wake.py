"""A query may wait for a worker that is not there yet, and for none that nobody starts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.harness.cloud import Cloud, boots, opened
from tests.harness.jobs import READING, send
from tests.harness.rig import Fleet
from tests.support import aws_server, metadata_server
from tests.support.waiting import until

ASKED = re.compile(r"one was asked for at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC")


@pytest.fixture(scope="module")
def aws() -> Iterator[aws_server.Aws]:
    with aws_server.serve() as served:
        yield served


@pytest.fixture(scope="module")
def subnet(aws: aws_server.Aws) -> str:
    made: str = aws_server.make_subnet(aws)
    return made


@pytest.fixture(scope="module")
def metadata() -> Iterator[str]:
    with metadata_server.serve() as served:
        yield served.url


@pytest.fixture
def patience() -> float:
    """For how many seconds a query waits for a worker."""
    return 20.0


@pytest.fixture
def fleet(begin: Callable[..., Fleet], patience: float) -> Fleet:
    """A fleet without a worker, in which queries wait for one."""
    fleet = begin("wake", patience)
    fleet.start_watchdog()
    return fleet


@pytest.fixture
def cloud(
    fleet: Fleet, aws: aws_server.Aws, subnet: str, metadata: str, tmp_path: Path, dice: Random
) -> Iterator[Cloud]:
    """A cloud whose group has no machine, and a scaler that would start one."""
    config = aws.write_config(tmp_path / "aws.ini")
    with opened(Cloud(aws, subnet, metadata, config, fleet)) as cloud:
        cloud.boot_seconds = boots(dice)
        fleet.wait_for_redis()
        cloud.start_scaler()
        cloud.says("ready")
        yield cloud


def test_what_is_sent_wakes_a_worker_and_runs_when_it_is_there(fleet: Fleet, cloud: Cloud) -> None:
    until(lambda: fleet.health()["code"] == 200, "anybody sees that queries are taken")
    cloud.boot_seconds = lambda: 1.5
    query = fleet.send("select 1 as one")
    chart = fleet.ask_chart("2 as two")
    assert fleet.look(query).status == "pending"
    until(lambda: cloud.desired, "the scaler asks for one")
    told = until(lambda: fleet.shown(query), "SQL Lab says so")
    assert ASKED.search(told), told
    state = until(lambda: starting(fleet), "the notice says so")
    assert state["workers"] == 0 and state["wakes"], state
    fleet.wait([query])
    assert fleet.rows(query) == [[1]]
    assert fleet.runs(query) == 1
    assert fleet.shown(query) == ""
    event = fleet.wait_for_chart(chart)
    assert (event["status"], fleet.chart_rows(event)) == ("done", [[2]])


def starting(fleet: Fleet) -> dict[str, object]:
    """Return what anybody may read of a queue for which a worker is being started."""
    state: dict[str, object] = fleet.health()["queues"]["sql_lab"]
    return state if state["starting_seconds"] is not None else {}


def test_a_query_is_refused_with_the_reason_where_no_worker_can_be_started(
    fleet: Fleet, cloud: Cloud, dice: Random
) -> None:
    reason = ""
    if dice.choice([True, False]):
        cloud.resize(MinSize=0, MaxSize=0, DesiredCapacity=0)
    else:
        reason = "a test"
        fleet.registry.hold(reason)
    cloud.says("cannot")
    refused = fleet.send("select 1 as one")
    assert refused.status == "refused"
    assert "No worker takes queries" in refused.error and "none is started" in refused.error
    assert reason in refused.error
    assert until(lambda: fleet.health()["lacking"], "anybody sees it")


def test_a_query_that_waits_for_a_worker_can_be_stopped(
    fleet: Fleet, cloud: Cloud, dice: Random
) -> None:
    cloud.boot_seconds = lambda: 0.5
    query = fleet.send("select 1 as one")
    time.sleep(dice.uniform(0, 0.3))
    fleet.stop(query)
    assert fleet.look(query).status == "stopped"
    cloud.newcomer()
    (later,) = fleet.wait([fleet.send("select 2 as two")])
    assert fleet.rows(later) == [[2]]
    assert fleet.runs(query) == 0


def test_another_scaler_goes_on_where_the_leading_one_dies(
    fleet: Fleet, cloud: Cloud, dice: Random
) -> None:
    leader, other = fleet.daemons[-1], cloud.start_scaler()
    query = fleet.send("select 1 as one")
    time.sleep(dice.uniform(0, 0.3))
    leader.kill()
    fleet.wait([query])
    assert fleet.rows(query) == [[1]]
    until(lambda: fleet.leads(other), "the other one leads")


def test_without_any_scaler_what_waits_fails_and_nothing_more_is_taken(
    fleet: Fleet, cloud: Cloud, dice: Random
) -> None:
    cloud.boot_seconds = lambda: 3600.0
    fleet.daemons[-1].kill()
    queries = [fleet.send("select 1") for _ in range(dice.randint(1, 3))]
    assert {query.status for query in queries} == {"pending"}, "the last word had lapsed"
    for query in fleet.wait(queries):
        assert query.status == "failed"
        assert "the scaler, which would start one, is silent" in query.error
        assert fleet.runs(query) == 0
    assert fleet.send("select 1 as one").status == "refused"


@pytest.mark.parametrize("patience", [2.0])
def test_a_query_fails_with_the_truth_when_no_worker_comes_in_time(
    fleet: Fleet, cloud: Cloud, patience: float
) -> None:
    """The scaler asks for a machine, which never comes up."""
    cloud.boot_seconds = lambda: 3600.0
    sent = time.monotonic()
    query = fleet.send("select 1 as one")
    fleet.wait([query])
    assert time.monotonic() - sent >= patience
    assert query.status == "failed"
    assert ASKED.search(query.error), query.error
    assert "0 → 1: 1 wait" in query.error or "not there yet" in query.error, query.error
    assert fleet.runs(query) == 0
    assert cloud.desired == 1


def test_what_dies_with_the_worker_that_was_woken_waits_for_the_next_one(
    fleet: Fleet, cloud: Cloud, dice: Random
) -> None:
    job = send(fleet, dice.choice(READING))
    victim = fleet.machine(job.runs())
    first = fleet.run(job.id)
    fleet.number(job.name, 2)
    time.sleep(dice.uniform(0, 0.3))
    cloud.terminate(victim)
    assert fleet.machine(job.is_run_again(first)) != victim
    fleet.let_go(job.name)
    job.succeeds(number=2, runs=2)
