"""One user's many queries do not keep another's first one waiting behind all of them."""

from __future__ import annotations

from collections.abc import Callable

from tests.harness.jobs import send
from tests.harness.rig import SLOTS, Fleet
from tests.support.waiting import until

CROWD, FEW, ONE = 1, 2, 3  # users


def test_a_slot_that_becomes_free_takes_who_has_nothing_that_runs_or_waits(
    begin: Callable[..., Fleet],
) -> None:
    fleet = begin()
    fleet.start_watchdog()
    fleet.start_worker("vm-1")
    held = [send(fleet, "select", user_id=CROWD) for _ in range(SLOTS)]
    for job in held:
        job.runs()
    crowd = [fleet.send(f"select {number}", user_id=CROWD) for number in range(20)]
    few = [fleet.send("select 1", user_id=FEW) for _ in range(2)]
    one = fleet.send("select 2", user_id=ONE)
    until(lambda: fleet.waiting() == 23, "all of them wait")
    fleet.let_go(held[0].name)
    fleet.wait([one, *few, *crowd])
    assert {query.status for query in (one, *few, *crowd)} == {"success"}
    begun = {query.client_id: fleet.history(query).runs[0].at for query in (one, *few, *crowd)}
    order = sorted(begun, key=lambda client_id: begun[client_id])
    # First queries; then those of who has some unfinished, of the crowd the fifth; then the rest.
    just = [few[0], one, crowd[0], few[1], *crowd[1:]]
    assert order == [query.client_id for query in just]
    fleet.let_go(*(job.name for job in held))
    for job in held:
        job.succeeds(number=1, runs=1)
