"""The decision: what waits and runs in, the number of machines and its reason out."""

import random
from dataclasses import replace

import pytest

from superset_fleet.scaler.decide import Decision, Load, Memory, Policy, decide

POLICY = Policy(min=0, max=10, acceptable_wait_seconds=10, cooldown_seconds=60, start_seconds=10)
IDLE = Load(at=0, waiting=0, running=0, workers=0, busy=0, desired=0, slots=2, task_seconds=None)
TICK = 2.0


def has(machines: int, **seen: float | None) -> Load:
    """Return the load of a group whose machines all take work."""
    load = replace(IDLE, workers=machines, desired=machines, task_seconds=3.2)
    return replace(load, **seen)  # type: ignore[arg-type]


def first(load: Load, policy: Policy = POLICY) -> Decision:
    return decide(load, policy, Memory())[0]


def follow(load: Load, seconds: float, policy: Policy = POLICY) -> list[int]:
    """Return the desired numbers at each tick while tasks stay as they are."""
    memory, found = Memory(), []
    for tick in range(int(seconds / TICK) + 1):
        now = replace(load, at=tick * TICK, workers=load.desired)
        decision, memory = decide(now, policy, memory)
        load = replace(load, desired=decision.desired)
        found.append(decision.desired)
    return found


def test_a_group_without_work_stays_empty() -> None:
    assert first(IDLE).desired == 0


@pytest.mark.parametrize("seconds", [None, 0.0, 0.01, 3000.0])
def test_what_waits_starts_the_first_machine_at_once(seconds: float | None) -> None:
    assert first(replace(IDLE, waiting=1, task_seconds=seconds)).desired == 1


def test_tasks_that_wait_are_to_be_worked_off_within_the_acceptable_wait() -> None:
    # 4 slots for what runs, 37 tasks of 3.2 s within 10 s on 12 more.
    assert first(has(2, waiting=37, running=4, busy=2)).desired == 8


def test_no_machine_is_asked_for_what_is_done_before_it_would_be_there() -> None:
    slow = replace(POLICY, start_seconds=90)
    assert first(has(2, waiting=10, running=3, busy=2), slow).desired == 2


def test_long_tasks_need_a_slot_each_and_no_more() -> None:
    assert first(has(1, waiting=6, running=2, busy=1, task_seconds=3600)).desired == 4


def test_a_task_of_unknown_length_is_taken_to_last_as_long_as_it_may_wait() -> None:
    unknown = has(0, waiting=6, task_seconds=None)
    assert first(unknown).desired == first(replace(unknown, task_seconds=10)).desired == 3


def test_half_of_the_machines_that_nobody_needs_go_after_each_cooldown() -> None:
    desired = follow(has(8, running=1, busy=1), 300)
    assert [desired.index(number) * TICK for number in (4, 2, 1)] == [60, 120, 180]
    assert desired[-1] == 1


def test_the_last_machine_goes_too() -> None:
    desired = follow(has(3), 200)
    assert [desired.index(number) * TICK for number in (1, 0)] == [60, 120]


def test_what_was_needed_within_the_cooldown_stays() -> None:
    _, memory = decide(has(8, at=0), POLICY, Memory())
    _, memory = decide(has(8, at=30, running=10, busy=6), POLICY, memory)
    assert decide(has(8, at=60), POLICY, memory)[0].desired == 6


def test_no_more_machines_go_than_are_without_a_task() -> None:
    """Each with one long task, which two would run on half of them."""
    assert set(follow(has(8, running=8, busy=8), 300)) == {8}
    assert follow(has(8, running=7, busy=7), 60)[-1] == 7


def test_one_who_begins_anew_takes_no_machine_away_for_a_cooldown() -> None:
    _, memory = decide(has(3, at=0), POLICY, Memory())
    assert decide(has(3, at=POLICY.cooldown_seconds), POLICY, memory)[0].desired == 1
    assert decide(has(3, at=POLICY.cooldown_seconds), POLICY, Memory())[0].desired == 3


def test_a_moment_of_need_begins_the_cooldown_anew() -> None:
    _, memory = decide(has(1, at=0), POLICY, Memory())
    _, memory = decide(has(1, at=50, running=1, busy=1), POLICY, memory)
    _, memory = decide(has(1, at=52), POLICY, memory)
    assert decide(has(1, at=100), POLICY, memory)[0].desired == 1


def test_a_whale_keeps_its_machine_and_no_other() -> None:
    assert follow(has(3, running=1, busy=1, task_seconds=3600), 600)[-1] == 1


def swing(high: int, low: int, seconds: float) -> list[int]:
    """Return the desired numbers while of each two minutes `high` tasks run for 30 s."""
    desired, memory, found = 4, Memory(), []
    for tick in range(int(seconds / TICK)):
        running = high if tick * TICK % 120 < 30 else low
        load = has(desired, at=tick * TICK, running=running, busy=min(running, desired))
        decision, memory = decide(load, POLICY, memory)
        desired = decision.desired
        found.append(desired)
    return found


def test_machines_stay_for_the_ups_and_downs_of_the_last_minutes() -> None:
    assert set(swing(8, 2, 3600)) == {4}


def test_no_machine_stays_for_ups_and_downs_where_nothing_waits_or_runs() -> None:
    assert set(swing(8, 0, 3600)) == {2, 4}


def test_the_group_does_not_grow_when_work_is_finished() -> None:
    memory = Memory()
    for at in range(0, 600, 2):
        _, memory = decide(has(4, at=at, running=8, busy=4), POLICY, memory)
    for at in range(600, 660, 2):
        decision, memory = decide(has(4, at=at, running=1, busy=1), POLICY, memory)
        assert decision.desired == 4


def test_the_reason_says_for_how_many_tasks_room_is_kept() -> None:
    _, memory = decide(has(4, at=0, running=8, busy=4), POLICY, Memory())
    assert decide(has(4, at=2, running=2, busy=1), POLICY, memory)[0].why == (
        "4: 0 wait, 2 run, 3.2 s each on 2 slots a machine; 10 s acceptable; room kept for 9"
    )


def test_bounds_that_were_changed_hold_at_once() -> None:
    assert first(has(3), replace(POLICY, min=5)).desired == 5
    assert first(has(8, running=16, busy=8), replace(POLICY, max=4)).desired == 4


def test_the_reason_has_the_numbers() -> None:
    assert first(has(2, waiting=37, running=4, busy=2)).why == (
        "2 → 8: 37 wait, 4 run, 3.2 s each on 2 slots a machine; 10 s acceptable"
    )
    assert first(has(3, running=1, busy=1)).why == (
        "3: 0 wait, 1 run, 3.2 s each on 2 slots a machine; 10 s acceptable; "
        "1 would do, fewer in 60 s"
    )
    assert first(has(9, waiting=400, running=18, busy=9)).why == (
        "9 → 10: 400 wait, 18 run, 3.2 s each on 2 slots a machine; 10 s acceptable; "
        "0 to 10 allowed"
    )
    assert first(has(0, waiting=1, task_seconds=None)).why == (
        "0 → 1: 1 wait, 0 run, of unknown length on 2 slots a machine; 10 s acceptable"
    )


def test_the_reason_says_how_many_machines_are_awaited() -> None:
    assert first(has(8, workers=5, waiting=9, running=10, busy=5)).why == (
        "8: 9 wait, 10 run, 3.2 s each on 2 slots a machine; 10 s acceptable; 3 not there yet; "
        "7 would do, fewer in 60 s"
    )


def test_the_reason_says_why_machines_go_or_cannot() -> None:
    eager = replace(POLICY, cooldown_seconds=0)
    assert first(has(4, running=1, busy=1), eager).why.endswith("; 1 would have done for 0 s")
    assert first(has(2, running=2, busy=2), eager).why.endswith("; 1 would do, but 2 have a task")


def walk(seed: int) -> list[tuple[Load, Policy, Decision]]:
    """Return decisions about loads at random, each tick's desired as the tick before decided."""
    dice = random.Random(seed)
    slots, minimum = dice.randint(1, 4), dice.randint(0, 3)
    policy = Policy(
        min=minimum,
        max=minimum + dice.randint(0, 8),
        acceptable_wait_seconds=dice.choice([1, 10, 60]),
        cooldown_seconds=dice.choice([10, 60]),
        start_seconds=dice.choice([1, 10, 90]),
    )
    desired, memory, found = policy.min, Memory(), []
    for tick in range(400):
        if not tick % 40:
            crowd = dice.choice([0, 0, 1, 10, 300])
        workers = min(desired, dice.randint(0, policy.max))
        running = min(crowd, dice.randint(0, workers * slots))
        load = Load(
            at=tick * TICK,
            waiting=dice.randint(0, crowd),
            running=running,
            workers=workers,
            busy=dice.randint(-(-running // slots), min(running, workers)),
            desired=desired,
            slots=slots,
            task_seconds=dice.choice([None, 0.1, 3.2, 600]),
        )
        decision, memory = decide(load, policy, memory)
        found.append((load, policy, decision))
        desired = decision.desired
    return found


WALKS = [walk(seed) for seed in range(50)]


def test_desired_is_never_outside_the_bounds() -> None:
    assert all(
        policy.min <= decision.desired <= policy.max
        for steps in WALKS
        for _, policy, decision in steps
    )


def test_desired_is_never_below_the_busy_machines() -> None:
    assert all(decision.desired >= load.busy for steps in WALKS for load, _, decision in steps)


def test_what_waits_has_at_least_one_machine_at_once() -> None:
    assert all(
        decision.desired >= 1
        for steps in WALKS
        for load, policy, decision in steps
        if load.waiting and policy.max
    )


def test_the_last_machine_goes_only_when_nothing_waits_or_runs_for_a_cooldown() -> None:
    for steps in WALKS:
        seen = 0.0
        for load, policy, decision in steps:
            if load.waiting or load.running:
                seen = load.at
            if decision.desired == 0 < load.desired:
                assert load.at - seen >= policy.cooldown_seconds


def test_machines_go_a_cooldown_after_any_change() -> None:
    for steps in WALKS:
        changed = 0.0
        for load, policy, decision in steps:
            if decision.desired < load.desired:
                assert load.at - changed >= policy.cooldown_seconds
            if decision.desired != load.desired:
                changed = load.at


@pytest.mark.parametrize("waiting", [0, 1, 37])
@pytest.mark.parametrize("running", [0, 1, 4, 9])
@pytest.mark.parametrize("machines", [0, 2, 9])
def test_a_steady_load_never_flaps(machines: int, running: int, waiting: int) -> None:
    """What waits and runs stays: machines only come, or only go."""
    busy = min(machines, running)
    desired = follow(has(machines, waiting=waiting, running=running, busy=busy), 1000)
    assert desired in (sorted(desired), sorted(desired, reverse=True))
