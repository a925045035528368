"""Clocks of machines are an hour off: everything is as always."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest

from tests.harness.jobs import KINDS, send
from tests.harness.rig import TIMES, Fleet


@pytest.fixture
def clocks(begin: Callable[..., Fleet], dice: Random) -> Fleet:
    """A fleet in which a worker's clock is wrong, and those of two watchdogs."""
    fleet = begin()
    for clock in dice.sample(["+1h", "-1h"], 2):
        fleet.start_watchdog(clock)
    fleet.start_worker("vm-1", dice.choice(["+1h", "-1h"]))
    return fleet


def test_queries_run_on_the_worker_whose_clock_is_wrong(clocks: Fleet, dice: Random) -> None:
    jobs = [send(clocks, kind) for kind in dice.sample(KINDS, 3)]
    for job in jobs:
        assert clocks.machine(job.runs()) == "vm-1"
    time.sleep(1.2 * TIMES.silent_seconds)  # longer than a worker may be silent
    clocks.let_go(*(job.name for job in jobs))
    for job in jobs:
        job.succeeds(number=1, runs=1)


def test_what_the_worker_with_the_wrong_clock_leaves_is_run_again_by_another_one(
    clocks: Fleet, dice: Random
) -> None:
    jobs = [send(clocks, kind) for kind in dice.sample(KINDS, 3)]
    for job in jobs:
        job.runs()
        clocks.number(job.name, 2)
    clocks.start_worker("vm-2")
    time.sleep(dice.uniform(0, 0.3))
    clocks.workers["vm-1"].kill()
    for job in jobs:
        if not job.reads:
            job.is_given_up()
    clocks.let_go(*(job.name for job in jobs))
    for job in jobs:
        if job.reads:
            job.succeeds(number=2, runs=2)
