"""The machine of a worker loses its power: nothing is told to anybody, not even by TCP."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import yaml

from superset_fleet.control.ask import ROOT, template
from tests.support.deployed.fleet import Fleet, deploy, wait
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import Query, User
from tests.support.history import History

Both = tuple[Machine, Machine]


def test_what_it_ran_is_run_again_or_failed_and_another_machine_takes_its_place(
    fleet: Fleet,
    user: User,
    dataset: int,
    both: Both,
    only_on: Callable[[Machine], AbstractContextManager[None]],
    history: Callable[[Query], History],
    measure: Callable[[str, float], None],
) -> None:
    victim = both[0]
    with only_on(victim):
        reading = user.send(f"select {fleet.pace('power', 60)} as seconds")
        writing = user.send(
            f"insert into scratch.written select 'power', {fleet.pace('power', 60)}"
        )
        fleet.pace("chart", 60)
        chart = user.ask_chart(dataset, "seconds")
        for job in (f"query:{reading.id}", f"query:{writing.id}", f"chart:{chart}"):
            assert fleet.wait_for_run(job) == victim
    for name in ("power", "chart"):
        fleet.pace(name, 0.1)
    died = victim.cut_power()
    try:
        user.wait([reading, writing])
        event = user.wait_for_chart(chart)
    finally:
        replace(fleet, victim)
    assert reading.status == "success", reading
    assert user.rows(reading) == [{"seconds": 0.1}]
    # Perhaps of the machine that has come in its place by then.
    assert reading.host not in ("", victim.host)
    assert event["status"] == "done", event
    assert user.chart_rows(event) == [{"seconds": 0.1}]
    assert user.events(chart) == [event]
    assert writing.status == "failed", writing
    assert "not run again" in writing.error
    assert len(history(writing).runs) == 1
    measure("worker's machine dead: a SELECT runs again", history(reading).runs[1].at - died)
    (after,) = user.wait([user.send("select 1 as one")])
    assert user.rows(after) == [{"one": 1}]


def replace(fleet: Fleet, lost: Machine) -> None:
    """Wait for the machine that the group starts in place of a lost one, and deploy it."""

    def there() -> bool:
        names = template("celery_worker", "''").keys()
        return lost.name not in names and len(names) == 2

    wait("the group has another machine", there)
    *_, play = yaml.safe_load((ROOT / "molecule/faults/converge.yml").read_text())
    deploy("celery_worker", **play["vars"])
    fleet.look_again()
    fleet.want_workers(*fleet.workers)
