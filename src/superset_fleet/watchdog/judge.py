"""What the watchdog decides about a job, by what it has seen."""

from __future__ import annotations

from dataclasses import dataclass

from ..state import rows
from ..state.records import Worker
from ..times import TIMES
from . import words
from .sight import Case, Limits, served

SENDINGS = 3  # so often a job that never ran is sent, if --reruns does not allow more

FORGET = "forget"  # the one decision that nobody needs to hear of
WAITS = "waits"  # the one that changes nothing: it is said once


@dataclass(frozen=True)
class Decision:
    """What is done about a job, and why: of a failure the message for the user."""

    event: str
    reason: str = ""


def judge(case: Case, limits: Limits) -> Decision | None:
    """Return what is to be done about a job, None to let it be."""
    if case.status not in rows.UNFINISHED:
        return Decision(FORGET)
    if case.held:
        return None
    if case.status == "pending":
        if not served(case, limits):
            return Decision("failed_no_worker", words.worker_missing(case, limits))
        if case.queue_silent and case.waited_seconds >= limits.wake_timeout_seconds:
            return Decision("failed_not_woken", words.not_woken(case))
        if case.orphan_seconds < TIMES.silent_seconds:
            return waits(case, limits)
        if case.job.attempt < max(SENDINGS, limits.reruns + 1):
            return Decision("resent", "No worker has it and it is in no queue; it has not run.")
        return Decision("failed_lost", words.lost(case))
    if not case.dropped and case.orphan_seconds < TIMES.silent_seconds:
        return None
    if case.process_only and case.ran_seconds >= limits.time_limit_seconds:
        return Decision("failed_time_limit", words.too_slow(case, limits))
    if case.read_only and served(case, limits) and case.job.attempt <= limits.reruns:
        return Decision("rerun", f"{words.died(case)}. It changes nothing, so it is run again.")
    event = "failed_dropped" if case.dropped else "failed_worker_died"
    return Decision(event, words.worker_died(case, limits))


def waits(case: Case, limits: Limits) -> Decision | None:
    """Return what is said of a query for which a worker is being started, None as long as none is.

    SQL Lab shows it until the query runs or fails, so it says nothing that is not true then. It
    decides nothing, so it does not wait until the queue was seen to be silent.
    """
    wake = case.queue.wake
    if not limits.wakes or case.queue.workers or wake is None or wake.state != "starting":
        return None
    return Decision(
        WAITS,
        f"No worker was running, so one was asked for at {words.clock(wake.since)}; this query "
        "waits for it. It fails if none has come within "
        f"{limits.wake_timeout_seconds:.0f} seconds.",
    )


def judge_unknown(
    status: str, seconds: float, worker: Worker | None, since: float, limits: Limits
) -> Decision | None:
    """Return what is to be done about the row of a query that is in no register.

    It was noticed `seconds` ago, at the time `since`. `worker` is the silent one that said that
    it ran it, None where there is none.
    """
    if status == "pending":
        if seconds < TIMES.unknown_pending_seconds:
            return None
        return Decision(
            "failed_unknown",
            f"This query was lost before a worker took it: no queue and no worker has had it "
            f"since {words.clock(since)}. It has not touched the database; run it again.",
        )
    if worker:
        return Decision(
            "failed_worker_died",
            f"The worker {worker.host} that ran this query stopped (last heard of at "
            f"{words.clock(worker.last_beat)}). {words.UNKNOWN_OUTCOME}",
        )
    if seconds < limits.time_limit_seconds + TIMES.unknown_running_seconds:
        return None
    return Decision(
        "failed_unknown",
        f"This query is marked as running, but no worker has run it since {words.clock(since)}. "
        f"{words.UNKNOWN_OUTCOME}",
    )
