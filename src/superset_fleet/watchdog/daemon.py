"""Ends what nobody else will end: jobs whose worker died, and jobs that no worker will ever take.

    superset-watchdog --time-limit 3660 --reruns 1

Any number may run, one leads. It looks once a second at what the registry, the broker and the
database say, and judges by what it saw itself without a break: a worker is gone when its heartbeat
stood still for six seconds of this process' own clock. So neither wrong clocks nor a restart of
Redis make it err. Whoever changes a query's row names the row that it saw (rows.py), so of two
parties that decide about a query one is right, and the other one does nothing.

Each decision is one line in the journal (`event=rerun job=query:17 ...`) and is counted.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import functools
import json
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Any

import psycopg2.errors
import redis
import sqlalchemy
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..state import broker, facts
from ..state import rows
from ..state.registry import PREFIX, Job, Queue, Registry, Run, Worker
from ..state.jobs import first, job_name, query_id_of
from ..daemon.leading import Lead
from ..daemon.service import begin_journal, in_words, repeat, tell, until_terminated
from ..times import TIMES

SWEEP_ROWS = 20_000  # the newest rows, of which a sweep reads the unfinished ones
SENDINGS = 3  # so often a job that never ran is sent, if --reruns does not allow more
SCAN_MESSAGES = 200  # of a queue, read at once
STREAMS = "async-events-", 1_000, 1_000_000  # Superset's defaults: prefix, lengths

FORGET = "forget"  # the one decision that nobody needs to hear of
WAITS = "waits"  # the one that changes nothing: it is said once
OUTAGES = redis.RedisError, SQLAlchemyError, BrokerError


# -- What is seen ---------------------------------------------------------------------------------
class Observed:
    """Since when things look as they do, without a break, by this process' own clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now = 0.0
        self._before: dict[Hashable, tuple[Hashable, float]] = {}
        self._seen: dict[Hashable, tuple[Hashable, float]] = {}

    def begin(self) -> None:
        """Begin a tick. What was not looked at in the last one is new."""
        last, self._now = self._now, self._clock()
        self._before, self._seen = self._seen, {}
        if self._now - last > TIMES.watch_break_seconds:
            self._before = {}

    def restart(self) -> None:
        """Forget everything: there was a time when nothing could be seen."""
        self._before, self._seen = {}, {}

    def seconds(self, thing: Hashable, looks: Hashable) -> float:
        """Return for how long a thing has looked so."""
        before = self._before.get(thing)
        since = before[1] if before and before[0] == looks else self._now
        self._seen[thing] = looks, since
        return self._now - since


@dataclass(frozen=True)
class Sight:
    """What the registry, the broker and the database say, at one tick."""

    now: float  # Redis' time
    workers: Mapping[str, Worker] = field(default_factory=dict)
    queues: Mapping[str, Queue] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    rows: Mapping[int, rows.Row] = field(default_factory=dict)
    # Jobs whose message was in no queue at the last look. Where it is only on its way from the
    # queue to a worker, that worker names it with its next beat.
    absent: Set[str] = frozenset()


UNKNOWN = Queue(0, None)  # a queue that nobody has looked at


@dataclass(frozen=True)
class Case:
    """What is to be judged of one job."""

    name: str
    job: Job
    status: str = ""  # of the row; of a chart pending or running; '' where there is none
    token: Any = None  # of the row
    run: Run | None = None
    worker: str = ""  # that has it, or had it last; '' where that is not known
    last_beat: float | None = None  # when that worker was heard last, None where it said good-bye
    process_only: bool = False  # that worker lives, but not the process that ran the job
    ran_seconds: float = 0.0
    held: bool = False  # a worker that lives has it
    # For how long nobody has had it: no worker that lives and, where it waits, no queue.
    orphan_seconds: float = 0.0
    queue_silent: bool = False  # no worker that lives takes from its queue
    queue_seen: float | None = None  # when one was seen last, None for never
    queue: Queue = UNKNOWN  # with what the scaler says of it
    unstarted_seconds: float = 0.0  # for how long nobody has said that he starts a worker for it
    waited_seconds: float = 0.0  # since it was sent, and since a worker was seen, by Redis

    @property
    def host(self) -> str:
        """Where that worker is, e.g. vm of worker@vm#1a2b3c4d."""
        return self.worker.partition("@")[2].partition("#")[0]

    @property
    def read_only(self) -> bool:
        """Whether it is known that it can be run twice."""
        return query_id_of(self.name) is None or bool(self.run and self.run.read_only)


def silences(sight: Sight, observed: Observed) -> dict[str, float]:
    """Return for how long each worker's heartbeat has stood still."""
    return {
        name: observed.seconds(("worker", name), worker.last_beat)
        for name, worker in sight.workers.items()
    }


def queue_silences(sight: Sight, observed: Observed) -> dict[str, float]:
    """Return for how long the heartbeats of all who take from a queue have stood still.

    A worker without any queue is on its way back to the broker, and may take from each of them.
    """
    takers = {name: worker for name, worker in sight.workers.items() if not worker.draining}
    queues = {queue for worker in takers.values() for queue in worker.queues}
    queues.update(job.queue for job in sight.jobs.values())
    beats: dict[str, set[tuple[str, float]]] = {queue: set() for queue in queues}
    for name, worker in takers.items():
        for queue in worker.queues or queues:
            beats[queue].add((name, worker.last_beat))
    return {
        queue: observed.seconds(("queue", queue), frozenset(those))
        for queue, those in beats.items()
    }


def holders(sight: Sight) -> dict[str, list[str]]:
    """Return by job which workers say, or said with their last beat, that they have it."""
    found = defaultdict(list)
    for name, worker in sight.workers.items():
        for job in worker.active + worker.reserved:
            found[job].append(name)
    return found


def cases(sight: Sight, observed: Observed) -> Iterator[Case]:
    """Make of what is seen, and since when, what is to be judged."""
    silent, queue_silent = silences(sight, observed), queue_silences(sight, observed)
    held = holders(sight)
    for name, job in sight.jobs.items():
        query_id, run = query_id_of(name), sight.runs.get(name)
        if query_id is None:
            row = rows.Row("running" if run else "pending", None)
        else:
            row = sight.rows.get(query_id) or rows.Row("", None)
            if run and run.token != str(row.token):
                run = None  # of an earlier run
        # What a dead worker had before the job was sent again does not count.
        claiming = [each for each in held.get(name, []) if sight.workers[each].last_beat > job.at]
        if row.status == "running":
            alive = [each for each in held.get(name, []) if silent[each] < TIMES.silent_seconds]
            owners = [run.worker] if run else alive or claiming
            having = [
                each
                for each in owners
                if each in sight.workers and name in sight.workers[each].active
            ]
        else:
            owners = having = claiming
        if having:
            orphan = min(silent[each] for each in having)
        elif row.status == "running" or name in sight.absent:
            orphan = observed.seconds(("job", name), (row, run, job.attempt))
        else:
            orphan = 0.0
        owner = owners[0] if owners else ""
        queue = sight.queues.get(job.queue, UNKNOWN)
        since = queue.silent_seconds
        seen = None if since is None else sight.now - since
        unstarted = 0.0 if queue.starts else observed.seconds(("unstarted", job.queue), None)
        worker = sight.workers.get(owner)
        yield Case(
            name=name,
            job=job,
            status=row.status,
            token=row.token,
            run=run,
            worker=owner,
            last_beat=worker.last_beat if worker else None,
            process_only=bool(worker) and silent[owner] < TIMES.lively_seconds,
            ran_seconds=sight.now - run.at if run else 0.0,
            held=bool(having) and orphan < TIMES.silent_seconds,
            orphan_seconds=orphan,
            queue_silent=queue_silent[job.queue] >= TIMES.silent_seconds,
            queue_seen=seen,
            queue=queue,
            unstarted_seconds=unstarted,
            waited_seconds=sight.now - max(job.at, seen or 0.0),
        )


def query_name(query_id: int) -> str:
    """Return the name of a query's job."""
    return f"query:{query_id}"


def strangers(
    sight: Sight, silent: Mapping[str, float], unfinished: Mapping[int, rows.Row]
) -> tuple[dict[int, rows.Row], dict[int, Worker]]:
    """Return the rows that are in no register and that no worker has that lives.

    Such a query was sent while Redis could not be asked, or is older than the guard, or its
    request was killed. The second part says which silent worker had it.
    """
    held = holders(sight)
    unknown, died = {}, {}
    for query_id, row in unfinished.items():
        name = query_name(query_id)
        having = held.get(name, [])
        if name in sight.jobs or any(silent[each] < TIMES.silent_seconds for each in having):
            continue
        unknown[query_id] = row
        if having:
            died[query_id] = sight.workers[having[0]]
    return unknown, died


# -- What is decided ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Limits:
    """What an installation allows."""

    time_limit_seconds: float  # the hard limit of a query's task
    reruns: int  # how often a query is run again whose worker died
    wake_timeout_seconds: float = 0.0  # of waiting for a worker to be started; 0: for none

    @property
    def wakes(self) -> bool:
        """Whether queries wait for workers that are started."""
        return self.wake_timeout_seconds > 0


@dataclass(frozen=True)
class Decision:
    """What is done about a job, and why: of a failure the message for the user."""

    event: str
    reason: str = ""


def clock(seconds: float) -> str:
    """Return a time of Redis in words."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def served(case: Case, limits: Limits) -> bool:
    """Return whether a worker takes from a job's queue, or one is started that will.

    The latter for some seconds more than the scaler says so: one may follow on another.
    """
    starts = limits.wakes and case.unstarted_seconds < TIMES.unstarted_seconds
    return starts or not case.queue_silent


def judge(case: Case, limits: Limits) -> Decision | None:
    """Return what is to be done about a job, None to let it be."""
    if case.status not in rows.UNFINISHED:
        return Decision(FORGET)
    if case.held:
        return None
    if case.status == "pending":
        if not served(case, limits):
            return Decision("failed_no_worker", no_worker(case, limits))
        if case.queue_silent and case.waited_seconds >= limits.wake_timeout_seconds:
            return Decision("failed_not_woken", not_woken(case))
        if case.orphan_seconds < TIMES.silent_seconds:
            return waits(case, limits)
        if case.job.attempt < max(SENDINGS, limits.reruns + 1):
            return Decision("resent", "No worker has it and it is in no queue; it has not run.")
        return Decision("failed_lost", lost(case))
    if case.orphan_seconds < TIMES.silent_seconds:
        return None
    if case.process_only and case.ran_seconds >= limits.time_limit_seconds:
        return Decision("failed_time_limit", too_slow(case, limits))
    if case.read_only and served(case, limits) and case.job.attempt <= limits.reruns:
        return Decision("rerun", f"{died(case)}. It changes nothing, so it is run again.")
    return Decision("failed_worker_died", worker_died(case, limits))


def waits(case: Case, limits: Limits) -> Decision | None:
    """Return what is said of a query for which a worker is being started, None as long as none is.

    SQL Lab shows it until the query runs or ends, so it says nothing that is not true then. It
    decides nothing, so it does not wait until the queue was seen to be silent.
    """
    wake = case.queue.wake
    if not limits.wakes or case.queue.workers or wake is None or wake.state != "starting":
        return None
    return Decision(
        WAITS,
        f"No worker was running, so one was asked for at {clock(wake.since)}; this query waits "
        f"for it. It fails if none has come within {limits.wake_timeout_seconds:.0f} seconds.",
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
            f"since {clock(since)}. It has not touched the database; run it again.",
        )
    if worker:
        return Decision(
            "failed_worker_died",
            f"The worker {worker.host} that ran this query stopped (last heard of at "
            f"{clock(worker.last_beat)}). {UNKNOWN_OUTCOME}",
        )
    if seconds < limits.time_limit_seconds + TIMES.unknown_running_seconds:
        return None
    return Decision(
        "failed_unknown",
        f"This query is marked as running, but no worker has run it since {clock(since)}. "
        f"{UNKNOWN_OUTCOME}",
    )


# -- What users are told --------------------------------------------------------------------------
UNKNOWN_OUTCOME = (
    "It may have changed data, so its outcome is unknown and it was not run again. Check the data "
    "before you run it again."
)
FORGOTTEN = (
    "This query could not be sent to a worker once more, because what was sent is not known any "
    "more. Nothing was changed by it; run it again."
)
ADMINISTRATOR = "(your administrator sees: fleet workers)"


def not_run(case: Case) -> str:
    """Return what did not happen to a query that waits; an earlier attempt may have begun it."""
    if case.job.attempt == 1:
        return "was not started and has not touched the database"
    return "was not run again; nothing was changed by it"


def last_seen(case: Case) -> str:
    """Return when a job's queue had a worker."""
    if case.queue_seen is None:
        return "none was ever seen"
    return f"the last one was seen at {clock(case.queue_seen)}"


def no_worker(case: Case, limits: Limits) -> str:
    """Return what a user is told whose query no worker will take."""
    return (
        f"No worker takes queries from the queue '{case.job.queue}' ({last_seen(case)})"
        f"{not_started(case, limits)}, so this one {not_run(case)}. Run it again when a worker is "
        f"back {ADMINISTRATOR}."
    )


def not_started(case: Case, limits: Limits) -> str:
    """Return why none is started where queries wait for that, and '' where they do not."""
    return f", and none is started ({case.queue.not_started})" if limits.wakes else ""


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
        f"{case.waited_seconds:.0f} seconds ({last_seen(case)}; {said}), so this one "
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
            f"{not_started(case, limits)}. Nothing was changed by it; run it again when a worker "
            f"is back {ADMINISTRATOR}."
        )
    return (
        f"{died(case)}. This was attempt {case.job.attempt}, and no other one is made by itself. "
        "Nothing was changed by it; run it again. If it stops its workers each time, it needs "
        "more memory than they have."
    )


def too_slow(case: Case, limits: Limits) -> str:
    """Return what a user is told whose query was killed at the time limit."""
    changed = "Nothing was changed by it." if case.read_only else UNKNOWN_OUTCOME
    return (
        f"This query was stopped after the time limit of {limits.time_limit_seconds:.0f} seconds, "
        f"on the worker {case.host}. {changed}"
    )


# -- The broker -----------------------------------------------------------------------------------
class Broker:
    """The messages that wait. Only Redis lets us look; of any other broker nothing is known."""

    def __init__(self, url: str) -> None:
        self._redis: Any = None
        if url.startswith(("redis://", "rediss://")):
            self._redis = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)

    def waiting(self, queues: Collection[str]) -> Set[str] | None:
        """Return the jobs whose messages are in these queues, None where nobody can look.

        Messages come in at the head, leave at the tail and are read from the head on, so none is
        missed that stays. One that a worker has taken and not confirmed is that worker's matter:
        it names the job with each beat, and of a dead worker the job is sent again.
        """
        if self._redis is None:
            return None
        lists = [each for queue in queues for each in broker.lists(queue)]
        return {name for each in lists for text in self._messages(each) if (name := job_of(text))}

    def _messages(self, name: str) -> Iterator[bytes]:
        start = 0
        while texts := self._redis.lrange(name, start, start + SCAN_MESSAGES - 1):
            yield from texts
            start += SCAN_MESSAGES


def job_of(message: bytes) -> str:
    """Return the job of a message as Celery sends it, '' where it has none."""
    try:
        envelope = json.loads(message)
        args, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
        return job_name(envelope["headers"]["task"], args, kwargs)
    except (ValueError, LookupError, TypeError, binascii.Error):
        return ""


# -- The watchdog ---------------------------------------------------------------------------------
class Watchdog:
    """Looks, judges and acts, once in each tick."""

    def __init__(
        self,
        registry: Registry,
        database_url: str,
        broker_url: str,
        limits: Limits,
        observed: Observed | None = None,
    ) -> None:
        self._registry, self._limits = registry, limits
        self._observed = observed or Observed()
        self._broker = Broker(broker_url)
        self._celery = Celery(broker=broker_url, set_as_current=False)
        self._celery.conf.update(
            task_ignore_result=True,
            broker_transport_options={"socket_timeout": 2, "socket_connect_timeout": 2},
            task_publish_retry_policy={"max_retries": 1, "interval_start": 0},
        )
        self._database = sqlalchemy.create_engine(
            database_url,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={
                "application_name": "superset watchdog",
                "connect_timeout": 3,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 5000,  # milliseconds
            },
        )
        self._lead = Lead(registry.redis, f"{PREFIX}leader", self._begin)
        self._absent: Set[str] = frozenset()  # of the last look into the broker
        self._swept: float | None = None  # when, by this process' clock
        self._unfinished: Set[int] = frozenset()  # rows that were so at the last sweep
        self._hopeless: set[str] = set()  # jobs that nothing can be done about
        self._noted: dict[str, tuple[int, str]] = {}  # what was said of jobs, at which attempt

    def _begin(self) -> None:
        """Begin to lead."""
        self._swept = None
        self._restart()

    def _restart(self) -> None:
        """Trust nothing that was observed up to now."""
        self._observed.restart()
        self._absent = frozenset()

    def run(self, ended: Callable[[float], bool]) -> None:
        """Tick until `ended`, which waits so many seconds at most, says so; then step down."""
        repeat(self.tick, TIMES.watch_seconds, ended, OUTAGES, self._restart)
        self._lead.leave()

    def tick(self) -> None:
        """Look, judge and act, if this is the one that leads.

        Raises RedisError, SQLAlchemyError or kombu's OperationalError where something cannot be
        asked.
        """
        if not self._lead.take():
            return
        sight = self._look()
        self._noted = {name: self._noted[name] for name in self._noted.keys() & sight.jobs.keys()}
        judged = [(case, judge(case, self._limits)) for case in cases(sight, self._observed)]
        deadline = time.monotonic() + TIMES.deciding_seconds
        for case, decision in judged:
            if decision:
                self._try(
                    case.name,
                    functools.partial(self._act, case, decision),
                    queue=case.job.queue,
                    worker=case.worker,
                    attempt=case.job.attempt,
                )
                if time.monotonic() > deadline:
                    break
        if self._swept is None or time.monotonic() - self._swept >= TIMES.sweep_seconds:
            unfinished = self._read_unfinished(everything=self._swept is None)
            self._swept = time.monotonic()
            self._sweep(sight, [case for case, _ in judged], unfinished)

    # -- Looking ----------------------------------------------------------------------------------
    def _look(self) -> Sight:
        workers = self._registry.workers()
        self._observed.begin()
        jobs, runs, now = self._registry.jobs(), self._registry.runs(), self._registry.now()
        queues = {name: self._registry.queue(name) for name in {job.queue for job in jobs.values()}}
        query_ids = [number for name in jobs if (number := query_id_of(name)) is not None]
        found: dict[int, rows.Row] = {}
        if query_ids:
            with self._database.connect() as connection:
                found = rows.look_at(connection, query_ids)
        return Sight(now, workers, queues, jobs, runs, found, self._absent)

    # -- Acting -----------------------------------------------------------------------------------
    def _try(self, name: str, act: Callable[[], Decision | None], **values: Any) -> None:
        """Do what was decided about a job, and say so; where that fails, go on with the others."""
        if name in self._hopeless:
            return
        try:
            done = act()
        except OUTAGES:
            raise
        except Exception as error:
            self._hopeless.add(name)
            tell("hopeless", error, job=name, reason=in_words(error))
            return
        if done and done.event != FORGET:
            tell(done.event, job=name, **values, reason=done.reason)
            self._registry.decided(done.event)

    def _act(self, case: Case, decision: Decision) -> Decision | None:
        """Do what was decided; return what was done, None if somebody has changed the job."""
        if decision.event == FORGET:
            self._registry.forget(case.name)
            return decision
        if decision.event == WAITS:
            return decision if self._note(case, decision.reason) else None
        if decision.event in ("rerun", "resent"):
            message = self._registry.message(case.name)
            if message is not None:
                return decision if self._send_again(case, message) else None
            decision = Decision("failed_lost", FORGOTTEN)
        return decision if self._fail(case, decision.reason) else None

    def _change(self, query_id: int, change: Callable[[Any], bool]) -> bool:
        """Change a row in a transaction of its own; False where it was changed by another party."""
        try:
            with self._database.begin() as connection:
                limit = round(TIMES.row_timeout_seconds * 1000)
                connection.execute(sqlalchemy.text(f"set local lock_timeout = {limit}"))
                return change(connection)
        except DBAPIError as error:
            if not isinstance(error.orig, psycopg2.errors.LockNotAvailable):
                raise
            # A run is writing its row, and will be through when we look again.
            tell("locked", job=query_name(query_id))
            return False

    def _note(self, case: Case, message: str) -> bool:
        """Let SQL Lab show what a query waits for; False where it does."""
        noted, query_id = (case.job.attempt, message), query_id_of(case.name)
        if self._noted.get(case.name) == noted:
            return False
        if query_id is not None:
            seen = rows.Row(case.status, case.token)
            if not self._change(query_id, lambda it: rows.note(it, query_id, message, seen)):
                return False
        self._noted[case.name] = noted
        return True

    def _send_again(self, case: Case, message: Mapping[str, Any]) -> bool:
        """Put a job into its queue once more; False where it has been taken or finished.

        In this order, because each step can be the last: a row that waits, and is in no queue, is
        found again.
        """
        query_id = query_id_of(case.name)
        if query_id is None:
            if self._registry.finished(case.name):
                self._registry.forget(case.name)
                return False
            if case.run and not self._registry.release(case.name, case.run.token):
                return False
        else:
            seen = rows.Row(case.status, case.token)
            if not self._change(query_id, lambda it: rows.retry(it, query_id, seen)):
                return False
            if case.run:
                self._registry.release(case.name, case.run.token)
        job = replace(case.job, task_id=str(uuid.uuid4()), attempt=case.job.attempt + 1)
        self._registry.resent(case.name, job)
        self._absent -= {case.name}
        self._celery.send_task(
            job.task, message["args"], message["kwargs"], task_id=job.task_id, queue=job.queue
        )
        return True

    def _fail(self, case: Case, message: str) -> bool:
        """End a job with an error; False where it has been taken or finished."""
        query_id = query_id_of(case.name)
        if query_id is None:
            done = self._fail_chart(case, message)
        else:
            seen = rows.Row(case.status, case.token)
            done = self._change(query_id, lambda it: rows.fail(it, query_id, message, seen))
        if done:
            self._registry.forget(case.name)
        return done

    def _fail_chart(self, case: Case, message: str) -> bool:
        """Write the last event of a chart's job, on its user's stream and on everybody's."""
        sent = self._registry.message(case.name) or {"args": [], "kwargs": {}}
        metadata = first("job_metadata", sent["args"], sent["kwargs"]) or {}
        if "channel_id" not in metadata:
            return True  # nobody knows whom to tell
        shown = {key: value for key, value in metadata.items() if key != "guest_token"}
        prefix, length, length_of_all = STREAMS
        return self._registry.finish(
            case.name,
            case.run.token if case.run else "",
            {**shown, "status": "error", "errors": rows.errors(message)},
            {f"{prefix}{metadata['channel_id']}": length, f"{prefix}full": length_of_all},
        )

    # -- Sweeping ---------------------------------------------------------------------------------
    def _read_unfinished(self, everything: bool) -> dict[int, rows.Row]:
        """Return the rows that are not finished: of all, else new ones and those known as such."""
        with self._database.begin() as connection:
            found = rows.unfinished(connection, SWEEP_ROWS)
            older = self._unfinished - found.keys()
            if older:
                found.update(rows.look_at(connection, older))
        if everything:
            try:
                with self._database.begin() as connection:
                    limit = round(TIMES.sweep_timeout_seconds * 1000)
                    connection.execute(sqlalchemy.text(f"set local statement_timeout = {limit}"))
                    found.update(rows.unfinished(connection))
            except DBAPIError as error:
                if not isinstance(error.orig, psycopg2.errors.QueryCanceled):
                    raise
                tell("old_rows_not_read", reason=f"That took more than {limit} ms.")
        unfinished = {key: row for key, row in found.items() if row.status in rows.UNFINISHED}
        self._unfinished = unfinished.keys()
        return unfinished

    def _sweep(
        self, sight: Sight, judged: Collection[Case], unfinished: Mapping[int, rows.Row]
    ) -> None:
        """Look into the broker, and at the rows of queries that are in no register."""
        unknown, died = strangers(sight, silences(sight, self._observed), unfinished)
        suspects = {each.name for each in judged if each.status == "pending" and not each.held}
        waiting: Set[str] | None = frozenset()
        if suspects or any(row.status == "pending" for row in unknown.values()):
            queues = {each.job.queue for each in judged}
            queues.update(queue for each in sight.workers.values() for queue in each.queues)
            waiting = self._broker.waiting(queues)
        self._absent = frozenset() if waiting is None else suspects - waiting
        for query_id, row in list(unknown.items()):
            if row.status == "pending" and (waiting is None or query_name(query_id) in waiting):
                del unknown[query_id]
        noticed = self._registry.noticed([query_name(query_id) for query_id in unknown])
        for query_id, row in unknown.items():
            seconds = noticed[query_name(query_id)]
            worker, since = died.get(query_id), sight.now - seconds
            decision = judge_unknown(row.status, seconds, worker, since, self._limits)
            if decision:
                act = functools.partial(self._fail_unknown, query_id, row, decision)
                self._try(query_name(query_id), act)
        for name, run in sight.runs.items():
            if name not in sight.jobs and run.worker not in sight.workers:
                self._registry.release(name, run.token)  # of a worker that died long ago

    def _fail_unknown(self, query_id: int, seen: rows.Row, decision: Decision) -> Decision | None:
        message = decision.reason
        done = self._change(query_id, lambda it: rows.fail(it, query_id, message, seen))
        return decision if done else None


# -- The process ----------------------------------------------------------------------------------
def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--time-limit",
        type=float,
        default=21660,  # Superset's own
        metavar="SECONDS",
        help="hard limit of a query, after which its worker kills it",
    )
    parser.add_argument(
        "--reruns",
        type=int,
        default=1,
        metavar="N",
        help="how often a query that changes nothing is run again when its worker died",
    )
    parser.add_argument(
        "--wake-timeout",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how long a query waits for a worker that the scaler starts; 0: for none",
    )
    options = parser.parse_args()
    begin_journal()
    known = facts.load()
    coordination = known["redis"]["coordination"]
    watchdog = Watchdog(
        Registry(facts.redis_url(coordination, facts.GUARD), timeout_seconds=2),
        facts.database_url(known["database"]),
        facts.redis_url(coordination, facts.BROKER),
        Limits(options.time_limit, options.reruns, options.wake_timeout),
    )
    watchdog.run(until_terminated())
