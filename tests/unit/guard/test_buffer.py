"""What users do is logged by a thread of each process."""

import atexit
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from superset_fleet.guard.web import buffer
from superset_fleet.guard.web.buffer import Buffer, insert
from superset_fleet.times import TIMES
from tests.support.waiting import until

TABLE = sqlalchemy.Table(
    "logs",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("action", sqlalchemy.String),
    sqlalchemy.Column("user_id", sqlalchemy.Integer, nullable=False),
)


class Database:
    """A metadata database, which is not there before it is created."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"sqlite:///{directory}/superset.db"
        self.engine = sqlalchemy.create_engine(self.url, connect_args={"timeout": 0})
        self._reader = sqlalchemy.create_engine(self.url)

    def close(self) -> None:
        self.engine.dispose()
        self._reader.dispose()

    def create(self) -> None:
        self.directory.mkdir()
        TABLE.create(self.engine)

    def write(self, rows: Any) -> int:
        return insert(self.engine, TABLE, rows)

    def actions(self) -> list[str]:
        with self._reader.connect() as connection:
            rows = connection.execute(sqlalchemy.text("select action from logs order by rowid"))
            return list(rows.scalars())


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "database")
    yield database
    database.close()


@pytest.fixture
def database(nowhere: Database) -> Database:
    nowhere.create()
    return nowhere


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Buffer]]:
    """Begin with an empty buffer, whose thread is quicker than a fleet's."""
    monkeypatch.setattr(buffer, "TIMES", TIMES.scaled(0.05))
    begun: list[Buffer] = []

    def begin(write: Callable[[Any], int], most_bytes: int = 1000) -> Buffer:
        begun.append(Buffer(write, most_bytes))
        return begun[-1]

    yield begin
    for each in begun:
        each.close()
        atexit.unregister(each.close)


def put(buffer: Buffer, *actions: str, user: int | None = 1) -> None:
    for action in actions:
        buffer.put({"action": action, "user_id": user}, 100)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_an_action_is_in_the_table_soon_and_once(
    database: Database, begin: Callable[..., Buffer]
) -> None:
    buffer = begin(database.write)
    put(buffer, "one", "two")
    until(lambda: database.actions() == ["one", "two"], "both are written")
    put(buffer, "three")
    until(lambda: database.actions() == ["one", "two", "three"], "the third is written")


def test_who_logs_does_not_wait_for_the_database(
    database: Database, begin: Callable[..., Buffer], caplog: pytest.LogCaptureFixture
) -> None:
    buffer = begin(database.write)
    with database.engine.connect() as holder:
        holder.exec_driver_sql("begin exclusive")
        put(buffer, "one")
        until(lambda: said(caplog), "the thread has met the lock")
        put(buffer, "two")
        holder.exec_driver_sql("rollback")
    until(lambda: database.actions() == ["one", "two"], "both are written")
    assert [line.split()[0] for line in said(caplog)] == ["event=actions_wait"]


def test_what_is_left_is_written_when_the_process_stops(database: Database) -> None:
    buffer = Buffer(database.write)  # whose thread would wait for a second
    put(buffer, "last")
    buffer.close()
    assert database.actions() == ["last"]


def test_actions_wait_for_a_database_that_is_away_and_no_more_than_fit(
    nowhere: Database, begin: Callable[..., Buffer], caplog: pytest.LogCaptureFixture
) -> None:
    buffer = begin(nowhere.write, 300)
    put(buffer, "one", "two", "three", "dropped", "dropped")
    until(lambda: len(said(caplog)) == 2, "the thread has met nobody")
    nowhere.create()
    until(lambda: len(said(caplog)) == 3, "the thread has written")
    put(buffer, "four", "five", "six")
    until(lambda: len(nowhere.actions()) == 6, "there is room again")
    assert nowhere.actions() == ["one", "two", "three", "four", "five", "six"]
    assert {line.partition(" reason")[0] for line in said(caplog)} == {
        "event=actions_dropped",
        "event=actions_wait number=3",
        "event=actions_lost number=2",
    }


def test_a_process_that_exits_waits_for_no_database_and_says_what_is_lost(
    nowhere: Database, begin: Callable[..., Buffer], caplog: pytest.LogCaptureFixture
) -> None:
    buffer = begin(nowhere.write)
    put(buffer, "one", "two")
    buffer.close()
    assert said(caplog)[-1] == 'event=actions_lost number=2 reason="the process exits"'


def test_a_row_that_the_database_refuses_takes_no_other_with_it(
    database: Database, begin: Callable[..., Buffer], caplog: pytest.LogCaptureFixture
) -> None:
    buffer = begin(database.write)
    put(buffer, "before")
    put(buffer, "refused", user=None)
    put(buffer, "after")
    until(lambda: database.actions() == ["before", "after"], "the others are written")
    until(lambda: said(caplog), "it is said")
    assert said(caplog) == ['event=actions_lost number=1 reason="dropped or refused"']


PROCESSES = """
import os, sys
from pathlib import Path
from superset_fleet.guard.web.buffer import Buffer
from tests.unit.guard.test_buffer import Database, put

buffer = Buffer(Database(Path(sys.argv[1])).write)
put(buffer, "parent")
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    put(buffer, "child")
sys.exit()
"""


def test_a_forked_process_logs_what_is_its_own_and_both_do_when_they_exit(
    database: Database,
) -> None:
    subprocess.run([sys.executable, "-c", PROCESSES, str(database.directory)], check=True)
    assert sorted(database.actions()) == ["child", "parent"]
