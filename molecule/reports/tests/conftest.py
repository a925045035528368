"""A dashboard to make pictures of, and workers to make them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.deployed import machines
from tests.support.deployed.fleet import Fleet, operator, wait
from tests.support.deployed.groups import BOOT_SECONDS, Group
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import User

Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    known: dict[str, Any] = machines.facts()
    return known


@pytest.fixture(scope="session")
def fleet(browser_machine: Machine) -> Fleet:
    """The fleet, with a machine for reports."""
    return Fleet()


@pytest.fixture(scope="session")
def user(facts: dict[str, Any]) -> User:
    password = facts["superset_admin_password"]
    return User(facts["superset_url"], facts["haproxy_ca_certificate"], password)


@pytest.fixture(scope="session")
def ask(user: User) -> Ask:
    """Ask Superset's API something as admin."""

    def ask(method: str, path: str, body: Any = None) -> Any:
        return user.superset.ask(f"{method} {path}", method, f"/api/v1/{path}", body)

    return ask


@pytest.fixture(scope="session")
def group(facts: dict[str, Any]) -> Iterator[Group]:
    """The group that takes reports, which the scaler leaves alone; in the end it is as before.

    Or it would terminate the machine when nothing is to be done for a while.
    """
    assert facts["superset_browser_enabled"], "this scenario is for a fleet with browsers"
    group = Group("celery_worker_reports")
    hold()
    yield group
    hold()  # a test may have released it
    group.restore()
    operator("scale", "--release")


def hold() -> None:
    """Let the scaler change no size."""
    status, said = operator("scale", "--hold", "scenario reports")
    assert status == 0, said


@pytest.fixture(scope="session")
def browser_machine(group: Group) -> Machine:
    """A machine that takes reports: of a group that has none until they are wanted."""
    machine = group.add()
    fleet = Fleet()

    def takes() -> bool:
        return any(
            worker.host == machine.host and "reports" in worker.queues for worker in fleet.takers()
        )

    wait(f"{machine.name} takes reports", takes, BOOT_SECONDS)
    return machine


@contextmanager
def charted(ask: Ask, user: User) -> Iterator[dict[str, Any]]:
    """A chart that nobody has asked for yet: its id, and what a browser asks for to draw it."""
    # One that is there already, by the same name, would be refused.
    datasets = ask("GET", "dataset/?q=(filters:!((col:table_name,opr:eq,value:flights)))")["result"]
    if datasets:
        dataset = datasets[0]["id"]
    else:
        table = {"database": user.database_id, "schema": "public", "table_name": "flights"}
        dataset = ask("POST", "dataset/", table)["id"]
    metric = {
        "expressionType": "SQL",
        # Written as Superset itself would write it: of another one its web server does not find
        # what a worker left, where workers run the charts.
        "sqlExpression": "COUNT(*)",
        "label": "flights",
        "optionName": "flights",
    }
    limit = 10_000 + secrets.randbelow(10_000)  # no other chart has the same key in the cache
    context = {
        "datasource": {"id": dataset, "type": "table"},
        "force": False,
        "queries": [{"columns": ["origin"], "metrics": [metric], "row_limit": limit}],
        "result_format": "json",
        "result_type": "full",
    }
    form = {
        "datasource": f"{dataset}__table",
        "viz_type": "table",
        "query_mode": "aggregate",
        "groupby": ["origin"],
        "metrics": [metric],
        "row_limit": limit,
    }
    made = ask(
        "POST",
        "chart/",
        {
            "slice_name": f"Flights {limit}",
            "viz_type": "table",
            "datasource_id": dataset,
            "datasource_type": "table",
            "params": json.dumps(form),
            "query_context": json.dumps({**context, "form_data": form}),
            "owners": [ask("GET", "me/")["result"]["id"]],
        },
    )
    yield {"id": made["id"], "data": context}
    ask("DELETE", f"chart/{made['id']}")


@pytest.fixture(scope="session")
def chart(ask: Ask, user: User) -> Iterator[dict[str, Any]]:
    """A chart of which there is no picture yet."""
    with charted(ask, user) as chart:
        yield chart


@pytest.fixture
def another_chart(ask: Ask, user: User) -> Iterator[dict[str, Any]]:
    """A chart that nobody looks at but one test."""
    with charted(ask, user) as chart:
        yield chart


@pytest.fixture(scope="session")
def report(ask: Ask, browser_machine: Machine, chart: dict[str, Any]) -> Iterator[int]:
    """The id of a report of the chart that is due every minute."""
    made = ask(
        "POST",
        "report/",
        {
            "type": "Report",
            "name": f"Flights {secrets.token_hex(4)}",
            "active": True,
            "crontab": "* * * * *",
            "timezone": "UTC",
            "chart": chart["id"],
            "owners": [ask("GET", "me/")["result"]["id"]],
            "report_format": "PNG",
            "creation_method": "alerts_reports",
            "recipients": [
                {
                    "type": "Email",
                    # Without a mail server nothing is sent, and example.com takes no mail.
                    "recipient_config_json": {"target": "nobody@example.com"},
                }
            ],
        },
    )
    yield made["id"]
    ask("DELETE", f"report/{made['id']}")


@pytest.fixture
def dashboard(ask: Ask, another_chart: dict[str, Any]) -> Iterator[int]:
    """The id of a dashboard with the chart of one test."""
    number = ask("POST", "dashboard/", {"dashboard_title": f"Flights {secrets.token_hex(4)}"})["id"]
    ask("PUT", f"chart/{another_chart['id']}", {"dashboards": [number]})
    yield number
    ask("DELETE", f"dashboard/{number}")
