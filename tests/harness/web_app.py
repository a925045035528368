"""A WSGI application in place of Superset: what begins with /hold, or is a chart, is held."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions

from superset_fleet.guard import databases

RELEASE = Path(os.environ.get("RELEASE", "/nonexistent"))  # when it is there, all is let go
begun: Counter[str] = Counter()  # what was held, by the cookie
lock = threading.Lock()
psycopg2.extensions.set_wait_callback(databases.wait)


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with what has begun so far."""
    path = environ["PATH_INFO"]
    environ["wsgi.input"].read()
    if path.startswith(("/hold", "/api/v1/chart/data")):
        with lock:
            begun[environ.get("HTTP_COOKIE", "")] += 1
        while not RELEASE.exists():
            time.sleep(0.02)
    elif path == "/query":
        with psycopg2.connect(os.environ["WAREHOUSE"]) as connection:
            connection.cursor().execute("select pg_sleep(600)")
    elif path == "/forget":
        begun.clear()
    body = json.dumps(begun).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
