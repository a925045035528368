"""The fleet as its users meet it while parts of it fail."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from superset_fleet.control.ask import ROOT
from tests.support.deployed.fleet import WORKER, Fleet, observed, wait
from tests.support.deployed.machines import Machine
from tests.support.deployed.users import ENDED, Query, User
from tests.support.history import History

figures: list[tuple[str, str]] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was measured, and keep it."""
    terminalreporter.section("figures")
    for what, figure in figures:
        terminalreporter.write_line(f"{figure:>12}  {what}")
    kept = ROOT / ".localcloud" / "fault_figures.json"
    kept.write_text(json.dumps(figures, indent=1))


@pytest.fixture
def measure() -> Callable[[str, float], None]:
    """Keep a figure, in seconds; nothing is asserted of it."""

    def keep(what: str, seconds: float) -> None:
        figure = f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
        figures.append((what, figure))

    return keep


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The fleet, whose metadata database writes down every change of a query's state."""
    with observed() as fleet:
        yield fleet
        fleet.want_workers(*fleet.workers)


@pytest.fixture(scope="session")
def authority(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of the certificate authority that a user's browser trusts."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    path.write_text(fleet.facts["haproxy_ca_certificate"])
    return str(path)


@pytest.fixture(scope="session")
def user(fleet: Fleet) -> Iterator[User]:
    """An administrator, who may change data in this scenario."""
    user = fleet.user()
    before = user.allow(allow_dml=True, allow_ctas=True)
    yield user
    user.allow(**before)


@pytest.fixture(scope="session")
def other_user(fleet: Fleet, user: User) -> User:
    """Another session."""
    return fleet.user()


@pytest.fixture(scope="session")
def dataset(fleet: Fleet, user: User) -> Iterator[int]:
    """What charts are made of: it takes as long as the pace `chart` says."""
    made = user.make_dataset("paced", f"select {fleet.pace('chart', 0)} as seconds")
    yield made
    user.remove_dataset(made)


@pytest.fixture
def both(fleet: Fleet) -> tuple[Machine, Machine]:
    """The machines of two workers that take work."""
    fleet.want_workers(*fleet.workers)
    first, second = fleet.workers
    return first, second


@pytest.fixture(autouse=True)
def every_query_ends_once(fleet: Fleet, user: User, other_user: User) -> Iterator[None]:
    """Hold what all tests have in common: every query sent has ended once, and nothing is left."""
    before = len(user.sent), len(other_user.sent)
    yield
    sent = user.sent[before[0] :] + other_user.sent[before[1] :]

    def settled() -> bool:
        # What is still asked there is of runs that are given up.
        fleet.ledger.sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'warehouse'"
            " and state = 'active'",
            "warehouse",
        )
        return fleet.idle()

    wait("the fleet is idle", settled)
    histories = fleet.ledger.histories(query.client_id for query in sent)
    wrong = [
        f"{query.sql}: {[(each.before, each.after) for each in histories[query.client_id]]}"
        for query in sent
        if not histories[query.client_id].ended_once(query.stopped)
    ]
    assert wrong == []


@pytest.fixture
def history(fleet: Fleet) -> Callable[[Query], History]:
    """Tell what became of a query."""

    def tell(query: Query) -> History:
        return fleet.ledger.histories([query.client_id])[query.client_id]

    return tell


@pytest.fixture
def release(fleet: Fleet, user: User) -> Callable[[Iterable[Query]], None]:
    """Terminate blockers on the side of their database: they fail at once, and once."""

    def terminate(queries: Iterable[Query]) -> None:
        blockers = list(queries)

        def failed() -> bool:
            left = [each for each in blockers if user.look(each).status not in ENDED]
            for query in left:
                name = query.sql.split("'")[1]
                fleet.ledger.sql(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    f" where usename = 'warehouse' and query like '%{name}%'",
                    "warehouse",
                )
            return not left

        wait("blockers have failed", failed)

    return terminate


@pytest.fixture
def fill(
    fleet: Fleet, user: User, release: Callable[[Iterable[Query]], None]
) -> Callable[..., list[Query]]:
    """Take all slots of some workers, and none of others."""

    def take(*machines: Machine) -> list[Query]:
        slots = sum(worker.slots for worker in fleet.takers())
        blocker = f"{fleet.pace('blocker', 120)} as seconds"
        names = [f"blocker {secrets.token_hex(4)}" for _ in range(slots)]
        queries = [user.send(f"select '{name}' as name, {blocker}") for name in names]
        places = [(query, fleet.wait_for_run(f"query:{query.id}")) for query in queries]
        release(query for query, place in places if place not in machines)
        return [query for query, place in places if place in machines]

    return take


@pytest.fixture
def only_on(
    fleet: Fleet,
    fill: Callable[..., list[Query]],
    release: Callable[[Iterable[Query]], None],
) -> Callable[..., object]:
    """Within this context what is sent runs on one worker, though there are others."""

    @contextmanager
    def place(machine: Machine) -> Iterator[None]:
        blockers = fill(*(each for each in fleet.workers if each != machine))
        try:
            yield
        finally:
            release(blockers)

    return place


@pytest.fixture
def kill() -> Callable[..., float]:
    """Kill all processes of a unit at once, and return when; systemd starts it again, or not."""

    def killed(machine: Machine, *units: str, for_good: bool = False) -> float:
        names = " ".join(units or [WORKER])
        stop = f"; systemctl stop {names}" if for_good else ""
        at = time.time()
        machine.run(f"systemctl kill --signal KILL {names}{stop}")
        return at

    return killed
