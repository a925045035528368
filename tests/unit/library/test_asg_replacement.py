"""In which rounds asg_replacement replaces the instances of a group."""

import pytest
from asg_replacement import State, Step, after, plan, rounds

OLD = ("i-1", "i-2", "i-3", "i-4")


def group(size: int, **changes: object) -> State:
    """Return a group that was never touched, all of whose instances are old."""
    fields = {"desired": size, "max": size + 2, "before": None, "old": OLD[:size]}
    return State(**fields | changes)  # type: ignore[arg-type]


def history(state: State, surge: int) -> list[tuple[Step, State]]:
    """Return all rounds, each with what it makes of the group."""
    steps = []
    while step := plan(state, surge):
        state = after(state, step, surge)
        steps.append((step, state))
    return steps


def test_one_more_first_then_each_old_one_and_one_fewer_last() -> None:
    assert [str(step) for step, _ in history(group(2), 1)] == [
        "surge",
        "replace i-1",
        "replace i-2",
        "settle",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("surge", [0, 1, 2, 3, 9])
def test_a_group_is_never_smaller_than_before_and_no_larger_afterwards(
    size: int, surge: int
) -> None:
    steps = history(group(size), surge)
    for step, state in steps:
        assert len(state.old) + len(state.new) >= size
        assert len(state.old) + len(state.new) <= size + max(1, surge)
        assert len(step.replaced + step.removed) <= max(1, surge)
    assert steps[-1][1] == State(size, size + 2, None, (), ("?",) * size)
    assert rounds(group(size), surge) == len(steps)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("surge", [1, 2, 3])
def test_no_instance_is_made_to_be_terminated_again(size: int, surge: int) -> None:
    steps = [step for step, _ in history(group(size), surge)]
    made = min(surge, size) + sum(len(step.replaced) for step in steps)
    assert made == size


def test_nothing_is_done_where_nothing_is_old() -> None:
    state = group(2, old=(), new=("i-5", "i-6"))
    assert plan(state, 1) is None
    assert rounds(state, 1) == 0


def test_a_group_that_is_short_of_instances_is_waited_for() -> None:
    state = group(2, before=(2, 4), max=5, desired=3, new=())
    assert plan(state, 1) == Step("wait")


def test_it_goes_on_where_it_was_interrupted() -> None:
    left = group(2, before=(2, 4), max=5, desired=3, old=("i-2",), new=("i-5", "i-6"))
    assert plan(left, 1) == Step("replace", removed=("i-2",))
    assert rounds(left, 1) == 2


def test_a_size_that_somebody_took_back_meanwhile_is_given_again() -> None:
    assert plan(group(2, before=(2, 4)), 1) == Step("surge")


def test_a_group_that_is_done_but_for_its_size_gets_it_back() -> None:
    done = State(3, 5, (2, 4), (), ("i-5", "i-6", "i-7"))
    assert after(done, Step("settle"), 1) == State(2, 4, None, (), ("i-5", "i-6"))
