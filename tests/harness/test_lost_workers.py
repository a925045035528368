"""A worker dies, or is silent and comes back: what it ran is run again where that does no harm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from random import Random

import pytest

from superset_fleet.state.records import Run
from tests.harness.jobs import KINDS, READING, WRITING, Job, send
from tests.harness.rig import TIMES, Fleet, Worker
from tests.support.waiting import until

LONGEST_JITTER_SECONDS = 0.3


def send_some(fleet: Fleet, dice: Random) -> list[Job]:
    """Send jobs of some kinds, one that reads and one that writes at least."""
    kinds = {dice.choice(READING), dice.choice(WRITING), *dice.sample(KINDS, 2)}
    return [send(fleet, kind) for kind in dice.sample(sorted(kinds), len(kinds))]


def meet(fleet: Fleet, dice: Random, jobs: list[Job]) -> tuple[Worker, str, dict[str, Run]]:
    """Wait until jobs run; return a worker that has some, the other one, and the runs it has."""
    runs = {job.id: job.runs() for job in jobs}
    victim = dice.choice(sorted(fleet.machine(run) for run in runs.values()))
    (other,) = fleet.workers.keys() - {victim}
    hit = {job: run for job, run in runs.items() if fleet.machine(run) == victim}
    return fleet.workers[victim], other, hit


def end_as_they_should(fleet: Fleet, jobs: list[Job], hit: Mapping[str, Run]) -> None:
    """Let jobs go, and hold what is to become of those that were hit and of the others."""
    fleet.let_go(*(job.name for job in jobs))
    for job in jobs:
        if job.id not in hit:
            job.succeeds(number=1, runs=1)
        elif job.reads:
            job.succeeds(number=2, runs=2)
        else:
            job.is_given_up()


@pytest.mark.parametrize("how", [Worker.kill, Worker.cut_power, Worker.kill_children])
def test_of_what_a_worker_ran_that_dies_only_what_reads_is_run_again(
    fleet: Fleet, dice: Random, how: Callable[[Worker], None]
) -> None:
    jobs = send_some(fleet, dice)
    victim, other, hit = meet(fleet, dice, jobs)
    for job in jobs:
        fleet.number(job.name, 2)
    time.sleep(dice.uniform(0, LONGEST_JITTER_SECONDS))
    how(victim)
    for job in jobs:
        if job.id in hit and job.reads:
            again = job.is_run_again(hit[job.id])
            # A worker whose processes were killed has others.
            assert how is Worker.kill_children or fleet.machine(again) == other
    end_as_they_should(fleet, jobs, hit)


def test_whenever_a_worker_dies_each_job_is_settled_and_writes_once_at_most(
    fleet: Fleet, dice: Random
) -> None:
    """Taken from the queue or not, claimed or not, written or not."""
    jobs = send_some(fleet, dice)
    fleet.let_go(*(job.name for job in jobs))
    victim = fleet.workers[dice.choice(sorted(fleet.workers))]
    time.sleep(dice.uniform(0, LONGEST_JITTER_SECONDS))
    victim.kill()
    for job in jobs:
        if job.query is None:
            assert fleet.wait_for_chart(job.chart)["status"] == "done"
            continue
        fleet.wait([job.query])
        if job.query.status == "success":
            job.succeeds(number=1, runs=fleet.runs(job.query) if job.reads else 1)
        else:  # what is claimed, and not yet known to read, counts as if it wrote
            job.is_given_up()


def cut_off(worker: Worker) -> AbstractContextManager[object]:
    silence: AbstractContextManager[object] = worker.coordination.silent()
    return silence


def paused(worker: Worker) -> AbstractContextManager[object]:
    silence: AbstractContextManager[object] = worker.paused()
    return silence


def main_process_paused(worker: Worker) -> AbstractContextManager[object]:
    silence: AbstractContextManager[object] = worker.paused(whole=False)
    return silence


SILENCES = pytest.mark.parametrize("silence", [cut_off, paused, main_process_paused])
Silence = Callable[[Worker], AbstractContextManager[object]]


@SILENCES
def test_a_worker_that_was_silent_for_long_finishes_nothing_that_was_taken_from_it(
    fleet: Fleet, dice: Random, silence: Silence
) -> None:
    jobs = send_some(fleet, dice)
    silent, other, hit = meet(fleet, dice, jobs)
    for job in jobs:
        fleet.number(job.name, 2)
    time.sleep(dice.uniform(0, LONGEST_JITTER_SECONDS))
    within = dice.choice([True, False])  # what was taken from it ends before it is back, or after
    with silence(silent):
        for job in jobs:
            if job.id in hit and job.reads:
                assert fleet.machine(job.is_run_again(hit[job.id])) == other
            elif job.id in hit:
                job.is_given_up()
        if within:
            end_as_they_should(fleet, jobs, hit)
    if not within:
        end_as_they_should(fleet, jobs, hit)
    # It is a worker like others again, once what it ran has come to its end.
    fleet.wait_for_takers(silent.name)
    until(fleet.idle, "the fleet is idle")
    fleet.workers[other].stop()
    assert fleet.workers[other].process.wait() == 0
    (after,) = fleet.wait([fleet.send("select 1 as one")])
    assert (after.status, after.worker) == ("success", silent.name)


def test_a_worker_that_was_silent_for_a_moment_goes_on(fleet: Fleet, dice: Random) -> None:
    jobs = [send(fleet, kind) for kind in dice.sample(KINDS, 3)]
    silent, _, _ = meet(fleet, dice, jobs)
    last = fleet.beating()[silent.name].last_beat
    late = dice.uniform(2, 3) * TIMES.beat_seconds
    with silent.paused():
        until(lambda: fleet.registry.now() - last > late, "a beat is late")
    end_as_they_should(fleet, jobs, hit={})
