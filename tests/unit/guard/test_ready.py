"""What load balancers are told at /ready, and what metrics tell of dependencies."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
import sqlalchemy

from superset_fleet.guard.migrations import SchemaError
from superset_fleet.guard.web.ready import COORDINATION, Ready

RELEASE = ("c", {"a", "b", "c"})  # its head, and all revisions that it knows
Machine = Callable[..., Ready]


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def database(tmp_path: Path) -> str:
    """URL of a metadata database with this release's schema."""
    url = f"sqlite:///{tmp_path}/superset.db"
    migrate(url, "c")
    return url


def migrate(url: str, *revisions: str) -> None:
    """Bring a database's schema to revisions; none drops it."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("drop table if exists alembic_version"))
        if revisions:
            connection.execute(sqlalchemy.text("create table alembic_version (version_num text)"))
        for each in revisions:
            connection.execute(sqlalchemy.text(f"insert into alembic_version values ('{each}')"))
    engine.dispose()


@pytest.fixture
def machine(tmp_path: Path, database: str, redis_url: str) -> Machine:
    """A machine whose service has just started, and runs in a directory of its own."""

    def machine(url: str = database, coordination: str = redis_url, **others: Any) -> Ready:
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        ready = Ready({COORDINATION: coordination, **others}, run, lambda: RELEASE)
        ready.use_database(url, {})
        return ready

    return machine


def ask(ready: Ready) -> tuple[int, str, str]:
    """Ask as a load balancer does; return status, and status and reason in words."""
    app = flask.Flask(__name__)
    app.register_blueprint(ready.page())
    answer = app.test_client().get("/ready")
    assert answer.json is not None
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, answer.json["status"], answer.json["reason"]


def test_a_machine_that_has_reached_all_it_needs_is_ready(machine: Machine) -> None:
    assert ask(machine())[:2] == (200, "ready")


def test_a_machine_that_never_reached_its_database_is_starting(
    machine: Machine, tmp_path: Path
) -> None:
    status, word, reason = ask(machine(f"sqlite:///{tmp_path}/nowhere/superset.db"))
    assert (status, word) == (503, "starting")
    assert reason == "The metadata database does not answer (OperationalError)."


def test_a_machine_that_never_reached_redis_is_starting_and_names_no_address(
    machine: Machine, closed_port: int
) -> None:
    status, word, reason = ask(machine(coordination=f"redis://:secret@127.0.0.1:{closed_port}"))
    assert (status, word) == (503, "starting")
    assert reason == "Redis coordination does not answer (ConnectionError)."


def test_caches_and_results_are_not_waited_for(machine: Machine, closed_port: int) -> None:
    assert ask(machine(cache=f"redis://127.0.0.1:{closed_port}"))[0] == 200


@pytest.mark.parametrize(
    ("revisions", "status", "reason"),
    [
        (["c"], 200, "all that it needs"),
        (["b"], 503, "revision is b, this release needs c: playbooks/superset.yml"),
        (["a", "b"], 503, "revision is a, b, this release needs c"),
        ([], 503, "revision is none, this release needs c"),
        # A newer release has migrated: this one serves on beside it.
        (["d"], 200, "all that it needs"),
    ],
)
def test_a_schema_may_be_ahead_of_the_code_and_not_behind(
    machine: Machine, database: str, revisions: list[str], status: int, reason: str
) -> None:
    migrate(database, *revisions)
    answer = ask(machine())
    assert answer[0] == status
    assert reason in answer[2]


def test_an_installation_whose_migrations_cannot_be_read_is_not_ready(
    tmp_path: Path, database: str, redis_url: str
) -> None:
    def unreadable() -> tuple[str, set[str]]:
        raise SchemaError("the installed Superset has 2 migration heads, not one")

    ready = Ready({COORDINATION: redis_url}, tmp_path, unreadable)
    ready.use_database(database, {})
    assert ask(ready)[1:] == (
        "starting",
        "The schema cannot be compared: the installed Superset has 2 migration heads, not one.",
    )


def test_what_was_missing_is_looked_for_again(machine: Machine, database: str) -> None:
    ready = machine()
    migrate(database, "b")
    assert ask(ready)[0] == 503
    migrate(database, "c")
    assert ask(ready)[0] == 200


def test_what_fails_later_takes_no_machine_out(machine: Machine, closed_port: int) -> None:
    assert ask(machine())[0] == 200
    # Another process of the same service, which can reach nothing.
    url = f"redis://127.0.0.1:{closed_port}"
    assert ask(machine("sqlite:////nowhere/superset.db", url))[:2] == (200, "ready")


def test_a_draining_machine_says_so_until_that_is_taken_back(
    machine: Machine, tmp_path: Path
) -> None:
    ready = machine()
    draining = tmp_path / "run" / "draining"
    assert ask(ready)[0] == 200
    draining.touch()
    assert ask(ready)[:2] == (503, "draining")
    draining.unlink()
    assert ask(ready)[0] == 200


def test_a_machine_that_drains_before_it_was_ready_says_so(
    machine: Machine, tmp_path: Path, closed_port: int
) -> None:
    ready = machine(coordination=f"redis://127.0.0.1:{closed_port}")
    (tmp_path / "run" / "draining").touch()
    assert ask(ready)[1] == "draining"


def test_each_dependency_is_told_by_itself(
    machine: Machine, closed_port: int, redis_url: str
) -> None:
    closed = f"redis://127.0.0.1:{closed_port}"
    assert machine(results=redis_url, cache=closed).dependencies() == {
        "database": True,
        "coordination": True,
        "results": True,
        "cache": False,
    }
    assert machine("sqlite:////nowhere/superset.db").dependencies()["database"] is False
