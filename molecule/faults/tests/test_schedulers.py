"""Of two schedulers one leads; when it dies the other one does, and no job falls between them."""

import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from tests.support.deployed.fleet import BEAT, WATCHDOG, Fleet, wait
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import Query, User
from tests.support.history import History

# What a service writes into the journal when it begins to lead.
LEADS = {BEAT: "Acquired lock", WATCHDOG: "event=leads"}
Both = tuple[Machine, Machine]


def leader(fleet: Fleet, unit: str) -> tuple[float, Machine]:
    """Return who leads, and since when, in seconds since 1970."""
    journal = f"journalctl --unit {unit} --output short-unix --grep '{LEADS[unit]}' --reverse"
    found = []
    for machine in fleet.of("scheduler"):
        if line := machine.run(f"{journal} --lines 1 --quiet", check=False):
            found.append((float(line.split()[0]), machine))
    return max(found, key=lambda pair: pair[0])


def test_when_the_leaders_die_the_others_lead_and_settle_what_was_orphaned_meanwhile(
    fleet: Fleet,
    user: User,
    both: Both,
    only_on: Callable[[Machine], AbstractContextManager[None]],
    kill: Callable[..., float],
    history: Callable[[Query], History],
    measure: Callable[[str, float], None],
) -> None:
    leaders = {unit: leader(fleet, unit)[1] for unit in LEADS}
    victim = both[0]
    with only_on(victim):
        reading = user.send(f"select {fleet.pace('orphan', 60)} as seconds")
        writing = user.send(
            f"insert into scratch.written select 'orphan', {fleet.pace('orphan', 60)}"
        )
        for query in (reading, writing):
            assert fleet.wait_for_run(f"query:{query.id}") == victim
    fleet.pace("orphan", 0.1)
    died = {unit: kill(machine, unit, for_good=True) for unit, machine in leaders.items()}
    orphaned = kill(victim)
    try:
        user.wait([reading, writing])
        for unit in LEADS:

            def led(unit: str = unit) -> bool:
                return leader(fleet, unit)[0] > died[unit]

            wait(f"another {unit} leads", led)
            since, machine = leader(fleet, unit)
            assert machine != leaders[unit]
            measure(f"leading {unit} killed: the other one leads", since - died[unit])
    finally:
        for unit, machine in leaders.items():
            machine.run(f"systemctl start {unit}")
    assert reading.status == "success", reading
    assert user.rows(reading) == [{"seconds": 0.1}]
    assert writing.status == "failed", writing
    assert len(history(writing).runs) == 1
    measure(
        "worker and leading watchdog killed: a SELECT runs again",
        history(reading).runs[1].at - orphaned,
    )


def test_no_task_of_the_schedule_was_ever_sent_twice(fleet: Fleet) -> None:
    """Holds of all minutes of this scenario, with the hand-over in one of them."""
    sent = re.compile(r"^(\d+)\.\d+ .*Sending due task reports\.scheduler", re.M)
    minutes: Counter[int] = Counter()
    for machine in fleet.of("scheduler"):
        journal = machine.run(f"journalctl --unit {BEAT} --output short-unix --since -15min")
        minutes.update(int(second) // 60 for second in sent.findall(journal))
    assert minutes
    assert set(minutes.values()) == {1}, minutes
