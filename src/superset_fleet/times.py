"""How long the parts of the fleet are patient with one another, and what must hold between that.

A fleet runs with the values below. Tests of real processes run with all of them multiplied by
$SUPERSET_FLEET_TIME_FACTOR, which is read when this module is imported: in each process the same.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass

FACTOR = "SUPERSET_FLEET_TIME_FACTOR"


@dataclass(frozen=True)
class Times:
    """Seconds. Raises ValueError where two of them contradict each other."""

    # -- Web machines
    # So long a request waits for a thread of its process: less than a browser waits for a chart
    # (superset_webserver_timeout_seconds), which is to show why it got none.
    web_wait_seconds: float = 30.0
    # How long an action waits to be written. A process that is killed loses those that wait.
    actions_seconds: float = 1.0
    # So long a process that exits waits for the database to take its last actions: a restart is
    # not held up by a database that is away.
    actions_stop_seconds: float = 3.0
    # So long after a role was changed by another process it may do here what it might before.
    permissions_seconds: float = 5.0

    # -- Workers
    beat_seconds: float = 1.0  # between two heartbeats
    # A worker that is silent for so long takes no work. A beat may be late by some seconds on a
    # machine whose processors are all taken; more than that and a query waits too long for help.
    silent_seconds: float = 6.0
    # So soon after Redis' own start nobody is called silent: its workers come back one by one.
    redis_start_seconds: float = 10.0
    keep_seconds: float = 3.0  # how often a run looks whether its job is still its own
    # A database that restarts takes seconds, with much to recover minutes. So long a query that it
    # dropped keeps its slot; then it is run again all the same, and fails with what it meets.
    database_seconds: float = 30.0
    database_look_seconds: float = 1.0  # between two attempts to connect to it
    drain_look_seconds: float = 1.0  # Celery's event loop does not turn more often by itself
    # A worker whose event loop has not turned for so long takes no work either: a query that is
    # sent then is refused, or taken by another worker, within 6 seconds.
    stuck_seconds: float = 4.0

    # -- Databases, Superset's own and those that queries are about
    connect_seconds: float = 5.0  # for a connection
    # A machine from which not even TCP heard for so long is gone or cut off: its kernel answers,
    # however long its database works. Short enough that slot and thread are free within a minute.
    cut_seconds: float = 30.0
    cancel_seconds: float = 5.0  # for a database to hear that it is to stop a query

    # -- What hangs while a user waits: told within three seconds, and to the next ones at once
    web_connect_seconds: float = 2.0  # for a connection of a web process to the metadata database
    web_redis_seconds: float = 1.0  # for an answer of Redis where it has events and locks
    look_seconds: float = 1.0  # of the database's silence, and then for a look whether it hangs
    moment_seconds: float = 0.5  # for who hung a moment ago
    hang_seconds: float = 1.0  # so long nobody else waits for a Redis that hung

    # -- Watchdog and scaler
    lead_seconds: float = 6.0  # so long after the last sign of a leader another one leads

    # -- Watchdog
    watch_seconds: float = 1.0  # between two ticks
    # What was not looked at for so long was not seen without a break: this process, or the whole
    # machine, was paused.
    watch_break_seconds: float = 3.0
    deciding_seconds: float = 1.0  # of one tick; what is left is decided in the next one
    sweep_seconds: float = 10.0  # between two looks into the broker, and at rows nobody knows
    row_timeout_seconds: float = 0.2  # of waiting for a run that writes its row at this moment
    sweep_timeout_seconds: float = 4.0  # of reading all unfinished rows, when leading begins
    unknown_pending_seconds: float = 30.0
    unknown_running_seconds: float = 60.0  # on top of the time limit
    # Nobody starts a worker any more when nobody has said so for this long, which is longer than a
    # scaler that was restarted needs. With wake_seconds that is half a minute after its death.
    unstarted_seconds: float = 15.0

    # -- Scaler
    scale_seconds: float = 2.0  # between two ticks
    asleep_look_seconds: float = 0.2  # between two looks into queues of groups without a machine
    # So long the scaler's word counts, which it gives anew at each tick.
    wake_seconds: float = 15.0
    # A machine without tasks stays protected for so long, unless its group is to become smaller:
    # else every short query were two calls.
    idle_seconds: float = 60.0
    # What was not looked at for so long is not remembered: nobody knows how it was meanwhile.
    scale_break_seconds: float = 15.0
    # What a machine takes to start until one was seen to: AWS' own boot for about a minute.
    start_seconds: float = 60.0
    metric_seconds: float = 60.0  # CloudWatch's resolution
    # A worker that was silent for so long has no task any more: the watchdog failed what it had.
    # Until then it may be back, as after a restart of Redis, so its machine is not called idle.
    lost_seconds: float = 60.0
    cloud_seconds: float = 2.0  # for an answer of the cloud

    def __post_init__(self) -> None:
        """Refuse times with which the fleet would err."""
        silent, lead = self.silent_seconds, self.lead_seconds
        wrong = [
            rule
            for rule, holds in {
                "a beat may be late: 4 beats < silent": 4 * self.beat_seconds < silent,
                "who lives is known before others are dead: lively < silent": (
                    self.lively_seconds < silent
                ),
                "a turn may be late: 3 drain_look < stuck": (
                    3 * self.drain_look_seconds < self.stuck_seconds
                ),
                "who is stuck says so before what it runs is missed: stuck + beat < silent": (
                    self.stuck_seconds + self.beat_seconds < silent
                ),
                "a pause is no silence: watch_break < silent - beat - watch": (
                    self.watch_break_seconds < silent - self.beat_seconds - self.watch_seconds
                ),
                "who ticks leads on: watch + deciding < lead": (
                    self.watch_seconds + self.deciding_seconds < lead
                ),
                "who waits for the cloud leads on: scale + cloud < lead": (
                    self.scale_seconds + self.cloud_seconds < lead
                ),
                "the next scaler speaks before the last one's word lapses: lead + scale < wake": (
                    lead + self.scale_seconds < self.wake_seconds
                ),
                "the next scaler speaks before nobody starts a worker: lead + scale < unstarted": (
                    lead + self.scale_seconds < self.unstarted_seconds
                ),
                "what a worker had has failed before it is lost: silent + lead < lost": (
                    silent + lead < self.lost_seconds
                ),
                "two sweeps notice a row before it is given up: 2 sweep < unknown_pending": (
                    2 * self.sweep_seconds < self.unknown_pending_seconds
                ),
            }.items()
            if not holds
        ]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def lively_seconds(self) -> float:
        """A worker that was heard so lately lives: what stopped is the process that ran the job."""
        return 2 * self.beat_seconds + self.watch_seconds

    @property
    def refused_seconds(self) -> float:
        """After so long it is said that a cloud which fails starts no worker.

        Not after one call that failed, and before what was said last lapses.
        """
        return self.wake_seconds / 2

    def scaled(self, factor: float) -> Times:
        """Return all times multiplied by a factor."""
        return Times(**{name: seconds * factor for name, seconds in asdict(self).items()})


TIMES = Times().scaled(float(os.environ.get(FACTOR, "1")))
