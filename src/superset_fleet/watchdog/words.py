"""What the watchdog tells users of their queries."""

from __future__ import annotations

import time

from ..state import words as shared
from .sight import Case, Limits, served

UNKNOWN_OUTCOME = (
    "It may have changed data, so its outcome is unknown and it was not run again. Check the data "
    "before you run it again."
)
FORGOTTEN = (
    "This query could not be sent to a worker once more, because what was sent is not known any "
    "more. Nothing was changed by it; run it again."
)
ADMINISTRATOR = "(your administrator sees: fleet workers)"


def clock(seconds: float) -> str:
    """Return a time of Redis in words."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def not_run(case: Case) -> str:
    """Return what did not happen to a query that waits; an earlier attempt may have begun it."""
    if case.job.attempt == 1:
        return shared.NEVER_RAN
    return "was not run again; nothing was changed by it"


def queue_last_seen(case: Case) -> str:
    """Return when a job's queue had a worker."""
    return shared.last_seen("" if case.queue_seen is None else f"at {clock(case.queue_seen)}")


def worker_missing(case: Case, limits: Limits) -> str:
    """Return what a user is told whose query no worker will take."""
    nobody = shared.nobody_takes(case.job.queue, queue_last_seen(case), case.queue, limits.wakes)
    return (
        f"{nobody}, so this one {not_run(case)}. Run it again when a worker is back "
        f"{ADMINISTRATOR}."
    )


def not_woken(case: Case) -> str:
    """Return what a user is told whose query has waited long enough for a worker."""
    wake = case.queue.wake
    if wake is None or wake.state == "cannot":
        said = f"none is started by now: {case.queue.not_started}"
    elif wake.state == "starting":
        said = f"one was asked for at {clock(wake.since)}: {wake.why}"
    else:
        said = f"none was asked for: {wake.why}"
    return (
        f"No worker has taken queries from the queue '{case.job.queue}' within "
        f"{case.waited_seconds:.0f} seconds ({queue_last_seen(case)}; {said}), so this one "
        f"{not_run(case)}. Run it again when a worker is back {ADMINISTRATOR}."
    )


def lost(case: Case) -> str:
    """Return what a user is told whose query never reached a worker."""
    return (
        f"This query was lost on its way to a worker (attempt {case.job.attempt}), so it "
        f"{not_run(case)}. Run it again. If this happens again, tell your administrator that the "
        f"workers do not keep what they take from the queue '{case.job.queue}'."
    )


def died(case: Case) -> str:
    """Return what became of who ran a query, without a full stop."""
    if case.dropped:
        return f"The database dropped the connection on which this query ran ({case.dropped})"
    if case.process_only:
        return (
            f"The process that ran this query on the worker {case.host} was killed, perhaps for "
            "want of memory"
        )
    heard = f" (last heard of at {clock(case.last_beat)})" if case.last_beat else ""
    return f"The worker {case.host}{' ' * bool(case.host)}that ran this query stopped{heard}"


def worker_died(case: Case, limits: Limits) -> str:
    """Return what a user is told whose query is not run again."""
    if not case.read_only:
        return f"{died(case)}. {UNKNOWN_OUTCOME}"
    if not served(case, limits):
        return (
            f"{died(case)}, and no other worker takes from the queue '{case.job.queue}'"
            f"{shared.not_started(case.queue, limits.wakes)}. Nothing was changed by it; run it "
            f"again when a worker is back {ADMINISTRATOR}."
        )
    needs = "If it stops its workers each time, it needs more memory than they have."
    return (
        f"{died(case)}. This was attempt {case.job.attempt}, and no other one is made by itself. "
        f"Nothing was changed by it; run it again.{'' if case.dropped else f' {needs}'}"
    )


def too_slow(case: Case, limits: Limits) -> str:
    """Return what a user is told whose query was killed at the time limit."""
    changed = "Nothing was changed by it." if case.read_only else UNKNOWN_OUTCOME
    return (
        f"This query was stopped after the time limit of {limits.time_limit_seconds:.0f} seconds, "
        f"on the worker {case.host}. {changed}"
    )
