"""What Superset logs of a request is what its own logger would write, a moment later."""

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sqlalchemy

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


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    """The metadata database."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/superset.db")
    TABLE.create(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def actions(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Superset's logger of actions, as on a web machine."""
    modules: dict[str, dict[str, Any]] = {
        "superset": {},
        "superset.extensions": {"db": SimpleNamespace(engine=engine)},
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

    yield setup.action_log()
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
