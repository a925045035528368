"""A small installation of Superset on this machine: real PostgreSQL, Redis and web processes.

It is made by Superset's own commands and API. Two services serve it: the role's, and the one that
Superset's Docker image starts.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import yaml

from superset_fleet.control.superset import Superset
from tests.harness.state import Postgres
from tests.support import templates
from tests.support.servers import free_port, redis_server
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
USER, PASSWORD = "alice", "benchmark"  # not an administrator
FAST = "1000000 per second"  # so each request is counted, and none refused
SALES = """
create table sales as
select date '2026-01-01' + number / 20 as day, 'region ' || number % 7 as region,
       'product ' || number % 31 as product, (number * 7919) % 1000 / 10.0 as amount
from generate_series(1, 5000) number
"""
CHARTS = ["region", "product", "day", "region, product", "day, region"]  # by columns
# As docker/pythonpath_dev/superset_config.py of Superset's repository has it.
UPSTREAM_CONFIG = """
SECRET_KEY = "benchmark"
SQLALCHEMY_DATABASE_URI = "postgresql://superset@127.0.0.1:{postgres}/superset"
CACHE_CONFIG = {{
    "CACHE_TYPE": "RedisCache",
    "CACHE_DEFAULT_TIMEOUT": 86400,
    "CACHE_KEY_PREFIX": "superset_",
    "CACHE_REDIS_HOST": "127.0.0.1",
    "CACHE_REDIS_PORT": {redis},
    "CACHE_REDIS_DB": 9,
}}
DATA_CACHE_CONFIG = THUMBNAIL_CACHE_CONFIG = CACHE_CONFIG
RATELIMIT_APPLICATION = "{rate}"
"""
# As docker/entrypoints/run-server.sh there has it, but for statsd: where none listens each request
# would be a traceback in the log.
UPSTREAM_COMMAND = (
    "--bind 127.0.0.1:{port} --access-logfile - --error-logfile - --workers {processes} "
    "--worker-class gthread --threads {threads} --log-level info --timeout 60 --keep-alive 2 "
    "--max-requests 0 --max-requests-jitter 0 --limit-request-line 0 "
    "--limit-request-field_size 0 superset.app:create_app()"
)


@dataclass(frozen=True)
class Service:
    """Web processes that listen on a port."""

    name: str
    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """Return what its processes have used, those that have exited too."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        spent = 0
        for pid in (str(self.pid), *children):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # Of a process itself, and of those of its children that it has waited for.
            spent += sum(int(field) for field in fields[11:15])
        return spent / os.sysconf("SC_CLK_TCK")

    def log_in(self) -> requests.Session:
        """Return the session of a user."""
        session = requests.Session()
        page = session.get(f"{self.url}/login/", timeout=60)
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page.text)
        assert token, "the login page has no CSRF token"
        form = {"username": USER, "password": PASSWORD, "csrf_token": token[1]}
        session.post(f"{self.url}/login/", data=form, timeout=60)
        assert session.get(f"{self.url}/api/v1/me/", timeout=60).ok, "the user is not logged in"
        return session


class Installation:
    """What both services have in common; `superset` is a virtual environment."""

    def __init__(self, superset: Path, directory: Path, redis_port: int) -> None:
        self._programs, self._directory = superset / "bin", directory
        (directory / "postgres").mkdir()
        self.postgres = Postgres(directory / "postgres")
        self.postgres.sql("postgres", "create database superset")
        self.postgres.sql("postgres", "create database warehouse")
        self.postgres.sql("warehouse", SALES)
        self._sizes = yaml.safe_load(
            (ROOT / "inventory/group_vars/all/superset_web.yml").read_text()
        )
        self._ours = self._write_ours(redis_port)
        upstream = directory / "upstream.py"
        upstream.write_text(
            UPSTREAM_CONFIG.format(postgres=self.postgres.port, redis=redis_port, rate=FAST)
        )
        # What the image sets.
        self._upstream = {"SUPERSET_CONFIG_PATH": str(upstream), "SUPERSET_ENV": "production"}

    def _write_ours(self, redis_port: int) -> dict[str, str]:
        """Write what the roles write, and return the environment of their service."""
        inputs = {
            "superset_tls_enabled": False,
            "superset_results_ttl_seconds": 86400,
            "superset_webserver_timeout_seconds": 60,
            "superset_query_timeout_seconds": 3600,
            "superset_query_hard_timeout_seconds": 3660,
            "superset_visibility_timeout_seconds": 4560,
            "superset_browser_enabled": False,
            "superset_guard_enabled": True,
            "superset_no_worker_policy": "fail",
            "superset_global_async_queries_enabled": False,
            "superset_rate_limit": FAST,
        }
        text = templates.render("superset", "superset_config.py.j2", **inputs)
        (self._directory / "superset_config.py").write_text(text)
        (self._directory / "superset_config_overrides.py").touch()
        # Not by the name that gunicorn looks for by itself, upstream's too.
        text = templates.render("superset_web", "gunicorn.conf.py.j2", **self._sizes)
        (self._directory / "ours.conf.py").write_text(text)
        redis = {"host": "127.0.0.1", "port": redis_port, "password": ""}
        database = {"host": "127.0.0.1", "port": self.postgres.port, "name": "superset"}
        facts = {
            "secret_key": "benchmark",
            "database": {**database, "user": "superset", "password": ""},
            "redis": dict.fromkeys(("coordination", "results", "cache"), redis),
            "urls": {"users": "http://127.0.0.1", "workers": "http://127.0.0.1"},
            "smtp": {},
        }
        (self._directory / "facts.json").write_text(json.dumps(facts))
        return {
            "SUPERSET_CONFIG_PATH": str(self._directory / "superset_config.py"),
            "SUPERSET_FACTS": str(self._directory / "facts.json"),
            "PYTHONPATH": str(ROOT / "src"),
            "RUNTIME_DIRECTORY": str(self._directory),
        }

    def _start(
        self, program: str, arguments: list[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a program of Superset's that does not outlive this process."""
        with (self._directory / "log").open("a") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", str(self._programs / program), *arguments],
                cwd=self._directory,
                stdout=log,
                stderr=log,
                env={"PATH": f"{self._programs}:{os.environ['PATH']}", **environment},
            )

    def _do(self, *arguments: str) -> None:
        """Run a command of Superset's."""
        environment = {**self._ours, "FLASK_APP": "superset.app:create_app()"}
        code = self._start("superset", list(arguments), environment).wait()
        assert code == 0, (self._directory / "log").read_text()[-5000:]

    def make(self) -> None:
        """Make the schema, roles and users."""
        self._do("db", "upgrade")
        self._do("init")
        for name, role in (("admin", "Admin"), (USER, "Alpha")):
            self._do(
                *("fab", "create-user", "--username", name, "--firstname", name),
                *("--lastname", name, "--email", f"{name}@localhost"),
                *("--role", role, "--password", PASSWORD),
            )

    @contextmanager
    def serve(self, name: str) -> Iterator[Service]:
        """Run the service `ours` or `upstream`."""
        port = free_port()
        sizes = {
            "processes": self._sizes["superset_web_processes"],
            "threads": self._sizes["superset_web_threads"],
        }
        if name == "ours":
            arguments = ["--config", "ours.conf.py", "--bind", f"127.0.0.1:{port}"]
            environment = {
                **self._ours,
                "SUPERSET_SERVICE": "superset_web",
                "SUPERSET_POOL_SIZE": str(sizes["threads"]),
                "SUPERSET_MAX_OVERFLOW": str(self._sizes["superset_web_max_overflow"]),
            }
        else:
            arguments = UPSTREAM_COMMAND.format(port=port, **sizes).split()
            environment = self._upstream
        process = self._start("gunicorn", arguments, environment)
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, (self._directory / "log").read_text()[-5000:]
            try:
                return requests.get(f"{url}/health", timeout=60).ok
            except requests.ConnectionError:
                return False

        try:
            until(answers, f"{name} answers", 120)
            yield Service(name, url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()

    def logged(self) -> int:
        """Return how many actions were logged."""
        return int(self.postgres.sql("superset", "select count(*) from logs")[0][0])

    def close(self) -> None:
        """Stop PostgreSQL."""
        self.postgres.stop(signal.SIGQUIT)


@contextmanager
def installation(superset: Path, directory: Path) -> Iterator[Installation]:
    """Make an installation, without data."""
    directory.chmod(0o755)  # PostgreSQL is another user
    (directory / "redis").mkdir()
    with redis_server(directory / "redis") as (url, _):
        made = Installation(superset, directory, int(url.rpartition(":")[2].partition("/")[0]))
        try:
            made.make()
            yield made
        finally:
            made.close()


@dataclass(frozen=True)
class Dashboard:
    """A dashboard, and for each of its charts what a browser asks for."""

    id: int
    charts: dict[int, dict[str, Any]]


def make_dashboard(service: Service, postgres_port: int) -> Dashboard:
    """Make a dashboard of some charts."""
    superset = Superset(service.url)
    superset.log_in("admin", PASSWORD)

    def make(kind: str, **body: Any) -> int:
        return int(superset.ask(f"make a {kind}", "POST", f"/api/v1/{kind}/", body)["id"])

    uri = f"postgresql://superset@127.0.0.1:{postgres_port}/warehouse"
    database = make("database", database_name="warehouse", sqlalchemy_uri=uri)
    dataset = make("dataset", database=database, schema="public", table_name="sales")
    dashboard = make("dashboard", dashboard_title="Sales", published=True)
    charts = {}
    for columns in CHARTS:
        metric: dict[str, Any] = {
            "expressionType": "SIMPLE",
            "column": {"column_name": "amount"},
            "aggregate": "SUM",
            "label": "total",
        }
        context: dict[str, Any] = {
            "datasource": {"id": dataset, "type": "table"},
            "force": False,
            "queries": [
                {
                    "columns": columns.split(", "),
                    "metrics": [metric],
                    "orderby": [[metric, False]],
                    "filters": [],
                    "extras": {"having": "", "where": ""},
                    "row_limit": 100,
                }
            ],
            "result_format": "json",
            "result_type": "full",
        }
        form: dict[str, Any] = {
            "viz_type": "table",
            "groupby": columns.split(", "),
            "metrics": [metric],
        }
        chart = make(
            "chart",
            slice_name=f"Sales by {columns}",
            viz_type="table",
            datasource_id=dataset,
            datasource_type="table",
            params=json.dumps(form),
            query_context=json.dumps(context),
            dashboards=[dashboard],
        )
        form |= {"slice_id": chart, "dashboardId": dashboard}
        charts[chart] = {**context, "form_data": form}
    return Dashboard(dashboard, charts)
