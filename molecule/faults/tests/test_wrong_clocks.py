"""Clocks of machines are an hour off: everything is as always."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.support.deployed.fleet import WATCHDOG, WORKER, Fleet
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import Query, User
from tests.support.history import History

Both = tuple[Machine, Machine]


@pytest.fixture(scope="module")
def clocks(fleet: Fleet) -> Iterator[tuple[Machine, Machine]]:
    """Return two workers: the clock of the first one is an hour slow, as is one watchdog's; that
    of the other watchdog is an hour fast."""
    first, second = fleet.workers
    fast, slow = fleet.of("scheduler")
    with ExitStack() as stack:
        stack.enter_context(first.clock("-1h", WORKER))
        stack.enter_context(fast.clock("+1h", WATCHDOG))
        stack.enter_context(slow.clock("-1h", WATCHDOG))
        fleet.want_workers(first, second)
        yield first, second


def test_queries_run_on_the_worker_whose_clock_is_wrong_and_on_the_other_one(
    fleet: Fleet,
    user: User,
    clocks: Both,
    only_on: Callable[[Machine], AbstractContextManager[None]],
    history: Callable[[Query], History],
) -> None:
    for machine in clocks:
        with only_on(machine):
            # Longer than a worker may be silent.
            queries = [user.send(f"select {fleet.pace('clock', 8)} as seconds") for _ in range(2)]
            # A browser, too, sees them end.
            user.watch(queries)
        for query in user.wait(user.look(query) for query in queries):
            assert (query.status, query.host) == ("success", machine.host)
            assert user.rows(query) == [{"seconds": 8}]
            assert len(history(query).runs) == 1


def test_what_the_worker_with_the_wrong_clock_leaves_is_run_again_by_the_other_one(
    fleet: Fleet,
    user: User,
    dataset: int,
    clocks: Both,
    only_on: Callable[[Machine], AbstractContextManager[None]],
    kill: Callable[..., float],
    history: Callable[[Query], History],
) -> None:
    wrong, right = clocks
    with only_on(wrong):
        reading = user.send(f"select {fleet.pace('clock', 60)} as seconds")
        writing = user.send(
            f"insert into scratch.written select 'clock', {fleet.pace('clock', 60)}"
        )
        fleet.pace("chart", 60)
        chart = user.ask_chart(dataset, "seconds")
        for job in (f"query:{reading.id}", f"query:{writing.id}", f"chart:{chart}"):
            assert fleet.wait_for_run(job) == wrong
    for name in ("clock", "chart"):
        fleet.pace(name, 0.1)
    kill(wrong)
    user.wait([reading, writing])
    event = user.wait_for_chart(chart)
    assert reading.status == "success", reading
    assert (user.rows(reading), reading.host) == ([{"seconds": 0.1}], right.host)
    assert event["status"] == "done", event
    assert user.events(chart) == [event]
    assert writing.status == "failed", writing
    assert len(history(writing).runs) == 1
