"""What Superset logs of a request is what its own logger would write, a moment later."""

import atexit
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import orm

Row = dict[str, Any]
TABLE = sqlalchemy.Table(
    "logs",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("action", sqlalchemy.String),
    sqlalchemy.Column("user_id", sqlalchemy.Integer),
    sqlalchemy.Column("dashboard_id", sqlalchemy.Integer),
    sqlalchemy.Column("slice_id", sqlalchemy.Integer),
    sqlalchemy.Column("json", sqlalchemy.Text),
    sqlalchemy.Column("dttm", sqlalchemy.DateTime),
    sqlalchemy.Column("duration_ms", sqlalchemy.Integer),
    sqlalchemy.Column("referrer", sqlalchemy.String),
)


class Token(orm.declarative_base()):  # type: ignore[misc]
    """What some parts of Superset change, and leave to the logger to commit."""

    __tablename__ = "token"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
    text = sqlalchemy.Column(sqlalchemy.String)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    """The metadata database."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/superset.db")
    TABLE.create(engine)
    Token.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Any) -> Iterator[Any]:
    """Superset's session, in which a request has read something."""
    session = orm.scoped_session(orm.sessionmaker(engine))
    session.add_all([Token(id=1, text="old"), Token(id=2, text="old")])
    session.commit()
    assert session.get(Token, 1).text == "old"
    yield session
    session.remove()


@pytest.fixture
def actions(engine: Any, session: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Superset's logger of actions, as on a web machine."""
    modules: dict[str, dict[str, Any]] = {
        "superset": {},
        "superset.extensions": {"db": SimpleNamespace(engine=engine, session=session)},
        "superset.models": {},
        "superset.models.core": {"Log": SimpleNamespace(__table__=TABLE)},
        "superset.utils": {"json": json},
        "superset.utils.log": {"AbstractEventLogger": object},
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    from superset_fleet.guard import setup

    logger = setup.action_log()
    yield logger
    logger._buffer.close()
    atexit.unregister(logger._buffer.close)
    del sys.modules["superset_fleet.guard.web.actions"]


def written(actions: Any, engine: Any) -> list[Row]:
    """Stop the process's thread, and return what is in the table."""
    actions._buffer.close()
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sqlalchemy.select(TABLE)).mappings()]


def test_each_record_of_an_action_is_a_row(actions: Any, engine: Any) -> None:
    actions.log(
        7,
        "log",
        dashboard_id=None,
        duration_ms=12,
        slice_id=3,
        referrer="https://superset/",
        records=[{"dashboard_id": 5, "path": "/a"}, {"unwritable": object()}],
        curated_payload={"force": True},
        curated_form_data={},
        database_id=1,
    )
    first, second = written(actions, engine)
    assert datetime.utcnow() - first.pop("dttm") < timedelta(minutes=1)
    assert first == {
        "id": 1,
        "action": "log",
        "user_id": 7,
        "dashboard_id": 5,
        "slice_id": 3,
        "json": '{"dashboard_id": 5, "path": "/a"}',
        "duration_ms": 12,
        "referrer": "https://superset/",
    }
    assert (second["dashboard_id"], second["json"]) == (None, None)


def test_an_action_without_records_is_logged_with_what_is_known_of_it(
    actions: Any, engine: Any
) -> None:
    actions.log(None, "mcp", None, None, None, None, curated_payload={"slice_id": 4})
    (row,) = written(actions, engine)
    assert (row["action"], row["slice_id"], row["json"]) == ("mcp", 4, '{"slice_id": 4}')


def add(session: Any) -> None:
    session.add(Token(id=3, text="new"))


def change(session: Any) -> None:
    session.get(Token, 1).text = "new"


def remove(session: Any) -> None:
    session.delete(session.get(Token, 1))


def flush(session: Any) -> None:
    change(session)
    session.flush()


def flush_and_nest(session: Any) -> None:
    flush(session)
    for end in ("commit", "rollback"):
        getattr(session.begin_nested(), end)()


def change_by_query(session: Any) -> None:
    session.query(Token).filter_by(id=1).update({"text": "new"}, synchronize_session=False)


def remove_by_query(session: Any) -> None:
    session.query(Token).filter_by(id=1).delete(synchronize_session=False)


@pytest.mark.parametrize(
    "how",
    [add, change, remove, flush, flush_and_nest, change_by_query, remove_by_query],
    ids=lambda how: how.__name__,
)
def test_what_a_request_has_changed_is_committed_as_by_superset_s_own_logger(
    actions: Any, engine: Any, session: Any, how: Any
) -> None:
    before = tokens(engine)
    how(session)
    actions.log(1, "oauth2", None, None, None, None, records=[{}])
    session.rollback()
    assert tokens(engine) != before


def tokens(engine: Any) -> list[tuple[int, str]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sqlalchemy.select(Token.__table__))]


def test_a_request_that_has_only_read_reads_nothing_again(actions: Any, session: Any) -> None:
    known = session.get(Token, 1)
    actions.log(1, "chart", None, None, None, None, records=[{}])
    assert not sqlalchemy.inspect(known).expired
    flush(session)
    session.commit()  # after which there is nothing more to commit
    known = session.get(Token, 1)
    actions.log(1, "chart", None, None, None, None, records=[{}])
    assert not sqlalchemy.inspect(known).expired


def test_a_change_that_cannot_be_committed_fails_no_request(
    actions: Any, engine: Any, session: Any, caplog: pytest.LogCaptureFixture
) -> None:
    session.add(Token(id=2, text="there is one"))
    actions.log(1, "oauth2", None, None, None, None, records=[{}])
    assert "event=not_committed" in caplog.text
    assert session.get(Token, 2).text == "old"
