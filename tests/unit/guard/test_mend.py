"""The fault of a release of Superset, in a class that has it as Superset's own."""

import copy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from superset_fleet.guard.mend import mend

METRIC = {"expressionType": "SQL", "sqlExpression": "count(*)", "label": "how many"}
ORDER = [(METRIC, False), ("seconds", True)]


@pytest.fixture
def explored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Superset's class that builds the SQL of charts."""

    class ExploreMixin:
        def get_sqla_query(self, orderby: Any = None, row_limit: int = 0) -> Any:
            for column, _ in orderby:
                if isinstance(column, dict):
                    column["sqlExpression"] = column["sqlExpression"].upper()
            return orderby, row_limit

    module = ModuleType("superset.models.helpers")
    module.ExploreMixin = ExploreMixin  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return ExploreMixin


def release(version: str) -> Any:
    """An application of this release."""
    return SimpleNamespace(config={"VERSION_STRING": version})


def test_what_a_chart_is_sorted_by_stays_as_it_was_asked_for(explored: Any) -> None:
    for _ in range(2):  # a process may make several applications
        mend(release("6.1.0"))
    asked = copy.deepcopy(ORDER)
    built, limit = explored().get_sqla_query(orderby=asked, row_limit=7)
    assert asked == ORDER
    assert limit == 7
    assert built == [({**METRIC, "sqlExpression": "COUNT(*)"}, False), ("seconds", True)]
    assert explored().get_sqla_query(orderby=None) == ([], 0)


@pytest.mark.parametrize("version", ["6.0.9", "6.1.1", "7.0.0"])
def test_another_release_is_left_as_it_is(explored: Any, version: str) -> None:
    original = explored.get_sqla_query
    mend(release(version))
    assert explored.get_sqla_query is original
