"""What benchmarks/scaling simulates: machines that start, take tasks, and leave."""

import random

import pytest

from benchmarks.scaling.loads import LOADS, Task
from benchmarks.scaling.machines import SLOTS, Seen, run


class Plan:
    """Asks for as many machines as a plan says for each second."""

    every = 1.0
    min = 0
    spares_busy = False

    def __init__(self, *desired: int) -> None:
        self.planned = desired

    def desired(self, seen: Seen) -> int:
        return self.planned[min(int(seen.at), len(self.planned) - 1)]


def tasks(*seconds: float) -> list[Task]:
    return [Task(0.5, each, 0.05) for each in seconds]


def test_tasks_wait_for_a_slot() -> None:
    assert run(tasks(10, 10, 10), Plan(1), (5, 5), 0).waits == [0, 0, 10]


def test_a_machine_takes_tasks_once_it_has_started_and_costs_from_when_it_is_asked_for() -> None:
    outcome = run(tasks(10, 10, 10), Plan(2), (5, 5), 0)
    assert outcome.waits == [0, 0, 4.5]
    assert outcome.worker_seconds == 2 * 15


def test_a_machine_that_is_to_go_finishes_its_tasks_and_takes_no_more() -> None:
    outcome = run([*tasks(10), Task(5, 1, 0.05)], Plan(1, 0, 0, 0, 0, 0, 1), (1, 1), 0)
    assert outcome.waits == [0, 2]
    assert outcome.worker_seconds == 10.5 + (10.5 - 6)


def test_in_a_group_of_fixed_size_as_many_wait_as_erlang_s_formula_says() -> None:
    """Four slots, of which 1.8 are filled on average: 12.85 % find none free."""
    dice = random.Random(1)
    at, sent = 0.0, []
    for _ in range(30_000):
        at += dice.expovariate(1.2)
        sent.append(Task(at, dice.expovariate(1 / 1.5), 0.05))
    waits = run(sent, Plan(4 // SLOTS), (0, 0), 0).waits
    assert sum(wait > 0 for wait in waits) / len(waits) == pytest.approx(0.1285, rel=0.05)


@pytest.mark.parametrize("load", LOADS)
def test_a_load_is_in_order_and_the_same_whenever_it_is_drawn(load: str) -> None:
    drawn = LOADS[load](random.Random(3))
    assert drawn == sorted(drawn) == LOADS[load](random.Random(3))
