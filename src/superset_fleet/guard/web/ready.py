"""/ready: whether a load balancer is to send requests to this web machine.

200 once the machine has reached what Superset needs to serve, and the schema is not behind the
code; that is written down, so it is one truth for all processes, and what fails later takes no
machine out: it would take out all. 503 before that, and while the machine drains. What fails
later is seen in /fleet/metrics.

Nobody logs in for it, so it names no machine and no address.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import redis
import sqlalchemy
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.exc import SQLAlchemyError

from ...roles import DRAINING, ROLES, WEB
from ..migrations import SchemaError, installed_revisions

READY_EXTENSION = "superset_fleet_ready"  # its place in Flask's app.extensions
DATABASE, COORDINATION = "database", "coordination"  # without these nothing can be served
ASK_SECONDS = 2  # for one dependency; libpq knows no shorter one
DATABASE_OPTIONS = {
    "application_name": "superset ready",
    "connect_timeout": ASK_SECONDS,
    "options": f"-c statement_timeout={ASK_SECONDS * 1000}",
    "tcp_user_timeout": ASK_SECONDS * 1000,
}
REDIS_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": ASK_SECONDS,
    "socket_timeout": ASK_SECONDS,
    "retry": Retry(NoBackoff(), 0),
}


class Ready:
    """What this machine depends on, and whether it is ready.

    `redis_urls` names the Redis instances, of which `coordination` is one. `directory` lives as
    long as the service runs; it has the files `ready` and `draining` that say so.
    """

    def __init__(
        self,
        redis_urls: Mapping[str, str],
        directory: str | Path = "",
        revisions: Callable[[], tuple[str, set[str]]] = installed_revisions,
    ) -> None:
        directory = Path(directory or os.environ.get("RUNTIME_DIRECTORY", ROLES[WEB].directory))
        self._ready, self._draining = directory / "ready", directory / DRAINING
        self._revisions = revisions
        self._database: sqlalchemy.engine.Engine | None = None
        self._redis_urls = dict(redis_urls)
        self._looking = threading.Lock()  # so that a process has one connection more, at most
        self._reason = "Nobody has looked yet."

    def install(self, app: Any) -> None:
        """Add /ready to Superset's application."""
        from superset.extensions import talisman

        self.use_database(app.config["SQLALCHEMY_DATABASE_URI"], DATABASE_OPTIONS)
        app.extensions[READY_EXTENSION] = self
        page = self.page()
        app.register_blueprint(page)
        # As Superset's own /health: load balancers come by plain HTTP.
        talisman(force_https=False)(app.view_functions["ready.show"])
        for limiter in app.extensions.get("limiter", ()):
            limiter.exempt(page)

    def use_database(self, url: str, options: Mapping[str, Any]) -> None:
        """Look at this metadata database, beside Superset's pool: that waits for longer."""
        pool = sqlalchemy.pool.NullPool
        self._database = sqlalchemy.create_engine(url, poolclass=pool, connect_args=dict(options))

    def page(self) -> flask.Blueprint:
        """Return /ready."""
        blueprint = flask.Blueprint("ready", __name__)

        @blueprint.get("/ready")
        def show() -> Any:
            status, reason = self.status()
            answer = flask.jsonify(status=status, reason=reason)
            answer.status_code = 200 if status == "ready" else 503
            answer.headers["Cache-Control"] = "no-store"
            return answer

        return blueprint

    def status(self) -> tuple[str, str]:
        """Return `ready`, `starting` or `draining`, and why."""
        if self._draining.exists():
            return "draining", "This machine takes no more requests."
        if not self._ready.exists():
            if reason := self._missing():
                return "starting", reason
            self._ready.touch()
        return "ready", "This machine has reached all that it needs."

    def dependencies(self) -> dict[str, bool]:
        """Return which dependencies answer at this moment, all asked at the same time."""
        names = [DATABASE, *self._redis_urls]
        with self._looking, ThreadPoolExecutor(len(names)) as pool:
            failures = pool.map(self._failure, names)
            return {name: not failure for name, failure in zip(names, failures, strict=True)}

    def _missing(self) -> str:
        """Return what keeps this machine from serving, or nothing.

        One thread of a process looks; the others say meanwhile what was seen last. So no more than
        one is held up by what does not answer.
        """
        if self._looking.acquire(blocking=False):
            try:
                self._reason = (
                    self._failure(DATABASE) or self._failure(COORDINATION) or self._behind()
                )
            finally:
                self._looking.release()
        return self._reason

    def _failure(self, name: str) -> str:
        """Return why a dependency cannot be used, or nothing. Its own words hold its address."""
        try:
            if name == DATABASE:
                with self._connect() as connection:
                    connection.execute(sqlalchemy.text("select 1"))
            else:
                with redis.Redis.from_url(self._redis_urls[name], **REDIS_OPTIONS) as client:
                    client.ping()
        except (SQLAlchemyError, redis.RedisError) as error:
            what = "The metadata database" if name == DATABASE else f"Redis {name}"
            return f"{what} does not answer ({type(error).__name__})."
        return ""

    def _behind(self) -> str:
        """Return in what the schema is behind the code, or nothing.

        A revision that this release does not know is of a newer one: old code may serve with it.
        """
        try:
            head, known = self._revisions()
            with self._connect() as connection:
                found = set()
                if sqlalchemy.inspect(connection).has_table("alembic_version"):
                    rows = connection.execute(sqlalchemy.text("select * from alembic_version"))
                    found = set(rows.scalars())
        except SQLAlchemyError as error:
            return f"The schema cannot be read ({type(error).__name__})."
        except SchemaError as error:
            return f"The schema cannot be compared: {error}."
        if head in found or found - known:
            return ""
        at = ", ".join(sorted(found)) or "none"
        return f"The schema's revision is {at}, this release needs {head}: playbooks/superset.yml."

    def _connect(self) -> Any:
        assert self._database, "use_database() comes first"
        return self._database.connect()
