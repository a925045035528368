"""Of several watchdogs one leads; when it dies another one does, and no job falls between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from tests.harness.jobs import KINDS, send
from tests.harness.rig import Fleet
from tests.support.waiting import until


@pytest.mark.parametrize("paused", [False, True])
def test_when_the_leader_dies_another_one_leads_and_settles_what_was_orphaned_meanwhile(
    begin: Callable[..., Fleet], dice: Random, paused: bool
) -> None:
    """A leader that was only paused does nothing that it decided before."""
    fleet = begin()
    leader = fleet.start_watchdog()
    until(lambda: fleet.leads(leader), "it leads")
    other = fleet.start_watchdog()
    victim = fleet.start_worker("vm-1")
    jobs = [send(fleet, kind) for kind in dice.sample(KINDS, 3)]
    for job in jobs:
        job.runs()
        fleet.number(job.name, 2)
    fleet.start_worker("vm-2")
    assert not fleet.leads(other)
    time.sleep(dice.uniform(0, 0.3))
    for fault in dice.sample([leader.pause if paused else leader.kill, victim.kill], 2):
        fault()
    until(lambda: fleet.leads(other), "another one leads")
    for job in jobs:
        if not job.reads:
            job.is_given_up()
    if paused:
        leader.resume()
    fleet.let_go(*(job.name for job in jobs))
    for job in jobs:
        if job.reads:
            job.succeeds(number=2, runs=2)
