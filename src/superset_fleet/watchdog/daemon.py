"""fleet-watchdog: fails or repeats jobs whose worker died, and jobs that no worker will ever take.

    python -m superset_fleet.watchdog --time-limit 3660 --reruns 1

Any number may run, one leads. It looks once a second at what the registry, the broker and the
database say, and judges by what it saw itself without a break: a worker is gone when its heartbeat
stood still for six seconds of this process' own clock. So neither wrong clocks nor a restart of
Redis make it err. Whoever changes a query's row names the row that it saw (rows.py), so of two
parties that decide about a query one is right, and the other one does nothing.

Each decision is one line in the journal (`event=rerun job=query:17 ...`) and is counted.
"""

from __future__ import annotations

import argparse
import functools
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import replace
from typing import Any

import psycopg2.errors
import redis
import sqlalchemy
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from ..daemon.journal import begin_journal, in_words, tell
from ..daemon.leading import Lead
from ..daemon.loop import repeat, until_terminated
from ..state import broker, facts, rows
from ..state.jobs import first, query_id_of, query_name
from ..state.registry import PREFIX, Registry
from ..times import TIMES
from .judge import FORGET, WAITS, Decision, judge, judge_unknown
from .sight import Case, Limits, Observed, Sight, cases, rows_without_job, silences
from .words import FORGOTTEN

SWEEP_ROWS = 20_000  # the newest rows, of which a sweep reads the unfinished ones
STREAMS = "async-events-", 1_000, 1_000_000  # Superset's defaults: prefix, lengths
OUTAGES = redis.RedisError, SQLAlchemyError, BrokerError


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
        self._broker = broker.Messages(broker_url)
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

    def run(self, terminated: Callable[[float], bool]) -> None:
        """Tick until `terminated`, which waits so many seconds at most; then step down."""
        repeat(
            self.tick,
            TIMES.watch_seconds,
            terminated,
            OUTAGES,
            lambda: self._lead.status,
            self._restart,
        )
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
        """Fail a job; False where it has been taken or finished."""
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
        unknown, died = rows_without_job(sight, silences(sight, self._observed), unfinished)
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
