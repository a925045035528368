"""Where a task runs: one run for each job, and nothing is written by a run that lost its job."""

from __future__ import annotations

import functools
import resource
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import sqlalchemy
from celery.exceptions import SoftTimeLimitExceeded
from redis import RedisError
from sqlalchemy.exc import SQLAlchemyError

from ..daemon.journal import in_words, tell
from ..state import rows
from ..state.jobs import first, job_name, query_id_of
from ..state.records import Run
from ..times import TIMES
from .context import Guard


class Fenced(BaseException):
    """The job is not this run's any more.

    Not an Exception: Superset would catch that, and write into the row what went wrong.
    """


class Dropped(BaseException):
    """The database that the query is about has dropped the run's connection.

    Not an Exception, as Fenced. The message is what the database said.
    """


class TooLarge(BaseException):
    """The run got no more memory. Not an Exception, as Fenced; the message is for the user."""


class Current(threading.local):
    """What the thread runs now."""

    query_id: int | None = None
    token: Decimal | str | None = None
    status = "running"  # that it wrote last into the query's row
    finished = False  # that was the last one


current = Current()


# -- The fence ------------------------------------------------------------------------------------
def fence_rows(app: Any) -> None:
    """Let a run change the row of its query only as long as it owns it."""
    with app.app_context():
        from superset import db
        from superset.models.sql_lab import Query

    check_row.model = Query  # type: ignore[attr-defined]
    if not sqlalchemy.event.contains(db.session, "before_flush", check_row):
        sqlalchemy.event.listen(db.session, "before_flush", check_row)


def check_row(session: Any, *_: Any) -> None:
    """Raise Fenced where this run is about to change a row that is not its own any more.

    The row stays locked until the change is committed, so nobody takes it over in between.
    Every row that is written, by web processes too, has the database's time of change: by that
    the browser asks what is new, and with the time of a wrong clock it would miss a query's last
    status. `end_time` is the database's time, too, so that the duration of the run is true.
    """
    model = check_row.model  # type: ignore[attr-defined]
    for query in [*session.new, *session.dirty]:
        if not isinstance(query, model) or not session.is_modified(query):
            continue
        if current.query_id is not None and query.id == current.query_id:
            query.start_running_time = current.token  # which Superset would set once more
            if not session.is_modified(query):
                continue
            row = rows.look(session.connection(), query.id, lock=True)
            # Superset may write its last status in several steps of one transaction.
            if row not in (("running", current.token), (current.status, current.token)):
                raise Fenced(f"its row is {row}")
            if query.status == "failed":
                if any(isinstance(error, MemoryError) for error in at_hand()):
                    raise TooLarge(too_large())
                if said := dropped_by(functools.partial(dialect_of, query.database)):
                    raise Dropped(said)
            current.status = query.status
            current.finished = query.status not in rows.UNFINISHED
            if current.finished:
                query.end_time = sqlalchemy.text(rows.MILLISECONDS)
        query.changed_on = sqlalchemy.text(rows.UTC_NOW)


def at_hand() -> Iterator[BaseException]:
    """Yield the error that is handled at this moment, and those that led to it.

    Superset writes down that a query failed while it handles the error for which it did.
    """
    error, seen = sys.exception(), set()
    while error and id(error) not in seen:  # Superset makes some errors their own cause
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def too_large() -> str:
    """Return what a user is told whose query got no more memory."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    most = "its worker has" if limit < 0 else f"the {limit >> 20} MiB that its process may have"
    return f"The result of this query needs more memory than {most}. Ask for fewer rows or columns."


def dialect_of(database: Any) -> Any:
    """Return SQLAlchemy's dialect of a database, which knows the errors of its driver."""
    dialect = database.get_dialect()
    dialect.dbapi = type(dialect).dbapi()
    return dialect


def dropped_by(find_dialect: Callable[[], Any]) -> str:
    """Return what a database said when it dropped a connection, if that is the error at hand.

    What of all errors of a driver means a lost connection SQLAlchemy's dialects know.
    """
    try:
        dialect = find_dialect()
        for error in at_hand():
            if dialect.is_disconnect(error, None, None):
                return str(error).partition("\n")[0]
    except Exception as unknown:  # of a dialect that is like no other: the query fails
        tell("not_known_whether_dropped", reason=in_words(unknown))
    return ""


@contextmanager
def owning(query_id: int | None, token: Decimal | str) -> Iterator[None]:
    """Say what this thread runs."""
    current.query_id, current.token = query_id, token
    current.status, current.finished = "running", False
    try:
        yield
    finally:
        current.query_id = current.token = None


class Keeper:
    """A thread beside the run, which first does what the run need not wait for.

    Then it interrupts the run when its job has been given to another one, or is over. The signal is
    that of the soft time limit, which a query's driver heeds: it tells the database to stop. What
    the run would write then is refused by the fence.
    """

    def __init__(
        self, is_ours: Callable[[], bool], begin: Callable[[], None] = lambda: None
    ) -> None:
        self._is_ours, self._begin = is_ours, begin
        self._over, self._lock = threading.Event(), threading.Lock()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="guard-keeper", daemon=True)
        self.interrupted = False

    def __enter__(self) -> Keeper:
        # Signals reach the main thread alone, which is where the processes of a pool run tasks.
        if threading.current_thread() is threading.main_thread():
            self._thread.start()
        else:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._begun.wait()  # what begins late would be left over
        with self._lock:
            self._over.set()

    def _start(self) -> None:
        try:
            self._begin()
        finally:
            self._begun.set()

    def _keep(self) -> None:
        self._start()
        while not self._over.wait(TIMES.keep_seconds):
            if not self._is_ours():
                with self._lock:
                    if self._over.is_set():
                        return
                    self.interrupted = True
                    main = threading.main_thread().ident
                    assert main is not None
                    signal.pthread_kill(main, signal.SIGUSR1)
                    return


# -- Queries --------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=1000)
def engine_of(database_id: int) -> str:
    """Return Superset's name of the engine of a database, e.g. postgresql."""
    from superset import db
    from superset.models.core import Database

    return str(db.session.get(Database, database_id).db_engine_spec.engine)


def is_read_only(sql: str, engine: str) -> bool:
    """Return whether SQL can be run twice, as far as its text tells.

    What no parser can see is what a function does that a SELECT calls.
    """
    import sqlglot
    from sqlglot import exp
    from superset.exceptions import SupersetParseError
    from superset.sql.parse import SQLGLOT_DIALECTS, SQLScript

    harmless = exp.Query, exp.Show, exp.Describe, exp.Use, exp.Set
    try:
        if SQLScript(sql, engine=engine).has_mutation():
            return False
        statements = sqlglot.parse(sql, dialect=SQLGLOT_DIALECTS.get(engine))
    except (SupersetParseError, sqlglot.errors.SqlglotError, RecursionError):
        return False
    return all(
        isinstance(statement, harmless) and not statement.find(exp.Into, exp.Command)
        for statement in statements
        if statement is not None
    )


def run_query(guard: Guard, job: str, query_id: int, sql: str, work: Callable[[], Any]) -> Any:
    """Run a query whose row waits, and skip any other: a stale message, or one more of the same.

    Where the row says `running` although nobody runs it the watchdog is the one who decides.
    """
    from superset import db

    with db.engine.begin() as connection:
        claim = rows.claim(connection, query_id)
    if claim is None:
        tell("skipped", job=job, reason="not_pending")
        return None
    try:
        return run_claimed(guard, job, query_id, claim, sql, work)
    except Exception as error:
        if said := dropped_by(lambda: db.engine.dialect):  # Superset's own database was away
            give_up(guard, job, query_id, claim, said, away=True)
            return None
        if isinstance(error, SQLAlchemyError):
            raise  # the row cannot be reached just now: the watchdog looks what became of it
        # Most errors Superset writes into the row by itself; of the others nobody would know.
        message = f"The worker could not run this query: {type(error).__name__}: {error}"
        fail_row(guard, job, query_id, claim, message)
        raise


def fail_row(guard: Guard, job: str, query_id: int, claim: rows.Claim, message: str) -> None:
    """Fail the row of a run, if the row is still the run's and unfinished."""
    from superset import db

    try:
        db.session.rollback()  # the run may have been about to change the row, which locks it
        with db.engine.begin() as connection:
            failed = rows.fail(connection, query_id, message, rows.Row("running", claim.token))
    except SQLAlchemyError as outage:  # the watchdog will look what became of it
        tell("not_failed", job=job, reason=in_words(outage))
        return
    if failed:
        tell("failed", job=job, reason=message)
        guard.forget(job)


def run_claimed(
    guard: Guard, job: str, query_id: int, claim: rows.Claim, sql: str, work: Callable[[], Any]
) -> Any:
    """Run a query whose row was claimed, and which may change the row as long as it owns it."""
    from superset import db

    def begin() -> None:
        try:
            with guard.app.app_context():
                engine = engine_of(claim.database_id)
            read_only = not claim.creates_table and is_read_only(sql, engine)
            guard.registry.take(job, Run(guard.worker, str(claim.token), read_only))
        except Exception as error:  # whoever looks for the run's record can do without
            tell("unguarded", job=job, reason=in_words(error))

    def is_ours() -> bool:
        try:
            run = guard.registry.run(job)
            if run and run.token == str(claim.token):
                return True
        except RedisError:
            pass
        try:
            # The engine hangs on the application's context, which a thread does not inherit.
            with guard.app.app_context(), db.engine.begin() as connection:
                return rows.look(connection, query_id) == ("running", claim.token)
        except SQLAlchemyError:
            return True

    try:
        with owning(query_id, claim.token), Keeper(is_ours, begin):
            result = work()
            finished = current.finished
    except Fenced as fenced:
        tell("fenced", job=job, reason=fenced)
        return None
    except TooLarge as error:
        fail_row(guard, job, query_id, claim, str(error))
        return None
    except Dropped as dropped:
        give_up(guard, job, query_id, claim, str(dropped))
        return None
    if finished:  # else the watchdog looks what became of it
        guard.forget(job)
    return result


def give_up(
    guard: Guard, job: str, query_id: int, claim: rows.Claim, said: str, away: bool = False
) -> None:
    """Leave a run that its database dropped to the watchdog, which runs it again or fails it.

    Where the database has not been away, it was this connection that was ended, by an administrator
    perhaps: then what only reads fails here, and is not run again.
    """
    from superset import db

    tell("dropped", job=job, reason=said)
    db.session.rollback()  # the run was about to change the row, which locks it
    left = False
    try:
        run = guard.registry.run(job)
        if run and run.token != str(claim.token):
            run = None  # of an earlier attempt
        if run and (not run.read_only or was_away(claim.database_id) or away):
            left = guard.registry.take(job, replace(run, dropped=said))
    except RedisError as error:
        tell("unguarded", job=job, reason=in_words(error))
    if not left:
        message = (
            f"The database dropped the connection on which this query ran ({said}). It was not run "
            "again."
        )
        fail_row(guard, job, query_id, claim, message)


def was_away(database_id: int) -> bool:
    """Return whether a database cannot be connected to, and wait until it can be.

    It waits for as long as a restart may take, and not at all where it can be at once.
    """
    from superset import db
    from superset.models.core import Database

    over, away = time.monotonic() + TIMES.database_seconds, False
    while time.monotonic() < over:
        try:
            with db.session.get(Database, database_id).get_raw_connection():
                break
        except SoftTimeLimitExceeded:
            raise
        except Exception:  # whatever its driver raises
            away = True
        finally:
            db.session.rollback()
        time.sleep(TIMES.database_look_seconds)
    return away


# -- Charts ---------------------------------------------------------------------------------------
def run_chart(guard: Guard, job: str, metadata: Any, work: Callable[[], Any]) -> Any:
    """Load a chart's data unless another run does, or did."""
    token = uuid.uuid4().hex
    try:
        if guard.registry.finished(job) or not guard.registry.take(
            job, Run(guard.worker, token, read_only=True), instead=""
        ):
            tell("skipped", job=job, reason="taken_or_finished")
            return None
    except RedisError as error:
        tell("unguarded", job=job, reason=in_words(error))

    def is_ours() -> bool:
        try:
            run = guard.registry.run(job)
            return run.token == token if run else not guard.registry.finished(job)
        except RedisError:
            return True

    keeper = Keeper(is_ours)
    try:
        with owning(None, token), keeper:
            return work()
    except SoftTimeLimitExceeded:
        if not keeper.interrupted:
            with owning(None, token):
                tell_time_limit(metadata)
        raise


def tell_time_limit(metadata: Any) -> None:
    """Write the event that Superset does not write when a chart runs into the time limit."""
    from superset.extensions import async_query_manager as manager

    message = "The chart's query ran into the time limit and was stopped."
    manager.update_job(metadata, manager.STATUS_ERROR, errors=rows.errors(message))


# -- Both -----------------------------------------------------------------------------------------
def around(guard: Guard) -> Callable[[Any], Any]:
    """Return the annotation of a task's run."""

    def annotation(original: Any) -> Any:
        @functools.wraps(original)
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            job = job_name(self.name, args, kwargs)
            work = functools.partial(original, *args, **kwargs)
            # Superset calls the same function itself for a query that is not asynchronous.
            if not job or self.request.called_directly or self.request.is_eager:
                return work()
            query_id = query_id_of(job)
            if query_id is None:
                return run_chart(guard, job, first("job_metadata", args, kwargs), work)
            sql = args[1] if len(args) > 1 else kwargs["rendered_query"]
            return run_query(guard, job, query_id, sql, work)

        return run

    return annotation
