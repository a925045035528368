"""Superset starts with this machine's packages, configuration and overrides, and can publish.

With the guard, a query is published only while a worker takes it: this test beats as one.

`uv pip check` and imports do not notice that Celery's Redis transport refuses the installed
redis-py; only a task that is really published does. The Redis is Debian's, started for this
test alone on a port of the loopback interface. The metadata database is an empty SQLite file.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy

from superset_fleet.guard.context import EXTENSION
from superset_fleet.state.facts import GUARD, redis_url
from superset_fleet.state.records import Worker
from superset_fleet.state.registry import Registry

CONFIG = Path("/etc/superset/superset_config.py")
PASSWORD = "p@ss/word: 100%"  # needs quoting in a URL


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Yield the port of a Redis that lives as long as the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    options = f"bind 127.0.0.1\nport {port}\nrequirepass '{PASSWORD}'\nsave ''\ndir {directory}\n"
    # redis-tools has the server too: it is one program with several names.
    server = subprocess.Popen(
        ["redis-server", "-"],
        executable="/usr/bin/redis-check-rdb",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdin is not None
    with server.stdin as stdin:
        stdin.write(options)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


def wait_until_connected(port: int) -> None:
    """Wait at most ten seconds for the server on a port."""
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"redis-server did not listen on port {port}")


def facts(redis: dict[str, object]) -> dict[str, object]:
    """Return facts of nothing but a Redis."""
    return {
        "secret_key": "smoke" * 10,
        "database": {
            "host": "127.0.0.1",
            "port": 1,
            "name": "none",
            "user": "none",
            "password": PASSWORD,
        },
        "redis": {"coordination": redis, "results": redis, "cache": redis},
        "urls": {"users": "http://127.0.0.1", "workers": "http://127.0.0.1"},
        "smtp": {},
    }


def publish(directory: Path, registry: Registry) -> tuple[int, bool]:
    """Publish one task; return how many wait in its queue, and whether Superset is guarded."""
    from superset import config

    # The driver and the options of PostgreSQL are good; nothing connects yet.
    sqlalchemy.create_engine(config.SQLALCHEMY_DATABASE_URI, **config.SQLALCHEMY_ENGINE_OPTIONS)
    config.SQLALCHEMY_DATABASE_URI = f"sqlite:///{directory}/superset.db"
    config.SQLALCHEMY_ENGINE_OPTIONS = {}

    from superset.tasks.celery_app import app, flask_app

    registry.beat("smoke@test", Worker("test", os.getpid(), ["sql_lab"], slots=1))
    with flask_app.app_context():
        app.tasks["sql_lab.get_sql_results"].delay(0, "select 1")
    with app.connection_for_read() as connection:
        waiting: int = connection.default_channel.queue_declare("sql_lab", passive=True)[1]
    return waiting, EXTENSION in flask_app.extensions


def main() -> None:
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as port:
        wait_until_connected(port)
        redis = {"host": "127.0.0.1", "port": port, "password": PASSWORD}
        path = Path(name) / "facts"
        path.write_text(json.dumps(facts(redis)))
        os.environ |= {"SUPERSET_CONFIG_PATH": str(CONFIG), "SUPERSET_FACTS": str(path)}
        registry = Registry(redis_url(redis, GUARD))
        waiting, guarded = publish(Path(name), registry)
        if waiting != 1:
            raise SystemExit(f"one task was published, {waiting} are in the queue sql_lab")
        if list(registry.jobs()) != ["query:0"] * guarded:
            raise SystemExit(f"the guard should know query 0 alone and knows {registry.jobs()}")


if __name__ == "__main__":
    main()
