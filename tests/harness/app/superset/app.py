"""See superset."""

import os
import runpy
import sys
import time
from typing import Any

import flask
import sqlglot
from sqlalchemy.exc import IntegrityError
from werkzeug.serving import WSGIRequestHandler, make_server

import superset.extensions
from superset import db
from superset.extensions import async_query_manager, celery_app
from superset.models.core import Database
from superset.models.sql_lab import Query

queries = flask.Blueprint("QueryRestApi", __name__, url_prefix="/api/v1")
sql_lab = flask.Blueprint("SqlLabRestApi", __name__, url_prefix="/api/v1/sqllab")


def create_app() -> flask.Flask:
    """Return the application, as superset_config.py wants it."""
    app = flask.Flask("superset")
    app.config.update(runpy.run_path(os.environ["SUPERSET_CONFIG_PATH"]))
    db.init_app(app)
    celery_app.config_from_object(app.config["CELERY_CONFIG"])
    superset.extensions.use_manager(app.config["GLOBAL_ASYNC_QUERY_MANAGER_CLASS"])
    async_query_manager.init_app(app)
    app.config["FLASK_APP_MUTATOR"](app)
    app.register_blueprint(queries)
    app.register_blueprint(sql_lab)
    return app


@sql_lab.post("/execute/")
def execute_sql_query() -> Any:
    """Send a query to the workers, after a look at its SQL."""
    from superset.sql_lab import get_sql_results

    query = Query(database_id=1, **flask.request.get_json())
    db.session.add(query)
    try:
        db.session.commit()
    except IntegrityError as error:
        db.session.rollback()
        return {"errors": [{"message": f"Failed to execute query: {error}"}]}, 500
    try:
        sqlglot.parse(query.sql, "postgres")
    except sqlglot.errors.ParseError as error:
        query.status = "failed"
        db.session.rollback()
        return {"errors": [{"message": str(error), "error_type": "INVALID_SQL_ERROR"}]}, 422
    try:
        get_sql_results.delay(query.id, query.sql)
    except Exception:
        query.status = "failed"
        query.error_message = "Failed to start remote query on a worker."
        db.session.rollback()
        return {"errors": [{"message": "Failed to start remote query on a worker."}]}, 500
    return {"query": {"queryId": query.id}}, 202


@queries.post("/query/stop")
def stop_query() -> Any:
    """Stop a query on the side of its database."""
    query = Query.query.filter_by(client_id=flask.request.get_json()["client_id"]).one()
    if query.status in ("failed", "success", "timed_out"):
        return {"result": "OK"}
    process = flask.json.loads(query.extra_json or "{}").get("cancel_query")
    if process is None:
        return {"message": "Could not cancel query"}, 422
    with query.database.get_raw_connection() as connection, connection.cursor() as cursor:
        cursor.execute("select pg_terminate_backend(%s)", [process])
    query.status, query.end_time = "stopped", time.time() * 1000
    db.session.commit()
    return {"result": "OK"}


@queries.post("/chart/data")
def chart() -> Any:
    """Let a worker load a chart's data."""
    from superset.tasks.async_queries import load_chart_data_into_cache

    channel = async_query_manager.parse_channel_id_from_request(flask.request)
    job = async_query_manager.init_job(channel, None)
    load_chart_data_into_cache.delay(job, flask.request.get_json())
    return job, 202


class Quiet(WSGIRequestHandler):
    """Says nothing of requests."""

    def log_request(self, *_: Any) -> None:
        """Say nothing."""


def create_tables() -> None:
    """Make the metadata database's tables."""
    with create_app().app_context():
        db.create_all()
        db.session.add(Database(id=1))
        db.session.commit()


def serve() -> None:
    """Serve on the port that is the argument."""
    from superset.tasks.celery_app import flask_app

    server = make_server(
        "127.0.0.1", int(sys.argv[1]), flask_app, threaded=True, request_handler=Quiet
    )
    server.serve_forever()
