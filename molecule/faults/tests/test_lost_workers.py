"""A worker dies, or is silent and comes back: what it ran is run again where that does no harm."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.support.deployed.fleet import Fleet, wait
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import Query, User
from tests.support.history import History

Both = tuple[Machine, Machine]
Measure = Callable[[str, float], None]
OnlyOn = Callable[[Machine], AbstractContextManager[None]]
Tell = Callable[[Query], History]

NOT_AGAIN = "not run again"


def insert(fleet: Fleet, name: str, seconds: float) -> str:
    """Return a statement that writes a name, after some time."""
    return f"insert into scratch.written select '{name}', {fleet.pace(name, seconds)}"


def test_of_what_a_killed_worker_ran_only_what_reads_is_run_again(
    fleet: Fleet,
    user: User,
    dataset: int,
    both: Both,
    only_on: OnlyOn,
    kill: Callable[..., float],
    history: Tell,
    measure: Measure,
) -> None:
    victim, other = both
    with only_on(victim):
        reading = user.send(f"select {fleet.pace('reading', 60)} as seconds")
        writing = [
            user.send(insert(fleet, "inserted", 60)),
            user.send(f"{insert(fleet, 'script', 0)};\nselect {fleet.pace('script 2', 60)} as s"),
            user.send(
                f"select {fleet.pace('made', 60)} as seconds",
                select_as_cta=True,
                ctas_method="TABLE",
                tmp_table_name="made",
                schema="scratch",
            ),
        ]
        fleet.pace("chart", 60)
        chart = user.ask_chart(dataset, "seconds")
        for job in [f"chart:{chart}", *(f"query:{each.id}" for each in [reading, *writing])]:
            assert fleet.wait_for_run(job) == victim
    for name in ("reading", "chart"):
        fleet.pace(name, 0.1)  # the next run is quick, and returns this

    died = kill(victim)
    user.wait([reading, *writing])
    event = user.wait_for_chart(chart)

    assert reading.status == "success", reading
    assert user.rows(reading) == [{"seconds": 0.1}]
    assert reading.host == other.host
    assert len(history(reading).runs) == 2
    assert event["status"] == "done", event
    assert user.chart_rows(event) == [{"seconds": 0.1}]
    assert user.events(chart) == [event]
    for query in writing:
        assert query.status == "failed", query
        assert NOT_AGAIN in query.error
        assert len(history(query).runs) == 1
    assert fleet.written().keys() <= {"script"}
    made = fleet.ledger.rows("select to_regclass('scratch.made') is not null as there", "warehouse")
    assert made == [{"there": False}]
    measure("worker killed: a SELECT runs again", history(reading).runs[1].at - died)
    worst = max(history(query).ends[0].at for query in writing)
    measure("worker killed: INSERT, script and CTAS are failed", worst - died)


def test_a_worker_that_was_silent_for_long_finishes_nothing_that_was_taken_from_it(
    fleet: Fleet,
    user: User,
    dataset: int,
    both: Both,
    only_on: OnlyOn,
    history: Tell,
) -> None:
    """Its packets to Redis are lost; processes that stand still are the harness' matter."""
    silent, other = both
    name = "cut off"
    # Long enough to be taken over, and short enough to end when the worker is back.
    seconds = 15
    with only_on(silent):
        reading = user.send(f"select {fleet.pace(name, seconds)} as seconds")
        writing = user.send(insert(fleet, f"{name} inserted", seconds))
        fleet.pace("chart", seconds)
        chart = user.ask_chart(dataset, "seconds")
        for job in (f"query:{reading.id}", f"query:{writing.id}", f"chart:{chart}"):
            assert fleet.wait_for_run(job) == silent
    for paced in (name, "chart"):
        fleet.pace(paced, 0.1)
    with silent.cut_off(fleet.facts["redis_address"], fleet.facts["redis_coordination_port"]):
        user.wait([reading, writing])
        event = user.wait_for_chart(chart)
    assert reading.status == "success", reading
    assert user.rows(reading) == [{"seconds": 0.1}]
    assert reading.host == other.host
    assert event["status"] == "done", event
    assert user.chart_rows(event) == [{"seconds": 0.1}]
    assert writing.status == "failed", writing
    assert NOT_AGAIN in writing.error
    assert len(history(writing).runs) == 1
    # It is a worker like others again, once what it ran has come to its end.
    wait("it beats", lambda: fleet.beating(silent))
    wait("the fleet is idle", fleet.idle)
    assert user.events(chart) == [event]
    with only_on(silent):
        (after,) = user.wait([user.send("select 1 as one")])
    assert (after.status, after.host) == ("success", silent.host)
