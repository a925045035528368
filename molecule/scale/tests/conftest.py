"""The web tier as its users meet it while its machines come and go."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.deployed import machines
from tests.support.deployed.fleet import wait
from tests.support.deployed.groups import Group, Rotation
from tests.support.deployed.load import Load, Request, pages

WEB = "superset_web"
figures: list[tuple[str, str]] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured."""
    terminalreporter.section("figures")
    for what, figure in figures:
        terminalreporter.write_line(f"{figure:>12}  {what}")


@pytest.fixture
def measure() -> Callable[[str, str], None]:
    """Keep a figure; nothing is asserted of it."""
    return lambda what, figure: figures.append((what, figure))


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """The fleet's variables as a play on the load balancer sees them."""
    return dict(machines.facts())


@pytest.fixture(scope="session")
def rotation() -> Rotation:
    """HAProxy's servers."""
    return Rotation()


@pytest.fixture(scope="session")
def web(rotation: Rotation) -> Iterator[Group]:
    """The group of web machines; in the end it is as large as before, and all of it serves."""
    group = Group(WEB)
    before = group.desired
    wait("the group's machines serve", lambda: len(rotation.up()) == before, timeout=240)
    try:
        yield group
    finally:
        group.want(before)
        wait(
            "the group is as it was",
            lambda: group.members("InService") == rotation.up() and len(rotation.up()) == before,
            timeout=300,
        )


@pytest.fixture(scope="session")
def requests(facts: dict[str, Any]) -> list[Request]:
    """What users ask."""
    return list(pages(facts["superset_url"], facts["haproxy_ca_certificate"]))


@pytest.fixture
def users(facts: dict[str, Any], requests: list[Request]) -> Iterator[Load]:
    """Users with keep-alive connections, who ask for pages all the time."""
    with Load(facts["superset_url"], facts["haproxy_ca_certificate"], requests) as load:
        yield load
