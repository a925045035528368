"""A fleet in processes of this machine, with times a quarter of a fleet's, for faults by the dozen.

Each test of a fault runs with many seeds: which worker it meets, when, and what runs then.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.harness.jobs", "tests.harness.rig")

from tests.harness.rig import Base, Fleet  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=20, help="with so many seeds, from 0 on")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what throws dice once for each seed."""
    if "dice" in metafunc.fixturenames:
        seeds = range(metafunc.config.getoption("seeds"))
        metafunc.parametrize("dice", seeds, indirect=True, ids=[f"seed{seed}" for seed in seeds])


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """What a test leaves to chance, the same for the same seed."""
    return random.Random(request.param)


@pytest.fixture(scope="session")
def base() -> Iterator[Base]:
    """The servers that the fleets of all tests share."""
    with tempfile.TemporaryDirectory(prefix="harness-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)  # PostgreSQL is another user
        made = Base(directory)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
def begin(base: Base, request: pytest.FixtureRequest) -> Iterator[Callable[..., Fleet]]:
    """Begin with a fleet that has no worker, and hold in the end what all tests have in common."""
    fleets: list[Fleet] = []

    def made(policy: str = "fail", wake_timeout: float = 0) -> Fleet:
        fleets.append(Fleet(base, policy, wake_timeout))
        return fleets[-1]

    try:
        yield made
        for fleet in fleets:
            fleet.every_query_ends_once()
    finally:
        for fleet in fleets:
            for process in fleet.processes:
                print(f"-- {process.journal.name}\n{process.journal.read_text()}")
            fleet.close()


@pytest.fixture
def fleet(begin: Callable[..., Fleet]) -> Fleet:
    """A fleet with two workers and a watchdog."""
    fleet = begin()
    fleet.start_watchdog()
    for name in ("vm-1", "vm-2"):
        fleet.start_worker(name, wait=False)
    fleet.wait_for_takers("vm-1", "vm-2")
    return fleet
